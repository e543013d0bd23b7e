/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/util.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif
#define ALTSTACK_AUTODISARM (1U << 31) /* include/uapi/linux/signal.h: SS_AUTODISARM */
#define IOPRIO_WHO_PROCESS 1

typedef struct Dress {
        PtraceTree *tree;
        Member *m;
        const Member *parent;
        Puppet *p;
} Dress;

static pid_t source_of(const Dress *d)
{
        return target_pid(d->m->job.target);
}

/* What may be missing is said; what says that the clone is gone is passed on. */
static long may_fail(const Dress *d, long r, const char *what)
{
        if (r >= 0 || r == -ESRCH || r == -ECHILD)
                return r;
        tree_note(d->tree, "The clone of process %d: %s: %s", (int) source_of(d), what, g_strerror((int) -r));
        return 0;
}

/* A call whose argument @nth points to @n bytes of @data. */
static long call_with(const Dress *d, long nr, uint64_t args[static 6], size_t nth, const void *data, size_t n)
{
        int r = puppet_write(d->p, d->p->page, data, n);

        args[nth] = d->p->page;
        return r < 0 ? r : puppet_call6(d->p, nr, args);
}

static long set_limits(const Dress *d)
{
        long r = 0;

        for (uint64_t k = 0; k < RLIM_NLIMITS && r >= 0; k++) {
                const struct rlimit *own = &d->m->state.limits[k], *theirs = &d->parent->state.limits[k];

                if (k != RLIMIT_NOFILE && own->rlim_cur == theirs->rlim_cur && own->rlim_max == theirs->rlim_max)
                        continue;
                r = call_with(d, SYS_prlimit64, (uint64_t[6]){0, k, 0, 0}, 2, own, sizeof(*own));
                r = may_fail(d, r, "a resource limit is that of its parent");
        }

        return r;
}

static long go_to(const Dress *d, int fd, bool as_root)
{
        int given;
        long r = puppet_give(d->p, &fd, 1, &given), k;

        if (r < 0)
                return r;
        r = puppet_call(d->p, SYS_fchdir, (uint64_t) given);
        if (r >= 0 && as_root)
                r = call_with(d, SYS_chroot, (uint64_t[6]){0}, 0, ".", 2);
        k = puppet_call(d->p, SYS_close, (uint64_t) given);
        return r < 0 ? r : k;
}

static long set_places(const Dress *d, CloneError *error)
{
        const MemberState *s = &d->m->state;
        long r = 0;

        if (s->root >= 0) {
                r = go_to(d, s->root, true);
                if (r == -EPERM)
                        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                        "Process %d has another root folder than its parent, which its clone has no right to take on", (int) source_of(d));
        }
        return r < 0 ? r : go_to(d, s->cwd, false);
}

/* First by the clone itself, with the rights of the process; then by this one, which may have more. */
static long set_schedule(const Dress *d)
{
        const ThreadInfo *own = &d->m->state.info, *theirs = &d->parent->state.info;
        long r = 0;

        if (memcmp(&own->schedule, &theirs->schedule, sizeof(own->schedule)) != 0) {
                r = call_with(d, SYS_sched_setattr, (uint64_t[6]){0, 0, 0}, 1, &own->schedule, sizeof(own->schedule));
                if (r == -EPERM)
                        r = syscall(SYS_sched_setattr, d->p->tracee->pid, &own->schedule, 0) < 0 ? -errno : 0;
                r = may_fail(d, r, "its scheduling policy, priority or nice value could not be set");
        }
        if (r >= 0 && !CPU_EQUAL(&own->affinity, &theirs->affinity))
                r = may_fail(d, call_with(d, SYS_sched_setaffinity, (uint64_t[6]){0, sizeof(cpu_set_t), 0}, 2, &own->affinity, sizeof(cpu_set_t)),
                                "its CPU affinity could not be set");
        if (r >= 0 && d->m->state.io_priority >= 0 && d->m->state.io_priority != d->parent->state.io_priority)
                r = may_fail(d, puppet_call(d->p, SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (uint64_t) d->m->state.io_priority),
                                "its I/O priority could not be set");
        return r;
}

static long write_file(const char *path, const char *text)
{
        _cleanup_close_ int fd = open_with_override(path, O_WRONLY);
        ssize_t n = fd < 0 ? fd : write(fd, text, strlen(text));

        return fd < 0 ? fd : n < 0 ? -errno : 0;
}

static long set_oom_score(const Dress *d)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/oom_score_adj", (int) d->p->tracee->pid);
        g_autofree char *text = g_strdup_printf("%d", d->m->state.oom_score_adj);

        if (d->m->state.oom_score_adj == d->parent->state.oom_score_adj)
                return 0;
        return may_fail(d, write_file(path, text), "its oom_score_adj could not be set");
}

/* Of the unified hierarchy, "0::/path". */
static long set_cgroup(const Dress *d)
{
        const char *line = strstr(d->m->state.cgroup, "0::/");
        g_autofree char *folder = line ? g_strndup(line + 3, strcspn(line + 3, "\n")) : NULL;
        g_autofree char *path = g_strdup_printf("/sys/fs/cgroup%s/cgroup.procs", folder ?: "");
        g_autofree char *text = g_strdup_printf("%d", (int) d->p->tracee->pid);

        if (strcmp(d->m->state.cgroup, d->parent->state.cgroup) == 0)
                return 0;
        return may_fail(d, folder ? write_file(path, text) : -EOPNOTSUPP, "its control group is that of its parent");
}

