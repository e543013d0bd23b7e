/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine/arch.h"
#include "daemon/engine/tracee.h"
#include "daemon/util.h"

#define EVENT_OF(status) ((unsigned) (status) >> 16)

static long trace(int request, pid_t pid, unsigned long addr, unsigned long data)
{
        return ptrace((enum __ptrace_request) request, pid, addr, data) < 0 ? -errno : 0;
}

#define GET_XCOMP_SUPPORT 0x1021 /* ARCH_GET_XCOMP_SUPP, arch/x86/include/uapi/asm/prctl.h of Linux 5.16 */
#define XFEATURE_TILE_DATA (1ULL << 18)

/* To look for tiles costs a copy of all vector registers, while the target waits. What a machine has stays. */
static bool tiles_possible(void)
{
        static enum { UNKNOWN, NO, YES } possible;
        uint64_t features;

        if (possible == UNKNOWN)
                possible = syscall(SYS_arch_prctl, GET_XCOMP_SUPPORT, &features) == 0 && (features & XFEATURE_TILE_DATA) != 0 ? YES : NO;
        return possible == YES;
}

/*
 * A stop sends SIGCHLD to the tracer. Blocked, it stays pending until sigtimedwait(2) takes it, so none is missed between a look and
 * the wait. From the first tracee on, as each call would be pause for the target; nothing else in this process heeds it.
 */
static void block_sigchld(sigset_t *ret)
{
        static bool done;

        (void) sigemptyset(ret);
        (void) sigaddset(ret, SIGCHLD);
        if (!done)
                done = sigprocmask(SIG_BLOCK, ret, NULL) == 0;
}

int tracee_seize(Tracee *t, pid_t pid, uint64_t options, CloneError *error)
{
        sigset_t chld;
        int r;

        block_sigchld(&chld);
        *t = (Tracee){.pid = pid, .tiles_possible = tiles_possible(), .options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | options};

        r = (int) trace(PTRACE_SEIZE, pid, 0, t->options);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "Process %d has ended", (int) pid);
        if (r == -EPERM) /* also what the kernel says of one that is traced; Target's status was read before */
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, EPERM,
                                "The kernel does not allow process %d to be traced: it is traced already, is exiting, or a security module refuses",
                                (int) pid);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "Process %d cannot be traced: %s", (int) pid, g_strerror(-r));

        return 0;
}

int tracee_interrupt(Tracee *t)
{
        t->interrupting = true;
        return (int) trace(PTRACE_INTERRUPT, t->pid, 0, 0);
}

int tracee_set_options(Tracee *t, uint64_t options)
{
        int r = (int) trace(PTRACE_SETOPTIONS, t->pid, 0, options);

        if (r >= 0)
                t->options = options;
        return r;
}

int tracee_peek(pid_t pid, int flags, int *ret)
{
        siginfo_t info = {};
        pid_t p;

        /* Without WSTOPPED: stops of what is traced are told all the same, those of mere children are not (kernel/exit.c: wait_task_stopped()). */
        if (RETRY_EINTR(waitid(pid > 0 ? P_PID : P_ALL, pid > 0 ? (id_t) pid : 0, &info, WEXITED | WNOWAIT | __WALL | flags)) < 0)
                return -errno;

        if (info.si_pid == 0 || info.si_code == CLD_TRAPPED) {
                *ret = info.si_status << 8 | 0x7f; /* si_status is the whole exit_code: signal and event */
                return info.si_pid;
        }

        p = RETRY_EINTR(waitpid(info.si_pid, ret, __WALL | WNOHANG));
        return p < 0 ? -errno : p;
}

bool tracee_is_signal(int status)
{
        return WIFSTOPPED(status) && EVENT_OF(status) == 0 && WSTOPSIG(status) != (SIGTRAP | 0x80);
}

int tracee_resume(const Tracee *t, int resume, int signal_number)
{
        return (int) trace(resume, t->pid, 0, (unsigned long) signal_number);
}

int tracee_listen(const Tracee *t)
{
        return (int) trace(PTRACE_LISTEN, t->pid, 0, 0);
}

int tracee_detach(const Tracee *t, int signal_number)
{
        return (int) trace(PTRACE_DETACH, t->pid, 0, (unsigned long) signal_number);
}

void tracee_leave(const Tracee *t)
{
        int status;

        /* Only what stands still can be detached from, and only then is it known whether a signal is to be passed on. */
        if (tracee_peek(t->pid, WNOHANG, &status) == t->pid && WIFSTOPPED(status))
                (void) tracee_detach(t, tracee_is_signal(status) ? WSTOPSIG(status) : 0); /* ESRCH: killed meanwhile */
}

