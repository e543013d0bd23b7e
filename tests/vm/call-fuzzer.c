/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine/remfork.h"

/*
 *     call-fuzzer CALLS SEED
 *
 * Calls remfork(2) with random descriptors, pointers, sizes, flags and fields: as root, as nobody with the capability that it asks for, and
 * as nobody without, a third of CALLS each. The kernel must give an answer that a program may see; nobody never gets a clone of what is
 * root's; the targets go on, and nothing but them is left. What the kernel itself says of it is tests/vm/run's to notice.
 *
 * Each hundred calls are made by a process of their own, which is killed where one of them takes too long: some may wait for ever.
 * Prints "CALLS calls, CLONES clones, KILLED killed, FAILURES failures"; exit status 1 where there was a failure.
 */

enum {
        NOBODY = 65534,
        BATCH = 100,
        BATCH_SECONDS = 20,
        SECONDS_MAX = 60,       /* what takes longer has hung, also under software emulation of a kernel that checks itself */
        ERRORS = 4096,
        ERRNO_MAX = 133,        /* EHWPOISON; what is above is the kernel's own */
        FIRST_FD = 64,          /* from here on descriptors are what calls left */
};

typedef enum Who { ROOT, CAPABLE, NOBODY_AT_ALL, WHO_MAX } Who;
typedef enum Prey { OWN, OWN_THREADS, ROOTS, PREY_MAX } Prey;

typedef struct Shared {
        uint64_t calls, clones, stolen, strange;
        uint64_t errors[ERRORS];
        uint64_t beats[PREY_MAX];
} Shared;

static Shared *shared;
static pid_t prey[PREY_MAX];
static uint64_t state;

static uint64_t rnd(uint64_t n)
{
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return n ? state % n : state;
}

static bool one_in(uint64_t n)
{
        return rnd(n) == 0;
}

static void become(Who who)
{
        const cap_value_t wanted = CAP_CHECKPOINT_RESTORE;
        cap_t caps = cap_init();

        if (who == ROOT)
                return;
        if (prctl(PR_SET_KEEPCAPS, who == CAPABLE) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0 || !caps)
                exit(2);
        if (who == CAPABLE && (cap_set_flag(caps, CAP_PERMITTED, 1, &wanted, CAP_SET) < 0 ||
                        cap_set_flag(caps, CAP_EFFECTIVE, 1, &wanted, CAP_SET) < 0 || cap_set_proc(caps) < 0))
                exit(2);
        (void) cap_free(caps);
        (void) prctl(PR_SET_DUMPABLE, 1); /* changing IDs took that away */
}

static void *sleep_for_ever(void *arg)
{
        for (;;)
                (void) usleep(1000);
        return arg;
}

/* What a request can ask for besides. */
static void own_timers_and_marks(void)
{
        const struct itimerval far = {.it_value = {.tv_sec = 100000}, .it_interval = {.tv_sec = 1}};
        void *area = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        timer_t timer;

        if (area == MAP_FAILED || madvise(area, 65536, MADV_DONTFORK) < 0 || setitimer(ITIMER_REAL, &far, NULL) < 0 ||
            setitimer(ITIMER_PROF, &far, NULL) < 0 || timer_create(CLOCK_MONOTONIC, NULL, &timer) < 0)
                _exit(2);
}

static pid_t start_prey(Prey which, Who owner)
{
        pid_t pid = fork();
        pthread_t t;

        if (pid != 0)
                return pid;
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        become(owner);
        (void) prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        own_timers_and_marks();
        if (which == OWN_THREADS)
                for (int i = 0; i < 2; i++)
                        if (pthread_create(&t, NULL, sleep_for_ever, NULL) != 0)
                                _exit(2);
        for (pid = getpid();; (void) usleep(500))
                if (syscall(SYS_getpid) == pid && syscall(SYS_getppid) != 0) /* a clone does not count, nor one in a PID namespace of its own */
                        (void) __atomic_add_fetch(&shared->beats[which], 1, __ATOMIC_RELAXED);
}

static int some_pidfd(bool *roots)
{
        static const pid_t odd[] = {2 /* a kernel thread */, 0, -1, 1 << 22};

        switch (rnd(12)) {
        case 0:
                return (int) rnd(0); /* of no meaning */
        case 1:
                return STDIN_FILENO;
        case 2:
                return (int) syscall(SYS_pidfd_open, odd[rnd(4)], 0);
        case 3:
        case 4:
                *roots = true;
                return (int) syscall(SYS_pidfd_open, prey[ROOTS], 0);
        case 5:
        case 6:
        case 7:
                return (int) syscall(SYS_pidfd_open, prey[OWN_THREADS], 0);
        default:
                return (int) syscall(SYS_pidfd_open, prey[OWN], 0);
        }
}

