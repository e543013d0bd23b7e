/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/arch.h"

static void test_settle(void)
{
        static const struct {
                long orig_rax, rax;
                long settled_rax;
                int rewound;
        } cases[] = {
                {-1, 7, 7, 0},
                {SYS_read, 10, 10, 0},
                {SYS_read, -EINTR, -EINTR, 0},
                {SYS_read, -ARCH_ERESTARTSYS, SYS_read, 2},
                {SYS_futex, -ARCH_ERESTARTNOINTR, SYS_futex, 2},
                {SYS_pause, -ARCH_ERESTARTNOHAND, SYS_pause, 2},
                {SYS_nanosleep, -ARCH_ERESTART_RESTARTBLOCK, SYS_restart_syscall, 2},
                {-1, -ARCH_ERESTARTSYS, -ARCH_ERESTARTSYS, 0}, /* a program may have any number in rax */
        };

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                struct user_regs_struct r = {.rip = 0x1000, .rdi = 5};

                r.orig_rax = (unsigned long long) cases[i].orig_rax;
                r.rax = (unsigned long long) cases[i].rax;
                r = arch_settle(&r);
                g_assert_cmpint((long) r.rax, ==, cases[i].settled_rax);
                g_assert_cmpint(r.rip, ==, 0x1000 - cases[i].rewound);
                g_assert_cmpint((long) r.orig_rax, ==, -1);
                g_assert_cmpint(r.rdi, ==, 5);
        }
}

static bool hides(long nr, long rax)
{
        struct user_regs_struct r = {.orig_rax = (unsigned long long) nr, .rax = (unsigned long long) rax};
        bool changed = arch_hide_spurious_eintr(&r);

        g_assert_cmpint((long) r.rax, ==, changed ? -ARCH_ERESTARTNOHAND : rax);
        return changed;
}

static void test_spurious_eintr(void)
{
        static const long restarted[] = {SYS_epoll_wait, SYS_epoll_pwait, SYS_rt_sigtimedwait, SYS_semtimedop, SYS_recvfrom,
                        SYS_accept, SYS_io_getevents};

        for (size_t i = 0; i < G_N_ELEMENTS(restarted); i++)
                g_assert_true(hides(restarted[i], -EINTR));

        g_assert_false(hides(SYS_close, -EINTR)); /* the descriptor is gone: a second close could hit another's */
        g_assert_false(hides(SYS_epoll_wait, -EBADF));
        g_assert_false(hides(SYS_epoll_wait, 1));
        g_assert_false(hides(-1, -EINTR));
}

typedef struct FakeMemory {
        uint64_t address, word;
} FakeMemory;

static int fake_read(uint64_t address, uint64_t *ret, void *userdata)
{
        for (const FakeMemory *m = userdata; m->address; m++)
                if (m->address == address) {
                        *ret = m->word;
                        return 0;
                }

        return -EFAULT;
}

static void test_find_tid(void)
{
        const struct user_regs_struct r = {.fs_base = 0x7000};
        FakeMemory glibc[] = {{0x7000, 0x7000}, {0x72d0, 42}, {}};
        FakeMemory musl[] = {{0x7000, 0x7000}, {0x7030, 42}, {}};
        FakeMemory other[] = {{0x7000, 0x1234}, {0x7030, 42}, {0x72d0, 42}, {}};
        ArchTid t;

        t = arch_find_tid(&r, 42, fake_read, glibc);
        g_assert_cmphex(t.address, ==, 0x72d0);
        g_assert_true(t.clear);

        /* The ID is another's: nothing may be written there. */
        g_assert_cmphex(arch_find_tid(&r, 43, fake_read, glibc).address, ==, 0);

        t = arch_find_tid(&r, 42, fake_read, musl);
        g_assert_cmphex(t.address, ==, 0x7030);
        g_assert_false(t.clear);

        g_assert_cmphex(arch_find_tid(&r, 42, fake_read, other).address, ==, 0);
}

static int read_file(uint64_t address, uint64_t *ret, void *userdata)
{
        const int *fd = userdata;

        return pread(*fd, ret, sizeof(*ret), (off_t) address) == sizeof(*ret) ? 0 : -EFAULT;
}

