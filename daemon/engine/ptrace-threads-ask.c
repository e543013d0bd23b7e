/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-seccomp.h"
#include "daemon/engine/ptrace-threads.h"

/*
 * Neither ptrace(2) nor /proc tells the alternate signal stack of a thread, nor where it has its ID cleared at its end. So each
 * is made to ask for it by one call, many at once: their code lies side by side in memory that never runs, and each comes back
 * to where it was without help should this process die.
 */

/* A thread on its errand. */
typedef struct Errand {
        Thread *thread;
        const Tracee *tracee;
        uint64_t cave;
        bool scratch; /* thread->answer is no one's memory, else what is there is in thread->spare */
} Errand;

/* Below the red zone of its stack (System V ABI) is memory that a signal handler may overwrite at any time. */
#define BELOW_STACK (128 + 64)

/* Room for what is written to places side by side by one call. */
#define RUN_MAX 16U

/*
 * Writes the code of those from @errands on whose places lie side by side, each below the one before it (cave_find_many()), or
 * zeros. Returns how many it were.
 */
static int write_codes(const Errand *errands, size_t n, int memory, bool erase)
{
        uint8_t bytes[RUN_MAX * ARCH_GADGET_SIZE] = {};
        size_t k = 1;
        int r;

        while (k < n && k < RUN_MAX && errands[k].cave == errands[k - 1].cave - ARCH_GADGET_SIZE)
                k++;
        for (size_t i = 0; i < k && !erase; i++) {
                const Instant *instant = &errands[i].thread->instant;
                const struct user_regs_struct back = arch_settle(&instant->regs);

                (void) arch_build_errand(bytes + (k - 1 - i) * ARCH_GADGET_SIZE, &back, instant->mask);
        }

        r = memory_write(memory, errands[0].tracee->pid, errands[k - 1].cave, bytes, k * ARCH_GADGET_SIZE);
        return r < 0 ? r : (int) k;
}

static int begin_errand(Errand *e, int memory)
{
        Thread *th = e->thread;

        if (!e->scratch) {
                static const stack_t none;
                int r;

                th->answer = (th->instant.regs.rsp - BELOW_STACK) & ~UINT64_C(15);
                r = memory_read(e->tracee->pid, th->answer, th->spare, sizeof(th->spare));
                if (r >= 0)
                        r = memory_write(memory, e->tracee->pid, th->answer, &none, sizeof(none));
                if (r < 0)
                        return r;
        }

        /* A filter could end the thread for a call that it does not know. What was read of the thread was read while it ran. */
        if (th->info.seccomp == 0 && !ptrace_came_under_seccomp(&th->tracee))
                return 0;
        return tracee_set_options(&th->tracee, th->tracee.options | PTRACE_O_SUSPEND_SECCOMP);
}

/* In this order, for the reason that is given in instant_clone(). */
static int send_off(Errand *e, long nr, const uint64_t args[static 5])
{
        Thread *th = e->thread;
        const struct user_regs_struct regs = arch_call_regs(&th->instant.regs, e->cave, nr, args);
        int r;

        th->altered = true;
        r = tracee_set_regs(e->tracee, &regs);
        if (r >= 0)
                r = tracee_set_mask(e->tracee, UINT64_MAX);
        return r;
}

/* Waits for the next entry or exit of a call; a group stop is passed over, it is in force again when the thread is let go. */
static int wait_syscall(Errand *e)
{
        for (;;) {
                StopKind kind;
                int r;

                r = tracee_wait(&e->thread->tracee, PTRACE_SYSCALL, false, 0, &kind, NULL);
                if (r < 0 || kind == STOP_SYSCALL)
                        return r;
                r = kind == STOP_EXITED ? -ESRCH : tracee_resume(e->tracee, PTRACE_SYSCALL, 0);
                if (r < 0)
                        return r;
        }
}

/* To their next stop, all at once. The last is awaited first: this process is not woken for each of the others. */
static int run_to_stops(Errand *errands, size_t n)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < n; i++)
                r = tracee_resume(errands[i].tracee, PTRACE_SYSCALL, 0);
        for (size_t i = n; r >= 0 && i-- > 0;)
                r = wait_syscall(errands + i);
        return r;
}

static int run_errands(Errand *errands, size_t n, long nr, const uint64_t args[static 5], size_t answer_arg)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < n; i++) {
                uint64_t own[5];

                memcpy(own, args, sizeof(own));
                own[answer_arg] = errands[i].thread->answer;
                r = send_off(errands + i, nr, own);
        }
        if (r >= 0)
                r = run_to_stops(errands, n); /* the entry */
        return r < 0 ? r : run_to_stops(errands, n); /* the exit */
}

/* Gives all that are reached their registers back; the code of one that is not may be what it is running. */
static void end_errands(Errand *errands, size_t n, int memory)
{
        static const uint8_t nothing[THREADS_ANSWER_SIZE];
        bool all = true;

        for (size_t i = 0; i < n; i++) {
                Thread *th = errands[i].thread;

                if (th->altered && instant_restore(&th->instant, &th->tracee) >= 0)
                        th->altered = !(th->asked = true);
                all &= !th->altered;
        }

        for (size_t i = 0; all && i < n;) { /* nothing runs them any more */
                int k = write_codes(errands + i, n - i, memory, true);

                i += k > 0 ? (size_t) k : n;
        }
        for (size_t i = 0; i < n; i++)
                if (!errands[i].thread->altered && errands[i].thread->answer != 0)
                        (void) memory_write(memory, errands[i].tracee->pid, errands[i].thread->answer,
                                        errands[i].scratch ? nothing : errands[i].thread->spare, THREADS_ANSWER_SIZE);
}

