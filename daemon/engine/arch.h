/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/*
 * All that the ptrace engine knows of x86-64: where a call stands when its task is stopped, the bytes that are run in the
 * target, how libc keeps the thread ID. Pure functions, so that unit tests can hold them.
 */

#define ARCH_GADGET_SIZE 192U /* bytes of executable memory that the injected code needs at most */

/* The kernel's internal restart codes, include/linux/errno.h: seen in a register only by a tracer. */
#define ARCH_ERESTARTSYS 512
#define ARCH_ERESTARTNOINTR 513
#define ARCH_ERESTARTNOHAND 514
#define ARCH_ERESTART_RESTARTBLOCK 516

/* True where the task was stopped while it ran 32-bit code. */
bool arch_is_compat(const struct user_regs_struct *regs);

/* True where @regs, taken at a stop on the way to user mode, are those of a call that the stop interrupted. */
bool arch_in_interrupted_call(const struct user_regs_struct *regs);

/*
 * A call that never restarts returned -EINTR only because the task was stopped: makes it one that restarts unless a signal
 * handler is run first (-ERESTARTNOHAND), so that a signal which really came still gives EINTR. True where @regs changed.
 */
bool arch_hide_spurious_eintr(struct user_regs_struct *regs);

/*
 * The registers with which the task would go on by itself, with no help of the kernel's restart code: what the kernel would
 * make of an interrupted call if no signal were there.
 */
struct user_regs_struct arch_settle(const struct user_regs_struct *regs);

/* Registers at the entry of the call with the number in orig_rax: settled, so that the call is entered (again). */
struct user_regs_struct arch_rewind_entry(const struct user_regs_struct *regs);

/*
 * Writes into @code, of ARCH_GADGET_SIZE bytes, what the target runs at @address:
 *
 *         syscall                 the clone; the registers are set by arch_clone_regs()
 *         child: exit_group(0)    a clone that nobody holds must not live
 *         target: sets the signal mask to @mask, all registers to @back, goes on at back->rip
 *
 * A target whose tracer dies anywhere on the way thus restores itself. Neither the stack nor the vector registers are
 * touched: a coroutine's stack may end right below the stack pointer.
 *
 * Returns how many bytes were used, a multiple of 8: each word more to write is pause for the target.
 */
size_t arch_build_gadget(uint8_t code[static ARCH_GADGET_SIZE], const struct user_regs_struct *back, uint64_t mask);

/* True where @code was written by arch_build_gadget(): what a tracer that was killed has left behind. */
bool arch_is_gadget(const uint8_t code[static ARCH_GADGET_SIZE]);

/* Registers that enter call @nr with @args (of five: none that is run here has a sixth) at the syscall instruction at @address; everything else as in @base. */
struct user_regs_struct arch_call_regs(const struct user_regs_struct *base, uint64_t address, long nr, const uint64_t args[static 5]);

/* The result of a call at its exit stop. */
static inline long arch_result(const struct user_regs_struct *regs)
{
        return (long) regs->rax;
}

/* Where libc keeps the ID of the calling thread. */
typedef struct ArchTid {
        uint64_t address; /* of the int that caches it, 0 where none was found */
        bool clear;       /* it is also the clear_child_tid address, as glibc's fork sets it */
} ArchTid;

/*
 * Finds it from the thread pointer in @regs and what read_word() gives (negative: not readable), for a thread whose ID is
 * @tid as it sees it itself. Nothing is found where a number at a known place is another one.
 */
ArchTid arch_find_tid(const struct user_regs_struct *regs, pid_t tid,
                int (*read_word)(uint64_t address, uint64_t *ret, void *userdata), void *userdata);
