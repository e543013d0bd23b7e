/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/remfork.h"
#include "daemon/engine/timers.h"

/* What remfork(2) has just told of a target's timers, ending with REMFORK_TIMER_NONE. To be cleared with timers_clear(). */
void kernel_timers_take(Timers *ret, const struct remfork_timer *timers);
