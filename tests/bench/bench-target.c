/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

/*
 *     bench-target MEGABYTES
 *
 * A process with so much memory in use, which does what it reads on stdin, and answers with a line:
 *
 *     fork         forks, the child ends at once; the nanoseconds that fork() took in the parent
 *     loop N       forks N times, waits for the end of each child; the nanoseconds that took
 *     real-time    0; from then on nobody else runs on its processor while it does, not even a child of its own
 *     ordinary     0; ends that
 *     spin         0; reads the time stamp counter until SIGUSR1 comes, then another line: the longest time, in nanoseconds,
 *                  between two readings, which is the longest that it did not run
 */

static volatile sig_atomic_t stop;

static void on_usr1(int sig)
{
        stop = 1;
}

static uint64_t now_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

static void answer(double nsec)
{
        (void) printf("%.0f\n", nsec);
        (void) fflush(stdout);
}

static void set_scheduling(int policy, int priority)
{
        if (sched_setscheduler(0, policy, &(struct sched_param){.sched_priority = priority}) < 0) {
                perror("bench-target: sched_setscheduler");
                exit(EXIT_FAILURE);
        }
        answer(0);
}

static void measure_loop(unsigned n)
{
        uint64_t start = now_nsec();

        for (unsigned i = 0; i < n; i++) {
                pid_t pid = fork();

                if (pid == 0)
                        _exit(EXIT_SUCCESS);
                (void) waitpid(pid, NULL, 0);
        }
        answer((double) (now_nsec() - start));
}

static void measure_fork(void)
{
        uint64_t start = now_nsec();
        pid_t pid = fork();
        uint64_t end;

        if (pid == 0)
                _exit(EXIT_SUCCESS);
        end = now_nsec();
        (void) waitpid(pid, NULL, 0);
        answer((double) (end - start));
}

/* The signal that ends the spinning is not part of it: the gap that it makes is over before the loop looks again. */
static void measure_pause(void)
{
        uint64_t start = now_nsec(), first, last, longest = 0;

        stop = 0;
        answer(0);
        first = last = __rdtsc();
        while (!stop) {
                uint64_t now = __rdtsc();

                if (now - last > longest && !stop)
                        longest = now - last;
                last = now;
        }
        answer((double) longest * (double) (now_nsec() - start) / (double) (__rdtsc() - first));
}

int main(int argc, char **argv)
{
        size_t size = argc == 2 ? (size_t) strtoul(argv[1], NULL, 10) << 20 : 0;
        char line[64];
        unsigned n;

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void) signal(SIGUSR1, on_usr1);
        if (size > 0) {
                char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

                if (p == MAP_FAILED) {
                        perror("bench-target: mmap");
                        return EXIT_FAILURE;
                }
                (void) madvise(p, size, MADV_NOHUGEPAGE);
                memset(p, 1, size);
        }
        (void) printf("ready\n");
        (void) fflush(stdout);
        while (fgets(line, sizeof(line), stdin))
                if (strcmp(line, "fork\n") == 0)
                        measure_fork();
                else if (sscanf(line, "loop %u", &n) == 1)
                        measure_loop(n);
                else if (strcmp(line, "real-time\n") == 0)
                        set_scheduling(SCHED_FIFO | SCHED_RESET_ON_FORK, 1); /* children are ordinary: sched(7) */
                else if (strcmp(line, "ordinary\n") == 0)
                        set_scheduling(SCHED_OTHER, 0);
                else if (strcmp(line, "spin\n") == 0)
                        measure_pause();
        return EXIT_SUCCESS;
}
