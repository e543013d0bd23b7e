/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <linux/rseq.h>
#include <linux/sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/inject.h"
#include "daemon/engine/memory.h"

static const uint8_t zeros[ARCH_GADGET_SIZE];

/* What is looked at in the memory of a target while it waits. */
typedef struct Look {
        pid_t pid;
        uint64_t thread_pointer;
        uint64_t thread[ARCH_TID_RANGE / sizeof(uint64_t)]; /* from there on */
        bool thread_known;
        uint8_t cave[ARCH_GADGET_SIZE];
        bool cave_known;
        uint64_t rseq; /* address of the descriptor of a restartable sequence, 0 for none */
        bool rseq_known;
} Look;

static int read_word(uint64_t address, uint64_t *ret, void *userdata)
{
        const Look *l = userdata;
        uint64_t offset = address - l->thread_pointer;

        if (!l->thread_known || offset > sizeof(l->thread) - sizeof(*ret))
                return memory_read(l->pid, address, ret, sizeof(*ret));

        memcpy(ret, (const char *) l->thread + offset, sizeof(*ret));
        return 0;
}

/* One call for all of it; where a part cannot be read, each for itself: a program without a thread pointer is no error. */
static void look(Look *l, const Instant *i, uint64_t rseq_pointer)
{
        const uint64_t thread_pointer = i->regs.fs_base;
        const MemoryRange ranges[] = {
                {.address = i->cave, .buffer = l->cave, .size = sizeof(l->cave)},
                {.address = thread_pointer, .buffer = l->thread, .size = sizeof(l->thread)},
                {.address = rseq_pointer + offsetof(struct rseq, rseq_cs), .buffer = &l->rseq, .size = sizeof(l->rseq)},
        };
        const size_t n = rseq_pointer != 0 ? 3 : 2;

        l->thread_pointer = thread_pointer;
        l->cave_known = l->thread_known = l->rseq_known = memory_read_ranges(l->pid, ranges, n) >= 0;
        if (l->cave_known)
                return;

        l->cave_known = memory_read_ranges(l->pid, ranges, 1) >= 0;
        l->thread_known = memory_read_ranges(l->pid, ranges + 1, 1) >= 0;
        l->rseq_known = n < 3 || memory_read_ranges(l->pid, ranges + 2, 1) >= 0;
}

/*
 * A stop inside a restartable sequence means that the CPU was given away: the kernel would send the task to the abort address
 * on its way back, but not once the registers have pointed elsewhere (kernel/rseq.c: clear_rseq_cs()). So it is done here.
 */
static int abort_rseq(Instant *i, const Look *l)
{
        struct rseq_cs cs;

        if (!l->rseq_known)
                return -ESTALE;
        if (l->rseq == 0 || memory_read(l->pid, l->rseq, &cs, sizeof(cs)) < 0)
                return 0; /* for an address that cannot be read the kernel would kill the task, which is not for us to do */

        if (i->regs.rip - cs.start_ip < cs.post_commit_offset)
                i->regs.rip = cs.abort_ip;
        return 0;
}

static bool is_in_annex(pid_t pid, uint64_t at)
{
        uint8_t code[ARCH_ANNEX_TABLE];

        return memory_read(pid, at & ~UINT64_C(4095), code, sizeof(code)) >= 0 && arch_is_annex(code);
}

int instant_take(Instant *i, const Tracee *t)
{
        Look l = {.pid = t->pid};
        int r;

        r = tracee_get_regs(t, &i->regs);
        if (r < 0)
                return r;
        r = tracee_get_mask(t, &i->mask);
        if (r < 0)
                return r;
        if (arch_is_compat(&i->regs))
                return 0; /* refused by the caller; nothing below knows its layout */

        /* EIO before Linux 5.13 and without CONFIG_RSEQ: then nothing is registered that could be seen. */
        if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->pid, sizeof(i->rseq), &i->rseq) < 0)
                i->rseq = (struct __ptrace_rseq_configuration){};
        look(&l, i, i->rseq.rseq_abi_pointer);
        if (l.cave_known && arch_is_closing(l.cave)) /* a worker before was killed just now, perhaps */
                i->in_annex = is_in_annex(t->pid, i->regs.rip);
        i->cave_free = l.cave_known && (memcmp(l.cave, zeros, sizeof(l.cave)) == 0 || arch_is_gadget(l.cave));

        if (i->at_entry)
                i->regs = arch_rewind_entry(&i->regs);
        else {
                (void) arch_hide_spurious_eintr(&i->regs);
                r = abort_rseq(i, &l);
                if (r < 0)
                        return r;
        }

        i->tid_cache = arch_find_tid(&i->regs, i->tid, read_word, &l);
        return 0;
}

