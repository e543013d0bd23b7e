/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 *     hold-target always|stopped
 *
 * A child that sleeps, with a pipe and an eventfd, prints "ready PID" of it, and keeps the pipe busy: by a write() from a page of
 * memory that is not delivered, for which the kernel waits with the pipe's lock. For ever, or ("stopped") whenever the child is
 * stopped by a tracer; each time it says "held" once. Ends with its stdin. "skip" where there is no userfaultfd(2).
 */

static int ends[2];
static char *page;

static void fail(const char *what)
{
        (void) fprintf(stderr, "hold-target: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static void *keep_writing(void *unused)
{
        char buffer[4096];

        for (;;) {
                if (madvise(page, sizeof(buffer), MADV_DONTNEED) < 0 || write(ends[1], page, sizeof(buffer)) < 0 ||
                    read(ends[0], buffer, sizeof(buffer)) < 0)
                        fail("pipe");
        }
        return NULL;
}

static bool is_traced(pid_t pid)
{
        char path[64], text[512] = "";
        const char *name_end;
        int fd;
        ssize_t n;

        (void) snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
        fd = open(path, O_RDONLY);
        n = read(fd, text, sizeof(text) - 1);
        if (n < 0)
                fail(path);
        (void) close(fd);
        text[n] = '\0';
        name_end = strrchr(text, ')');
        return name_end && name_end[2] == 't';
}

static int open_faults(void)
{
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register r = {.range = {.len = 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
        int fd = (int) syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK); /* poll(2) wants it so */

        if (fd < 0) {
                (void) printf("skip\n");
                exit(EXIT_SUCCESS);
        }
        page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        r.range.start = (uintptr_t) page;
        if (page == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &r) < 0)
                fail("userfaultfd");
        return fd;
}

static void wait_fault(int faults)
{
        struct pollfd p = {.fd = faults, .events = POLLIN};

        if (poll(&p, 1, -1) != 1 || p.revents != POLLIN)
                fail("poll");
}

/* Delivers the page after some milliseconds, and not while the child is stopped. */
static void deliver(int faults, pid_t child)
{
        struct uffdio_zeropage zero = {.range = {.start = (uintptr_t) page, .len = 4096}};
        struct uffd_msg message;
        bool held = false;

        wait_fault(faults);
        if (read(faults, &message, sizeof(message)) != sizeof(message))
                fail("userfaultfd");
        for (int k = 0; k < 20; k++) {
                (void) usleep(100);
                for (; is_traced(child); held = true)
                        (void) usleep(1000);
        }
        if (held)
                (void) printf("held\n");
        (void) fflush(stdout);
        if (ioctl(faults, UFFDIO_ZEROPAGE, &zero) < 0)
                fail("UFFDIO_ZEROPAGE");
}

static void *end_with_stdin(void *unused)
{
        char c;

        while (read(STDIN_FILENO, &c, 1) > 0)
                ;
        exit(EXIT_SUCCESS);
}

int main(int argc, char **argv)
{
        bool always = argc == 2 && strcmp(argv[1], "always") == 0;
        int faults = open_faults();
        pthread_t thread;
        pid_t child;

        if (pipe(ends) < 0 || eventfd(3, 0) < 0)
                fail("pipe");
        child = fork();
        if (child == 0) {
                if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                        fail("child");
                for (;;)
                        (void) pause();
        }
        if (child < 0 || pthread_create(&thread, NULL, keep_writing, NULL) != 0 || pthread_create(&thread, NULL, end_with_stdin, NULL) != 0)
                fail("child");

        wait_fault(faults); /* the first write has begun */
        (void) printf("ready %d\n", (int) child);
        (void) fflush(stdout);
        for (;;)
                if (always)
                        (void) pause();
                else
                        deliver(faults, child);
}