/* As many answers as one call can read: they lie in the memory that all threads have. */
static int read_altstacks(Errand *errands, size_t n)
{
        for (size_t i = 0; i < n; i += MEMORY_RANGES_MAX) {
                MemoryRange ranges[MEMORY_RANGES_MAX];
                size_t k = MIN(n - i, MEMORY_RANGES_MAX);
                int r;

                for (size_t j = 0; j < k; j++)
                        ranges[j] = (MemoryRange){.address = errands[i + j].thread->answer,
                                .buffer = &errands[i + j].thread->altstack, .size = sizeof(stack_t)};
                r = memory_read_ranges(errands[i].tracee->pid, ranges, k);
                for (size_t j = 0; r >= 0 && j < k; j++)
                        if (errands[i + j].thread->altstack.ss_flags == 0 && errands[i + j].thread->altstack.ss_size == 0)
                                r = -EFAULT; /* the kernel says SS_DISABLE for none: it could not write there */
                if (r < 0)
                        return r;
        }

        return 0;
}

/* The answers of one round: the first call's, and the second's of those that had to make it. */
static int ask_batch(Errand *errands, size_t n, int memory)
{
        static const uint64_t get_altstack[5] = {0, 0}, get_tid_address[5] = {PR_GET_TID_ADDRESS, 0};
        struct user_regs_struct regs;
        uint64_t address;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < n; i += (size_t) MAX(r, 0))
                r = write_codes(errands + i, n - i, memory, false);
        if (r >= 0)
                r = run_errands(errands, n, SYS_sigaltstack, get_altstack, 1);
        if (r >= 0)
                r = read_altstacks(errands, n);

        for (size_t i = 0; r >= 0 && i < n; i++) {
                if (errands[i].thread->instant.tid_cache.clear)
                        continue;
                r = run_errands(errands + i, 1, SYS_prctl, get_tid_address, 1);
                if (r >= 0)
                        r = tracee_get_regs(errands[i].tracee, &regs);
                if (r >= 0 && arch_result(&regs) < 0) /* a kernel without CONFIG_CHECKPOINT_RESTORE */
                        continue;
                if (r >= 0)
                        r = memory_read(errands[i].tracee->pid, errands[i].thread->answer, &address, sizeof(address));
                if (r >= 0)
                        errands[i].thread->clear_tid = address;
        }

        return r;
}

/* The places that are still as they were found, as many as there are threads. */
static size_t free_caves(const Threads *t, uint64_t cave, uint64_t *ret)
{
        static const uint8_t zeros[ARCH_GADGET_SIZE];
        size_t n = 0;

        ret[n++] = cave;
        for (guint i = 0; i < t->caves->len && n < t->list->len; i += MEMORY_RANGES_MAX) {
                uint8_t bytes[MEMORY_RANGES_MAX][ARCH_GADGET_SIZE];
                MemoryRange ranges[MEMORY_RANGES_MAX];
                size_t k = MIN(MIN(t->caves->len - i, MEMORY_RANGES_MAX), t->list->len - n);

                for (size_t j = 0; j < k; j++)
                        ranges[j] = (MemoryRange){.address = g_array_index(t->caves, uint64_t, i + j), .buffer = bytes[j],
                                .size = ARCH_GADGET_SIZE};
                if (memory_read_ranges(target_pid(t->target), ranges, k) < 0)
                        continue; /* some library is no longer there */
                for (size_t j = 0; j < k; j++)
                        if (ranges[j].address != cave && memcmp(bytes[j], zeros, sizeof(zeros)) == 0)
                                ret[n++] = ranges[j].address;
        }

        return n;
}

int threads_ask(Threads *t, uint64_t cave, int memory, CloneError *error)
{
        g_autofree uint64_t *caves = g_new(uint64_t, t->caves->len + 1);
        g_autofree Errand *errands = NULL;
        size_t n_caves;
        unsigned skipped = 0;
        int r = 0;

        if (t->list->len == 0)
                return 0;

        n_caves = free_caves(t, cave, caves);
        errands = g_new0(Errand, n_caves);
        for (guint k = 0; r >= 0 && k < t->list->len;) {
                size_t n = 0;

                for (; r >= 0 && k < t->list->len && n < n_caves; k++) {
                        Thread *th = g_ptr_array_index(t->list, k);

                        th->altstack = (stack_t){.ss_flags = SS_DISABLE};
                        th->answer = n < t->scratch->len ? g_array_index(t->scratch, uint64_t, n) : 0;
                        errands[n] = (Errand){.thread = th, .tracee = &th->tracee, .cave = caves[n], .scratch = th->answer != 0};
                        r = begin_errand(errands + n, memory);
                        if (r == -EPERM || r == -EFAULT) { /* under seccomp; or without a stack */
                                skipped++;
                                r = 0;
                                continue;
                        }
                        n++;
                }
                if (r >= 0)
                        r = ask_batch(errands, n, memory);
                end_errands(errands, n, memory);
        }

        if (r < 0)
                return clone_error_set(error, r == -ESRCH ? CLONE_ERROR_CHANGED : CLONE_ERROR_FAILED, -r,
                                "Process %d: its threads cannot be asked for their signal stacks: %s", (int) target_pid(t->target),
                                g_strerror(-r));
        if (skipped > 0 && t->handler->note) {
                g_autofree char *text = g_strdup_printf("%u threads could not be asked for their alternate signal stacks, which their "
                                                        "clones are without", skipped);

                t->handler->note(text, t->handler->userdata);
        }
        return 0;
}
