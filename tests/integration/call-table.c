/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <poll.h>
#include <pty.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "call-target.h"

#define CHECK(call)                                                                                      \
        do {                                                                                             \
                if ((long) (call) < 0) {                                                                 \
                        (void) fprintf(stderr, "call-target: %s: %s\n", #call, strerror(errno));         \
                        exit(EXIT_FAILURE);                                                              \
                }                                                                                        \
        } while (0)

static struct timespec *timeout_of(Context *c)
{
        return c->timeout_msec < 0 ? NULL : &c->timeout;
}

static const sigset_t *only(int sig)
{
        static sigset_t set;

        (void) sigemptyset(&set);
        (void) sigaddset(&set, sig);
        return &set;
}

/* In force while the call waits: SIGUSR1 is open, what set_mask() blocked is not, SIGURG is. */
static const sigset_t *temporary(void)
{
        return only(SIGURG);
}

static const sigset_t *usr1(void)
{
        return only(SIGUSR1);
}

/* Time */

static long call_nanosleep(Context *c)
{
        return syscall(SYS_nanosleep, &c->timeout, NULL);
}

static long call_clock_nanosleep(Context *c)
{
        return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &c->timeout, NULL);
}

static long call_clock_nanosleep_abs(Context *c)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        ts.tv_sec += c->timeout.tv_sec;
        ts.tv_nsec += c->timeout.tv_nsec;
        if (ts.tv_nsec >= 1000000000) {
                ts.tv_sec++;
                ts.tv_nsec -= 1000000000;
        }
        return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* Waiting for descriptors: an eventfd that nobody writes to */

static void setup_eventfd(Context *c)
{
        CHECK(c->fd = eventfd(0, EFD_SEMAPHORE));
}

static long call_poll(Context *c)
{
        struct pollfd p = {.fd = c->fd, .events = POLLIN};

        return syscall(SYS_poll, &p, 1, c->timeout_msec);
}

static long call_ppoll(Context *c)
{
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        struct timespec ts = c->timeout;

        return syscall(SYS_ppoll, &p, 1, c->timeout_msec < 0 ? NULL : &ts, temporary(), 8L);
}

static long call_select(Context *c)
{
        struct timeval tv = {.tv_sec = c->timeout.tv_sec, .tv_usec = c->timeout.tv_nsec / 1000};
        fd_set set;

        FD_ZERO(&set);
        FD_SET(c->fd, &set);
        return syscall(SYS_select, c->fd + 1, &set, NULL, NULL, c->timeout_msec < 0 ? NULL : &tv);
}

static long call_pselect(Context *c)
{
        struct timespec ts = c->timeout;
        fd_set set;

        FD_ZERO(&set);
        FD_SET(c->fd, &set);
        return pselect(c->fd + 1, &set, NULL, NULL, c->timeout_msec < 0 ? NULL : &ts, temporary());
}

static void setup_epoll(Context *c)
{
        struct epoll_event event = {.events = EPOLLIN};

        setup_eventfd(c);
        CHECK(c->other_fd = epoll_create1(0));
        CHECK(epoll_ctl(c->other_fd, EPOLL_CTL_ADD, c->fd, &event));
}

static long call_epoll_wait(Context *c)
{
        struct epoll_event event;

        return syscall(SYS_epoll_wait, c->other_fd, &event, 1, c->timeout_msec);
}

static long call_epoll_pwait(Context *c)
{
        struct epoll_event event;

        return syscall(SYS_epoll_pwait, c->other_fd, &event, 1, c->timeout_msec, temporary(), 8L);
}

static long call_epoll_pwait2(Context *c)
{
        struct epoll_event event;

        return syscall(SYS_epoll_pwait2, c->other_fd, &event, 1, timeout_of(c), temporary(), 8L);
}

static void release_eventfd(Context *c)
{
        uint64_t one = 1;

        if (write(c->fd, &one, sizeof(one)) < 0)
                _exit(EXIT_FAILURE);
}

/* Futexes, in memory that target, clones and helper share */

static void setup_word(Context *c)
{
        c->word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (c->word == MAP_FAILED)
                CHECK(-1);
}

static long call_futex(Context *c)
{
        return syscall(SYS_futex, c->word, FUTEX_WAIT, 0, timeout_of(c), NULL, 0);
}

