/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "daemon/engine/remfork.h"
#include "daemon/util.h"

/*
 *     bench-probe remfork PID immediate|syscall TIMEOUT-MSEC
 *
 * Clones the process once by remfork(2), ends the clone, and prints how the caller's wait was spent, in nanoseconds: until the
 * target reached the trigger, in its context until the clone was complete, until the caller ran again, and all as user mode sees it.
 * "timeout" where the trigger did not come.
 *
 *     bench-probe stops N
 *
 * Prints the nanoseconds that a stop of a tracee takes, from the tracer's PTRACE_SYSCALL to the return of its waitpid(2): with both on one
 * processor, and on two ("-" where there is only one). The median of N.
 *
 *     bench-probe getpid N
 *
 * Prints the ticks of the time stamp counter that N calls of getpid take, and 2 N calls; of many tries the least, which no
 * interrupt met. Where the counter counts instructions (QEMU's -icount shift=0) the difference, over N, is what one call is.
 */

enum { TRIES = 50 };

static uint64_t now_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

static int probe_remfork(pid_t pid, bool at_call, uint64_t timeout_msec)
{
        struct remfork_times times = {};
        _cleanup_close_ int target = -EBADF, clone = -EBADF;
        struct remfork_args args = {
                .flags = REMFORK_PIDFD | REMFORK_TIMES | (at_call ? REMFORK_SYSCALL : 0),
                .timeout = timeout_msec * 1000000U,
                .pidfd = (uint64_t) (uintptr_t) &clone,
                .times = (uint64_t) (uintptr_t) &times,
        };
        uint64_t begin, end;
        long r;

        target = (int) syscall(SYS_pidfd_open, pid, 0);
        if (target < 0) {
                perror("bench-probe: pidfd_open");
                return EXIT_FAILURE;
        }

        begin = now_nsec();
        r = syscall(SYS_REMFORK, target, &args, sizeof(args));
        end = now_nsec();
        if (r < 0 && errno == ETIMEDOUT) {
                (void) printf("timeout\n");
                return EXIT_SUCCESS;
        }
        if (r < 0) {
                perror("bench-probe: remfork");
                return EXIT_FAILURE;
        }

        (void) syscall(SYS_pidfd_send_signal, clone, SIGKILL, NULL, 0); /* ESRCH: it has ended by itself */
        (void) printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %ld\n", times.trigger - times.request,
                        times.copied - times.trigger, times.woken - times.copied, end - begin, r);
        return EXIT_SUCCESS;
}

static void run_on(pid_t pid, int processor)
{
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        if (sched_setaffinity(pid, sizeof(set), &set) < 0) {
                perror("bench-probe: sched_setaffinity");
                exit(EXIT_FAILURE);
        }
}

static int compare(const void *a, const void *b)
{
        const uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

        return x < y ? -1 : x > y;
}

/* A stop at the entry or exit of a call that does nothing. */
static uint64_t stop_nsec(unsigned n, int tracer, int tracee)
{
        uint64_t *took = calloc(n, sizeof(*took)), median;
        pid_t pid = fork();

        if (pid == 0) {
                (void) ptrace(PTRACE_TRACEME, 0, NULL, NULL);
                (void) raise(SIGSTOP);
                for (;;)
                        (void) syscall(SYS_getppid);
        }
        (void) waitpid(pid, NULL, 0);
        run_on(0, tracer);
        run_on(pid, tracee);
        for (unsigned i = 0; i < n; i++) {
                uint64_t begin = now_nsec();

                if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL) < 0 || waitpid(pid, NULL, 0) < 0) {
                        perror("bench-probe: ptrace");
                        exit(EXIT_FAILURE);
                }
                took[i] = now_nsec() - begin;
        }
        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
        qsort(took, n, sizeof(*took), compare);
        median = took[n / 2];
        free(took);
        return median;
}

static int probe_stops(unsigned n)
{
        int processors[2], k = 0;
        cpu_set_t set;

        if (n == 0 || sched_getaffinity(0, sizeof(set), &set) < 0)
                return 2;
        for (int i = 0; i < CPU_SETSIZE && k < 2; i++)
                if (CPU_ISSET(i, &set))
                        processors[k++] = i;

        (void) printf("%" PRIu64 " ", stop_nsec(n, processors[0], processors[0]));
        if (k == 2)
                (void) printf("%" PRIu64 "\n", stop_nsec(n, processors[0], processors[1]));
        else
                (void) printf("-\n");
        return EXIT_SUCCESS;
}

static uint64_t getpid_ticks(unsigned long n)
{
        uint64_t least = UINT64_MAX;

        for (int i = 0; i < TRIES; i++) {
                uint64_t begin = __rdtsc(), took;

                for (unsigned long k = 0; k < n; k++)
                        (void) syscall(SYS_getpid);
                took = __rdtsc() - begin;
                if (took < least)
                        least = took;
        }

        return least;
}

int main(int argc, char **argv)
{
        if (argc == 5 && strcmp(argv[1], "remfork") == 0)
                return probe_remfork((pid_t) strtol(argv[2], NULL, 10), strcmp(argv[3], "syscall") == 0,
                                strtoull(argv[4], NULL, 10));

        if (argc == 3 && strcmp(argv[1], "stops") == 0)
                return probe_stops((unsigned) strtoul(argv[2], NULL, 10));

        if (argc == 3 && strcmp(argv[1], "getpid") == 0) {
                unsigned long n = strtoul(argv[2], NULL, 10);

                (void) printf("%" PRIu64 " %" PRIu64 "\n", getpid_ticks(n), getpid_ticks(2 * n));
                return EXIT_SUCCESS;
        }

        (void) fprintf(stderr, "bench-probe: \"remfork PID immediate|syscall TIMEOUT-MSEC\", \"stops N\" or \"getpid N\" was expected\n");
        return 2;
}
