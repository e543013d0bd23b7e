/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

/*
 *     isolate-target DIRECTORY
 *
 * Opens one of everything, with a state in each, prints "NAME NUMBER" of each descriptor and "ready", and waits in sigsuspend().
 * Each SIGUSR1 makes it use all of it and write what it found to DIRECTORY/report.PID. DIRECTORY/server is a socket that the test
 * listens on; stdin and stdout are pipes of the test's.
 */

#define SHARED_SIZE (3 * 1024 * 1024)

static struct {
        int file, again, append, reading, unlinked, dir, pipe[2], event, timer, sig, watch, mem, epoll, pair[2], peer, listening, fresh, dgram;
} fd;
static char *anonymous, *sysv, *memfd_map;
static const char *directory;
static volatile sig_atomic_t asked;

static void fail(const char *what)
{
        (void) fprintf(stderr, "isolate-target: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static int check(int r, const char *what)
{
        if (r < 0)
                fail(what);
        return r;
}

static int open_in(const char *name, int flags)
{
        char path[512];

        (void) snprintf(path, sizeof(path), "%s/%s", directory, name);
        return check(open(path, flags | O_CLOEXEC, 0644), path);
}

static void must_write(int to, const char *text)
{
        if (write(to, text, strlen(text)) != (ssize_t) strlen(text))
                fail("write");
}

static struct sockaddr_un address(const char *name)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};

        (void) snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", directory, name);
        return a;
}

static void open_files(void)
{
        char path[512], buffer[4];
        DIR *d;

        fd.file = open_in("file", O_RDWR | O_CREAT);
        must_write(fd.file, "0123456789");
        check((int) lseek(fd.file, 5, SEEK_SET), "lseek");
        fd.again = check(dup(fd.file), "dup"); /* of the same description, without close-on-exec */
        fd.append = open_in("append", O_WRONLY | O_APPEND | O_CREAT);
        must_write(fd.append, "begin\n");
        fd.reading = open_in("file", O_RDONLY | O_NONBLOCK);
        if (read(fd.reading, buffer, 3) != 3)
                fail("read");
        fd.unlinked = open_in("unlinked", O_RDWR | O_CREAT | O_NOFOLLOW);
        must_write(fd.unlinked, "nameless");
        (void) snprintf(path, sizeof(path), "%s/unlinked", directory);
        check(unlink(path), path);

        fd.dir = check(open(directory, O_RDONLY | O_DIRECTORY), directory);
        d = fdopendir(check(dup(fd.dir), "dup"));
        if (!d || !readdir(d))
                fail("readdir"); /* closed with the process: its description is fd.dir's, somewhere behind the beginning */
}