static long call_futex_abs(Context *c)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        ts.tv_sec += 3600; /* longer than any test */
        return syscall(SYS_futex, c->word, FUTEX_WAIT_BITSET, 0, &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void release_futex(Context *c)
{
        (void) syscall(SYS_futex, c->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Signals */

static long call_sigtimedwait(Context *c)
{
        siginfo_t info;

        return syscall(SYS_rt_sigtimedwait, only(SIGUSR2), &info, timeout_of(c), 8);
}

static long call_sigwaitinfo(Context *c)
{
        siginfo_t info;

        return syscall(SYS_rt_sigtimedwait, only(SIGUSR1), &info, NULL, 8);
}

static long call_sigsuspend(Context *c)
{
        return syscall(SYS_rt_sigsuspend, temporary(), 8);
}

static long call_pause(Context *c)
{
        return syscall(SYS_pause);
}

static void setup_signalfd(Context *c)
{
        CHECK(c->fd = signalfd(-1, only(SIGUSR1), 0));
}

static long call_read_signalfd(Context *c)
{
        struct signalfd_siginfo info;

        return read(c->fd, &info, sizeof(info));
}

/* System V, in an IPC namespace of the target's own: nothing of it outlives the target and its clones */

static void setup_sem(Context *c)
{
        CHECK(unshare(CLONE_NEWIPC));
        CHECK(c->ipc_id = semget(IPC_PRIVATE, 1, 0600));
}

static long call_semtimedop(Context *c)
{
        struct sembuf op = {.sem_num = 0, .sem_op = -1};

        return syscall(SYS_semtimedop, c->ipc_id, &op, 1, timeout_of(c));
}

static void release_sem(Context *c)
{
        struct sembuf op = {.sem_num = 0, .sem_op = 1};

        (void) semop(c->ipc_id, &op, 1);
}

static void setup_msg(Context *c)
{
        CHECK(unshare(CLONE_NEWIPC));
        CHECK(c->ipc_id = msgget(IPC_PRIVATE, 0600));
}

static long call_msgrcv(Context *c)
{
        struct {
                long type;
                char text[8];
        } message;

        return msgrcv(c->ipc_id, &message, sizeof(message.text), 0, 0);
}

static void release_msg(Context *c)
{
        struct {
                long type;
                char text[8];
        } message = {.type = 1};

        (void) msgsnd(c->ipc_id, &message, 1, IPC_NOWAIT);
}

/* Sockets */

static void set_socket_timeout(int fd, int option, Context *c)
{
        struct timeval tv = {.tv_sec = c->timeout.tv_sec, .tv_usec = c->timeout.tv_nsec / 1000};

        if (c->timeout_msec >= 0)
                CHECK(setsockopt(fd, SOL_SOCKET, option, &tv, sizeof(tv)));
}

static void setup_socketpair(Context *c)
{
        int fds[2];

        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
        c->fd = fds[0];
        c->other_fd = fds[1];
        set_socket_timeout(c->fd, SO_RCVTIMEO, c);
}

static long call_recv(Context *c)
{
        char b;

        return recv(c->fd, &b, 1, 0);
}

static void release_socket(Context *c)
{
        (void) send(c->other_fd, "x", 1, MSG_DONTWAIT);
}

static socklen_t listener(Context *c, struct sockaddr_un *address)
{
        socklen_t length = sizeof(sa_family_t);

        *address = (struct sockaddr_un){.sun_family = AF_UNIX};
        CHECK(c->fd = socket(AF_UNIX, SOCK_STREAM, 0));
        CHECK(bind(c->fd, (struct sockaddr *) address, length)); /* autobind: an abstract name of the kernel's choice */
        CHECK(listen(c->fd, 0));
        length = sizeof(*address);
        CHECK(getsockname(c->fd, (struct sockaddr *) address, &length));
        return length;
}

static void setup_accept(Context *c)
{
        struct sockaddr_un address;

        (void) listener(c, &address);
        set_socket_timeout(c->fd, SO_RCVTIMEO, c);
}

static long call_accept(Context *c)
{
        return accept(c->fd, NULL, NULL);
}

static void release_accept(Context *c)
{
        struct sockaddr_un address;
        socklen_t length = sizeof(address);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

        if (getsockname(c->fd, (struct sockaddr *) &address, &length) == 0)
                (void) connect(fd, (struct sockaddr *) &address, length);
        (void) close(fd);
}

/* The listener's queue is full: one connection waits in it with a backlog of 0. */
static void setup_connect(Context *c)
{
        struct sockaddr_un address;
        socklen_t length = listener(c, &address);

        CHECK(c->other_fd = socket(AF_UNIX, SOCK_STREAM, 0));
        CHECK(connect(c->other_fd, (struct sockaddr *) &address, length));
        CHECK(c->other_fd = socket(AF_UNIX, SOCK_STREAM, 0));
        set_socket_timeout(c->other_fd, SO_SNDTIMEO, c);
}

/* Target and clones share the socket: all but the first find it connected. */
static long call_connect(Context *c)
{
        struct sockaddr_un address;
        socklen_t length = sizeof(address);
        long r;

        CHECK(getsockname(c->fd, (struct sockaddr *) &address, &length));
        r = connect(c->other_fd, (struct sockaddr *) &address, length);
        return r < 0 && errno == EISCONN ? 0 : r;
}

/* Each accepted connection wakes one who waits; those who find their shared socket connected make none that wakes the next. */
static void release_connect(Context *c)
{
        (void) fcntl(c->fd, F_SETFL, O_NONBLOCK);
        (void) close(accept(c->fd, NULL, NULL));
        release_accept(c);
}

/* Linux AIO; the context is not the clone's, its call ends with EINVAL */

static void setup_aio(Context *c)
{
        CHECK(syscall(SYS_io_setup, 1, &c->aio));
}

static long call_io_getevents(Context *c)
{
        struct io_event event;

        return syscall(SYS_io_getevents, c->aio, 1, 1, &event, timeout_of(c));
}

/* Reading and writing */

static void setup_pipe(Context *c)
{
        int fds[2];

        CHECK(pipe(fds));
        c->fd = fds[0];
        c->other_fd = fds[1];
}

static long call_read(Context *c)
{
        char buffer[8];

        return read(c->fd, buffer, sizeof(buffer));
}

static void release_write(Context *c)
{
        (void) fcntl(c->other_fd, F_SETFL, O_NONBLOCK);
        if (write(c->other_fd, "x\n", 2) < 0 && errno != EAGAIN)
                _exit(EXIT_FAILURE);
}

static void setup_full_pipe(Context *c)
{
        char buffer[4096] = {};

        setup_pipe(c);
        CHECK(fcntl(c->other_fd, F_SETFL, O_NONBLOCK));
        while (write(c->other_fd, buffer, sizeof(buffer)) > 0)
                ;
        CHECK(fcntl(c->other_fd, F_SETFL, 0));
}

static long call_write(Context *c)
{
        return write(c->other_fd, "x", 1);
}

static void release_read(Context *c)
{
        char buffer[4096];

        if (read(c->fd, buffer, sizeof(buffer)) < 0)
                _exit(EXIT_FAILURE);
}

static void setup_tty(Context *c)
{
        CHECK(openpty(&c->other_fd, &c->fd, NULL, NULL, NULL));
}

/* Of a file that nobody else can open */
static void setup_inotify(Context *c)
{
        char path[] = "/tmp/call-target.XXXXXX";

        CHECK(c->fd = inotify_init1(0));
        CHECK(c->other_fd = mkstemp(path));
        CHECK(inotify_add_watch(c->fd, path, IN_MODIFY));
        CHECK(unlink(path));
}

static long call_read_inotify(Context *c)
{
        char buffer[512];

        return read(c->fd, buffer, sizeof(buffer)) > 0 ? 0 : -1;
}

static void release_inotify(Context *c)
{
        if (write(c->other_fd, "x", 1) < 0)
                _exit(EXIT_FAILURE);
}

/* A FIFO that nobody writes to */
static void setup_fifo(Context *c)
{
        char path[64];

        (void) snprintf(path, sizeof(path), "/tmp/call-target.%d.fifo", (int) c->pid);
        CHECK(mkfifo(path, 0600));
}

static long call_open_fifo(Context *c)
{
        char path[64];
        int fd, e;

        (void) snprintf(path, sizeof(path), "/tmp/call-target.%d.fifo", (int) c->pid);
        fd = open(path, O_RDONLY);
        e = errno;
        if (getpid() == c->pid)
                (void) unlink(path);
        errno = e;
        return fd < 0 ? -1 : 0;
}

static void release_fifo(Context *c)
{
        char path[64];

        (void) snprintf(path, sizeof(path), "/tmp/call-target.%d.fifo", (int) c->pid);
        (void) close(open(path, O_WRONLY | O_NONBLOCK));
}

/* Children: the clone has none, its call ends with ECHILD */

static long call_wait4(Context *c)
{
        int status;

        return wait4(-1, &status, 0, NULL) < 0 ? -1 : 0;
}

static long call_waitid(Context *c)
{
        siginfo_t info;

        return waitid(P_ALL, 0, &info, WEXITED);
}

/* Locks that the helper holds: the target waits until the helper, told to, lets them go */

static void setup_lock(Context *c)
{
        char path[] = "/tmp/call-target.XXXXXX";

        CHECK(c->fd = mkstemp(path));
        CHECK(c->other_fd = open(path, O_RDWR));
        CHECK(unlink(path));
}

static void setup_flock(Context *c)
{
        setup_lock(c);
        CHECK(flock(c->other_fd, LOCK_EX));
}

static long call_flock(Context *c)
{
        return flock(c->fd, LOCK_EX);
}

static void release_flock(Context *c)
{
        (void) flock(c->other_fd, LOCK_UN);
}

/* An OFD lock keeps a POSIX lock of anybody out, and the helper can let it go. */
static void setup_setlkw(Context *c)
{
        struct flock lock = {.l_type = F_WRLCK};

        setup_lock(c);
        CHECK(fcntl(c->other_fd, F_OFD_SETLK, &lock));
}

static void unlock(int fd, int command)
{
        struct flock lock = {.l_type = F_UNLCK};

        (void) fcntl(fd, command, &lock);
}

static long call_setlkw(Context *c)
{
        struct flock lock = {.l_type = F_WRLCK};

        long r = fcntl(c->fd, F_SETLKW, &lock);

        if (r == 0)
                unlock(c->fd, F_SETLK); /* the lock is one process's: the next waits for it */
        return r;
}

static void release_setlkw(Context *c)
{
        unlock(c->other_fd, F_OFD_SETLK);
}

const Call calls[] = {
        {"nanosleep", "time", "exact", call_nanosleep},
        {"clock_nanosleep", "time", "exact", call_clock_nanosleep},
        {"clock_nanosleep-abs", "time", "exact", call_clock_nanosleep_abs},
        {"poll", "time", "exact", call_poll, setup_eventfd},
        {"ppoll", "time", "exact", call_ppoll, setup_eventfd},
        {"select", "time", "exact", call_select, setup_eventfd},
        {"pselect", "time", "exact", call_pselect, setup_eventfd},
        {"futex", "time", "exact", call_futex, setup_word},
        {"epoll_wait", "time", "again", call_epoll_wait, setup_epoll},
        {"epoll_pwait", "time", "again", call_epoll_pwait, setup_epoll},
        {"epoll_pwait2", "time", "again", call_epoll_pwait2, setup_epoll},
        {"sigtimedwait", "time", "again", call_sigtimedwait},
        {"semtimedop", "time", "again", call_semtimedop, setup_sem},
        {"recv-timeout", "time", "again", call_recv, setup_socketpair},
        {"accept-timeout", "time", "again", call_accept, setup_accept},
        {"connect-timeout", "time", "again", call_connect, setup_connect},
        {"io_getevents", "time", "EINVAL", call_io_getevents, setup_aio},
        {"poll-event", "helper", "same", call_poll, setup_eventfd, release_eventfd},
        {"ppoll-event", "helper", "same", call_ppoll, setup_eventfd, release_eventfd},
        {"select-event", "helper", "same", call_select, setup_eventfd, release_eventfd},
        {"pselect-event", "helper", "same", call_pselect, setup_eventfd, release_eventfd},
        {"epoll_wait-event", "helper", "same", call_epoll_wait, setup_epoll, release_eventfd},
        {"epoll_pwait-event", "helper", "same", call_epoll_pwait, setup_epoll, release_eventfd},
        {"epoll_pwait2-event", "helper", "same", call_epoll_pwait2, setup_epoll, release_eventfd},
        {"futex-wake", "helper", "same", call_futex, setup_word, release_futex},
        {"futex-bitset-wake", "helper", "same", call_futex_abs, setup_word, release_futex},
        {"semop", "helper", "same", call_semtimedop, setup_sem, release_sem},
        {"msgrcv", "helper", "same", call_msgrcv, setup_msg, release_msg},
        {"recv", "helper", "same", call_recv, setup_socketpair, release_socket},
        {"accept", "helper", "same", call_accept, setup_accept, release_accept},
        {"connect", "helper", "same", call_connect, setup_connect, release_connect},
        {"read-pipe", "helper", "same", call_read, setup_pipe, release_write},
        {"write-pipe", "helper", "same", call_write, setup_full_pipe, release_read},
        {"read-tty", "helper", "same", call_read, setup_tty, release_write},
        {"read-eventfd", "helper", "same", call_read, setup_eventfd, release_eventfd},
        {"read-inotify", "helper", "same", call_read_inotify, setup_inotify, release_inotify},
        {"open-fifo", "helper", "same", call_open_fifo, setup_fifo, release_fifo},
        {"wait4", "helper", "ECHILD", call_wait4},
        {"waitid", "helper", "ECHILD", call_waitid},
        {"flock", "helper", "same", call_flock, setup_flock, release_flock},
        {"setlkw", "helper", "same", call_setlkw, setup_setlkw, release_setlkw},
        {"pause", "signal", "same", call_pause},
        {"sigsuspend", "signal", "same", call_sigsuspend},
        {"sigwaitinfo", "signal", "same", call_sigwaitinfo, NULL, NULL, usr1},
        {"read-signalfd", "signal", "same", call_read_signalfd, setup_signalfd, NULL, usr1},
};

const size_t n_calls = sizeof(calls) / sizeof(calls[0]);
