/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/owners.h"
#include "daemon/engine/ptrace-rebuild.h"
#include "daemon/engine/puppet.h"
#include "daemon/util.h"

#define ALTSTACK_AUTODISARM (1U << 31) /* include/uapi/linux/signal.h: SS_AUTODISARM */

/* What could not be given, counted over all threads: said once. */
typedef struct Shortfall {
        unsigned robust, rseq, altstack, schedule, affinity, timeout;
        int locks; /* why they were not handed over */
} Shortfall;

static void note(const Clones *c, unsigned n, const char *what)
{
        g_autofree char *text = NULL;

        if (n == 0 || !c->handler->note)
                return;
        text = g_strdup_printf("%u threads of the clone: %s", n, what);
        c->handler->note(text, c->handler->userdata);
}

static void note_shortfall(const Clones *c, const Shortfall *s)
{
        note(c, s->robust, "their lists of robust futexes could not be set");
        note(c, s->rseq, "their restartable sequences could not be registered");
        note(c, s->altstack, "their alternate signal stacks could not be set");
        note(c, s->schedule, "their scheduling policy, priority or nice value could not be set");
        note(c, s->affinity, "their CPU affinity could not be set");
        if (s->locks < 0 && c->handler->note)
                c->handler->note(s->locks == -E2BIG ? "The clone has too much memory to be searched for recursive, error-checking and read-write locks: one that a thread holds is still that of the target's thread"
                                 : s->locks == -EDOM ? "The IDs of the target's threads are too small to tell its recursive, error-checking and read-write locks from other numbers: one that a thread holds is still that of the target's thread"
                                                     : "The clone's memory could not be searched for recursive, error-checking and read-write locks: one that a thread holds is still that of the target's thread",
                                c->handler->userdata);
        note(c, s->timeout, "a wait with a relative timeout began anew with its full time");
}

static int thread_failed(const Clones *c, const Thread *th, long r, const char *what, CloneError *error)
{
        int pid = (int) c->target, tid = (int) th->tracee.pid;

        if (r == -EAGAIN)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EAGAIN,
                                "The clone of process %d may have no more threads: its RLIMIT_NPROC or its control group's pids.max is reached", pid);
        if (r == -ESRCH || r == -ECHILD)
                return clone_error_set(error, CLONE_ERROR_FAILED, ESRCH, "The clone of process %d was killed before it was complete", pid);
        return clone_error_set(error, CLONE_ERROR_FAILED, (int) -r, "The clone of thread %d of process %d: %s: %s", tid, pid, what,
                        g_strerror((int) -r));
}

/* A call whose argument @nth_arg points to @n bytes of @data. */
static long call_with(Puppet *p, long nr, uint64_t args[static 6], size_t nth_arg, const void *data, size_t n)
{
        int r = puppet_write(p, p->page, data, n);

        args[nth_arg] = p->page;
        return r < 0 ? r : puppet_call6(p, nr, args);
}

static bool killed(long r)
{
        return r == -ESRCH || r == -ECHILD;
}

/* First by the thread itself, with the rights of the target; then by this process, which may have more. */
static long set_schedule(Puppet *p, const Thread *th)
{
        long r = call_with(p, SYS_sched_setattr, (uint64_t[6]){0, 0, 0}, 1, &th->info.schedule, sizeof(th->info.schedule));

        if (r == -EPERM)
                r = syscall(SYS_sched_setattr, p->tracee->pid, &th->info.schedule, 0) < 0 ? -errno : 0;
        return r;
}