/* Only what differs from the parent's clone, which this one comes from. */
static long set_actions(const Dress *d)
{
        long r = 0;

        for (uint64_t k = 0; k < TREE_SIGNALS && r >= 0; k++) {
                const KernelSigaction *own = &d->m->state.actions[k], *theirs = &d->parent->state.actions[k];

                if (memcmp(own, theirs, sizeof(*own)) == 0 || k + 1 == SIGKILL || k + 1 == SIGSTOP)
                        continue;
                r = call_with(d, SYS_rt_sigaction, (uint64_t[6]){k + 1, 0, 0, sizeof(own->mask)}, 1, own, sizeof(*own));
        }

        return r;
}

/* What a fork has of its parent, or has not at all. */
static long set_own(const Dress *d)
{
        const MemberState *s = &d->m->state;
        const stack_t altstack = {.ss_sp = s->altstack.ss_sp, .ss_size = s->altstack.ss_size,
                .ss_flags = s->altstack.ss_size == 0 ? SS_DISABLE : (int) ((unsigned) s->altstack.ss_flags & ALTSTACK_AUTODISARM)};
        long r;

        r = puppet_call(d->p, SYS_umask, s->umask);
        if (r >= 0)
                r = puppet_call(d->p, SYS_personality, s->personality);
        if (r >= 0 && s->timer_slack != 0)
                r = puppet_call(d->p, SYS_prctl, PR_SET_TIMERSLACK, s->timer_slack);
        if (r >= 0)
                r = call_with(d, SYS_prctl, (uint64_t[6]){PR_SET_NAME, 0}, 1, s->info.name, sizeof(s->info.name));
        if (r >= 0)
                r = call_with(d, SYS_sigaltstack, (uint64_t[6]){0, 0}, 0, &altstack, sizeof(altstack));
        if (r >= 0 && s->subreaper)
                r = puppet_call(d->p, SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
        if (r >= 0 && s->huge_pages != d->parent->state.huge_pages)
                r = puppet_call(d->p, SYS_prctl, PR_SET_THP_DISABLE, !s->huge_pages, 0, 0, 0);
        return r;
}

/* What set_credentials() and the like undo. */
static long set_last(const Dress *d)
{
        const MemberState *s = &d->m->state;
        long r = 0;

        if (s->write_execute > 0)
                r = puppet_call(d->p, SYS_prctl, PR_SET_MDWE, (uint64_t) s->write_execute, 0, 0, 0);
        if (r >= 0 && s->dumpable >= 0)
                r = puppet_call(d->p, SYS_prctl, PR_SET_DUMPABLE, s->dumpable == 1);
        if (r >= 0 && s->death_signal != 0)
                r = puppet_call(d->p, SYS_prctl, PR_SET_PDEATHSIG, (uint64_t) s->death_signal);
        return r;
}

/* The thread ID as libc and the kernel have it; restartable sequences. Robust futexes: clones_complete(). */
static long set_thread(const Dress *d)
{
        const Instant *i = &d->m->job.instant;
        const struct __ptrace_rseq_configuration *rseq = &i->rseq;
        long r = 0, tid = puppet_call(d->p, SYS_gettid);
        uint64_t word;

        if (tid < 0)
                return tid;
        if (i->tid_cache.clear) {
                r = memory_read(d->p->tracee->pid, i->tid_cache.address, &word, sizeof(word));
                word = (word & ~UINT64_C(0xffffffff)) | (uint32_t) tid;
                if (r >= 0)
                        r = memory_write(i->memory, d->p->tracee->pid, i->tid_cache.address, &word, sizeof(word));
        }
        if (r >= 0 && d->m->state.clear_tid != 0)
                r = puppet_call(d->p, SYS_set_tid_address, d->m->state.clear_tid);
        if (r >= 0 && rseq->rseq_abi_pointer != 0)
                r = may_fail(d, puppet_call(d->p, SYS_rseq, rseq->rseq_abi_pointer, rseq->rseq_abi_size, 0, rseq->signature),
                                "its restartable sequences could not be registered");
        return r < 0 ? r : tracee_set_xstate(d->p->tracee, d->m->xstate, d->m->xstate_size);
}

/* The pages that the calls used go; what is left to do is done by the code that the process has itself. */
static long leave_workshop(const Dress *d)
{
        uint64_t workshop = d->p->page;

        d->p->page = 0;
        d->p->syscall_at = d->m->job.instant.cave;
        return puppet_call(d->p, SYS_munmap, workshop, PUPPET_PAGE + TREE_PAGE);
}

int member_dress(PtraceTree *t, Member *m, Puppet *p, CloneError *error)
{
        const Dress d = {.tree = t, .m = m, .parent = tree_parent(t, m), .p = p};
        long r;
        int k;

        k = member_build_memory(t, m, p, error);
        if (k >= 0)
                k = member_place_files(t, m, p, error);
        if (k < 0)
                return k;

        r = set_places(&d, error);
        if (r < 0)
                return error && error->code != CLONE_ERROR_NONE ? (int) r : member_failed(m, r, "its working directory cannot be set", error);
        r = set_own(&d);
        if (r >= 0)
                r = set_actions(&d);
        if (r >= 0)
                r = set_schedule(&d);
        if (r >= 0)
                r = set_oom_score(&d);
        if (r >= 0)
                r = set_cgroup(&d);
        if (r >= 0)
                r = set_limits(&d);
        if (r < 0)
                return member_failed(m, r, "its state cannot be set", error);

        k = member_set_credentials(t, m, p, error);
        if (k < 0)
                return k;
        r = set_last(&d);
        if (r >= 0)
                r = set_thread(&d);
        if (r >= 0)
                r = leave_workshop(&d);
        return r < 0 ? member_failed(m, r, "its state cannot be set", error) : 0;
}
