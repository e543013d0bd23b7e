/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "daemon/target.h"
#include "daemon/util.h"

#define PROC_PF_KTHREAD 0x00200000U /* include/linux/sched.h; proc(5) passes the flags on as they are */

struct Target {
        pid_t pid;
        int pidfd;
        int procfd;
};

static int open_procfd(pid_t pid)
{
        char path[sizeof("/proc/") + 3 * sizeof(pid_t)];
        int fd;

        (void) snprintf(path, sizeof(path), "/proc/%d", (int) pid);
        fd = open(path, O_DIRECTORY | O_CLOEXEC | O_PATH);
        return fd < 0 ? -errno : fd;
}

/* Takes over @pidfd in every case. */
static int target_new_take(Target **ret, pid_t pid, int pidfd, CloneError *error)
{
        g_autoptr(Target) t = g_new(Target, 1);
        int r;

        *t = (Target){.pid = pid, .pidfd = pidfd, .procfd = -EBADF};

        t->procfd = open_procfd(pid);
        if (t->procfd < 0 && t->procfd != -ENOENT)
                return clone_error_set(error, CLONE_ERROR_FAILED, -t->procfd, "/proc/%d cannot be opened: %s", (int) pid,
                                g_strerror(-t->procfd));

        /* Only now: the PID may have been another's when the directory was opened. */
        r = t->procfd < 0 ? -ESRCH : target_check_alive(t);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "There is no process %d", (int) pid);

        *ret = g_steal_pointer(&t);
        return 0;
}

int target_new(Target **ret, pid_t pid, CloneError *error)
{
        int pidfd;

        if (pid <= 0)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "%d is no process ID, a positive number was expected", (int) pid);

        pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) {
                if (errno == ESRCH)
                        return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "There is no process %d", (int) pid);
                if (errno == EINVAL || errno == ENOENT) /* pidfd_open(2): a thread that is not a leader; ENOENT since 6.15 */
                        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                        "%d is a thread, the ID of its process was expected", (int) pid);
                return clone_error_set(error, CLONE_ERROR_FAILED, errno, "Process %d cannot be opened: %s", (int) pid,
                                g_strerror(errno));
        }

        return target_new_take(ret, pid, pidfd, error);
}

/* How far a file is read. */
typedef enum Extent {
        EXTENT_WHOLE, /* to its end, which an empty read tells */
        EXTENT_PIECE, /* the kernel makes the text of one piece (fs/seq_file.c: single_open()), so a read that is not full has its end */
        EXTENT_BEGIN, /* one read */
} Extent;

static int read_file(const Target *t, const char *name, Extent extent, char **ret, size_t *ret_size)
{
        _cleanup_close_ int fd = -EBADF;
        g_autoptr(GString) text = g_string_new(NULL);

        fd = openat(t->procfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return errno == ENOENT && target_check_alive(t) < 0 ? -ESRCH : -errno;

        for (;;) {
                char buffer[4096];
                ssize_t n = RETRY_EINTR(read(fd, buffer, sizeof(buffer)));

                if (n < 0)
                        return -errno;
                g_string_append_len(text, buffer, n);
                if (n == 0 || extent == EXTENT_BEGIN || (extent == EXTENT_PIECE && n < (ssize_t) sizeof(buffer)))
                        break;
        }

        if (ret_size)
                *ret_size = text->len;
        *ret = g_string_free(g_steal_pointer(&text), FALSE);
        return 0;
}

/* The PID that /proc/self/fdinfo has for a pidfd: -1 where its process is gone (fs/pidfs.c), 0 where it is not visible here. */
static int pidfd_get_pid(int pidfd, pid_t *ret)
{
        char path[sizeof("/proc/self/fdinfo/") + 3 * sizeof(int)], text[1024]; /* made of one piece, at the beginning of which it is */
        _cleanup_close_ int fd = -EBADF;
        const char *p;
        ssize_t n;

        (void) snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : RETRY_EINTR(read(fd, text, sizeof(text) - 1));
        if (n < 0)
                return -EBADF;
        text[n] = '\0';

        p = strstr(text, "\nPid:");
        if (!p)
                return -EBADF;

        *ret = (pid_t) strtol(p + strlen("\nPid:"), NULL, 10);
        return *ret > 0 ? 0 : -ESRCH;
}

/* The number behind "\n@key:" of /proc/PID/status. */
static int status_field(const char *status, const char *key, unsigned long *ret)
{
        g_autofree char *needle = g_strdup_printf("\n%s:", key);
        const char *p = strstr(status, needle);
        char *end;

        if (!p)
                return -EBADMSG;

        p += strlen(needle);
        errno = 0;
        *ret = strtoul(p, &end, 10);
        return errno != 0 || end == p ? -EBADMSG : 0;
}

/*
 * A pidfd of PIDFD_THREAD (Linux 6.9) may be that of any thread: /proc/TID is there for each of them, and TID is another number than
 * the process has, by which requests for one process are kept from running at once.
 */
static int check_leader(const Target *t, CloneError *error)
{
        g_autofree char *status = NULL;
        unsigned long tgid;
        int r;

        r = read_file(t, "status", EXTENT_PIECE, &status, NULL);
        if (r >= 0)
                r = status_field(status, "Tgid", &tgid);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "There is no process %d", (int) t->pid);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The status of process %d cannot be read: %s", (int) t->pid,
                                g_strerror(-r));
        if (tgid != (unsigned long) t->pid)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "The pidfd is that of thread %d, one of its process %lu was expected", (int) t->pid, tgid);
        return 0;
}