/* All that the kernel does not hand on from thread to thread. */
static long dress(Puppet *p, const Thread *th, const ThreadInfo *like, Shortfall *s)
{
        const struct __ptrace_rseq_configuration *rseq = &th->instant.rseq;
        const stack_t altstack = {.ss_sp = th->altstack.ss_sp, .ss_size = th->altstack.ss_size,
                .ss_flags = (int) ((unsigned) th->altstack.ss_flags & ALTSTACK_AUTODISARM)};
        long r = 0;

        if (th->clear_tid != 0 && !th->instant.tid_cache.clear)
                r = puppet_call(p, SYS_set_tid_address, th->clear_tid);
        if (!killed(r) && th->instant.robust_head != 0) {
                r = puppet_call(p, SYS_set_robust_list, th->instant.robust_head, th->instant.robust_size);
                s->robust += r < 0;
        }
        if (!killed(r) && rseq->rseq_abi_pointer != 0) {
                r = puppet_call(p, SYS_rseq, rseq->rseq_abi_pointer, rseq->rseq_abi_size, 0, rseq->signature);
                s->rseq += r < 0;
        }
        if (!killed(r) && altstack.ss_size != 0) {
                r = call_with(p, SYS_sigaltstack, (uint64_t[6]){0, 0}, 0, &altstack, sizeof(altstack));
                s->altstack += r < 0;
        }
        if (!killed(r) && memcmp(th->info.name, like->name, sizeof(like->name)) != 0)
                r = call_with(p, SYS_prctl, (uint64_t[6]){PR_SET_NAME, 0}, 1, th->info.name, sizeof(th->info.name));
        if (!killed(r) && memcmp(&th->info.schedule, &like->schedule, sizeof(like->schedule)) != 0) {
                r = set_schedule(p, th);
                s->schedule += r < 0;
        }
        if (!killed(r) && !CPU_EQUAL(&th->info.affinity, &like->affinity)) {
                r = call_with(p, SYS_sched_setaffinity, (uint64_t[6]){0, sizeof(cpu_set_t), 0}, 2, &th->info.affinity, sizeof(cpu_set_t));
                s->affinity += r < 0;
        }

        /* Always one call, so that each is held at the same kind of stop: the exit of a call. */
        if (!killed(r))
                r = puppet_call(p, SYS_getppid);
        return killed(r) ? r : tracee_set_xstate(p->tracee, th->xstate, th->xstate_size);
}

/* One thread of clone @k, by a call of its main thread. */
static int rebuild_one(Clones *c, size_t k, Puppet *main_puppet, const Thread *th, Shortfall *s, OwnerPair *ret, CloneError *error)
{
        const ArchTid *cache = &th->instant.tid_cache;
        const uint64_t flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                               CLONE_PTRACE | (cache->address ? CLONE_CHILD_SETTID : 0) | (cache->clear ? CLONE_CHILD_CLEARTID : 0);
        Puppet p = *main_puppet;
        Tracee *t;
        long tid, r;

        tid = puppet_call(main_puppet, SYS_clone, flags, 0, 0, cache->address, th->instant.regs.fs_base);
        if (tid < 0)
                return thread_failed(c, th, tid, "it cannot be made", error);

        g_array_append_vals(c->thread_tracees, &(Tracee){.options = c->tracees[k].options}, 1);
        t = &g_array_index(c->thread_tracees, Tracee, c->thread_tracees->len - 1);
        r = clones_wait_for_new(c, &t->pid);
        if (r < 0)
                return thread_failed(c, th, r, "it cannot be awaited", error);

        p.tracee = t;
        p.base = th->instant.regs;
        r = dress(&p, th, &c->threads->main_info, s);
        if (r >= 0 && th->instant.robust_head != 0)
                r = rebuild_robust_owner(t->pid, th->instant.robust_head, th->info.own_tid, (pid_t) tid);
        if (r < 0)
                return thread_failed(c, th, r, "it cannot be set up", error);

        *ret = (OwnerPair){th->info.own_tid, (pid_t) tid};
        s->timeout += (long) th->instant.regs.orig_rax >= 0 && (long) th->instant.regs.rax == -ARCH_ERESTART_RESTARTBLOCK;
        return 0;
}

/*
 * musl has the end of every thread, also of the main one, told at one place; a fork has it forgotten.
 */
