/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

/*
 * The scheduler wakes a task up on another processor than before where that one is idle and this one is not; and a processor with
 * nothing but SCHED_IDLE tasks counts as idle (kernel/sched/fair.c: select_idle_sibling()). So a tracer in the background, on the
 * processor of a target that sleeps, is handed over to and hands over there, which is twenty times faster than from one processor to
 * another (tests/bench/bench-probe stops).
 *
 * In the background a task waits for as long as anybody else wants its processor, and so would the target that it has stopped. After
 * BACKGROUND_USEC a thread of this process puts the caller back among the ordinary tasks.
 */
#define BACKGROUND_USEC 1000U

/* Makes what it takes, once. False where it cannot be had, or where there would be no way back: RLIMIT_NICE forbids it. */
bool background_prepare(void);

/* The calling thread, the first that has called background_prepare(). False where it is as before. */
bool background_enter(void);

/* Back. */
void background_leave(void);
