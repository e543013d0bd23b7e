/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "daemon/engine/fdinfo.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/util.h"

#define IOPRIO_WHO_PROCESS 1
#define FILE_MAX 65536U

void member_state_clear(MemberState *s)
{
        thread_info_clear(&s->info);
        g_clear_pointer(&s->cgroup, g_free);
        g_clear_pointer(&s->label, g_free);
        g_clear_pointer(&s->pid_namespace, g_free);
        s->cwd = safe_close(s->cwd);
        s->root = safe_close(s->root);
        s->exe = safe_close(s->exe);
}

static int open_proc(const Member *m, const char *name, int flags)
{
        char path[64];

        (void) snprintf(path, sizeof(path), "/proc/%d/%s", (int) target_pid(m->job.target), name);
        return open_with_override(path, flags);
}

/* Of a file that only the process' own user may read; it stands still and is traced, so that its PID stays its own. */
static ssize_t read_proc(const Member *m, const char *name, void *buffer, size_t size)
{
        _cleanup_close_ int fd = open_proc(m, name, O_RDONLY);
        size_t n = 0;

        if (fd < 0)
                return fd;
        while (n < size) {
                ssize_t k = read(fd, (char *) buffer + n, size - n);

                if (k < 0)
                        return -errno;
                if (k == 0)
                        break;
                n += (size_t) k;
        }

        return (ssize_t) n;
}

static char *read_text(const Member *m, const char *name)
{
        g_autofree char *text = g_malloc(FILE_MAX);
        ssize_t n = read_proc(m, name, text, FILE_MAX - 1);

        if (n < 0)
                return g_strdup("");
        text[n] = '\0';
        return g_steal_pointer(&text);
}

/* The last word of the line, which is that of the innermost PID namespace; 0 where there is none. */
static pid_t last_number(const char *status, const char *key)
{
        const char *line = fdinfo_get(status, key);
        g_autofree char *text = line ? g_strndup(line, strcspn(line, "\n")) : NULL;

        return text ? (pid_t) strtol(strrchr(text, '\t') ? strrchr(text, '\t') + 1 : text, NULL, 10) : 0;
}

static uint64_t number(const char *status, const char *key, int base)
{
        const char *text = fdinfo_get(status, key);

        return text ? strtoull(text, NULL, base) : 0;
}

static void parse_status(const char *status, MemberState *s)
{
        s->umask = (unsigned) number(status, "Umask", 8);
        s->caught = number(status, "SigCgt", 16);
        s->ignored = number(status, "SigIgn", 16);
        s->own_group = last_number(status, "NSpgid");
        s->huge_pages = !fdinfo_get(status, "THP_enabled") || number(status, "THP_enabled", 10) != 0;
}

/* Fields of /proc/PID/stat as proc(5) counts them. */
static int parse_stat(const char *stat, MemberState *s)
{
        const char *p = strrchr(stat, ')');
        uint64_t fields[53] = {};

        if (!p || p[1] != ' ')
                return -EBADMSG;
        p = strchr(p + 2, ' '); /* behind the state, field 3 */
        for (size_t k = 4; p && k < G_N_ELEMENTS(fields); k++) {
                fields[k] = strtoull(p, NULL, 10);
                p = strchr(p + 1, ' ');
        }

        s->has_terminal = fields[7] != 0;
        s->exit_signal = (int) fields[38];
        s->layout.start_code = fields[26];
        s->layout.end_code = fields[27];
        s->layout.start_stack = fields[28];
        s->layout.start_data = fields[45];
        s->layout.end_data = fields[46];
        s->layout.start_brk = fields[47];
        s->layout.arg_start = fields[48];
        s->layout.arg_end = fields[49];
        s->layout.env_start = fields[50];
        s->layout.env_end = fields[51];
        return s->layout.start_code != 0 ? 0 : -EPERM;
}

static char *read_namespace(const Member *m, const char *name)
{
        char link[PATH_MAX];
        ssize_t n = readlinkat(target_procfd(m->job.target), name, link, sizeof(link) - 1);

        return n < 0 ? g_strdup("") : g_strndup(link, (gsize) n);
}

