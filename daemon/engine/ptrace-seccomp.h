/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/inject.h"
#include "daemon/engine/tracee.h"
#include "daemon/error.h"

/*
 * The target's filters must not see the injected calls as the target's own doing. Where they allow them nothing is done;
 * where they answer otherwise the filters are suspended while this process traces the task (PTRACE_O_SUSPEND_SECCOMP), which
 * needs CAP_SYS_ADMIN and a tracer that has no filter of its own. Unsupported, with @error filled, where that is missing.
 *
 * If the tracer dies while a filter that kills is suspended and before the clone was made, that filter meets the clone; a
 * filter that answers with an error is harmless. This is the one case in which the target does not survive.
 */
int ptrace_pass_seccomp(const Instant *i, Tracee *t, int seccomp_mode, CloneError *error);
