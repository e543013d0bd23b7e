/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/kernel-pidns.h"
#include "daemon/pidfd.h"
#include "daemon/util.h"

#define END_USEC (1U * G_USEC_PER_SEC)
#define NUMBERS_MAX 16384U /* in one message, which is below the least buffer of a socket */

/* What remfork-init waits for: the clones, and behind them the ends of its children. */
typedef struct Init {
        struct pollfd *fds;
        size_t n; /* clones that live */
} Init;

/* It is no part of what the clones see but by its number: no right, no name of a file, nothing to be read. */
static int init_drop(int fd)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};

        if (syscall(SYS_capset, &header, none) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NAME, "remfork-init") < 0)
                return -errno;
        if ((fd > 0 && close_range(0, (unsigned) fd - 1, 0) < 0) || close_range((unsigned) fd + 1, ~0U, 0) < 0)
                return -errno;
        return setsid() < 0 || chdir("/") < 0 ? -errno : 0;
}

/* A pidfd of each clone, which is held until it is answered that there is one. */
static int init_receive(Init *i, int fd)
{
        g_autofree pid_t *numbers = g_new(pid_t, NUMBERS_MAX);
        ssize_t size = RETRY_EINTR(read(fd, numbers, NUMBERS_MAX * sizeof(*numbers)));

        if (size <= 0) /* the request has failed, or the worker is gone */
                return -EPIPE;

        i->n = (size_t) size / sizeof(*numbers);
        i->fds = g_new0(struct pollfd, i->n + 1);
        for (size_t k = 0; k < i->n; k++) {
                i->fds[k] = (struct pollfd){.fd = (int) syscall(SYS_pidfd_open, numbers[k], 0), .events = POLLIN};
                if (i->fds[k].fd < 0)
                        return -errno;
        }
        return RETRY_EINTR(write(fd, "", 1)) == 1 ? 0 : -EPIPE;
}

/* Forgets those that have ended; what they leave behind is a child of this process by then. */
static void init_count(Init *i)
{
        for (size_t k = 0; k < i->n;)
                if (i->fds[k].revents != 0) {
                        safe_close(i->fds[k].fd);
                        i->fds[k] = i->fds[--i->n];
                        i->fds[i->n] = i->fds[i->n + 1]; /* the signals stay behind the last */
                } else
                        k++;
}

static bool init_has_children(void)
{
        pid_t pid;

        do
                pid = waitpid(-1, NULL, WNOHANG | __WALL);
        while (pid > 0);
        return pid == 0;
}

static void init_serve(Init *i, int signals)
{
        struct signalfd_siginfo si;

        i->fds[i->n] = (struct pollfd){.fd = signals, .events = POLLIN};
        do {
                if (poll(i->fds, i->n + 1, -1) < 0 && errno != EINTR)
                        return;
                while (read(signals, &si, sizeof(si)) > 0)
                        ;
                init_count(i);
        } while (init_has_children() || i->n > 0);
}

/* The first process of the namespace. Nothing of what it was a copy of is used any more. */
static void G_GNUC_NORETURN init_run(int fd)
{
        sigset_t all;
        Init i = {};
        int signals;

        (void) sigfillset(&all);
        (void) sigprocmask(SIG_SETMASK, &all, NULL); /* cannot fail for these */
        if (init_drop(fd) < 0 || init_receive(&i, fd) < 0)
                _exit(EXIT_FAILURE);
        safe_close(fd);

        (void) sigemptyset(&all);
        (void) sigaddset(&all, SIGCHLD);
        signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
        if (signals >= 0)
                init_serve(&i, signals);
        _exit(EXIT_SUCCESS);
}

