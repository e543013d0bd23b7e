/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-timers.h"
#include "daemon/util.h"

/* Below the red zone of the stack (System V ABI) is memory that a signal handler may overwrite at any time. */
#define BELOW_STACK (128 + 64)

typedef struct Questions {
        Timers *timers;
        const Instant *instant;
        Tracee *tracee;
        uint64_t answer; /* where the target writes it */
        bool *altered;
} Questions;

/* Negative for what went wrong on the way; *@result is the call's. */
static int ask(const Questions *q, long nr, uint64_t which, void *answer, size_t n, long *result)
{
        const uint64_t args[5] = {which, q->answer};
        struct user_regs_struct regs = arch_call_regs(&q->instant->regs, q->instant->cave, nr, args);
        const bool entered = tracee_at_native_entry(q->tracee);
        int r;

        if (entered)
                arch_become_call(&regs, nr);

        /* In this order, for the reason that is given in instant_clone(). */
        *q->altered = true;
        r = tracee_set_regs(q->tracee, &regs);
        if (r >= 0)
                r = tracee_set_mask(q->tracee, UINT64_MAX);
        if (r >= 0)
                r = instant_run_call(q->tracee, entered, result);
        return r >= 0 && *result >= 0 ? memory_read(q->tracee->pid, q->answer, answer, n) : r;
}

static int ask_all(const Questions *q)
{
        Timers *t = q->timers;
        long result;
        int r = 0;

        t->known = true;
        for (uint64_t which = 0; r >= 0 && t->may_have_interval && which < INTERVAL_TIMERS; which++) {
                r = ask(q, SYS_getitimer, which, &t->interval[which], sizeof(t->interval[which]), &result);
                t->known &= r >= 0 && result >= 0;
        }
        for (guint k = 0; r >= 0 && k < t->posix->len; k++) {
                PosixTimer *timer = &g_array_index(t->posix, PosixTimer, k);

                r = ask(q, SYS_timer_gettime, (uint64_t) timer->id, &timer->left, sizeof(timer->left), &result);
                if (r >= 0 && result == -EINVAL) /* deleted since they were listed */
                        g_array_remove_index(t->posix, k--);
                else
                        t->known &= r >= 0 && result >= 0;
        }

        /* Behind the answers: on a busy machine time passes before a question is asked, and no alarm may come early. */
        t->asked_nsec = monotonic_nsec();
        return r;
}

/* The code is gone, and the stack as it was, before anything else is written. Not where the target may be running the code. */
static int put_back(const Questions *q, const void *spare, size_t n, size_t written)
{
        static const uint8_t zeros[ARCH_GADGET_SIZE];
        const size_t first = sizeof(long);
        const Instant *i = q->instant;
        int r;

        r = instant_restore(i, q->tracee);
        if (r >= 0) /* the first word last: by it what a killed worker leaves is known, see arch_is_gadget() */
                r = memory_write(i->memory, q->tracee->pid, i->cave + first, zeros, written - first);
        if (r >= 0)
                r = memory_write(i->memory, q->tracee->pid, i->cave, zeros, first);
        if (r >= 0)
                r = memory_write(i->memory, q->tracee->pid, q->answer, spare, n);
        return r;
}

int ptrace_ask_timers(Timers *t, Instant *i, Tracee *tracee, bool *altered)
{
        const struct user_regs_struct back = arch_settle(&i->regs);
        const Questions q = {.timers = t, .instant = i, .tracee = tracee, .altered = altered, .answer = (i->regs.rsp - BELOW_STACK) & ~UINT64_C(15)};
        uint8_t code[ARCH_GADGET_SIZE], spare[sizeof(struct itimerspec)];
        size_t n;
        int r, k;

        t->known = false;
        if (!i->cave_free || memory_read(tracee->pid, q.answer, spare, sizeof(spare)) < 0)
                return 0;
        /* A filter could end the target for a call that it does not know. */
        if ((tracee->options & PTRACE_O_SUSPEND_SECCOMP) == 0 && ptrace(PTRACE_SECCOMP_GET_FILTER, tracee->pid, 0UL, NULL) >= 0 &&
            tracee_set_options(tracee, tracee->options | PTRACE_O_SUSPEND_SECCOMP) < 0)
                return 0;

        n = arch_build_errand(code, &back, i->mask);
        r = memory_write(i->memory, tracee->pid, i->cave, code, n);
        if (r < 0)
                return r;
        r = ask_all(&q);
        k = put_back(&q, spare, sizeof(spare), n);
        return r < 0 ? r : k;
}