/* Where the kernel is to read or write: mostly @good. */
static uint64_t some_pointer(void *good, uint8_t *edge)
{
        switch (rnd(14)) {
        case 0:
                return 0;
        case 1:
                return rnd(0);
        case 2:
                return UINT64_C(0xffff888000000000) + rnd(1 << 30); /* the kernel's */
        case 3:
                return (uint64_t) (uintptr_t) (edge - rnd(40)); /* over the end of what is mapped */
        default:
                return (uint64_t) (uintptr_t) good;
        }
}

static uint64_t some_flags(void)
{
        uint64_t flags = 0;

        if (one_in(20))
                return rnd(0);
        for (uint64_t n = rnd(5); n > 0; n--)
                flags |= UINT64_C(1) << rnd(one_in(20) ? 64 : 16);
        return flags;
}

static pid_t init; /* of the PID namespace of this batch; 0: it may have none */

static void make_init(void)
{
        pid_t pid = (pid_t) syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0);

        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        if (waitpid(-1, NULL, 0) < 0)
                                (void) usleep(1000);
        }
        init = pid > 0 ? pid : 0;
}

static void fill(struct remfork_args *a, uint8_t *edge)
{
        static struct remfork_fd fds[8];
        static uint8_t room[4096];

        for (size_t i = 0; i < 8; i++)
                fds[i] = (struct remfork_fd){.target = (int32_t) rnd(one_in(4) ? 0 : 300), .source = (int32_t) rnd(one_in(4) ? 0 : 4) - (int32_t) rnd(2),
                                .flags = (uint32_t) rnd(one_in(8) ? 0 : 2), .reserved = one_in(16) ? 1 : 0};
        *a = (struct remfork_args){.flags = some_flags(), .timeout = 1 + rnd(3000000)};
        if (one_in(30))
                a->timeout = one_in(2) ? 0 : rnd(0);
        if (one_in(3)) {
                a->fds = some_pointer(fds, edge);
                a->nr_fds = one_in(8) ? rnd(0) : rnd(9);
        }
        if (a->flags & REMFORK_PIDFD || one_in(10))
                a->pidfd = some_pointer(room, edge);
        if (a->flags & REMFORK_TIMES || one_in(10))
                a->times = some_pointer(room + 64, edge);
        if (a->flags & (REMFORK_HOLD | REMFORK_PARK) || one_in(10))
                a->hold = some_pointer(room + 128, edge);
        if (a->flags & (REMFORK_THREADS | REMFORK_PARK) || one_in(10))
                a->pause = one_in(3) ? rnd(0) : rnd(1000000);
        if (a->flags & REMFORK_TIDS || one_in(10)) {
                a->tids = some_pointer(room + 256, edge);
                a->nr_tids = one_in(8) ? rnd(0) : rnd(100);
        }
        if (a->flags & REMFORK_TIMERS || one_in(10)) {
                a->timers = some_pointer(room + 2800, edge);
                a->nr_timers = one_in(8) ? rnd(0) : rnd(25);
        }
        if (a->flags & REMFORK_PARENT_PIDFD || one_in(20))
                a->parent = (uint64_t) syscall(SYS_pidfd_open, prey[rnd(PREY_MAX)], 0);
        if (a->flags & REMFORK_PGRP_PIDFD || one_in(20))
                a->pgrp = (uint64_t) syscall(SYS_pidfd_open, prey[rnd(PREY_MAX)], 0);
        if (a->flags & REMFORK_SAME_PIDS || one_in(20))
                a->pidns = (uint64_t) syscall(SYS_pidfd_open, one_in(4) ? prey[rnd(PREY_MAX)] : init, 0);
}

static size_t some_size(void)
{
        static const size_t sizes[] = {0, 8, 55, 56, 57, 64, 95, 97, 104, 111, 113, 119, 120, 121, 128, 4096, 4097, 65536};

        return one_in(4) ? sizes[rnd(sizeof(sizes) / sizeof(sizes[0]))] : one_in(20) ? rnd(0) : one_in(3) ? 56 : sizeof(struct remfork_args);
}

static void call_once(Who who, uint8_t *edge)
{
        static _Alignas(8) uint8_t block[8192];
        bool roots = false;
        int pidfd = some_pidfd(&roots);
        long r;

        memset(block, one_in(20) ? (int) rnd(256) : 0, sizeof(block));
        fill((struct remfork_args *) (void *) block, edge);
        for (uint64_t n = one_in(6) ? 1 + rnd(3) : 0; n > 0; n--)
                block[rnd(sizeof(struct remfork_args))] = (uint8_t) rnd(256);

        r = syscall(SYS_REMFORK, pidfd, some_pointer(block, edge), some_size());
        (void) __atomic_add_fetch(&shared->calls, 1, __ATOMIC_RELAXED);
        if (r < 0) {
                (void) __atomic_add_fetch(&shared->errors[errno % ERRORS], 1, __ATOMIC_RELAXED);
                if (errno > ERRNO_MAX || errno == ENOSYS)
                        (void) __atomic_add_fetch(&shared->strange, 1, __ATOMIC_RELAXED);
        } else {
                (void) __atomic_add_fetch(&shared->clones, 1, __ATOMIC_RELAXED);
                /* A clone of nobody's can be ended by nobody: one that cannot is somebody else's. */
                if (r > 0 && kill((pid_t) r, SIGKILL) < 0 && errno == EPERM)
                        (void) __atomic_add_fetch(&shared->stolen, 1, __ATOMIC_RELAXED);
                if (who != ROOT && roots)
                        (void) __atomic_add_fetch(&shared->stolen, 1, __ATOMIC_RELAXED);
        }
        (void) close_range(FIRST_FD, ~0U, 0);
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
}

