/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/fitout.h"
#include "daemon/engine/inject.h"
#include "daemon/engine/ptrace-clones.h"
#include "daemon/engine/ptrace-marks.h"
#include "daemon/engine/ptrace-seccomp.h"
#include "daemon/engine/ptrace-threads.h"
#include "daemon/engine/tracee.h"

/* One clone() on its way; the process that runs it does nothing else. */
typedef struct Job {
        Target *target;
        const CloneSpec *spec;
        const EngineHandler *handler;
        Tracee tracee;
        bool traced;
        bool altered; /* mask and registers are to be given back */
        bool written; /* the code is in the target's memory */
        TargetStatus status;
        bool in_vfork; /* it was refused because it, or its parent, waits in vfork(): soon it may not */
        Instant instant;
        uint64_t pause_begin; /* nanoseconds of CLOCK_MONOTONIC */
        bool moved;           /* to the target's processor */
        bool background;      /* this process is, background.h */
        cpu_set_t processors; /* where this process ran before */
        Threads threads; /* none where the clone is to have the main one alone */
        Clones clones;
        SeccompGuard guard;
        Fitout *fitout; /* borrowed; NULL where the clones are complete without */
        size_t fitout_member; /* which of its members the target is */
        Marks *marks; /* borrowed: memory that the kernel would leave out of the clone; NULL where nobody looks for it */
        const char *marks_reason; /* why that stays so, NULL where it does not */
} Job;

/* @spec and @handler must outlive it. */
void job_init(Job *j, Target *target, const CloneSpec *spec, const EngineHandler *handler);

/* Frees what it owns; clones that were not let go live until this process ends. */
void job_clear(Job *j);

/* What @r, of ptrace(2) or /proc, means for the target; @what could not be done. */
int job_failed(const Job *j, int r, const char *what, CloneError *error);

/*
 * Looks at the target, takes hold of it and learns all that can be known before it is stopped. From its seizing on an execve() would be
 * told, so what is found in its memory is still true at the stop.
 */
int job_prepare(Job *j, CloneError *error);

/* Stops it, in one or in two steps; the pause begins. NoSuchProcess where it has ended, Timeout after @timeout_usec. */
int job_stop(Job *j, CloneError *error);
int job_interrupt(Job *j);
int job_wait(Job *j, uint64_t timeout_usec, CloneError *error);

/* For the trigger "syscall": to the entry of its next system call, without a time limit. */
int job_run_to_entry(Job *j, CloneError *error);

/* The target stands still: stops its other threads, reads all registers, judges. */
int job_take(Job *j, CloneError *error);

/* Whether seccomp is in force; then job_guard(), of this or another job, must come before what follows. */
bool job_under_seccomp(const Job *j);
void job_guard(Job *j);

/* Has the target tell what only it can: the signal stacks of its threads, its timers. */
int job_ask(Job *j, CloneError *error);

/* Does so, and runs the clone. */
int job_clone(Job *j, CloneError *error);

/*
 * The target goes on as it was. At an interrupt's stop that nothing altered its own registers are still there, but for the
 * -EINTR that the stop made.
 */
void job_release(Job *j);

/* Where job_stop() went to the target's processor: back, once it is best for the target. */
void job_stay_no_longer(Job *j);
