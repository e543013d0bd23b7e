/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>
#include <stddef.h>
#include <sys/syscall.h>

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

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/seccomp-filter/jumps", test_jumps);
        g_test_add_func("/seccomp-filter/arithmetic", test_arithmetic);
        g_test_add_func("/seccomp-filter/malformed", test_malformed);
        return g_test_run();
}
