/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <linux/rseq.h>
#include <linux/sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/inject.h"
#include "daemon/engine/memory.h"

static int read_word(uint64_t address, uint64_t *ret, void *userdata)
{
        const Tracee *t = userdata;

        return memory_read(t->pid, address, ret, sizeof(*ret));
}

/*
 * A stop inside a restartable sequence means that the CPU was given away: the kernel would send the task to the abort address
 * on its way back, but not once the registers have pointed elsewhere (kernel/rseq.c: clear_rseq_cs()). So it is done here.
 */
static int abort_rseq(Instant *i, const Tracee *t)
{
        struct __ptrace_rseq_configuration config = {};
        struct rseq_cs cs;
        uint64_t at;

        /* EIO before Linux 5.13 and without CONFIG_RSEQ: then nothing is registered that could be seen. */
        if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->pid, sizeof(config), &config) < 0 || config.rseq_abi_pointer == 0)
                return 0;

        if (memory_read(t->pid, config.rseq_abi_pointer + offsetof(struct rseq, rseq_cs), &at, sizeof(at)) < 0)
                return -ESTALE;
        if (at == 0)
                return 0;

        if (memory_read(t->pid, at, &cs, sizeof(cs)) < 0)
                return 0; /* the kernel would kill such a task when it next looks; that is not for us to do */

        if (i->regs.rip - cs.start_ip < cs.post_commit_offset)
                i->regs.rip = cs.abort_ip;
        return 0;
}

int instant_take(Instant *i, const Tracee *t)
{
        int r;

        r = tracee_get_regs(t, &i->regs);
        if (r < 0)
                return r;
        r = tracee_get_mask(t, &i->mask);
        if (r < 0)
                return r;
        if (arch_is_compat(&i->regs))
                return 0; /* refused by the caller; nothing below knows its layout */

        if (i->at_entry)
                i->regs = arch_rewind_entry(&i->regs);
        else {
                (void) arch_hide_spurious_eintr(&i->regs);
                r = abort_rseq(i, t);
                if (r < 0)
                        return r;
        }

        i->tid_cache = arch_find_tid(&i->regs, i->tid, read_word, (void *) t);
        return 0;
}

static const uint8_t zeros[ARCH_GADGET_SIZE];

int instant_write(Instant *i, const Tracee *t)
{
        const struct user_regs_struct back = arch_settle(&i->regs);
        uint8_t code[ARCH_GADGET_SIZE], old[ARCH_GADGET_SIZE];

        if (memory_read(t->pid, i->cave, old, sizeof(old)) < 0 || (memcmp(old, zeros, sizeof(old)) != 0 && !arch_is_gadget(old)))
                return -ESTALE;

        i->written = arch_build_gadget(code, &back, i->mask);
        return memory_write(t->pid, i->cave, code, i->written);
}

int instant_erase(const Instant *i, const Tracee *t)
{
        const size_t first = sizeof(long);

        /* The first word last: by it what a killed worker leaves is known, see arch_is_gadget(). */
        int r = memory_write(t->pid, i->cave + first, zeros, i->written - first);

        return r < 0 ? r : memory_write(t->pid, i->cave, zeros, first);
}

/* From the registers that were set to the exit stop of the call that they enter. */
static int run_call(Tracee *t, long *ret)
{
        for (;;) {
                struct user_regs_struct regs;
                StopKind stop;
                int r;

                r = tracee_resume(t, PTRACE_SYSCALL, 0);
                if (r >= 0)
                        r = tracee_wait(t, PTRACE_SYSCALL, false, 0, &stop, NULL);
                if (r < 0)
                        return r;
                if (stop == STOP_EXITED)
                        return -ESRCH;
                if (stop != STOP_SYSCALL || tracee_at_entry(t))
                        continue;

                r = tracee_get_regs(t, &regs);
                if (r < 0)
                        return r;

                /* A stop signal or a freezer came in between: the kernel sends it to the call again (kernel/fork.c). */
                if (arch_in_interrupted_call(&regs))
                        continue;

                *ret = arch_result(&regs);
                return 0;
        }
}

long instant_clone(const Instant *i, Tracee *t)
{
        const uint64_t flags = CLONE_PARENT | CLONE_PTRACE | (i->tid_cache.address ? CLONE_CHILD_SETTID : 0) |
                               (i->tid_cache.clear ? CLONE_CHILD_CLEARTID : 0);
        const uint64_t args[5] = {flags, 0, 0, i->tid_cache.address, 0};
        struct user_regs_struct regs = arch_call_regs(&i->regs, i->cave, SYS_clone, args);
        long pid;
        int r;

        if (i->at_entry && tracee_at_native_entry(t)) {
                /* The call that is being entered becomes the clone: one stop less, and no call number that a filter does not know. */
                regs.orig_rax = SYS_clone;
                regs.rip += 2;
        }

        /* In this order: blocked signals with nothing in the registers that unblocks them would outlive a tracer that dies here. */
        r = tracee_set_regs(t, &regs);
        if (r >= 0)
                r = tracee_set_mask(t, UINT64_MAX);
        if (r >= 0)
                r = run_call(t, &pid);
        return r < 0 ? r : pid;
}

int instant_call(const Instant *i, Tracee *t, long nr, const uint64_t args[static 5], long *ret)
{
        const struct user_regs_struct regs = arch_call_regs(&i->regs, i->cave, nr, args);
        int r;

        r = tracee_set_regs(t, &regs);
        return r < 0 ? r : run_call(t, ret);
}

int instant_restore(const Instant *i, const Tracee *t)
{
        /* The mask first, for the reason given above: until the registers are set, the task restores both by itself. */
        int r = tracee_set_mask(t, i->mask);

        return r < 0 ? r : tracee_set_regs(t, &i->regs);
}
