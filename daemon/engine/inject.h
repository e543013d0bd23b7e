/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/types.h>

#include "daemon/engine/arch.h"
#include "daemon/engine/tracee.h"
#include "daemon/error.h"

/*
 * One instant of the target, and what is needed to run a call in it. Filled in two steps: what cannot change while the target
 * runs its program (before the stop, so that it costs no pause), and the registers (at the stop).
 */
typedef struct Instant {
        /* Before the stop. */
        uint64_t cave;        /* address of ARCH_GADGET_SIZE unused executable bytes, all zero */
        uint64_t robust_head; /* get_robust_list(2), 0 for none */
        uint64_t robust_size;
        pid_t tid;            /* as the target sees it itself */
        int memory;           /* of memory_open(), which whoever fills this in closes; negative for none */

        /* At the stop. */
        bool at_entry;                /* stopped at the entry of a 64-bit call, which both shall run */
        struct user_regs_struct regs; /* what target and clones get back, for the kernel's restart code to finish */
        uint64_t mask;                /* their signal mask */
        bool cave_free;               /* the cave is as it was found */
        bool in_annex;                /* on its way back from a clone whose worker was killed, ptrace-marks.h */
        size_t written;               /* bytes of code that are in the cave */
        ArchTid tid_cache;
        struct __ptrace_rseq_configuration rseq;
} Instant;

/* Reads registers, mask, restartable sequence, thread ID and cave of the stopped @t. Negative errno of ptrace(2). */
int instant_take(Instant *i, const Tracee *t);

/*
 * Puts the code into the memory of the stopped @t. -ESTALE where the place is not as it was found (@t unmapped it meanwhile).
 * Until instant_erase() the bytes are there; nothing ever runs them by itself. @memory is that of @t, as in Instant.
 */
int instant_write(Instant *i, const Tracee *t);
int instant_erase(const Instant *i, const Tracee *t, int memory);

/*
 * Runs one clone in the stopped @t, which must have the code in its memory, and leaves @t at the exit stop of the call.
 * Returns the PID in @t's namespace, a negative errno of clone(2), or -ESRCH where @t was killed.
 *
 * From the first register set here until instant_restore() the task needs no tracer to get back where it was.
 */
long instant_clone(const Instant *i, Tracee *t);

/* The same in two steps, between which @t is in the call: time for something else. The second must follow where the first returned 0. */
int instant_clone_begin(const Instant *i, Tracee *t);
long instant_clone_end(Tracee *t);

/* Runs call @nr in the stopped @t; for clones, which die with their tracer. Result in *@ret. Negative errno of ptrace(2). */
int instant_call(const Instant *i, Tracee *t, long nr, const uint64_t args[static 5], long *ret);

/*
 * Lets @t, whose registers enter a call, run to its exit stop; result in *@ret. @entered: it stands at the entry already. -ESRCH
 * where it was killed.
 */
int instant_run_call(Tracee *t, bool entered, long *ret);

/*
 * A task's restart block is its own: a call that needs one is made again by @pid, which has the code of the task that @i was taken of, but not
 * the block. True where there is such a call, which then waits for its full time; one that cannot be told is left, and will fail with EINTR.
 */
bool instant_forget_restart(Instant *i, pid_t pid);

/* Gives @t mask and registers back. The stop must be one that ends by PTRACE_DETACH, or an interrupt's. */
int instant_restore(const Instant *i, const Tracee *t);
