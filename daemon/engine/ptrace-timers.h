/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/inject.h"
#include "daemon/engine/timers.h"

/*
 * Has the stopped target, of which @i was taken and in whose memory nothing was written yet, tell what is left of the timers
 * that @t names; t->known says whether it could. Afterwards it stands at the end of a call with its registers given back;
 * *@altered is set as soon as they are not its own. If this process is killed meanwhile the target goes on where it was; a few
 * bytes below the red zone of its stack may then have changed, as by a signal.
 *
 * 0, or a negative errno of ptrace(2).
 */
int ptrace_ask_timers(Timers *t, Instant *i, Tracee *tracee, bool *altered);