/* To wake up a processor that fell asleep takes some 25 us in a virtual machine, each time, for which a stopped target waits. */
#define BUSY_NSEC 60000U

/* tracee_peek() that does not wait, or not for long. */
static int look_busily(const Tracee *t, int *ret)
{
        uint64_t begin = t->elsewhere ? monotonic_nsec() : 0;
        int p;

        do
                p = tracee_peek(t->pid, WNOHANG, ret);
        while (p == 0 && t->elsewhere && monotonic_nsec() - begin < BUSY_NSEC);
        return p;
}

/* tracee_peek() with a time limit. */
static int wait_status(const Tracee *t, uint64_t deadline_usec, int *ret)
{
        sigset_t chld;
        int p = 0;

        if (deadline_usec > 0 || t->elsewhere)
                p = look_busily(t, ret);
        if (p == 0 && deadline_usec == 0)
                p = tracee_peek(t->pid, 0, ret);
        if (p != 0)
                return p < 0 ? p : 0;

        for (block_sigchld(&chld); p == 0; p = tracee_peek(t->pid, WNOHANG, ret)) {
                uint64_t now = monotonic_nsec() / 1000, left = deadline_usec > now ? deadline_usec - now : 0;
                struct timespec ts = {.tv_sec = (time_t) (left / G_USEC_PER_SEC), .tv_nsec = (long) (left % G_USEC_PER_SEC) * 1000};

                if (left == 0)
                        break;
                (void) sigtimedwait(&chld, NULL, &ts); /* whatever it says, the loop looks again */
        }

        return p < 0 ? p : p == 0 ? -ETIMEDOUT : 0;
}

int tracee_wait(Tracee *t, int resume, bool listen, uint64_t timeout_usec, StopKind *ret, int *ret_status)
{
        uint64_t deadline = timeout_usec > 0 ? (monotonic_nsec() / 1000) + timeout_usec : 0;

        for (;;) {
                int status, r;

                r = wait_status(t, deadline, &status);
                if (r < 0)
                        return r;

                if (!WIFSTOPPED(status)) {
                        *ret = STOP_EXITED;
                        if (ret_status)
                                *ret_status = status;
                        return 0;
                }

                if (EVENT_OF(status) == PTRACE_EVENT_STOP) {
                        /* ptrace(2): SIGTRAP for a trap of the tracer's, else the signal of the group stop in force. */
                        t->group_stop = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
                        t->interrupting = false;
                        if (t->group_stop == 0 || !listen) {
                                *ret = STOP_INTERRUPT;
                                return 0;
                        }
                        r = tracee_listen(t);
                } else if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
                        *ret = STOP_SYSCALL;
                        return 0;
                } else {
                        tracee_hide_eintr(t);
                        t->executed |= EVENT_OF(status) == PTRACE_EVENT_EXEC;
                        if (t->interrupting) /* every stop takes back an interrupt that is on its way (kernel/signal.c: ptrace_stop()) */
                                (void) tracee_interrupt(t);
                        r = tracee_resume(t, resume, tracee_is_signal(status) ? WSTOPSIG(status) : 0);
                }

                if (r < 0 && r != -ESRCH) /* ESRCH: killed meanwhile, the next wait tells */
                        return r;
        }
}

int tracee_get_regs(const Tracee *t, struct user_regs_struct *ret)
{
        struct iovec iov = {.iov_base = ret, .iov_len = sizeof(*ret)};
        int r = (int) trace(PTRACE_GETREGSET, t->pid, NT_PRSTATUS, (unsigned long) &iov);

        /* A task in 32-bit mode has a shorter set: its cs cannot be read that way, so the old request tells. */
        if (r >= 0 && iov.iov_len != sizeof(*ret))
                r = (int) trace(PTRACE_GETREGS, t->pid, 0, (unsigned long) ret);
        return r;
}

int tracee_set_regs(const Tracee *t, const struct user_regs_struct *regs)
{
        struct user_regs_struct copy = *regs;
        struct iovec iov = {.iov_base = &copy, .iov_len = sizeof(copy)};

        return (int) trace(PTRACE_SETREGSET, t->pid, NT_PRSTATUS, (unsigned long) &iov);
}

