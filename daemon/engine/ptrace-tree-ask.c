/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-tree-internal.h"

/*
 * What neither ptrace(2) nor /proc tells: signal handlers, the end of the heap, and some settings of prctl(2). The process is made to ask
 * for it by calls that change nothing, and comes back to where it was without help should this process die.
 */

#ifndef PR_GET_MDWE
#define PR_GET_MDWE 66
#endif

/* Below the red zone of the stack (System V ABI) is memory that a signal handler may overwrite at any time. */
#define BELOW_STACK (128 + 64)
#define ANSWER_SIZE 32U
G_STATIC_ASSERT(sizeof(KernelSigaction) <= ANSWER_SIZE && sizeof(stack_t) <= ANSWER_SIZE);

typedef struct Question {
        const PtraceTree *t;
        Member *m;
        uint64_t answer; /* where the process writes it */
} Question;

/* Runs call @nr; -ESRCH and the like where it could not be run. */
static int run(const Question *q, long nr, const uint64_t args[static 5], long *ret)
{
        Job *j = &q->m->job;
        const struct user_regs_struct regs = arch_call_regs(&j->instant.regs, j->instant.cave, nr, args);
        bool first = !j->altered;
        int r;

        /* In this order, for the reason that is given in instant_clone(). */
        j->altered = true;
        r = tracee_set_regs(&j->tracee, &regs);
        if (r >= 0 && first)
                r = tracee_set_mask(&j->tracee, UINT64_MAX);
        return r < 0 ? r : instant_run_call(&j->tracee, false, ret);
}

/* The answer that the call writes to its argument @nth; what cannot be known stays as it is. */
static int ask(const Question *q, long nr, uint64_t first, uint64_t second, uint64_t third, uint64_t fourth, size_t nth, void *answer, size_t size)
{
        uint64_t args[5] = {first, second, third, fourth, 0};
        long result;
        int r;

        args[nth] = q->answer;
        r = run(q, nr, args, &result);
        return r < 0 || result < 0 ? r : memory_read(q->m->job.tracee.pid, q->answer, answer, size);
}

static int ask_result(const Question *q, long nr, uint64_t first, long *ret)
{
        return run(q, nr, (const uint64_t[5]){first}, ret);
}

/* Of a signal that has its default nothing else is of interest, but for the flags of SIGCHLD. */
static int ask_signals(const Question *q)
{
        MemberState *s = &q->m->state;
        int r = 0;

        for (unsigned k = 0; k < TREE_SIGNALS && r >= 0; k++) {
                if (((s->caught | s->ignored) >> k & 1) || k == SIGCHLD - 1)
                        r = ask(q, SYS_rt_sigaction, k + 1, 0, 0, sizeof(uint64_t), 2, &s->actions[k], sizeof(s->actions[k]));
        }

        return r;
}

static int ask_all(const Question *q)
{
        MemberState *s = &q->m->state;
        const Instant *i = &q->m->job.instant;
        long end = 0;
        int r;

        s->altstack = (stack_t){.ss_flags = SS_DISABLE};
        s->securebits = s->dumpable = s->write_execute = s->access_to_parent = -1;
        r = ask_signals(q);
        if (r >= 0)
                r = ask(q, SYS_sigaltstack, 0, 0, 0, 0, 1, &s->altstack, sizeof(s->altstack));
        if (r >= 0 && i->tid_cache.clear)
                s->clear_tid = i->tid_cache.address;
        else if (r >= 0)
                r = ask(q, SYS_prctl, PR_GET_TID_ADDRESS, 0, 0, 0, 1, &s->clear_tid, sizeof(s->clear_tid));
        if (r >= 0)
                r = ask(q, SYS_prctl, PR_GET_PDEATHSIG, 0, 0, 0, 1, &s->death_signal, sizeof(s->death_signal));
        if (r >= 0)
                r = ask(q, SYS_prctl, PR_GET_CHILD_SUBREAPER, 0, 0, 0, 1, &s->subreaper, sizeof(s->subreaper));
        if (r >= 0)
                r = ask_result(q, SYS_prctl, PR_GET_DUMPABLE, &s->dumpable);
        if (r >= 0)
                r = ask_result(q, SYS_prctl, PR_GET_SECUREBITS, &s->securebits);
        if (r >= 0)
                r = ask_result(q, SYS_prctl, PR_GET_MDWE, &s->write_execute);
        if (r >= 0)
                r = run(q, SYS_kcmp, (const uint64_t[5]){(uint64_t) i->tid, (uint64_t) tree_parent(q->t, q->m)->job.status.own_pid, KCMP_VM}, &s->access_to_parent);
        if (r >= 0)
                r = ask_result(q, SYS_brk, 0, &end);
        s->layout.brk = (uint64_t) end;
        return r;
}

/* The code is gone, and the stack as it was, before anything else is done. Not where the process may be running the code. */
static int put_back(const Question *q, const void *spare, size_t written)
{
        static const uint8_t zeros[ARCH_GADGET_SIZE];
        const size_t first = sizeof(long);
        const Job *j = &q->m->job;
        const Instant *i = &j->instant;
        int r;

        r = instant_restore(i, &j->tracee);
        if (r >= 0) /* the first word last: by it what a killed worker leaves is known, see arch_is_gadget() */
                r = memory_write(i->memory, j->tracee.pid, i->cave + first, zeros, written - first);
        if (r >= 0)
                r = memory_write(i->memory, j->tracee.pid, i->cave, zeros, first);
        if (r >= 0)
                r = memory_write(i->memory, j->tracee.pid, q->answer, spare, ANSWER_SIZE);
        return r;
}

int member_ask(const PtraceTree *t, Member *m, CloneError *error)
{
        Instant *i = &m->job.instant;
        const Question q = {.t = t, .m = m, .answer = (i->regs.rsp - BELOW_STACK) & ~UINT64_C(15)};
        const struct user_regs_struct back = arch_settle(&i->regs);
        uint8_t code[ARCH_GADGET_SIZE], spare[ANSWER_SIZE];
        Tracee *tracee = &m->job.tracee;
        size_t n;
        int r, k;

        if (!i->cave_free)
                return job_failed(&m->job, -ESTALE, "the place for the calls that it is to make is gone", error);
        if (memory_read(tracee->pid, q.answer, spare, sizeof(spare)) < 0 || memory_write(i->memory, tracee->pid, q.answer, spare, sizeof(spare)) < 0)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d has no stack, which the clone of a descendant takes",
                                (int) target_pid(m->job.target));
        /* A filter could end it for a call that it does not know. */
        if (m->job.status.seccomp != 0 && (tracee->options & PTRACE_O_SUSPEND_SECCOMP) == 0) {
                r = tracee_set_options(tracee, tracee->options | PTRACE_O_SUSPEND_SECCOMP);
                if (r < 0)
                        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                        "Process %d is under seccomp, and the daemon lacks CAP_SYS_ADMIN to suspend that or is under seccomp itself",
                                        (int) target_pid(m->job.target));
        }

        n = arch_build_errand(code, &back, i->mask);
        r = memory_write(i->memory, tracee->pid, i->cave, code, n);
        if (r >= 0) {
                r = ask_all(&q);
                k = put_back(&q, spare, n);
                r = r < 0 ? r : k;
        }
        return r < 0 ? job_failed(&m->job, r, "it cannot be asked for its state", error) : 0;
}