/* glibc's layout as it is here: the table above is a fact about libc, which this holds against the one in use. */
static void test_find_tid_here(void)
{
        struct user_regs_struct r = {};
        uint64_t thread_pointer;
        int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
        ArchTid t;
        int tid;

        __asm__("mov %%fs:0, %0" : "=r"(thread_pointer));
        r.fs_base = thread_pointer;

        t = arch_find_tid(&r, getpid(), read_file, &fd);
        g_assert_true(t.clear);
        memcpy(&tid, (void *) (uintptr_t) t.address, sizeof(tid));
        g_assert_cmpint(tid, ==, getpid());
        close(fd);
}

static uint64_t random_word(void)
{
        return (uint64_t) g_test_rand_int() << 32 | (uint32_t) g_test_rand_int();
}

static void test_is_gadget(void)
{
        const struct user_regs_struct back = {.rip = random_word(), .rax = random_word()};
        uint8_t code[ARCH_GADGET_SIZE] = {};

        g_assert_false(arch_is_gadget(code));
        g_assert_cmpuint(arch_build_gadget(code, &back, random_word()), <=, sizeof(code));
        g_assert_true(arch_is_gadget(code));
        code[2] ^= 1;
        g_assert_false(arch_is_gadget(code));

        g_assert_cmpuint(arch_build_closing(code, &back, random_word(), 4096), <=, sizeof(code));
        g_assert_true(arch_is_gadget(code) && arch_is_closing(code));
        code[4] ^= 1;
        g_assert_false(arch_is_gadget(code) || arch_is_closing(code));

        g_assert_cmpuint(arch_build_errand(code, &back, random_word()), <=, sizeof(code));
        g_assert_false(arch_is_closing(code));
        g_assert_true(arch_is_gadget(code));
        code[7] ^= 1;
        g_assert_false(arch_is_gadget(code));
}

/* A traced child that can be given any registers. Two pages shared with it: code, and the int3 that it comes to. */
static pid_t start_puppet(void)
{
        pid_t pid = fork();
        int status;

        g_assert_cmpint(pid, >=, 0);
        if (pid == 0) {
                ptrace(PTRACE_TRACEME, 0, NULL, NULL);
                raise(SIGSTOP);
                _exit(99);
        }
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFSTOPPED(status));
        return pid;
}

#define COMPARED(X) X(r15) X(r14) X(r13) X(r12) X(rbp) X(rbx) X(r11) X(r10) X(r9) X(r8) X(rax) X(rcx) X(rdx) X(rsi) X(rdi) X(rsp) X(eflags)

static void run_gadget(uint8_t *page, long nr, int *ret_status, struct user_regs_struct *back, struct user_regs_struct *got, uint64_t mask)
{
        static const uint64_t none[5];
        const uint64_t address = (uint64_t) (uintptr_t) page;
        pid_t pid = start_puppet();
        struct user_regs_struct r;
        uint64_t got_mask;

        g_assert_cmpint(ptrace(PTRACE_GETREGS, pid, NULL, back), ==, 0);
        back->rip = address + 2048;
        back->eflags = (back->eflags & ~0xcd5ULL) | (random_word() & 0xcd5); /* CF PF AF ZF SF DF OF */
        back->rax = random_word();
        back->rcx = random_word();
        back->rdx = random_word();
        back->rsi = random_word();
        back->rdi = random_word();
        back->r8 = random_word();
        back->r9 = random_word();
        back->r10 = random_word();
        back->r11 = random_word();
        arch_build_gadget(page, back, mask);
        page[2048] = 0xcc;

        r = arch_call_regs(back, address, nr, none);
        g_assert_cmpint(ptrace(PTRACE_SETREGS, pid, NULL, &r), ==, 0);
        g_assert_cmpint(ptrace(PTRACE_CONT, pid, NULL, NULL), ==, 0);
        g_assert_cmpint(waitpid(pid, ret_status, 0), ==, pid);
        if (WIFSTOPPED(*ret_status)) {
                g_assert_cmpint(WSTOPSIG(*ret_status), ==, SIGTRAP);
                g_assert_cmpint(ptrace(PTRACE_GETREGS, pid, NULL, got), ==, 0);
                g_assert_cmpint(ptrace(PTRACE_GETSIGMASK, pid, sizeof(got_mask), &got_mask), ==, 0);
                g_assert_cmphex(got_mask, ==, mask);
                kill(pid, SIGKILL);
                g_assert_cmpint(waitpid(pid, ret_status, 0), ==, pid);
        }
}

