/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/*
 *     odd-target KIND FILE
 *
 * Targets in situations of their own. FILE is shared memory: pieces of work that the target did, pieces that were wrong in
 * anybody, pieces that clones did. Who is who is told by the thread ID that the kernel writes to the address of
 * set_tid_address(2): no system call is needed, as some of the targets may make none.
 */

typedef struct Counters {
        volatile uint64_t done, wrong, clones;
        volatile uint64_t leave; /* written by the test: come out of the signal handler */
} Counters;

static Counters *counters;
static const volatile int *tid;
static int own_tid;
static volatile uint64_t ticks;
static char altstack[32768];

static void piece(bool right)
{
        if (!right)
                (void) __atomic_add_fetch(&counters->wrong, 1, __ATOMIC_SEQ_CST);
        if (*tid == own_tid)
                counters->done++;
        else
                (void) __atomic_add_fetch(&counters->clones, 1, __ATOMIC_SEQ_CST);
}

static uint64_t checksum(void)
{
        uint64_t x = 88172645463325252U, sum = 0;

        for (int i = 0; i < 20000; i++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                sum += x;
        }

        return sum;
}

static uint64_t expected;

static void compute(void)
{
        for (;;)
                piece(checksum() == expected);
}

/* Time read without a system call, in the vDSO: it never goes back. */
static void clock_loop(void)
{
        struct timespec a = {}, b;

        for (;;) {
                bool right = true;

                for (int i = 0; i < 1000; i++) {
                        right = clock_gettime(CLOCK_MONOTONIC, &b) == 0 && right &&
                                (b.tv_sec > a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec >= a.tv_nsec));
                        a = b;
                }
                piece(right);
        }
}

/* The page of old, at an address that no process maps itself: time(2) is at its second kilobyte. */
static void vsyscall_loop(void)
{
        long (*vtime)(long *) = (long (*)(long *)) 0xffffffffff600400UL;
        long last = 0;

        for (;;) {
                long t = vtime(NULL);

                piece(t >= last);
                last = t;
        }
}

static void on_tick(int sig)
{
        ticks++;
}

/* The work is done inside of a handler, on the alternative stack, until the test lets it out. */
static void on_inside(int sig)
{
        char here;
        bool on_altstack = &here >= altstack && &here < altstack + sizeof(altstack);

        while (!counters->leave)
                piece(checksum() == expected && on_altstack);
}

static void inside_handler(void)
{
        struct sigaction action = {.sa_handler = on_inside, .sa_flags = SA_ONSTACK};
        stack_t stack = {.ss_sp = altstack, .ss_size = sizeof(altstack)};
        sigset_t mask;

        (void) sigaltstack(&stack, NULL);
        (void) sigaction(SIGUSR1, &action, NULL);
        (void) raise(SIGUSR1);
        /* Back through the kernel's frame: the mask that was blocked in the handler is open again. */
        for (;;) {
                (void) sigprocmask(SIG_SETMASK, NULL, &mask);
                piece(!sigismember(&mask, SIGUSR1) && checksum() == expected);
        }
}

/* A signal every 200 microseconds: computing must come out right, and the clone, which inherits no timer, goes on too. */
static void storm(void)
{
        const struct itimerval timer = {{.tv_usec = 200}, {.tv_usec = 200}};

        (void) signal(SIGALRM, on_tick);
        (void) setitimer(ITIMER_REAL, &timer, NULL);
        for (;;) {
                uint64_t before = ticks;

                piece(checksum() == expected);
                while (*tid == own_tid && ticks == before) /* its timer must stay: else it waits here for ever */
                        ;
        }
}

static void install_filter(const struct sock_filter *code, unsigned short n)
{
        struct sock_fprog program = {.len = n, .filter = (struct sock_filter *) code};

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
                perror("odd-target: seccomp");
                exit(EXIT_FAILURE);
        }
}

/* What the filter says to clone, clone3, fork and vfork. */
static void filter(unsigned action)
{
        const struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 4, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 3, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fork, 2, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_vfork, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                BPF_STMT(BPF_RET | BPF_K, action),
        };

        install_filter(code, sizeof(code) / sizeof(code[0]));
}

