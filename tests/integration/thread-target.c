/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 *     thread-target state|locks|churn|sleep THREADS FILE
 *
 * Threads that wait for each other in every way, and look whether all is as it should be. FILE is shared memory, see below.
 *
 * state   each thread has a name, mask, CPU, nice value, signal stack, robust list and thread-local variable of its own and
 *         waits; when the test sets "go" each writes down what it has, and the main one joins them and says so
 * locks   mutexes, condition variables and a barrier, for ever
 * churn   threads that are started and joined, for ever
 * sleep   threads that sleep
 */

#define THREADS_MAX 64

typedef struct Report {
        uint64_t mask, altstack, altstack_size, altstack_flags, robust, tid_address, thread_pointer, local, affinity;
        int64_t policy, nice, robust_owner;
        char name[16];
        uint64_t tid_is_right; /* what libc and the kernel think of it */
} Report;

typedef struct Shared {
        volatile uint64_t done, wrong, clone_done, go;
        Report reports[2][THREADS_MAX]; /* of the target, of a clone */
} Shared;

static Shared *shared;
static pid_t self;
static unsigned n_threads;
static pthread_t threads[THREADS_MAX];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t robust[THREADS_MAX];
static pthread_barrier_t barrier;
static sem_t semaphore;
static unsigned n_ready;
static volatile bool woken;
static __thread uint64_t local;

static void die(const char *what)
{
        perror(what);
        exit(EXIT_FAILURE);
}

static bool is_clone(void)
{
        return getpid() != self;
}

static void piece(bool right)
{
        if (!right)
                (void) __atomic_add_fetch(&shared->wrong, 1, __ATOMIC_SEQ_CST);
        (void) __atomic_add_fetch(is_clone() ? &shared->clone_done : &shared->done, 1, __ATOMIC_SEQ_CST);
}

#define EACH_REGISTER(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n"
#define CLOBBER(n) "xmm" #n,

/* Sixteen vector registers with values of the thread's own, held while it computes without a call. */
__attribute__((target("avx2"))) static bool vectors_hold(uint64_t value, uint64_t turns)
{
        uint64_t in[16][4], out[16][4] = {}, left = turns;

        for (unsigned i = 0; i < 16; i++)
                for (unsigned j = 0; j < 4; j++)
                        in[i][j] = value * 1000003 + i * 8 + j;

        __asm__ volatile(EACH_REGISTER(LOAD) "1: subq $1, %[left]\n jnz 1b\n" EACH_REGISTER(STORE)
                         : [left] "+r"(left)
                         : [in] "r"(in), [out] "r"(out)
                         : EACH_REGISTER(CLOBBER) "memory", "cc");
        return left == 0 && memcmp(in, out, sizeof(in)) == 0;
}

static bool registers_hold(uint64_t value, uint64_t turns)
{
        return !__builtin_cpu_supports("avx2") || vectors_hold(value, turns);
}

static void give_own_things(unsigned i)
{
        static char stacks[THREADS_MAX][16384];
        pthread_mutexattr_t attributes;
        char name[16];
        sigset_t mask;
        cpu_set_t set;

        (void) snprintf(name, sizeof(name), "thread %u ", i);
        (void) prctl(PR_SET_NAME, name);
        if (i % 3 != 0)
                (void) sigaltstack(&(stack_t){.ss_sp = stacks[i], .ss_size = sizeof(stacks[i]), .ss_flags = i % 2 ? (int) (1U << 31) : 0}, NULL);
        (void) sigemptyset(&mask);
        (void) sigaddset(&mask, SIGRTMIN + (int) (i % 30));
        (void) pthread_sigmask(SIG_SETMASK, &mask, NULL);
        CPU_ZERO(&set);
        CPU_SET(i % (unsigned) sysconf(_SC_NPROCESSORS_ONLN), &set);
        if (i % 2)
                (void) sched_setaffinity(0, sizeof(set), &set);
        if (i % 4 == 1)
                (void) setpriority(PRIO_PROCESS, (id_t) gettid(), (int) (i % 15));
        if (i % 4 == 2)
                (void) sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){}); /* an idle one may not stop in time on a busy machine */
        local = 1000 + i;

        (void) pthread_mutexattr_init(&attributes);
        (void) pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        (void) pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
        (void) pthread_mutex_init(&robust[i], &attributes);
        (void) pthread_mutex_lock(&robust[i]);
}

