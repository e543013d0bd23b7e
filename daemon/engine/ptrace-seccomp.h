/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "daemon/engine/inject.h"
#include "daemon/engine/tracee.h"
#include "daemon/error.h"

/*
 * The target's filters must not see the injected calls as the target's own doing. Where they allow them nothing is done;
 * where they answer otherwise the filters are suspended while this process traces the task (PTRACE_O_SUSPEND_SECCOMP), which
 * needs CAP_SYS_ADMIN and a tracer that has no filter of its own. Unsupported, with @error filled, where that is missing.
 *
 * If the tracer dies while a filter that kills is suspended and before the clone was made, that filter meets the clone; a
 * filter that answers with an error is harmless. This is the one case in which the target does not survive; SeccompGuard keeps
 * it to a SIGKILL from elsewhere.
 */
int ptrace_pass_seccomp(const Instant *i, Tracee *t, int seccomp_mode, CloneError *error);

/* Whether a task that stands still, and was under no seccomp filter when that was read, is under one; true where that cannot be known. */
bool ptrace_came_under_seccomp(const Tracee *t);

/*
 * PTRACE_O_SUSPEND_SECCOMP ends with the tracer (kernel/ptrace.c: __ptrace_unlink()): a target that is then still at the call that it was
 * sent to would be judged for it by its own filter, and killed. Between begin and end the signals that end this process in the usual
 * ways, SIGTERM and SIGALRM, wait; to kill it with SIGKILL is left to those who have waited for long enough. Where it takes longer than
 * @limit_usec that happens by itself: the target must not wait without a limit. Nothing helps against others who send SIGKILL.
 */
typedef struct SeccompGuard {
        bool begun, timed;
        sigset_t mask; /* before */
        timer_t timer;
} SeccompGuard;

void seccomp_guard_begin(SeccompGuard *g, uint64_t limit_usec);

/* What waited ends this process here. Does nothing where it was not begun. */
void seccomp_guard_end(SeccompGuard *g);
