/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/seccomp-filter.h"
#include "tests/fuzz/fuzz.h"

/*
 * A seccomp filter and a call that it judges; where the running kernel takes the filter, a child makes the call under it, and
 * what becomes of it must be what the interpreter said. The input: a byte that chooses the call, 6 arguments of 8 bytes, then the
 * instructions: a byte that chooses the code (the last one: two more bytes are the code), jt, jf, and k in 4 bytes.
 */

#define PROGRAM_MAX 64U
#define ERRNO_MAX 4095U /* MAX_ERRNO of include/linux/err.h: what a filter answers beyond it is cut to that */

/* What the kernel's checker knows (seccomp_check_filter() of kernel/seccomp.c). */
static const uint16_t codes[] = {
        BPF_LD | BPF_W | BPF_ABS, BPF_LD | BPF_W | BPF_LEN, BPF_LDX | BPF_W | BPF_LEN, BPF_LD | BPF_IMM, BPF_LDX | BPF_IMM,
        BPF_LD | BPF_MEM, BPF_LDX | BPF_MEM, BPF_ST, BPF_STX, BPF_MISC | BPF_TAX, BPF_MISC | BPF_TXA, BPF_RET | BPF_K,
        BPF_RET | BPF_A, BPF_JMP | BPF_JA, BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JEQ | BPF_X, BPF_JMP | BPF_JGE | BPF_K,
        BPF_JMP | BPF_JGE | BPF_X, BPF_JMP | BPF_JGT | BPF_K, BPF_JMP | BPF_JGT | BPF_X, BPF_JMP | BPF_JSET | BPF_K,
        BPF_JMP | BPF_JSET | BPF_X, BPF_ALU | BPF_ADD | BPF_K, BPF_ALU | BPF_ADD | BPF_X, BPF_ALU | BPF_SUB | BPF_K,
        BPF_ALU | BPF_SUB | BPF_X, BPF_ALU | BPF_MUL | BPF_K, BPF_ALU | BPF_MUL | BPF_X, BPF_ALU | BPF_DIV | BPF_K,
        BPF_ALU | BPF_DIV | BPF_X, BPF_ALU | BPF_AND | BPF_K, BPF_ALU | BPF_AND | BPF_X, BPF_ALU | BPF_OR | BPF_K,
        BPF_ALU | BPF_OR | BPF_X, BPF_ALU | BPF_XOR | BPF_K, BPF_ALU | BPF_XOR | BPF_X, BPF_ALU | BPF_LSH | BPF_K,
        BPF_ALU | BPF_LSH | BPF_X, BPF_ALU | BPF_RSH | BPF_K, BPF_ALU | BPF_RSH | BPF_X, BPF_ALU | BPF_NEG,
};

/* Calls that take no argument and change nothing. */
static const int calls[] = {SYS_getpid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid};

typedef struct Trial {
        struct sock_filter program[PROGRAM_MAX];
        unsigned short n;
        int nr;
        uint64_t args[6];
        /* Written by the child, which shares this memory. */
        volatile bool taken, returned;
        volatile long plain, answer;
        volatile uint64_t ip;
} Trial;

/* The call, with the address of the instruction behind it, which the filter is told as well. */
static inline __attribute__((always_inline)) long call(const Trial *t, volatile uint64_t *ret_ip)
{
        register uint64_t r10 __asm__("r10") = t->args[3], r8 __asm__("r8") = t->args[4], r9 __asm__("r9") = t->args[5];
        uint64_t ip;
        long ret;

        __asm__ volatile("lea 1f(%%rip), %[ip]\n\t"
                         "mov %[ip], (%[where])\n\t"
                         "syscall\n"
                         "1:"
                         : "=a"(ret), [ip] "=&r"(ip)
                         : "a"((long) t->nr), "D"(t->args[0]), "S"(t->args[1]), "d"(t->args[2]), "r"(r10), "r"(r8), "r"(r9),
                         [where] "r"(ret_ip)
                         : "rcx", "r11", "memory");
        return ret;
}

/*
 * The child: its memory is the parent's, which waits, and it must end without a system call, also without one that a sanitizer
 * would make where it sees that a function does not return.
 */
__attribute__((no_sanitize("address", "undefined"))) static void try_it(Trial *t)
{
        const struct sock_fprog program = {t->n, t->program};
        const struct rlimit none = {};
        volatile uint64_t ignored;

        t->plain = call(t, &ignored);
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL); /* should it hang */
        (void) setrlimit(RLIMIT_CORE, &none);
        (void) signal(SIGSYS, SIG_DFL);
        (void) signal(SIGILL, SIG_DFL);
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                _exit(EXIT_SUCCESS);

        t->taken = true;
        t->answer = call(t, &t->ip);
        t->returned = true;
        __asm__ volatile("1: ud2\n\tjmp 1b");
}

static void check(const Trial *t, uint32_t said)
{
        uint32_t action = said & SECCOMP_RET_ACTION_FULL, data = MIN(said & SECCOMP_RET_DATA, ERRNO_MAX);

        switch (action) {
        case SECCOMP_RET_ALLOW:
        case SECCOMP_RET_LOG:
                FUZZ_CHECK(t->returned && t->answer == t->plain);
                return;
        case SECCOMP_RET_ERRNO:
                FUZZ_CHECK(t->returned && t->answer == -(long) data);
                return;
        case SECCOMP_RET_TRACE: /* nobody traces, nobody is to be asked */
        case SECCOMP_RET_USER_NOTIF:
                FUZZ_CHECK(t->returned && t->answer == -ENOSYS);
                return;
        default: /* killed, or SIGSYS, which ends it too */
                FUZZ_CHECK(!t->returned);
        }
}

static void compare_with_kernel(Trial *t)
{
        struct seccomp_data data = {.nr = t->nr, .arch = AUDIT_ARCH_X86_64};
        pid_t pid = vfork();

        FUZZ_CHECK(pid >= 0);
        if (pid == 0)
                try_it(t);
        FUZZ_CHECK(waitpid(pid, NULL, 0) == pid);
        if (!t->taken)
                return;

        data.instruction_pointer = t->ip;
        for (size_t i = 0; i < G_N_ELEMENTS(t->args); i++)
                data.args[i] = t->args[i];
        check(t, seccomp_filter_run(t->program, t->n, &data));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        FuzzInput in = {data, size};
        Trial t = {.nr = calls[fuzz_take(&in, 1) % G_N_ELEMENTS(calls)]};
        struct seccomp_data any = {.nr = t.nr, .arch = AUDIT_ARCH_X86_64};

        for (size_t i = 0; i < G_N_ELEMENTS(t.args); i++)
                any.args[i] = t.args[i] = fuzz_take(&in, 8);

        while (in.size > 0 && t.n < PROGRAM_MAX) {
                struct sock_filter *f = t.program + t.n++;
                uint64_t choice = fuzz_take(&in, 1);

                f->code = choice == 0xff ? (uint16_t) fuzz_take(&in, 2) : codes[choice % G_N_ELEMENTS(codes)];
                f->jt = (uint8_t) fuzz_take(&in, 1);
                f->jf = (uint8_t) fuzz_take(&in, 1);
                f->k = (uint32_t) fuzz_take(&in, 4);
        }

        (void) seccomp_filter_run(t.program, t.n, &any); /* also what the kernel does not take */
        compare_with_kernel(&t);
        return 0;
}
