/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

/*
 * Prints how often this machine's time stamp counter counts in a millisecond. A guest under software emulation reads the same
 * counter, but measures it with timers that come late on a busy machine, and its clock then goes several times too fast.
 */

enum {
        TICKS_BETWEEN = 20000, /* a pair of readings that is further apart was interrupted */
        MEASURE_MSEC = 200,
};

static double read_both(uint64_t *ret_ticks)
{
        struct timespec ts;
        uint64_t before, after;

        do {
                before = __rdtsc();
                (void) clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
                after = __rdtsc();
        } while (after - before > TICKS_BETWEEN);

        *ret_ticks = before + (after - before) / 2;
        return (double) ts.tv_sec * 1e9 + (double) ts.tv_nsec;
}

int main(void)
{
        const struct timespec pause = {.tv_nsec = MEASURE_MSEC * 1000000L};
        uint64_t ticks_begin, ticks_end;
        double begin, end;

        begin = read_both(&ticks_begin);
        (void) nanosleep(&pause, NULL);
        end = read_both(&ticks_end);
        (void) printf("%.0f\n", (double) (ticks_end - ticks_begin) / (end - begin) * 1e6);
        return 0;
}
