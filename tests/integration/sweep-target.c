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
 *     sweep-target compute|registers|nanosleep|poll|getpid|signals|marked FILE
 *
 * Does the same piece of work for ever and looks each time whether it came out right: a checksum, all registers, a sleep
 * that neither ended early nor with an error, or the content of memory that is marked with madvise(2). FILE is shared memory: the first word counts the pieces that the target
 * finished, the second those that were wrong, in target or clones, the third the SIGRTMINs that the target handled.
 */

typedef struct Counters {
        volatile uint64_t done;
        volatile uint64_t wrong;
        volatile uint64_t handled;
} Counters;

/* Not shared: what a clone handles is not counted with the target's. */
static volatile uint64_t handled;

static void on_signal(int sig)
{
        handled = handled + 1;
}

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

/*
 * Pieces of memory side by side, marked or not, with a hole among them, of which the kernel makes one where the marks are gone. Each word
 * is the same number, which changes with each piece of work.
 */
#define PIECE (4 * 4096UL)
#define PIECES 9

static const int marks[PIECES] = {MADV_DONTFORK, 0, MADV_DONTFORK, -1, MADV_DONTFORK, MADV_WIPEONFORK, 0, MADV_WIPEONFORK, MADV_DONTFORK};
static volatile uint64_t *pieces[PIECES], number;

static bool marked_prepare(void)
{
        char *all = mmap(NULL, PIECES * PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        for (size_t i = 0; i < PIECES && all != MAP_FAILED; i++) {
                char *piece = all + i * PIECE;

                if (marks[i] < 0 ? munmap(piece, PIECE) < 0 : marks[i] != 0 && madvise(piece, PIECE, marks[i]) < 0)
                        return false;
                pieces[i] = marks[i] < 0 ? NULL : (volatile uint64_t *) (void *) piece;
        }

        return all != MAP_FAILED;
}

static bool marked_work(void)
{
        bool ok = true;

        for (size_t i = 0; i < PIECES; i++)
                for (size_t k = 0; pieces[i] && k < PIECE / sizeof(uint64_t); k++) {
                        ok &= pieces[i][k] == number;
                        pieces[i][k] = number + 1;
                }
        number = number + 1;
        return ok;
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
        case 'm':
                return getppid() >= 0 && marked_work() && checksum() == expected;
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
        const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        pid_t self = getpid();
        Counters *counters;
        int fd;

        if (argc != 3 || !strchr("crnpgsm", argv[1][0])) {
                (void) fprintf(stderr, "Usage: sweep-target compute|registers|nanosleep|poll|getpid|signals|marked FILE\n");
                return EXIT_FAILURE;
        }

        if (argv[1][0] == 'm' && !marked_prepare()) {
                (void) fprintf(stderr, "sweep-target: marked memory: %s\n", strerror(errno));
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
        (void) sigaction(SIGRTMIN, &action, NULL);
        if (write(STDOUT_FILENO, "ready\n", 6) != 6)
                return EXIT_FAILURE;

        for (;;) {
                if (!work(argv[1], expected))
                        (void) __atomic_add_fetch(&counters->wrong, 1, __ATOMIC_SEQ_CST);
                /* A clone computes too, but the test counts the target's work. */
                if (strchr("npgs", argv[1][0]) && getpid() != self)
                        continue;
                /* Stored again with each piece: a clone that was made just here stores an old number once. */
                counters->handled = handled;
                (void) __atomic_add_fetch(&counters->done, 1, __ATOMIC_SEQ_CST);
        }
}