static bool same_file(const Member *a, const Member *b, const char *name)
{
        struct stat x, y;

        return fstatat(target_procfd(a->job.target), name, &x, 0) == 0 && fstatat(target_procfd(b->job.target), name, &y, 0) == 0 &&
               x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A folder may be mounted at several places, which only its descriptor tells apart: so it is always taken along. */
static int open_places(Member *m, const Member *parent)
{
        MemberState *s = &m->state;

        s->cwd = open_proc(m, "cwd", O_PATH);
        if (s->cwd < 0)
                return s->cwd;
        if (!same_file(m, parent, "root")) {
                s->root = open_proc(m, "root", O_PATH);
                if (s->root < 0)
                        return s->root;
        }
        if (!same_file(m, parent, "exe")) {
                s->exe = open_proc(m, "exe", O_RDONLY);
                if (s->exe < 0)
                        return s->exe;
        }

        return 0;
}

static int read_limits(Member *m)
{
        for (int k = 0; k < RLIM_NLIMITS; k++)
                if (prlimit(target_pid(m->job.target), (enum __rlimit_resource) k, NULL, &m->state.limits[k]) < 0) {
                        /* Another user's: the text is for all to read. */
                        return -errno;
                }
        return 0;
}

/* The order of RLIMIT_* is not that of the text (fs/proc/base.c: lnames). */
static int parse_limits(const char *text, struct rlimit *ret)
{
        static const struct {
                const char *name;
                int limit;
        } table[] = {
                {"Max cpu time", RLIMIT_CPU},           {"Max file size", RLIMIT_FSIZE},         {"Max data size", RLIMIT_DATA},
                {"Max stack size", RLIMIT_STACK},       {"Max core file size", RLIMIT_CORE},     {"Max resident set", RLIMIT_RSS},
                {"Max processes", RLIMIT_NPROC},        {"Max open files", RLIMIT_NOFILE},       {"Max locked memory", RLIMIT_MEMLOCK},
                {"Max address space", RLIMIT_AS},       {"Max file locks", RLIMIT_LOCKS},        {"Max pending signals", RLIMIT_SIGPENDING},
                {"Max msgqueue size", RLIMIT_MSGQUEUE}, {"Max nice priority", RLIMIT_NICE},      {"Max realtime priority", RLIMIT_RTPRIO},
                {"Max realtime timeout", RLIMIT_RTTIME},
        };

        for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
                const char *line = strstr(text, table[i].name);
                char soft[32], hard[32];

                if (!line || sscanf(line + strlen(table[i].name), "%31s %31s", soft, hard) != 2)
                        return -EBADMSG;
                ret[table[i].limit] = (struct rlimit){strcmp(soft, "unlimited") == 0 ? RLIM_INFINITY : strtoull(soft, NULL, 10),
                        strcmp(hard, "unlimited") == 0 ? RLIM_INFINITY : strtoull(hard, NULL, 10)};
        }

        return 0;
}

/* What changes rarely: while it runs it is as true as a moment later. */
void member_read_settings(Member *m)
{
        g_autofree char *personality = read_text(m, "personality"), *slack = read_text(m, "timerslack_ns"), *oom = read_text(m, "oom_score_adj"),
                        *limits = NULL;
        MemberState *s = &m->state;
        ssize_t n = read_proc(m, "auxv", s->auxv, sizeof(s->auxv));

        if (n < 0 || (read_limits(m) < 0 && (target_read_file(m->job.target, "limits", &limits, NULL) < 0 || parse_limits(limits, s->limits) < 0)))
                return;
        s->layout.auxv_size = (uint32_t) n;
        s->personality = strtoull(personality, NULL, 16);
        s->timer_slack = strtoull(slack, NULL, 10); /* 0: not to be read without CAP_SYS_NICE */
        s->oom_score_adj = atoi(oom);
        s->io_priority = (int) syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, target_pid(m->job.target));
        g_free(s->cgroup);
        s->cgroup = read_text(m, "cgroup");
        m->settings_known = true;
}

void member_read_early(PtraceTree *t, Member *m)
{
        member_read_settings(m);
        member_read_map_early(t, m);
}

