/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>
#include <stddef.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/ptrace-seccomp.h"
#include "daemon/engine/seccomp-filter.h"

#define NR offsetof(struct seccomp_data, nr)
#define ARG0 offsetof(struct seccomp_data, args[0])

static uint32_t run(const struct sock_filter *f, size_t n, int nr, uint64_t arg)
{
        const struct seccomp_data data = {.nr = nr, .args = {arg}};

        return seccomp_filter_run(f, n, &data);
}

static void test_jumps(void)
{
        static const struct sock_filter f[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, NR),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARG0),
                BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x10000000, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };

        g_assert_cmphex(run(f, G_N_ELEMENTS(f), SYS_clone, 0x8000), ==, SECCOMP_RET_ALLOW);
        g_assert_cmphex(run(f, G_N_ELEMENTS(f), SYS_clone, 0x10008000), ==, SECCOMP_RET_ERRNO | 1);
        g_assert_cmphex(run(f, G_N_ELEMENTS(f), SYS_read, 0x10000000), ==, SECCOMP_RET_ALLOW);
}

static void test_arithmetic(void)
{
        static const struct sock_filter f[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARG0),
                BPF_STMT(BPF_ST, 3),
                BPF_STMT(BPF_MISC | BPF_TAX, 0),
                BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff),
                BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 4),
                BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
                BPF_STMT(BPF_LDX | BPF_MEM, 3),
                BPF_STMT(BPF_ALU | BPF_SUB | BPF_X, 0),
                BPF_STMT(BPF_RET | BPF_A, 0),
        };

        g_assert_cmphex(run(f, G_N_ELEMENTS(f), 0, 0x1234), ==, 0x34 << 4);
}

/* What the kernel's checker would not have taken is never taken for consent. */
static void test_malformed(void)
{
        static const struct sock_filter beyond[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, sizeof(struct seccomp_data)), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        static const struct sock_filter zero[] = {
                BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        static const struct sock_filter cell[] = {
                BPF_STMT(BPF_ST, BPF_MEMWORDS), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        static const struct sock_filter endless[] = {BPF_STMT(BPF_MISC | BPF_TAX, 0)};
        static const struct sock_filter outside[] = {BPF_STMT(BPF_JMP | BPF_JA, 0xfffffffe), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};

        g_assert_cmphex(run(beyond, 2, 0, 0), ==, SECCOMP_RET_KILL_PROCESS);
        g_assert_cmphex(run(zero, 2, 0, 0), ==, SECCOMP_RET_KILL_PROCESS);
        g_assert_cmphex(run(cell, 2, 0, 0), ==, SECCOMP_RET_KILL_PROCESS);
        g_assert_cmphex(run(endless, 1, 0, 0), ==, SECCOMP_RET_KILL_PROCESS);
        g_assert_cmphex(run(outside, 2, 0, 0), ==, SECCOMP_RET_KILL_PROCESS);
        g_assert_cmphex(run(NULL, 0, 0, 0), ==, SECCOMP_RET_KILL_PROCESS);
}

/* How a child ended that sends itself @number while it is guarded, and stays guarded for @stay_usec then. */
static int guarded_child(int number, uint64_t limit_usec, useconds_t stay_usec, bool *ret_stayed)
{
        int status, fds[2];
        char c;
        pid_t pid;

        g_assert_cmpint(pipe(fds), ==, 0);
        pid = fork();
        if (pid == 0) {
                SeccompGuard guard = {};

                seccomp_guard_begin(&guard, limit_usec);
                if (number)
                        (void) kill(getpid(), number);
                (void) usleep(stay_usec);
                (void) !write(fds[1], "x", 1);
                seccomp_guard_end(&guard);
                (void) usleep(100000); /* the limit is over */
                _exit(77);
        }
        close(fds[1]);
        *ret_stayed = read(fds[0], &c, 1) == 1;
        close(fds[0]);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        return status;
}

static void test_guard(void)
{
        static const int signals[] = {SIGTERM, SIGALRM};
        bool stayed;
        int status;

        for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
                status = guarded_child(signals[i], 60 * G_USEC_PER_SEC, 0, &stayed);
                g_assert_true(stayed);
                g_assert_true(WIFSIGNALED(status));
                g_assert_cmpint(WTERMSIG(status), ==, signals[i]);
        }

        status = guarded_child(SIGTERM, 50000, 60000000, &stayed);
        g_assert_false(stayed);
        g_assert_true(WIFSIGNALED(status));
        g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);

        status = guarded_child(0, 50000, 0, &stayed);
        g_assert_true(stayed);
        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, 77);
}

/* That allows all. */
static void come_under_filter(void)
{
        struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &(struct sock_fprog){1, &allow}) < 0)
                _exit(70);
}

/* A process whose mode was 0 when it was read is stopped. Its tracer's verdict, as an exit status. */
static int judge_late(bool tracer_filtered, bool target_filtered)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        StopKind kind;
        Tracee t;
        int ready[2], r;
        char c;
        pid_t pid;

        if (pipe(ready) < 0)
                return 71;
        pid = fork();
        if (pid == 0) {
                if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                        _exit(72);
                if (target_filtered)
                        come_under_filter();
                (void) !write(ready[1], "x", 1);
                for (;;)
                        pause();
        }
        if (tracer_filtered) /* only now: a child has its parent's */
                come_under_filter();
        if (read(ready[0], &c, 1) != 1 || tracee_seize(&t, pid, PTRACE_O_EXITKILL, NULL) < 0 || tracee_interrupt(&t) < 0 ||
            tracee_wait(&t, PTRACE_CONT, false, 0, &kind, NULL) < 0 || kind != STOP_INTERRUPT)
                return 73;
        r = ptrace_pass_seccomp(&(Instant){}, &t, 0, &error);
        return r < 0 ? (error.code == CLONE_ERROR_CHANGED ? 1 : 74) : 0;
}

/* That the target came under a filter since is seen by a tracer that has one itself too, which the kernel does not tell. */
static void test_late_filter(void)
{
        for (unsigned k = 0; k < 4; k++) {
                const bool tracer_filtered = k & 1, target_filtered = k & 2;
                pid_t pid = fork();
                int status;

                if (pid == 0)
                        _exit(judge_late(tracer_filtered, target_filtered));
                g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
                g_assert_true(WIFEXITED(status));
                g_assert_cmpint(WEXITSTATUS(status), ==, target_filtered);
        }
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/seccomp-filter/jumps", test_jumps);
        g_test_add_func("/seccomp-filter/arithmetic", test_arithmetic);
        g_test_add_func("/seccomp-filter/malformed", test_malformed);
        g_test_add_func("/seccomp-guard", test_guard);
        g_test_add_func("/seccomp-late-filter", test_late_filter);
        return g_test_run();
}
