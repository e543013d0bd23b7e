/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "state-regs.h"

/*
 *     sweep-target compute|registers|nanosleep|poll|getpid FILE
 *
 * Does the same piece of work for ever and looks each time whether it came out right: a checksum, all registers, or a sleep
 * that neither ended early nor with an error. FILE is shared memory: the first word counts the pieces that the target
 * finished, the second those that were wrong, in target or clones.
 */

typedef struct Counters {
        volatile uint64_t done;
        volatile uint64_t wrong;
} Counters;

#define SLEEP_NSEC 20000000

static uint64_t checksum(void)
{
        uint64_t x = 88172645463325252U, sum = 0;
        double d = 1.0;

        for (int i = 0; i < 20000; i++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                d = d * 1.0000001 + (double) (x & 0xff);
                sum += x ^ (uint64_t) d;
        }

        return sum;
}

static uint64_t now_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

static bool work(const char *what, uint64_t expected)
{
        const struct timespec ts = {.tv_nsec = SLEEP_NSEC};
        uint64_t start = now_nsec();

        switch (what[0]) {
        case 'c':
                return checksum() == expected;
        case 'n':
                return nanosleep(&ts, NULL) == 0 && now_nsec() - start >= SLEEP_NSEC;
        case 'r':
                return registers_check(20000) == REGISTERS_OK;
        case 'p':
                return poll(NULL, 0, SLEEP_NSEC / 1000000) == 0 && now_nsec() - start >= SLEEP_NSEC;
        default:
                return getppid() >= 0 && checksum() == expected;
        }
}

int main(int argc, char **argv)
{
        uint64_t expected = checksum();
        pid_t self = getpid();
        Counters *counters;
        int fd;

        if (argc != 3 || !strchr("crnpg", argv[1][0])) {
                (void) fprintf(stderr, "Usage: sweep-target compute|registers|nanosleep|poll|getpid FILE\n");
                return EXIT_FAILURE;
        }

        registers_prepare(false);
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left if the test is killed */
        fd = open(argv[2], O_RDWR | O_CLOEXEC);
        counters = mmap(NULL, sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || counters == MAP_FAILED) {
                (void) fprintf(stderr, "sweep-target: %s: %s\n", argv[2], strerror(errno));
                return EXIT_FAILURE;
        }
        (void) close(fd);
        if (write(STDOUT_FILENO, "ready\n", 6) != 6)
                return EXIT_FAILURE;

        for (;;) {
                if (!work(argv[1], expected))
                        (void) __atomic_add_fetch(&counters->wrong, 1, __ATOMIC_SEQ_CST);
                /* A clone computes too, but the test counts the target's work. */
                if (argv[1][0] == 'c' || argv[1][0] == 'r' || getpid() == self)
                        (void) __atomic_add_fetch(&counters->done, 1, __ATOMIC_SEQ_CST);
        }
}
