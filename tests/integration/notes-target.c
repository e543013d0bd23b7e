/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 *     notes-target WHAT FILE
 *
 * Has one thing that a clone will not have, or will share, says "ready", or "none" where this kernel does not give it, and waits.
 */

#define SIZE (64 * 4096)

static void *map(int flags)
{
        void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);

        return p == MAP_FAILED ? NULL : memset(p, 1, SIZE);
}

static int make_timer(void)
{
        struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
        timer_t t;

        return timer_create(CLOCK_MONOTONIC, &e, &t);
}

static int lock(const char *what, const char *path)
{
        int fd = open(path, O_RDWR | O_CLOEXEC);
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

        if (strcmp(what, "flock") == 0)
                return flock(fd, LOCK_EX);
        return fcntl(fd, strcmp(what, "ofd") == 0 ? F_OFD_SETLK : F_SETLK, &l);
}

static int make(const char *what, const char *path)
{
        if (strcmp(what, "dontfork") == 0)
                return madvise(map(MAP_PRIVATE), SIZE, MADV_DONTFORK);
        if (strcmp(what, "wipeonfork") == 0)
                return madvise(map(MAP_PRIVATE), SIZE, MADV_WIPEONFORK);
        if (strcmp(what, "locked") == 0)
                return mlock(map(MAP_PRIVATE), SIZE);
        if (strcmp(what, "shared") == 0)
                return map(MAP_SHARED) ? 0 : -1;
        if (strcmp(what, "timer") == 0)
                return make_timer();
        if (strcmp(what, "userfaultfd") == 0) {
                struct uffdio_api api = {.api = UFFD_API};
                int fd = (int) syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

                return fd < 0 ? -1 : ioctl(fd, UFFDIO_API, &api);
        }
        if (strcmp(what, "aio") == 0) {
                aio_context_t context = 0;

                return (int) syscall(SYS_io_setup, 8, &context);
        }
        if (strcmp(what, "io_uring") == 0) {
                struct io_uring_params p = {};

                return (int) syscall(SYS_io_uring_setup, 4, &p);
        }
        if (strcmp(what, "nothing") == 0)
                return 0;
        return lock(what, path);
}

int main(int argc, char **argv)
{
        if (argc != 3) {
                (void) fprintf(stderr, "Usage: notes-target WHAT FILE\n");
                return EXIT_FAILURE;
        }
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left if the test is killed */

        if (make(argv[1], argv[2]) < 0)
                (void) printf("none %s\n", strerror(errno));
        else
                (void) printf("ready\n");
        (void) fflush(stdout);
        for (;;)
                (void) pause();
}