/*
 * A thread whose ID is kept as musl does: the kernel does not know the place, so the clone must be asked for its ID, by a call
 * that the filter denies. Nothing below may use the thread-local variables of the C library.
 */
static void __attribute__((noreturn)) as_musl(void)
{
        static uint64_t thread[128];
        const struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettid, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        };

        install_filter(code, sizeof(code) / sizeof(code[0]));
        thread[0] = (uint64_t) (uintptr_t) thread;
        thread[0x30 / sizeof(thread[0])] = (uint64_t) own_tid;
        tid = (const volatile int *) &thread[0x30 / sizeof(thread[0])];
        (void) syscall(SYS_arch_prctl, ARCH_SET_FS, thread);
        for (;;)
                piece(*tid == getpid() && checksum() == expected);
}

/* A filter that lets the process be cloned, and kills it for the calls with which memory and descriptors are made. */
static void filter_making(void)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 4, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socketpair, 3, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_recvmsg, 2, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup2, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        };
        struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
                perror("odd-target: seccomp");
                exit(EXIT_FAILURE);
        }
}

/* The parent waits in vfork(2) for a child that stays. */
static void inside_vfork(void)
{
        pid_t parent = getpid();

        if (vfork() == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                while (getppid() == parent)
                        (void) usleep(10000);
                _exit(0);
        }
        compute();
}

/* The same until SIGUSR1 comes to the child, which then becomes another program. */
static void vfork_until_told(void)
{
        sigset_t told;

        (void) sigemptyset(&told);
        (void) sigaddset(&told, SIGUSR1);
        (void) sigprocmask(SIG_BLOCK, &told, NULL);
        if (vfork() == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                while (sigwaitinfo(&told, NULL) != SIGUSR1)
                        ;
                (void) execl("/bin/sleep", "sleep", "1000", NULL);
                _exit(1);
        }
        compute();
}

static int __attribute__((noreturn)) thread(void *userdata)
{
        for (;;)
                (void) syscall(SYS_pause);
}

static void with_thread(void)
{
        static char stack[65536] __attribute__((aligned(16)));

        (void) clone(thread, stack + sizeof(stack),
                        CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL);
        compute();
}

static void run(const char *kind)
{
        if (strcmp(kind, "clock") == 0)
                clock_loop();
        if (strcmp(kind, "vsyscall") == 0)
                vsyscall_loop();
        if (strcmp(kind, "handler") == 0)
                inside_handler();
        if (strcmp(kind, "storm") == 0)
                storm();
        if (strcmp(kind, "vfork") == 0)
                inside_vfork();
        if (strcmp(kind, "vfork-until-told") == 0)
                vfork_until_told();
        if (strcmp(kind, "thread") == 0)
                with_thread();
        if (strcmp(kind, "musl") == 0)
                as_musl();
        if (strcmp(kind, "seccomp-allow") == 0)
                filter(SECCOMP_RET_ALLOW);
        if (strcmp(kind, "seccomp-errno") == 0)
                filter(SECCOMP_RET_ERRNO | EPERM);
        if (strcmp(kind, "seccomp-kill") == 0)
                filter(SECCOMP_RET_KILL_PROCESS);
        if (strcmp(kind, "seccomp-making") == 0)
                filter_making();
        if (strcmp(kind, "seccomp-strict") == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) < 0)
                exit(EXIT_FAILURE);
        if (strcmp(kind, "no-dump") == 0)
                (void) prctl(PR_SET_DUMPABLE, 0);
        compute();
}

int main(int argc, char **argv)
{
        void *address = NULL;
        int fd;

        if (argc != 3) {
                (void) fprintf(stderr, "Usage: odd-target KIND FILE\n");
                return EXIT_FAILURE;
        }

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void) prctl(PR_GET_TID_ADDRESS, &address);
        tid = address;
        own_tid = getpid();
        fd = open(argv[2], O_RDWR | O_CLOEXEC);
        counters = mmap(NULL, sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || counters == MAP_FAILED || !tid) {
                perror("odd-target");
                return EXIT_FAILURE;
        }
        (void) close(fd);
        expected = checksum();
        if (write(STDOUT_FILENO, "ready\n", 6) != 6)
                return EXIT_FAILURE;
        run(argv[1]);
}
