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

/* The PID that /proc/self/fdinfo has for a pidfd: -1 where its process is gone (fs/pidfs.c), 0 where it is not visible here. */
static int pidfd_get_pid(int pidfd, pid_t *ret)
{
        g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", pidfd), *text = NULL;
        const char *p;

        if (!g_file_get_contents(path, &text, NULL, NULL))
                return -EBADF;

        p = strstr(text, "\nPid:");
        if (!p)
                return -EBADF;

        *ret = (pid_t) strtol(p + strlen("\nPid:"), NULL, 10);
        return *ret > 0 ? 0 : -ESRCH;
}

int target_new_from_pidfd(Target **ret, int pidfd, CloneError *error)
{
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

        return target_new_take(ret, pid, fd, error);
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
                if (n == 0)
                        break;
                g_string_append_len(text, buffer, n);
        }

        if (ret_size)
                *ret_size = text->len;
        *ret = g_string_free(g_steal_pointer(&text), FALSE);
        return 0;
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
 * /proc/PID/stat: the name in brackets may hold anything, also brackets and blanks, so the fields are counted from the last
 * closing one. state is field 3, flags 9, starttime 22, processor 39.
 */
static int parse_stat(const char *stat, TargetStatus *ret)
{
        const char *p = strrchr(stat, ')');
        unsigned flags;
        int ppid;

        if (!p ||
            sscanf(p + 1, " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" G_GUINT64_FORMAT
                          " %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %u",
                            &ret->state, &ppid, &flags, &ret->start_time, &ret->processor) != 5)
                return -EBADMSG;

        ret->parent = ppid;
        ret->kernel_thread = (flags & PROC_PF_KTHREAD) != 0;
        return 0;
}

int target_read_status(const Target *t, TargetStatus *ret)
{
        g_autofree char *stat = NULL, *status = NULL;
        unsigned long tracer, threads, seccomp;
        TargetStatus s = {};
        int r;

        r = target_read_file(t, "stat", &stat, NULL);
        if (r < 0)
                return r;
        r = target_read_file(t, "status", &status, NULL);
        if (r < 0)
                return r;

        r = parse_stat(stat, &s);
        if (r < 0)
                return r;

        if (status_field(status, "TracerPid", &tracer) < 0 || status_field(status, "Threads", &threads) < 0)
                return -EBADMSG;
        if (status_field(status, "Seccomp", &seccomp) < 0) /* a kernel without CONFIG_SECCOMP has no such line */
                seccomp = 0;

        s.tracer = (pid_t) tracer;
        s.threads = (unsigned) threads;
        s.seccomp = (int) seccomp;

        *ret = s;
        return target_check_alive(t);
}
