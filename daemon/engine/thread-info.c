/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/thread-info.h"

static int read_thread_file(const Target *target, pid_t tid, const char *name, char **ret)
{
        g_autofree char *path = g_strdup_printf("task/%d/%s", (int) tid, name);
        int r = target_read_file(target, path, ret, NULL);

        return r == -ENOENT ? -ESRCH : r;
}

/* The lines that one who makes a thread hands on to it, as text: what matters is whether they differ. */
static void parse_status(const char *status, ThreadInfo *ret, pid_t *ret_tracer, char *ret_state)
{
        static const char *const inherited[] = {"Uid:",    "Gid:",    "Groups:", "CapInh:",     "CapPrm:",  "CapEff:",
                                                "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"};
        g_auto(GStrv) lines = g_strsplit(status, "\n", -1);
        g_autoptr(GString) kept = g_string_new(NULL);

        for (char **line = lines; *line; line++) {
                for (size_t i = 0; i < G_N_ELEMENTS(inherited); i++)
                        if (g_str_has_prefix(*line, inherited[i]))
                                g_string_append_printf(kept, "%s\n", *line);

                if (g_str_has_prefix(*line, "State:\t"))
                        *ret_state = (*line)[strlen("State:\t")];
                else if (g_str_has_prefix(*line, "TracerPid:"))
                        *ret_tracer = (pid_t) strtol(*line + strlen("TracerPid:"), NULL, 10);
                else if (g_str_has_prefix(*line, "Seccomp:"))
                        ret->seccomp = (int) strtol(*line + strlen("Seccomp:"), NULL, 10);
                else if (g_str_has_prefix(*line, "x86_Thread_features:"))
                        ret->shadow_stack = strstr(*line, "shstk") != NULL;
                else if (g_str_has_prefix(*line, "NSpid:")) /* outermost namespace first */
                        ret->own_tid = (pid_t) strtol(strrchr(*line, '\t') + 1, NULL, 10);
        }

        ret->privileges = g_string_free(g_steal_pointer(&kept), FALSE);
}

static char *read_namespaces(const Target *target, pid_t tid)
{
        static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts"};
        g_autoptr(GString) text = g_string_new(NULL);

        for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
                g_autofree char *path = g_strdup_printf("task/%d/ns/%s", (int) tid, names[i]);
                char link[PATH_MAX];
                ssize_t n = readlinkat(target_procfd(target), path, link, sizeof(link) - 1);

                if (n > 0) /* a kernel may lack one of them */
                        g_string_append_printf(text, "%s %.*s\n", names[i], (int) n, link);
        }

        return g_string_free(g_steal_pointer(&text), FALSE);
}

static int read_schedule(pid_t tid, ThreadInfo *ret)
{
        if (syscall(SYS_sched_getattr, tid, &ret->schedule, sizeof(ret->schedule), 0) < 0)
                return -errno;

        CPU_ZERO(&ret->affinity);
        return sched_getaffinity(tid, sizeof(ret->affinity), &ret->affinity) < 0 ? -errno : 0;
}

int thread_info_read(ThreadInfo *ret, const Target *target, pid_t tid)
{
        g_autofree char *status = NULL, *name = NULL;
        ThreadInfo info = {};
        pid_t tracer = 0;
        char state = 0;
        int r;

        r = read_thread_file(target, tid, "status", &status);
        if (r < 0)
                return r;
        r = read_thread_file(target, tid, "comm", &name);
        if (r < 0)
                return r;
        r = read_schedule(tid, &info);
        if (r < 0)
                return r;

        parse_status(status, &info, &tracer, &state);
        info.namespaces = read_namespaces(target, tid);
        *strchrnul(strrchr(name, '\n') ?: name, '\n') = '\0'; /* the last byte; the name itself may hold any */
        (void) g_strlcpy(info.name, name, sizeof(info.name));
        *ret = info;
        return state == 'Z' || state == 'X' ? -ESRCH : tracer != 0 && tracer != getpid() ? -EBUSY : 0;
}

void thread_info_clear(ThreadInfo *i)
{
        g_clear_pointer(&i->privileges, g_free);
        g_clear_pointer(&i->namespaces, g_free);
}

/* False where kcmp(2) says so; a kernel without it cannot tell. */
static bool shares(pid_t a, pid_t b, int type)
{
        return syscall(SYS_kcmp, a, b, type, 0, 0) <= 0;
}

int thread_info_check(const ThreadInfo *i, const ThreadInfo *main_info, const Target *target, pid_t tid, CloneError *error)
{
        pid_t pid = target_pid(target);
        const char *what;

        if (i->shadow_stack)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                "Thread %d of process %d has a shadow stack, which a clone of a process with threads cannot be given",
                                (int) tid, (int) pid);
        if (strcmp(i->privileges, main_info->privileges) != 0)
                what = "other credentials, capabilities or seccomp filters than";
        else if (strcmp(i->namespaces, main_info->namespaces) != 0)
                what = "other namespaces than";
        else if (!shares(pid, tid, KCMP_FILES))
                what = "file descriptors apart from those of";
        else if (!shares(pid, tid, KCMP_FS))
                what = "a working directory apart from that of";
        else
                return 0;

        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                        "Thread %d of process %d has %s the main thread, which a clone cannot be given", (int) tid, (int) pid, what);
}