int target_new_from_pidfd(Target **ret, int pidfd, CloneError *error)
{
        g_autoptr(Target) t = NULL;
        pid_t pid = 0;
        int r, fd;

        r = pidfd_get_pid(pidfd, &pid);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "The process of the pidfd is gone");
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EBADF,
                                "The descriptor passed is no pidfd, one of pidfd_open() was expected");

        fd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, errno, "The pidfd cannot be duplicated: %s",
                                g_strerror(errno));

        r = target_new_take(&t, pid, fd, error);
        if (r >= 0)
                r = check_leader(t, error);
        if (r < 0)
                return r;

        *ret = g_steal_pointer(&t);
        return 0;
}

Target *target_new_received(pid_t pid, int pidfd, int procfd)
{
        Target *t = g_new(Target, 1);

        *t = (Target){.pid = pid, .pidfd = pidfd, .procfd = procfd};
        return t;
}

Target *target_free(Target *t)
{
        if (!t)
                return NULL;

        safe_close(t->procfd);
        safe_close(t->pidfd);
        g_free(t);
        return NULL;
}

pid_t target_pid(const Target *t)
{
        return t->pid;
}

int target_pidfd(const Target *t)
{
        return t->pidfd;
}

int target_procfd(const Target *t)
{
        return t->procfd;
}

int target_check_alive(const Target *t)
{
        /* EPERM says that it is there. */
        return syscall(SYS_pidfd_send_signal, t->pidfd, 0, NULL, 0) < 0 && errno == ESRCH ? -ESRCH : 0;
}

int target_read_file(const Target *t, const char *name, char **ret, size_t *ret_size)
{
        return read_file(t, name, EXTENT_WHOLE, ret, ret_size);
}

int target_read_lines(const Target *t, const char *name, char **ret)
{
        char *end;
        int r;

        r = read_file(t, name, EXTENT_BEGIN, ret, NULL);
        if (r < 0)
                return r;

        end = strrchr(*ret, '\n');
        *(end ? end + 1 : *ret) = '\0'; /* what follows is no whole line */
        return 0;
}

/* The three masks, in hexadecimal; one that is missing counts as empty. */
static uint64_t read_signals(const char *status)
{
        static const char *const keys[] = {"\nSigBlk:", "\nSigIgn:", "\nSigCgt:"};
        uint64_t signals = 0;

        for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
                const char *p = strstr(status, keys[i]);

                if (p)
                        signals |= g_ascii_strtoull(p + strlen(keys[i]), NULL, 16);
        }

        return signals;
}

/*
 * /proc/PID/stat: the name in brackets may hold anything, also brackets and blanks, so the fields are counted from the last
 * closing one. state is field 3, pgrp 5, session 6, flags 9, starttime 22, vsize 23, processor 39.
 */
static int parse_stat(const char *stat, TargetStatus *ret)
{
        const char *p = strrchr(stat, ')');
        unsigned flags;
        uint64_t size;
        int ppid, group, session;

        if (!p ||
            sscanf(p + 1, " %c %d %d %d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" G_GUINT64_FORMAT
                          " %" G_GUINT64_FORMAT " %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %u",
                            &ret->state, &ppid, &group, &session, &flags, &ret->start_time, &size, &ret->processor) != 8)
                return -EBADMSG;

        ret->parent = ppid;
        ret->mapped_pages = size / (uint64_t) sysconf(_SC_PAGESIZE);
        ret->group = group;
        ret->session = session;
        ret->kernel_thread = (flags & PROC_PF_KTHREAD) != 0;
        return 0;
}

/* A kernel without PID namespaces has no such line. */
static pid_t parse_own_pid(const Target *t, const char *status)
{
        const char *p = strstr(status, "\nNSpid:");
        const char *end, *last;

        if (!p)
                return t->pid;

        p++;
        end = strchrnul(p, '\n');
        for (last = end; last > p && last[-1] != '\t'; last--)
                ;
        return (pid_t) strtol(last, NULL, 10);
}

int target_read_status(const Target *t, TargetStatus *ret)
{
        g_autofree char *stat = NULL, *status = NULL;
        unsigned long tracer, threads, seccomp, locked;
        TargetStatus s = {};
        int r;

        r = read_file(t, "stat", EXTENT_PIECE, &stat, NULL);
        if (r < 0)
                return r;
        r = read_file(t, "status", EXTENT_PIECE, &status, NULL);
        if (r < 0)
                return r;

        r = parse_stat(stat, &s);
        if (r < 0)
                return r;

        if (status_field(status, "TracerPid", &tracer) < 0 || status_field(status, "Threads", &threads) < 0)
                return -EBADMSG;
        if (status_field(status, "Seccomp", &seccomp) < 0) /* a kernel without CONFIG_SECCOMP has no such line */
                seccomp = 0;
        if (status_field(status, "VmLck", &locked) < 0) /* what has no memory has no such line */
                locked = 0;

        s.own_pid = parse_own_pid(t, status);
        s.tracer = (pid_t) tracer;
        s.threads = (unsigned) threads;
        s.seccomp = (int) seccomp;
        s.locked = locked;
        s.signals = read_signals(status);

        *ret = s;
        return target_check_alive(t);
}

int target_read_start_time(const Target *t, uint64_t *ret)
{
        g_autofree char *stat = NULL;
        TargetStatus s = {};
        int r;

        r = read_file(t, "stat", EXTENT_PIECE, &stat, NULL);
        if (r >= 0)
                r = parse_stat(stat, &s);
        if (r < 0)
                return r;

        *ret = s.start_time;
        return target_check_alive(t);
}