static void write_report(unsigned i)
{
        Report *r = &shared->reports[is_clone()][i];
        void *head = NULL, *address = NULL;
        stack_t altstack;
        cpu_set_t set;
        size_t size;

        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &r->mask, 8);
        (void) sigaltstack(NULL, &altstack);
        (void) syscall(SYS_get_robust_list, 0, &head, &size);
        (void) prctl(PR_GET_TID_ADDRESS, &address);
        (void) prctl(PR_GET_NAME, r->name);
        (void) sched_getaffinity(0, sizeof(set), &set);
        r->altstack = (uint64_t) (uintptr_t) altstack.ss_sp;
        r->altstack_size = altstack.ss_size;
        r->altstack_flags = (unsigned) altstack.ss_flags;
        r->robust = (uint64_t) (uintptr_t) head;
        r->tid_address = (uint64_t) (uintptr_t) address;
        r->thread_pointer = (uint64_t) (uintptr_t) __builtin_thread_pointer();
        r->local = local;
        memcpy(&r->affinity, &set, sizeof(r->affinity));
        r->policy = sched_getscheduler(0);
        r->nice = getpriority(PRIO_PROCESS, (id_t) gettid());
        r->robust_owner = pthread_mutex_unlock(&robust[i]); /* of its own kind: EPERM where the owner is another */
        r->tid_is_right = pthread_kill(pthread_self(), 0) == 0 && *(volatile pid_t *) address == gettid();
}

static void *state_thread(void *userdata)
{
        unsigned i = (unsigned) (uintptr_t) userdata;
        struct timespec later;
        bool right = true;

        give_own_things(i);
        (void) clock_gettime(CLOCK_REALTIME, &later);
        later.tv_sec += 1000;
        (void) __atomic_add_fetch(&n_ready, 1, __ATOMIC_SEQ_CST);

        switch (i % 6) {
        case 0: /* a futex without time limit */
                (void) pthread_mutex_lock(&mutex);
                while (!woken)
                        (void) pthread_cond_wait(&condition, &mutex);
                (void) pthread_mutex_unlock(&mutex);
                break;
        case 1: /* one with */
                (void) pthread_mutex_lock(&mutex);
                while (!woken)
                        right &= pthread_cond_timedwait(&condition, &mutex, &later) == 0;
                (void) pthread_mutex_unlock(&mutex);
                break;
        case 2: /* no call at all */
                while (!woken)
                        right &= registers_hold(i, 100000);
                break;
        case 3:
                while (!woken)
                        right &= nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL) == 0;
                break;
        case 4:
                right = sem_wait(&semaphore) == 0;
                break;
        default:
                (void) pthread_barrier_wait(&barrier);
        }

        write_report(i);
        piece(right);
        return (void *) (uintptr_t) (i + 1);
}

