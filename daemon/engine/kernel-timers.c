/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <signal.h>

#include "daemon/engine/kernel-timers.h"
#include "daemon/util.h"

#define NSEC_PER_SEC UINT64_C(1000000000)

static struct timespec to_timespec(uint64_t nsec)
{
        return (struct timespec){.tv_sec = (time_t) (nsec / NSEC_PER_SEC), .tv_nsec = (long) (nsec % NSEC_PER_SEC)};
}

/* A timer that runs is left no less than what can be said of it. */
static struct timeval to_timeval(uint64_t nsec)
{
        struct timespec t = to_timespec(nsec > 0 && nsec < 1000 ? 1000 : nsec);

        return (struct timeval){.tv_sec = t.tv_sec, .tv_usec = t.tv_nsec / 1000};
}

void kernel_timers_take(Timers *ret, const struct remfork_timer *timers)
{
        *ret = (Timers){.posix = g_array_new(FALSE, FALSE, sizeof(PosixTimer)), .known = true, .asked_nsec = monotonic_nsec()};

        for (const struct remfork_timer *from = timers; from->kind != REMFORK_TIMER_NONE; from++) {
                PosixTimer t = {
                        .id = from->id,
                        .signal = from->signal,
                        .notify = from->notify,
                        .tid = from->tid,
                        .clock = from->clock,
                        .value = from->value,
                        .left = {.it_value = to_timespec(from->left), .it_interval = to_timespec(from->interval)},
                };

                if (from->kind == REMFORK_TIMER_POSIX)
                        g_array_append_val(ret->posix, t);
                else if (from->kind == REMFORK_TIMER_INTERVAL && from->id >= 0 && from->id < INTERVAL_TIMERS)
                        ret->interval[from->id] = (struct itimerval){.it_value = to_timeval(from->left), .it_interval = to_timeval(from->interval)};
        }
        timers_sort(ret);
}