static void test_gadget(void)
{
        struct user_regs_struct back, got = {};
        uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        int status;

        g_assert_true(page != MAP_FAILED);

        for (int i = 0; i < 200; i++) {
                /* SIGKILL and SIGSTOP cannot be blocked, SIGTRAP ends the run. */
                uint64_t mask = random_word() & ~((1ULL << (SIGKILL - 1)) | (1ULL << (SIGSTOP - 1)) | (1ULL << (SIGTRAP - 1)));

                /* getpid() stands for a clone() that gives a PID: the way back of the target. */
                run_gadget(page, SYS_getpid, &status, &back, &got, mask);
                g_assert_true(WIFSIGNALED(status));
#define COMPARE(field) g_assert_cmphex(got.field, ==, back.field);
                COMPARED(COMPARE)
#undef COMPARE
                g_assert_cmphex(got.rip, ==, back.rip + 1);
        }

        /* An error is not 0 either: clone() that fails lets the target go on. */
        run_gadget(page, 100000, &status, &back, &got, 0);
        g_assert_true(WIFSIGNALED(status));
        g_assert_cmphex(got.rax, ==, back.rax);

        /* sched_yield() gives 0, as clone() does in the clone: alone, it ends. */
        run_gadget(page, SYS_sched_yield, &status, &back, &got, 0);
        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, 0);
        munmap(page, 4096);
}

/* The number of the call that is made again: from the register, from the code, from the arguments. */
static void test_begin_anew(void)
{
        static const uint8_t poll_code[] = {0x90, 0xb8, SYS_poll, 0, 0, 0, 0x48, 0x89, 0xf7, 0x0f, 0x05};
        static const uint8_t no_code[16], other[] = {0xb8, SYS_read, 0, 0, 0, 0x0f, 0x05};
        static const uint8_t two[] = {0xb8, SYS_poll, 0, 0, 0, 0x0f, 0x05, 0xb8, SYS_futex, 0, 0, 0, 0x0f, 0x05};
        static const struct {
                long nr;
                const uint8_t *code;
                size_t n;
                uint64_t args[4];
                long expected; /* -1: left alone */
        } cases[] = {
                {SYS_nanosleep, no_code, sizeof(no_code), {0x7000, 0}, SYS_nanosleep},
                {SYS_restart_syscall, poll_code, sizeof(poll_code), {0x7000, 1, 1000}, SYS_poll},
                {SYS_restart_syscall, two, sizeof(two), {0x7000, 1, 1000}, SYS_futex},
                {SYS_restart_syscall, no_code, sizeof(no_code), {0, 0, 0x7000, 0x8000}, SYS_clock_nanosleep},
                {SYS_restart_syscall, other, sizeof(other), {0x7000, 0, 0, 0}, SYS_nanosleep},
                {SYS_restart_syscall, no_code, sizeof(no_code), {0x7000, 0x8000, 0, 0}, SYS_nanosleep},
                {SYS_restart_syscall, no_code, sizeof(no_code), {0x7000, 128, 2, 0x8000}, SYS_futex},
                {SYS_restart_syscall, no_code, sizeof(no_code), {0x7000, 3, 1000, 0}, SYS_poll},
                {SYS_restart_syscall, no_code, 0, {0, 0, 0, 0}, -1},
        };

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                struct user_regs_struct r = {.orig_rax = (unsigned long long) cases[i].nr, .rax = (unsigned long long) -ARCH_ERESTART_RESTARTBLOCK,
                        .rip = 0x1000, .rdi = cases[i].args[0], .rsi = cases[i].args[1], .rdx = cases[i].args[2], .r10 = cases[i].args[3]};
                bool done = arch_begin_anew(&r, cases[i].code, cases[i].n);

                g_test_message("case %zu", i);
                g_assert_cmpint(done, ==, cases[i].expected >= 0);
                g_assert_cmpint((long) r.orig_rax, ==, done ? cases[i].expected : cases[i].nr);
                g_assert_cmpint((long) r.rax, ==, done ? -ARCH_ERESTARTNOHAND : -ARCH_ERESTART_RESTARTBLOCK);
                g_assert_cmpint(r.rip, ==, 0x1000);
        }
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/arch/settle", test_settle);
        g_test_add_func("/arch/spurious-eintr", test_spurious_eintr);
        g_test_add_func("/arch/begin-anew", test_begin_anew);
        g_test_add_func("/arch/find-tid", test_find_tid);
        g_test_add_func("/arch/find-tid-here", test_find_tid_here);
        g_test_add_func("/arch/is-gadget", test_is_gadget);
        g_test_add_func("/arch/gadget", test_gadget);
        return g_test_run();
}
