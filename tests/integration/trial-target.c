/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 *     trial-target compute|sleep|threads|tree FILE
 *
 * Does the same piece of work for ever and looks each time whether it came out right. FILE is shared memory with a slot for each
 * process (trials.py reads it): what target and clones do is told apart by their PIDs.
 *
 * compute  a checksum, half of the time: a trial wants a processor, too
 * sleep    a sleep that neither ends early nor with an error
 * threads  four threads that take turns with a mutex and a condition variable, each with a checksum
 * tree     three processes that pass a number round through pipes, each of which adds one
 */

enum { SLOTS = 4096, THREADS = 4, MEMBERS = 3, SLEEP_NSEC = 5000000, REST_NSEC = 150000, PIECES = 30000 };

typedef struct Slot {
        uint64_t pid;
        uint64_t wrong;
        uint64_t beats[THREADS];
        uint64_t unused[2];
} Slot;

static Slot *slots;
static uint64_t expected;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static unsigned turn;

static uint64_t checksum(void)
{
        uint64_t x = 88172645463325252U, sum = 0;
        double d = 1.0;

        for (int i = 0; i < PIECES; i++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                d = d * 1.0000001 + (double) (x & 0xff);
                sum += x ^ (uint64_t) d;
        }

        return sum;
}

static void done(unsigned thread, bool right)
{
        /* Not libc's getpid(), which nothing keeps from being remembered: a clone must ask anew. */
        uint64_t pid = (uint64_t) syscall(SYS_getpid);
        Slot *s = &slots[pid % SLOTS];

        __atomic_store_n(&s->pid, pid, __ATOMIC_SEQ_CST);
        if (!right)
                (void) __atomic_add_fetch(&s->wrong, 1, __ATOMIC_SEQ_CST);
        (void) __atomic_add_fetch(&s->beats[thread], 1, __ATOMIC_SEQ_CST);
}

static uint64_t now_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

static void work_computing(void)
{
        const struct timespec rest = {.tv_nsec = REST_NSEC};

        for (;;) {
                done(0, checksum() == expected);
                (void) nanosleep(&rest, NULL);
        }
}

static void work_sleeping(void)
{
        const struct timespec ts = {.tv_nsec = SLEEP_NSEC};

        for (;;) {
                uint64_t start = now_nsec();

                done(0, nanosleep(&ts, NULL) == 0 && now_nsec() - start >= SLEEP_NSEC);
        }
}

static void *work_in_turn(void *arg)
{
        const struct timespec rest = {.tv_nsec = REST_NSEC};
        const unsigned self = *(const unsigned *) arg;

        for (;;) {
                (void) pthread_mutex_lock(&mutex);
                while (turn != self)
                        (void) pthread_cond_wait(&condition, &mutex);
                done(self, checksum() == expected);
                (void) nanosleep(&rest, NULL);
                turn = (self + 1) % THREADS;
                (void) pthread_cond_broadcast(&condition);
                (void) pthread_mutex_unlock(&mutex);
        }
        return NULL;
}

static void work_with_threads(void)
{
        static unsigned numbers[THREADS] = {0, 1, 2, 3};
        pthread_t t;

        for (unsigned i = 1; i < THREADS; i++)
                if (pthread_create(&t, NULL, work_in_turn, &numbers[i]) != 0)
                        exit(EXIT_FAILURE);
        (void) work_in_turn(&numbers[0]);
}

/* The number must be the one that comes next for this member; the first sends it round again. */
static void work_in_ring(uint64_t number, int in, int out)
{
        for (;;) {
                uint64_t got;
                bool right = checksum() == expected;

                if (read(in, &got, sizeof(got)) != sizeof(got) || got != number) {
                        done(0, false);
                        exit(EXIT_FAILURE);
                }
                done(0, right);
                got++;
                number += MEMBERS;
                if (write(out, &got, sizeof(got)) != sizeof(got))
                        exit(EXIT_FAILURE);
        }
}

static void work_as_tree(void)
{
        const uint64_t zero = 0;
        int pipes[MEMBERS][2];

        for (int i = 0; i < MEMBERS; i++)
                if (pipe2(pipes[i], O_CLOEXEC) < 0)
                        exit(EXIT_FAILURE);
        for (int i = 1; i < MEMBERS; i++) {
                pid_t pid = fork();

                if (pid < 0)
                        exit(EXIT_FAILURE);
                if (pid == 0)
                        work_in_ring((uint64_t) i, pipes[i - 1][0], pipes[i][1]);
        }
        if (write(pipes[MEMBERS - 1][1], &zero, sizeof(zero)) != sizeof(zero))
                exit(EXIT_FAILURE);
        work_in_ring(0, pipes[MEMBERS - 1][0], pipes[0][1]);
}

int main(int argc, char **argv)
{
        static const struct {
                const char *name;
                void (*work)(void);
        } kinds[] = {{"compute", work_computing}, {"sleep", work_sleeping}, {"threads", work_with_threads}, {"tree", work_as_tree}};
        int fd;

        if (argc != 3) {
                (void) fprintf(stderr, "Usage: trial-target compute|sleep|threads|tree FILE\n");
                return EXIT_FAILURE;
        }

        expected = checksum();
        /* No PR_SET_PDEATHSIG: a clone whose parent is a worker would have it too. with-daemon ends what is left. */
        fd = open(argv[2], O_RDWR | O_CLOEXEC);
        slots = mmap(NULL, SLOTS * sizeof(Slot), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || slots == MAP_FAILED) {
                (void) fprintf(stderr, "trial-target: %s: %s\n", argv[2], strerror(errno));
                return EXIT_FAILURE;
        }
        (void) close(fd);
        if (write(STDOUT_FILENO, "ready\n", 6) != 6)
                return EXIT_FAILURE;

        for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
                if (strcmp(argv[1], kinds[i].name) == 0)
                        kinds[i].work();
        (void) fprintf(stderr, "trial-target: \"%s\" is no kind\n", argv[1]);
        return EXIT_FAILURE;
}
