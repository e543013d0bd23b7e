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

/* True where @result of a call is one of them. */
bool arch_is_restart_code(long result);

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

/*
 * A call with a restart block (nanosleep, poll, futex and their kin) that was interrupted becomes one that is made again from its
 * beginning, for a task that has no such block. Where it had been interrupted before, the kernel keeps its number no more: it is found
 * in the @n bytes of @code before the next instruction, or told by its arguments. False where the call is another, or cannot be told.
 */
bool arch_begin_anew(struct user_regs_struct *regs, const uint8_t *code, size_t n);

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

/*
 * The same for any call that makes no task; also here the task needs no tracer to get back, whatever the call says. Returns
 * how many bytes were used, a multiple of 8.
 */
size_t arch_build_errand(uint8_t code[static ARCH_GADGET_SIZE], const struct user_regs_struct *back, uint64_t mask);

/*
 * For a target with memory that is marked not to be inherited: the marks are taken away for the clone, and given back whatever
 * becomes of the tracer. That is more code than a cave holds, so most of it is in a mapping of its own, the annex:
 *
 *         ARCH_ANNEX_CALL         syscall, goes on behind the next
 *         ARCH_ANNEX_CLONE        syscall; child: exit_group(0)
 *                                 madvise(2) with each of @n ArchAdvices, which begin at ARCH_ANNEX_TABLE
 *                                 rax = the annex, goes on at @cave + ARCH_SYSCALL_SIZE
 *
 * What is written into the cave, arch_build_closing(), unmaps it and goes on like a gadget:
 *
 *         syscall                 maps the annex
 *         munmap(rax, @size); sets the mask to @mask, all registers to @back, goes on at back->rip
 *
 * So wherever in either a target is left alone, its marks are in force again, the annex is gone and it goes on where it was.
 */
typedef struct ArchAdvice {
        uint64_t start, length, advice;
} ArchAdvice;

#define ARCH_ANNEX_CALL 0U
#define ARCH_ANNEX_CLONE 7U
#define ARCH_ANNEX_TABLE 128U

void arch_build_annex(uint8_t code[static ARCH_ANNEX_TABLE], uint64_t cave, uint32_t n);

/* Returns how many bytes were used, a multiple of 8. Here r9, which mmap(2) takes an argument in, is given back, too. */
size_t arch_build_closing(uint8_t code[static ARCH_GADGET_SIZE], const struct user_regs_struct *back, uint64_t mask, uint32_t size);

bool arch_is_closing(const uint8_t code[static ARCH_GADGET_SIZE]);
bool arch_is_annex(const uint8_t code[static ARCH_ANNEX_TABLE]);

/* True where @code was written by one of those for the cave: what a tracer that was killed has left behind. */
bool arch_is_gadget(const uint8_t code[static ARCH_GADGET_SIZE]);

/* Registers that enter call @nr with the first five arguments @args at the syscall instruction at @address; everything else as in @base. */
struct user_regs_struct arch_call_regs(const struct user_regs_struct *base, uint64_t address, long nr, const uint64_t args[static 5]);

#define ARCH_SYSCALL_SIZE 2U

/* True where ARCH_SYSCALL_SIZE bytes at @code are the instruction that enters a 64-bit call. */
static inline bool arch_is_syscall(const uint8_t *code)
{
        return code[0] == 0x0f && code[1] == 0x05;
}

/* The sixth argument of a call, where it has one. */
static inline void arch_set_sixth_argument(struct user_regs_struct *regs, uint64_t value)
{
        regs->r9 = value;
}

/* At the entry of a call: it becomes call @nr, which @regs enter, instead of being skipped. */
static inline void arch_become_call(struct user_regs_struct *regs, long nr)
{
        regs->orig_rax = (unsigned long long) nr;
        regs->rip += ARCH_SYSCALL_SIZE;
}

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
#define ARCH_TID_RANGE 0x2d8U /* all that it reads lies so near behind the thread pointer */

ArchTid arch_find_tid(const struct user_regs_struct *regs, pid_t tid,
                int (*read_word)(uint64_t address, uint64_t *ret, void *userdata), void *userdata);