static void run_state(void)
{
        unsigned at_barrier = 0, joined = 0;
        char line[64];
        int n;

        for (unsigned i = 0; i < n_threads; i++)
                at_barrier += i % 6 == 5;
        (void) pthread_barrier_init(&barrier, NULL, at_barrier + 1);
        (void) sem_init(&semaphore, 0, 0);
        for (unsigned i = 0; i < n_threads; i++)
                if (pthread_create(&threads[i], NULL, state_thread, (void *) (uintptr_t) i) != 0)
                        die("pthread_create");
        while (__atomic_load_n(&n_ready, __ATOMIC_SEQ_CST) < n_threads)
                (void) usleep(1000);
        if (write(STDOUT_FILENO, "ready\n", 6) != 6)
                die("stdout");

        while (!shared->go)
                (void) usleep(1000);
        (void) pthread_mutex_lock(&mutex);
        woken = true;
        (void) pthread_cond_broadcast(&condition);
        (void) pthread_mutex_unlock(&mutex);
        for (unsigned i = 0; i < n_threads; i++)
                (void) sem_post(&semaphore);
        (void) pthread_barrier_wait(&barrier);

        for (unsigned i = 0; i < n_threads; i++) {
                void *result;

                joined += pthread_join(threads[i], &result) == 0 && (uintptr_t) result == i + 1;
        }
        n = snprintf(line, sizeof(line), "%d joined %u\n", (int) getpid(), joined);
        if (write(STDOUT_FILENO, line, (size_t) n) != n)
                die("stdout");
        for (;;)
                (void) pause();
}

/* A ring: each waits for its turn, under one mutex; between the turns all meet at a barrier now and then. */
static uint64_t first_half, second_half;
static unsigned turn;

static void *locks_thread(void *userdata)
{
        unsigned i = (unsigned) (uintptr_t) userdata;
        uint64_t own = 0;

        for (;;) {
                bool right;

                (void) pthread_mutex_lock(&mutex);
                while (turn % n_threads != i)
                        (void) pthread_cond_wait(&condition, &mutex);
                right = first_half == second_half;
                first_half++;
                right &= registers_hold(i, 5000) && local == own;
                second_half++;
                local = ++own;
                turn++;
                (void) pthread_cond_broadcast(&condition);
                (void) pthread_mutex_unlock(&mutex);
                if (own % 64 == 0)
                        (void) pthread_barrier_wait(&barrier);
                piece(right);
        }
        return NULL;
}

static void *churn_thread(void *userdata)
{
        local = (uint64_t) (uintptr_t) userdata;
        sched_yield();
        return (void *) (uintptr_t) local;
}

static void *sleeping_thread(void *userdata)
{
        for (;;)
                (void) pause();
        return NULL;
}

static void run_churn(void)
{
        for (uintptr_t round = 1;; round++) {
                bool right = true;

                for (unsigned i = 0; i < n_threads; i++)
                        if (pthread_create(&threads[i], NULL, churn_thread, (void *) (round + i)) != 0)
                                die("pthread_create");
                for (unsigned i = 0; i < n_threads; i++) {
                        void *result;

                        right &= pthread_join(threads[i], &result) == 0 && result == (void *) (round + i);
                }
                piece(right);
        }
}

static void run(const char *kind)
{
        void *(*routine)(void *) = kind[0] == 'l' ? locks_thread : sleeping_thread;

        if (kind[0] == 's' && kind[1] == 't')
                run_state();
        (void) pthread_barrier_init(&barrier, NULL, n_threads);
        if (kind[0] != 'c')
                for (unsigned i = 0; i < n_threads; i++)
                        if (pthread_create(&threads[i], NULL, routine, (void *) (uintptr_t) i) != 0)
                                die("pthread_create");
        if (write(STDOUT_FILENO, "ready\n", 6) != 6)
                die("stdout");
        if (kind[0] == 'c')
                run_churn();
        for (;;)
                if (kind[0] == 'l')
                        (void) usleep(1000);
                else
                        (void) pause();
}

int main(int argc, char **argv)
{
        int fd;

        n_threads = argc == 4 ? (unsigned) strtoul(argv[2], NULL, 10) : 0;
        if (argc != 4 || n_threads > THREADS_MAX || (n_threads == 0 && argv[1][0] != 's')) {
                (void) fprintf(stderr, "Usage: thread-target state|locks|churn|sleep THREADS FILE\n");
                return EXIT_FAILURE;
        }

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        self = getpid();
        fd = open(argv[3], O_RDWR | O_CLOEXEC);
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || shared == MAP_FAILED)
                die(argv[3]);
        (void) close(fd);
        run(argv[1]);
}