void tracee_hide_eintr(const Tracee *t)
{
        struct user_regs_struct regs;

        if (tracee_get_regs(t, &regs) >= 0 && !arch_is_compat(&regs) && arch_hide_spurious_eintr(&regs))
                (void) tracee_set_regs(t, &regs);
}

#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211 /* include/uapi/linux/ptrace.h of Linux 6.4 */

bool tracee_has_dispatch(const Tracee *t)
{
        struct {
                uint64_t mode, selector, offset, len;
        } config = {};

        return trace(GET_SYSCALL_USER_DISPATCH_CONFIG, t->pid, sizeof(config), (unsigned long) &config) >= 0 && config.mode != 0;
}

#define XSTATE_HEADER 512U /* the XSAVE header follows the legacy area; its first word has a bit for each component in use */

bool tracee_xstate_has_tiles(const void *xstate, size_t size)
{
        uint64_t features;

        if (size < XSTATE_HEADER + sizeof(features))
                return false;
        memcpy(&features, (const char *) xstate + XSTATE_HEADER, sizeof(features));
        return (features & XFEATURE_TILE_DATA) != 0;
}

bool tracee_has_tiles(const Tracee *t)
{
        uint64_t area[(XSTATE_HEADER + 64) / sizeof(uint64_t)];
        struct iovec iov = {.iov_base = area, .iov_len = sizeof(area)};

        if (!t->tiles_possible || trace(PTRACE_GETREGSET, t->pid, NT_X86_XSTATE, (unsigned long) &iov) < 0 || iov.iov_len < sizeof(area))
                return false; /* a CPU without XSAVE has no tiles */

        return tracee_xstate_has_tiles(area, sizeof(area));
}

int tracee_get_xstate(const Tracee *t, void *buffer, size_t max, size_t *ret_size)
{
        struct iovec iov = {.iov_base = buffer, .iov_len = max};
        int r = (int) trace(PTRACE_GETREGSET, t->pid, NT_X86_XSTATE, (unsigned long) &iov);

        *ret_size = iov.iov_len;
        return r < 0 ? r : iov.iov_len < max ? 0 : -EMSGSIZE;
}

int tracee_set_xstate(const Tracee *t, const void *buffer, size_t size)
{
        struct iovec iov = {.iov_base = (void *) buffer, .iov_len = size};

        return (int) trace(PTRACE_SETREGSET, t->pid, NT_X86_XSTATE, (unsigned long) &iov);
}

int tracee_get_mask(const Tracee *t, uint64_t *ret)
{
        return (int) trace(PTRACE_GETSIGMASK, t->pid, sizeof(*ret), (unsigned long) ret);
}

int tracee_set_mask(const Tracee *t, uint64_t mask)
{
        return (int) trace(PTRACE_SETSIGMASK, t->pid, sizeof(mask), (unsigned long) &mask);
}

static bool syscall_info(const Tracee *t, struct __ptrace_syscall_info *ret)
{
        *ret = (struct __ptrace_syscall_info){};
        return ptrace(PTRACE_GET_SYSCALL_INFO, t->pid, sizeof(*ret), ret) > 0;
}

int tracee_exit_result(const Tracee *t, long *ret)
{
        struct __ptrace_syscall_info info;

        if (!syscall_info(t, &info))
                return -errno;
        if (info.op != PTRACE_SYSCALL_INFO_EXIT)
                return -EAGAIN;

        *ret = (long) info.exit.rval;
        return 0;
}

bool tracee_at_entry(const Tracee *t)
{
        struct __ptrace_syscall_info info;

        return syscall_info(t, &info) && (info.op == PTRACE_SYSCALL_INFO_ENTRY || info.op == PTRACE_SYSCALL_INFO_SECCOMP);
}

bool tracee_at_native_entry(const Tracee *t)
{
        struct __ptrace_syscall_info info;

        return syscall_info(t, &info) && info.op == PTRACE_SYSCALL_INFO_ENTRY && info.arch == AUDIT_ARCH_X86_64 &&
               (info.entry.nr & 0x40000000U) == 0; /* x32 has numbers of its own */
}

void tracee_kill(const Tracee *t)
{
        int status;

        /* PTRACE_KILL asks for no more right than tracing; where the task is gone already the wait says so. */
        (void) trace(PTRACE_KILL, t->pid, 0, 0);
        while (RETRY_EINTR(waitpid(t->pid, &status, __WALL)) == t->pid && WIFSTOPPED(status))
                (void) trace(PTRACE_KILL, t->pid, 0, 0);
}