int instant_write(Instant *i, const Tracee *t)
{
        const struct user_regs_struct back = arch_settle(&i->regs);
        uint8_t code[ARCH_GADGET_SIZE];

        if (!i->cave_free)
                return -ESTALE;

        i->written = MAX(i->written, arch_build_gadget(code, &back, i->mask)); /* over what may be there already */
        return memory_write(i->memory, t->pid, i->cave, code, i->written);
}

int instant_erase(const Instant *i, const Tracee *t, int memory)
{
        const size_t first = memory >= 0 ? 0 : sizeof(long);

        /* Word by word the first comes last: by it what a killed worker leaves is known, see arch_is_gadget(). */
        int r = memory_write(memory, t->pid, i->cave + first, zeros, i->written - first);

        return r < 0 || first == 0 ? r : memory_write(memory, t->pid, i->cave, zeros, first);
}

/* To the next stop of a call. @running: it was let go already. */
static int run_to_syscall_stop(Tracee *t, bool running)
{
        StopKind stop;
        int r = 0;

        do {
                if (!running)
                        r = tracee_resume(t, PTRACE_SYSCALL, 0);
                running = false;
                if (r >= 0)
                        r = tracee_wait(t, PTRACE_SYSCALL, false, 0, &stop, NULL);
                if (r < 0)
                        return r;
                if (stop == STOP_EXITED)
                        return -ESRCH;
        } while (stop != STOP_SYSCALL);

        return 0;
}

static int finish_call(Tracee *t, bool entered, bool running, long *ret)
{
        for (;; running = false) {
                int r = run_to_syscall_stop(t, running);

                if (r < 0)
                        return r;
                if (!entered) { /* the two kinds alternate, so that the first need not be asked about */
                        entered = true;
                        continue;
                }

                r = tracee_exit_result(t, ret);
                if (r == -EAGAIN)
                        continue;
                if (r < 0)
                        return r;

                /* A stop signal or a freezer came in between: the kernel sends it to the call again (kernel/fork.c). */
                if (!arch_is_restart_code(*ret))
                        return 0;
                entered = false;
        }
}

int instant_run_call(Tracee *t, bool entered, long *ret)
{
        return finish_call(t, entered, false, ret);
}

int instant_clone_begin(const Instant *i, Tracee *t)
{
        const uint64_t flags = CLONE_PARENT | CLONE_PTRACE | (i->tid_cache.address ? CLONE_CHILD_SETTID : 0) |
                               (i->tid_cache.clear ? CLONE_CHILD_CLEARTID : 0);
        const uint64_t args[5] = {flags, 0, 0, i->tid_cache.address, 0};
        struct user_regs_struct regs = arch_call_regs(&i->regs, i->cave, SYS_clone, args);
        const bool entered = i->at_entry && tracee_at_native_entry(t);
        int r;

        if (entered) {
                /* The call that is being entered becomes the clone: one stop less, and no call number that a filter does not know. */
                regs.orig_rax = SYS_clone;
                regs.rip += 2;
        }

        /* In this order: blocked signals with nothing in the registers that unblocks them would outlive a tracer that dies here. */
        r = tracee_set_regs(t, &regs);
        if (r >= 0)
                r = tracee_set_mask(t, UINT64_MAX);
        if (r >= 0 && !entered)
                r = run_to_syscall_stop(t, false);
        return r < 0 ? r : tracee_resume(t, PTRACE_SYSCALL, 0);
}

long instant_clone_end(Tracee *t)
{
        long pid;
        int r = finish_call(t, true, true, &pid);

        return r < 0 ? r : pid;
}

long instant_clone(const Instant *i, Tracee *t)
{
        int r = instant_clone_begin(i, t);

        return r < 0 ? r : instant_clone_end(t);
}

int instant_call(const Instant *i, Tracee *t, long nr, const uint64_t args[static 5], long *ret)
{
        const struct user_regs_struct regs = arch_call_regs(&i->regs, i->cave, nr, args);
        int r;

        r = tracee_set_regs(t, &regs);
        return r < 0 ? r : instant_run_call(t, false, ret);
}

#define CODE_BEFORE 48U /* bytes in which the number of a call is looked for */

bool instant_forget_restart(Instant *i, pid_t pid)
{
        uint8_t code[CODE_BEFORE] = {};

        if (!arch_in_interrupted_call(&i->regs) || (long) i->regs.rax != -ARCH_ERESTART_RESTARTBLOCK)
                return false;
        (void) memory_read(pid, i->regs.rip - sizeof(code), code, sizeof(code)); /* without it the arguments tell */
        (void) arch_begin_anew(&i->regs, code, sizeof(code));
        return true;
}

int instant_restore(const Instant *i, const Tracee *t)
{
        /* The mask first, for the reason given above: until the registers are set, the task restores both by itself. */
        int r = tracee_set_mask(t, i->mask);

        return r < 0 ? r : tracee_set_regs(t, &i->regs);
}