int kernel_pidns_new(KernelPidns *ret, const CloneSpec *spec, CloneError *error)
{
        int pair[2], pidfd = -EBADF;
        long pid;

        *ret = KERNEL_PIDNS_NONE;
        if (!spec->same_pids)
                return 0;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, errno, "There is no socket for a PID namespace: %s", g_strerror(errno));

        /* Not clone3(), of which a service that may make PID namespaces alone is kept by RestrictNamespaces=. */
        pid = syscall(SYS_clone, CLONE_NEWPID | CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, 0);
        if (pid == 0)
                init_run(pair[1]);
        safe_close(pair[1]);
        if (pid < 0) {
                int e = errno;

                safe_close(pair[0]);
                return clone_error_set(error, e == EPERM ? CLONE_ERROR_UNSUPPORTED : CLONE_ERROR_FAILED, e,
                                "remforkd cannot make a PID namespace, which option same-pids wants: %s", g_strerror(e));
        }

        *ret = (KernelPidns){(pid_t) pid, pidfd, pair[0]};
        return 0;
}

/* 1 or 0; -ESRCH where it has ended: one that was not waited for has no namespaces any more, another one is not to be read (fs/proc/namespaces.c). */
static int is_in_own_namespace(const Target *target)
{
        struct stat own, its;
        int r;

        if (stat("/proc/self/ns/pid", &own) < 0)
                return -errno;
        if (fstatat(target_procfd(target), "ns/pid", &its, 0) < 0) {
                r = -errno;
                return r == -ENOENT || (r == -EACCES && target_check_alive(target) < 0) ? -ESRCH : r;
        }
        return own.st_dev == its.st_dev && own.st_ino == its.st_ino;
}

/*
 * Not for containers, whose namespace the new one would have to be below: their root would see the first process, which has the machine's own
 * files as its root directory, and while it is being made the daemon's rights.
 */
int kernel_pidns_check(const Target *target, const TargetStatus *status, const CloneSpec *spec, CloneError *error)
{
        int pid = (int) target_pid(target), r;

        if (!spec->same_pids)
                return 0;
        if (status->own_pid == 1)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d is the first of its PID namespace, and so is another in the one that its clone would be in", pid);
        r = is_in_own_namespace(target);
        if (r < 0)
                return clone_error_set(error, r == -ESRCH ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                                "The PID namespace of process %d cannot be read: %s", pid, g_strerror(-r));
        if (r == 0)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d is in another PID namespace than remforkd, as in a container, where same-pids would let in a process of remforkd",
                                pid);
        return 0;
}

int kernel_pidns_leave(KernelPidns *ns, const pid_t *numbers, size_t n, CloneError *error)
{
        char answer;

        if (ns->pid == 0)
                return 0;
        if (n > NUMBERS_MAX)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0, "%zu processes are too many for same-pids", n);
        if (send(ns->fd, numbers, n * sizeof(*numbers), MSG_NOSIGNAL) < 0 || RETRY_EINTR(read(ns->fd, &answer, 1)) != 1)
                return clone_error_set(error, CLONE_ERROR_FAILED, ECHILD, "The first process of the new PID namespace has ended");

        ns->fd = safe_close(ns->fd);
        return 0;
}

void kernel_pidns_note(const CloneSpec *spec, const EngineHandler *handler, pid_t target)
{
        g_autofree char *text = NULL;

        if (!spec->same_pids || !spec->notes || !handler->note)
                return;
        text = g_strdup_printf("The clone of process %d is in a PID namespace of its own, with the same numbers: /proc, as it is mounted there, "
                               "has others, and only /proc/self is true",
                               (int) target);
        handler->note(text, handler->userdata);
}

void kernel_pidns_clear(KernelPidns *ns)
{
        if (ns->fd >= 0) { /* not left */
                (void) pidfd_end(ns->pidfd);
                pidfds_await_end(&ns->pidfd, 1, END_USEC);
                (void) waitpid(ns->pid, NULL, WNOHANG); /* one that a clone's parent keeps waiting is left to whoever gets it */
        }
        ns->fd = safe_close(ns->fd);
        ns->pidfd = safe_close(ns->pidfd);
}
