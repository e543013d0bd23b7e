/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/time.h>
#include <time.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/puppet.h"

/*
 * Timers of a process, none of which a fork copies. Which POSIX timers there are /proc tells; what is left of them, and whether
 * an interval timer runs at all, only the process itself can ask for.
 */
typedef struct PosixTimer {
        int id;
        int signal, notify; /* sigev_signo; SIGEV_SIGNAL, SIGEV_NONE or SIGEV_THREAD_ID, sigevent(7) */
        int tid;            /* with SIGEV_THREAD_ID, as this process sees it */
        int clock;
        uint64_t value;     /* sigev_value */
        struct itimerspec left;
} PosixTimer;

#define INTERVAL_TIMERS 3 /* ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF */

typedef struct Timers {
        GArray *posix; /* PosixTimer, by ID */
        bool may_have_interval; /* a handler is there for a signal of theirs, or it is blocked or ignored */
        struct itimerval interval[INTERVAL_TIMERS];
        bool known; /* all that is left was asked for */
        uint64_t asked_nsec; /* when, CLOCK_MONOTONIC */
} Timers;

void timers_clear(Timers *t);

/* By ID, in which order they are armed. */
void timers_sort(Timers *t);

/* True where there is something to ask the process for. */
bool timers_are_to_be_asked(const Timers *t);

/* True where a clone has to be given one: an interval timer that runs, or a POSIX timer, be it running or not. */
bool timers_are_to_be_armed(const Timers *t);

/* What /proc tells of the running @target, whose status was read. 0 or a negative errno of reading. */
int timers_read(Timers *ret, Target *target, const TargetStatus *status);

/* For the tests: the timers that the text of /proc/PID/timers names; -EBADMSG where it is not as proc(5) has it. */
int timers_parse(const char *text, GArray *ret);

/*
 * Arms in a held clone what @t has, with the time that is left now. What cannot be had is told by handler->note(); a negative
 * errno where the clone cannot be worked on. @target is the process that it is a clone of.
 */
int timers_arm(const Timers *t, Puppet *p, pid_t target, const EngineHandler *handler);