static int read_files(Member *m)
{
        g_autofree char *status = NULL, *stat = NULL;
        MemberState *s = &m->state;
        int r;

        r = target_read_file(m->job.target, "status", &status, NULL);
        if (r >= 0)
                r = target_read_file(m->job.target, "stat", &stat, NULL);
        if (r >= 0)
                r = parse_stat(stat, s);
        if (r < 0)
                return r;
        parse_status(status, s);
        s->label = read_text(m, "attr/current");
        s->pid_namespace = read_namespace(m, "ns/pid");
        if (!m->settings_known)
                member_read_settings(m);
        return m->settings_known ? 0 : -EIO;
}

/* The root is not asked, so that nothing of what its clone has is taken for what another is to have. */
static void guess_actions(MemberState *s)
{
        for (unsigned k = 0; k < TREE_SIGNALS; k++)
                s->actions[k].handler = UINT64_MAX;
        s->securebits = s->dumpable = -1;
}

int member_read(PtraceTree *t, Member *m, CloneError *error)
{
        int r;

        r = thread_info_read(&m->state.info, m->job.target, target_pid(m->job.target));
        if (r >= 0)
                r = read_files(m);
        if (r >= 0 && m == tree_member(t, 0))
                guess_actions(&m->state);
        else if (r >= 0)
                r = open_places(m, tree_parent(t, m));
        return r < 0 ? job_failed(&m->job, r, "its state cannot be read", error) : 0;
}

static int refuse(const PtraceTree *t, const Member *m, const char *what, CloneError *error)
{
        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP, "Process %d has other %s than its parent %d, which its clone cannot be given",
                        (int) target_pid(m->job.target), what, (int) target_pid(tree_parent(t, m)->job.target));
}

/* The filters of both, one by one: a fork has those of its parent, and no other. */
static bool same_filters(const Member *a, const Member *b)
{
        for (unsigned long k = 0;; k++) {
                long n = ptrace(PTRACE_SECCOMP_GET_FILTER, a->job.tracee.pid, k, NULL), other = ptrace(PTRACE_SECCOMP_GET_FILTER, b->job.tracee.pid, k, NULL);
                g_autofree void *x = NULL, *y = NULL;

                if (n != other)
                        return false;
                if (n < 0)
                        return k > 0 || a->job.status.seccomp == 1;
                x = g_malloc0((gsize) (n + 1) * 8); /* struct sock_filter */
                y = g_malloc0((gsize) (n + 1) * 8);
                if (ptrace(PTRACE_SECCOMP_GET_FILTER, a->job.tracee.pid, k, x) != n || ptrace(PTRACE_SECCOMP_GET_FILTER, b->job.tracee.pid, k, y) != n ||
                    memcmp(x, y, (size_t) n * 8) != 0)
                        return false;
        }
}

int member_compare(const PtraceTree *t, const Member *m, CloneError *error)
{
        const Member *parent = tree_parent(t, m);
        const MemberState *a = &m->state, *b = &parent->state;
        static const struct {
                int kind;
                const char *what;
        } shared[] = {{KCMP_VM, "memory"}, {KCMP_FILES, "table of descriptors"}, {KCMP_FS, "working directory"}, {KCMP_SIGHAND, "table of signal handlers"}};

        if (strcmp(a->info.namespaces, b->info.namespaces) != 0 || strcmp(a->pid_namespace, b->pid_namespace) != 0)
                return refuse(t, m, "namespaces", error);
        if (m->job.status.seccomp != parent->job.status.seccomp || (m->job.status.seccomp != 0 && !same_filters(m, parent)))
                return refuse(t, m, "seccomp filters", error);
        if (strcmp(a->label, b->label) != 0)
                return refuse(t, m, "security label", error);
        if (a->info.shadow_stack)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                "Process %d has a shadow stack, which the clone of a descendant cannot be given", (int) target_pid(m->job.target));
        for (size_t i = 0; i < G_N_ELEMENTS(shared); i++)
                if (syscall(SYS_kcmp, target_pid(m->job.target), target_pid(parent->job.target), shared[i].kind, 0, 0) == 0)
                        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP, "Process %d and its parent %d have one %s, which their clones cannot",
                                        (int) target_pid(m->job.target), (int) target_pid(parent->job.target), shared[i].what);
        return 0;
}