static void run_batch(Who who)
{
        uint8_t *edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (edge == MAP_FAILED || mprotect(edge + 4096, 4096, PROT_NONE) < 0)
                _exit(2);
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        make_init();
        become(who);
        for (int fd = FIRST_FD; fd > 3; fd--) /* new descriptors are above those that are to stay */
                if (fcntl(fd - 1, F_GETFD) < 0)
                        (void) dup2(STDERR_FILENO, fd - 1);
        for (int i = 0; i < BATCH; i++)
                call_once(who, edge + 4096);
        _exit(0);
}

/* Until nothing is left but @prey, or @pid has ended where it is not 0; false when that takes too long. */
static bool reap(pid_t pid, unsigned seconds)
{
        for (unsigned i = 0; i < seconds * 1000; i++) {
                pid_t got;

                while ((got = waitpid(-1, NULL, WNOHANG)) > 0)
                        if (got == pid)
                                return true;
                (void) usleep(1000);
        }
        return false;
}

static bool goes_on(Prey which)
{
        uint64_t before = __atomic_load_n(&shared->beats[which], __ATOMIC_RELAXED);

        for (unsigned i = 0; i < SECONDS_MAX * 1000; i++) {
                if (__atomic_load_n(&shared->beats[which], __ATOMIC_RELAXED) > before + 2)
                        return true;
                (void) usleep(1000);
        }
        return false;
}

static unsigned fuzz(Who who, uint64_t calls, unsigned *killed)
{
        static const char *const names[] = {"root", "nobody with the capability", "nobody"}, *const preys[] = {"target", "target with threads", "root's target"};
        unsigned failures = 0;

        for (Prey p = 0; p < PREY_MAX; p++)
                prey[p] = start_prey(p, p == ROOTS ? ROOT : who);
        for (uint64_t done = 0; done < calls; done += BATCH) {
                uint64_t seed = rnd(0);
                pid_t pid = fork();

                if (pid == 0) {
                        state = seed | 1;
                        run_batch(who);
                }
                if (!reap(pid, BATCH_SECONDS)) {
                        (*killed)++;
                        (void) kill(pid, SIGKILL);
                        if (!reap(pid, SECONDS_MAX)) {
                                (void) fprintf(stderr, "call-fuzzer: a caller does not end though it was killed\n");
                                return failures + 1;
                        }
                }
        }
        for (Prey p = 0; p < PREY_MAX; p++) {
                if (!goes_on(p)) {
                        (void) fprintf(stderr, "call-fuzzer: as %s: the %s does not go on\n", names[who], preys[p]);
                        failures++;
                }
                (void) kill(prey[p], SIGKILL);
        }
        /* Clones that were told of were killed; one that nobody was told of would be a child of ours for ever. */
        for (unsigned i = 0; i < SECONDS_MAX * 1000 && (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD); i++)
                (void) usleep(1000);
        if (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD) {
                (void) fprintf(stderr, "call-fuzzer: as %s: a process is left over\n", names[who]);
                failures++;
        }
        return failures;
}

int main(int argc, char **argv)
{
        uint64_t calls = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
        unsigned failures = 0, killed = 0;

        if (calls == 0 || geteuid() != 0) {
                (void) fprintf(stderr, "Usage, as root: call-fuzzer CALLS SEED\n");
                return 2;
        }
        state = strtoull(argv[2], NULL, 10) * 2654435761U + 1;
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED)
                return 2;
        if (syscall(SYS_REMFORK, -1, NULL, 0) < 0 && errno == ENOSYS) {
                (void) fprintf(stderr, "call-fuzzer: this kernel has no remfork(2)\n");
                return 2;
        }
        (void) prctl(PR_SET_CHILD_SUBREAPER, 1);

        for (Who who = ROOT; who < WHO_MAX; who++)
                failures += fuzz(who, calls / WHO_MAX, &killed);
        if (shared->stolen || shared->strange) {
                (void) fprintf(stderr, "call-fuzzer: %" PRIu64 " clones of what is root's, %" PRIu64 " strange errors\n", shared->stolen, shared->strange);
                failures++;
        }
        for (int i = 0; i < ERRORS; i++)
                if (shared->errors[i])
                        (void) fprintf(stderr, "%s %" PRIu64 "\n", strerrorname_np(i) ?: "?", shared->errors[i]);
        (void) printf("%" PRIu64 " calls, %" PRIu64 " clones, %u killed, %u failures\n", shared->calls, shared->clones, killed, failures);
        return failures ? 1 : 0;
}
