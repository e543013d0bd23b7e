/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "daemon/error.h"

/*
 * A task that this process traces: ptrace(2) in the SEIZE manner. If this process dies the kernel lets every tracee go on
 * (kernel/ptrace.c: exit_ptrace()), except those with PTRACE_O_EXITKILL.
 */
typedef struct Tracee {
        pid_t pid;
        uint64_t options; /* PTRACE_O_* in force */
        bool interrupting; /* it was interrupted, and has not stopped for that yet */
        bool executed;    /* it called execve() since it was seized */
        bool tiles_possible; /* the CPU and the kernel have AMX */
        bool elsewhere;   /* it runs on another processor than this process: what it does soon is not worth falling asleep for */
        int group_stop;   /* the signal of a group stop that was in force at the last stop, 0 for none */
} Tracee;

typedef enum StopKind {
        STOP_INTERRUPT, /* PTRACE_EVENT_STOP: of PTRACE_INTERRUPT, of a new clone, or a group stop (Tracee.group_stop) */
        STOP_SYSCALL,   /* entry or exit of a call */
        STOP_EXITED,    /* it is gone, and reaped as far as its tracer does that; the wait status is in *ret_status */
} StopKind;

/* PTRACE_SEIZE with TRACESYSGOOD (a tracer's death at a system call stop must not leave a SIGTRAP behind), TRACEEXEC and @options. */
int tracee_seize(Tracee *t, pid_t pid, uint64_t options, CloneError *error);

/* PTRACE_INTERRUPT. Its stop is awaited by tracee_wait(), which asks again where another stop came in between. */
int tracee_interrupt(Tracee *t);

/* PTRACE_SETOPTIONS. -EPERM for PTRACE_O_SUSPEND_SECCOMP without CAP_SYS_ADMIN or under seccomp. */
int tracee_set_options(Tracee *t, uint64_t options);

/*
 * The next stop or end of @pid, or of any tracee where that is not positive, as a wait status. What ended is reaped; a stop
 * stays as it is and is told again until the tracee is resumed: the tracer that takes the report of a signal, and dies before it
 * passes the signal on, takes the signal along (kernel/exit.c: wait_task_stopped() clears what ptrace_stop() would deliver).
 * @flags may have WNOHANG. The PID, 0 where there is nothing to tell, negative errno of waitid(2).
 */
int tracee_peek(pid_t pid, int flags, int *ret_status);

/* True for the stop of a task that is about to get the signal WSTOPSIG(@status). */
bool tracee_is_signal(int status);

/*
 * Waits for the next stop that is not a signal's; signals are passed on with @resume (PTRACE_CONT or PTRACE_SYSCALL), so
 * that none is lost, and where @listen is set a group stop is left in force (PTRACE_LISTEN) and waited through. Gives up with
 * -ETIMEDOUT after @timeout_usec where that is not 0.
 */
int tracee_wait(Tracee *t, int resume, bool listen, uint64_t timeout_usec, StopKind *ret, int *ret_status);

/* PTRACE_CONT or PTRACE_SYSCALL, delivering @signal where it is not 0. */
int tracee_resume(const Tracee *t, int resume, int signal);

/* PTRACE_LISTEN: a group stop stays in force, and is told when it ends. */
int tracee_listen(const Tracee *t);

/* PTRACE_DETACH; @signal is only delivered at a system call stop (kernel/entry/common.c). */
int tracee_detach(const Tracee *t, int signal);

/*
 * Lets go a tracee of which it is not known whether, and where, it is stopped; a signal that it is about to get reaches it.
 * One that runs is left to the end of this process.
 */
void tracee_leave(const Tracee *t);

/* NT_PRSTATUS, whole. */
int tracee_get_regs(const Tracee *t, struct user_regs_struct *ret);
int tracee_set_regs(const Tracee *t, const struct user_regs_struct *regs);

/*
 * A stop that is passed over must not end a call with an EINTR that no handler caused: arch_hide_spurious_eintr() on the
 * registers, at a signal's or an event's stop. A tracee that cannot be reached is left for the next wait to tell.
 */
void tracee_hide_eintr(const Tracee *t);

/*
 * True where Syscall User Dispatch is on (prctl(2)): a call from code that is not the program's own would be a signal.
 * PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4; before that it cannot be seen.
 */
bool tracee_has_dispatch(const Tracee *t);

/* True where the task has AMX tile data, which clone(2) does not copy (arch/x86/kernel/fpu/core.c: fpu_clone()). */
bool tracee_has_tiles(const Tracee *t);
bool tracee_xstate_has_tiles(const void *xstate, size_t size); /* of tracee_get_xstate() */

/*
 * NT_X86_XSTATE: all registers beside the general ones, as XSAVE lays them out. At most @max bytes; how many it were in
 * *@ret_size. Negative errno of ptrace(2), -ENODEV without XSAVE.
 */
int tracee_get_xstate(const Tracee *t, void *buffer, size_t max, size_t *ret_size);
int tracee_set_xstate(const Tracee *t, const void *buffer, size_t size);

/*
 * The mask that the task has in user mode: during a call with a temporary one (ppoll, sigsuspend) that which is restored at
 * its end (kernel/ptrace.c). Setting one ends the temporary one; a call that is run again sets it again.
 */
int tracee_get_mask(const Tracee *t, uint64_t *ret);
int tracee_set_mask(const Tracee *t, uint64_t mask);

/* True at the entry of a 64-bit call; PTRACE_GET_SYSCALL_INFO. False at its exit, and for int $0x80. */
bool tracee_at_native_entry(const Tracee *t);
bool tracee_at_entry(const Tracee *t);

/* What a call gave, at its exit stop, in the register as the kernel has it. -EAGAIN where @t does not stand at one. */
int tracee_exit_result(const Tracee *t, long *ret);

/* Kills it and waits until it is gone. For half-made clones. */
void tracee_kill(const Tracee *t);