static void open_sockets(void)
{
        struct sockaddr_un server = address("server"), own = address("listening");

        check(socketpair(AF_UNIX, SOCK_STREAM, 0, fd.pair), "socketpair");
        must_write(fd.pair[0], "in flight");
        fd.peer = check(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
        check(connect(fd.peer, (struct sockaddr *) &server, sizeof(server)), "connect");
        fd.listening = check(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
        check(bind(fd.listening, (struct sockaddr *) &own, sizeof(own)), "bind");
        check(listen(fd.listening, 5), "listen");
        fd.fresh = check(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
        fd.dgram = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");
        check(bind(fd.dgram, (struct sockaddr *) &(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}},
                              sizeof(struct sockaddr_in)),
                        "bind");
}

static void watch(int what, uint64_t data)
{
        struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u64 = data};

        check(epoll_ctl(fd.epoll, EPOLL_CTL_ADD, what, &e), "epoll_ctl");
}

static void open_events(void)
{
        struct itimerspec t = {.it_value = {.tv_sec = 1000}, .it_interval = {.tv_sec = 7, .tv_nsec = 5}};
        sigset_t set;

        check(pipe2(fd.pipe, O_CLOEXEC | O_NONBLOCK), "pipe");
        must_write(fd.pipe[1], "bytes in flight");
        fd.event = check(eventfd(7, EFD_SEMAPHORE | EFD_NONBLOCK), "eventfd");
        fd.timer = check(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd");
        check(timerfd_settime(fd.timer, 0, &t, NULL), "timerfd_settime");
        sigemptyset(&set);
        sigaddset(&set, SIGWINCH);
        sigaddset(&set, SIGRTMIN + 3);
        fd.sig = check(signalfd(-1, &set, SFD_NONBLOCK), "signalfd");
        fd.watch = check(inotify_init1(IN_NONBLOCK), "inotify");
        check(inotify_add_watch(fd.watch, directory, IN_CREATE), "inotify_add_watch");
        fd.epoll = check(epoll_create1(EPOLL_CLOEXEC), "epoll");
        watch(fd.event, 0x1122334455667788);
        watch(fd.pipe[0], 2);
        watch(fd.timer, 3);
}

static void open_memory(void)
{
        int id;

        anonymous = mmap(NULL, SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        id = check(shmget(IPC_PRIVATE, 100000, IPC_CREAT | 0600), "shmget");
        sysv = shmat(id, NULL, 0);
        check(shmctl(id, IPC_RMID, NULL), "shmctl");
        fd.mem = check(memfd_create("some name", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd");
        check(ftruncate(fd.mem, 1 << 20), "ftruncate");
        must_write(fd.mem, "memfd");
        check(fcntl(fd.mem, F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
        memfd_map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd.mem, 0);
        if (anonymous == MAP_FAILED || memfd_map == MAP_FAILED || sysv == (char *) -1)
                fail("mmap");

        strcpy(anonymous, "first page");
        strcpy(anonymous + SHARED_SIZE - 100, "last page");
        /* Three mappings of one object, the middle one read-only. */
        check(mprotect(anonymous + 1024 * 1024, 1024 * 1024, PROT_READ), "mprotect");
        strcpy(sysv, "System V");
        strcpy(memfd_map + 500000, "mapped");
}

static void announce(void)
{
        const struct {
                const char *name;
                int number;
        } table[] = {
                {"file", fd.file}, {"again", fd.again}, {"append", fd.append}, {"reading", fd.reading}, {"unlinked", fd.unlinked}, {"dir", fd.dir},
                {"pipe-r", fd.pipe[0]}, {"pipe-w", fd.pipe[1]}, {"event", fd.event}, {"timer", fd.timer}, {"signal", fd.sig},
                {"watch", fd.watch}, {"mem", fd.mem}, {"epoll", fd.epoll}, {"pair-0", fd.pair[0]}, {"pair-1", fd.pair[1]},
                {"peer", fd.peer}, {"listening", fd.listening}, {"fresh", fd.fresh}, {"dgram", fd.dgram},
        };

        for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
                (void) dprintf(STDOUT_FILENO, "%s %d\n", table[i].name, table[i].number);
        (void) dprintf(STDOUT_FILENO, "ready\n");
}

static FILE *report;

static void say_read(const char *name, int from)
{
        char buffer[64] = "";
        ssize_t n = recv(from, buffer, sizeof(buffer) - 1, MSG_DONTWAIT);

        if (n < 0 && errno == ENOTSOCK) {
                (void) fcntl(from, F_SETFL, fcntl(from, F_GETFL) | O_NONBLOCK);
                n = read(from, buffer, sizeof(buffer) - 1);
        }
        (void) fprintf(report, "read-%s %zd %s\n", name, n, n < 0 ? strerror(errno) : buffer);
}

static void say_write(const char *name, int to, const char *text)
{
        ssize_t n = write(to, text, strlen(text));

        (void) fprintf(report, "write-%s %s\n", name, n < 0 ? strerror(errno) : "done");
}

static void use_events(void)
{
        struct epoll_event e[8];
        uint64_t count = 0;
        int n = epoll_wait(fd.epoll, e, 8, 0);

        (void) fprintf(report, "epoll");
        for (int i = 0; i < n; i++)
                (void) fprintf(report, " %llx:%x", (unsigned long long) e[i].data.u64, e[i].events);
        (void) fprintf(report, "\n");
        if (read(fd.event, &count, sizeof(count)) == sizeof(count))
                (void) fprintf(report, "event %llu\n", (unsigned long long) count);
        say_read("pipe-r", fd.pipe[0]);
        say_write("pipe-w", fd.pipe[1], "more");
}

/* Writes the PID into all memory, and tells what was there. */
static void use_memory(void)
{
        (void) fprintf(report, "anonymous %s, %s\n", anonymous, anonymous + SHARED_SIZE - 100);
        (void) fprintf(report, "sysv %s\n", sysv);
        (void) fprintf(report, "memfd %s, %s\n", memfd_map, memfd_map + 500000);
        (void) snprintf(anonymous, 50, "PID %d", (int) getpid());
        (void) snprintf(anonymous + SHARED_SIZE - 100, 50, "PID %d", (int) getpid());
        (void) snprintf(sysv, 50, "PID %d", (int) getpid());
        (void) snprintf(memfd_map, 50, "PID %d", (int) getpid());
        (void) snprintf(memfd_map + 500000, 50, "PID %d", (int) getpid());
}

static void use_all(void)
{
        char path[512], part[512], text[64], buffer[16] = "";

        (void) snprintf(path, sizeof(path), "%s/report.%d", directory, (int) getpid());
        (void) snprintf(part, sizeof(part), "%s/part.%d", directory, (int) getpid());
        report = fopen(part, "we");
        if (!report)
                fail(part);

        (void) snprintf(text, sizeof(text), "PID %d\n", (int) getpid());
        say_write("append", fd.append, text);
        if (read(fd.reading, buffer, 2) == 2)
                (void) fprintf(report, "reading %s\n", buffer);
        (void) fprintf(report, "file %lld\n", (long long) lseek(fd.file, 2, SEEK_CUR));
        (void) fprintf(report, "again %lld\n", (long long) lseek(fd.again, 0, SEEK_CUR));
        (void) fprintf(report, "unlinked %lld\n", (long long) lseek(fd.unlinked, 1, SEEK_CUR));
        use_events();
        use_memory();
        say_read("pair-1", fd.pair[1]);
        say_write("pair-0", fd.pair[0], "more");
        say_read("peer", fd.peer);
        say_write("peer", fd.peer, text);
        say_read("dgram", fd.dgram);
        say_read("stdin", STDIN_FILENO);
        say_write("stdout", STDOUT_FILENO, text);
        (void) fclose(report);
        (void) rename(part, path);
}

static void on_signal(int signal_number)
{
        asked = 1;
}

int main(int argc, char **argv)
{
        struct sigaction action = {.sa_handler = on_signal};
        sigset_t set, waiting;

        if (argc != 2) {
                (void) fprintf(stderr, "Usage: isolate-target DIRECTORY\n");
                return EXIT_FAILURE;
        }
        directory = argv[1];
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left if the test is killed */
        (void) signal(SIGPIPE, SIG_IGN);
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        (void) sigprocmask(SIG_BLOCK, &set, &waiting);
        (void) sigaction(SIGUSR1, &action, NULL);

        open_files();
        open_events();
        open_sockets();
        open_memory();
        announce();

        for (;;) {
                while (!asked)
                        (void) sigsuspend(&waiting);
                asked = 0;
                use_all();
        }
}