static long restore_clear_tid(Puppet *p, const Clones *c)
{
        const Thread *first = g_ptr_array_index(c->threads->list, 0);

        if (c->instant->tid_cache.address == 0 || c->instant->tid_cache.clear || first->clear_tid == 0)
                return 0;
        return puppet_call(p, SYS_set_tid_address, first->clear_tid);
}

/* By the new IDs: what each thread held at the instant is its copy's. */
static int hand_over_locks(const Clones *c, size_t k, Puppet *p, OwnerPair *pairs, size_t n, Shortfall *s)
{
        long tid = puppet_call(p, SYS_gettid);
        int r;

        if (tid < 0)
                return (int) tid;
        pairs[n - 1] = (OwnerPair){c->instant->tid, (pid_t) tid};
        r = owners_hand_over(c->tracees[k].pid, pairs, n);
        if (r < 0)
                s->locks = r;
        return r == -ESRCH ? r : 0;
}

/* What the threads are made with is more than the one call that a filter was seen to allow. */
static int suspend_seccomp(const Clones *c, Tracee *t, CloneError *error)
{
        if (c->threads->main_info.seccomp == 0 || (t->options & PTRACE_O_SUSPEND_SECCOMP) ||
            tracee_set_options(t, t->options | PTRACE_O_SUSPEND_SECCOMP) >= 0)
                return 0;
        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                        "Process %d has threads and is under seccomp, and the daemon lacks CAP_SYS_ADMIN to suspend that or is under seccomp itself",
                        (int) c->target);
}

int rebuild_threads(Clones *c, CloneError *error)
{
        const GPtrArray *list = c->threads ? c->threads->list : NULL;
        g_autofree OwnerPair *pairs = NULL;
        Shortfall s = {};

        if (!list || list->len == 0)
                return 0;

        pairs = g_new0(OwnerPair, list->len + 1);

        /* Never grown: pointers into it are kept. */
        c->thread_tracees = g_array_sized_new(FALSE, TRUE, sizeof(Tracee), (guint) (list->len * c->n));
        for (size_t k = 0; k < c->n; k++) {
                Puppet p;
                long r;

                r = suspend_seccomp(c, &c->tracees[k], error);
                if (r < 0)
                        return (int) r;
                r = puppet_open(&p, &c->tracees[k], c->pidfds[k], &c->instant->regs, c->instant->cave);
                if (r >= 0)
                        r = restore_clear_tid(&p, c);
                if (r < 0)
                        return thread_failed(c, g_ptr_array_index(list, 0), r, "it has no memory to work with", error);

                for (guint i = 0; i < list->len; i++) {
                        r = rebuild_one(c, k, &p, g_ptr_array_index(list, i), &s, pairs + i, error);
                        if (r < 0)
                                return (int) r;
                }

                r = hand_over_locks(c, k, &p, pairs, list->len + 1, &s);
                if (r >= 0)
                        r = puppet_close(&p);
                if (r < 0)
                        return thread_failed(c, g_ptr_array_index(list, 0), r, "its memory cannot be given back", error);
        }

        note_shortfall(c, &s);
        return 0;
}

int rebuild_release(Clones *c, size_t k)
{
        const GPtrArray *list = c->threads ? c->threads->list : NULL;

        for (guint i = 0; list && i < list->len; i++) {
                const Tracee *t = &g_array_index(c->thread_tracees, Tracee, k * list->len + i);
                Instant instant = ((const Thread *) g_ptr_array_index(list, i))->instant;
                int r;

                (void) instant_forget_restart(&instant, t->pid); /* only the main thread's restart block was copied */
                r = instant_restore(&instant, t);
                if (r >= 0)
                        r = tracee_detach(t, 0);
                if (r < 0 && r != -ESRCH) /* ESRCH: killed by somebody since it was held */
                        return r;
        }

        return 0;
}
