/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "daemon/engine/arch.h"
#include "daemon/engine/tracee.h"
#include "daemon/util.h"

#define EVENT_OF(status) ((unsigned) (status) >> 16)

static long trace(int request, pid_t pid, unsigned long addr, unsigned long data)
{
        return ptrace((enum __ptrace_request) request, pid, addr, data) < 0 ? -errno : 0;
}

int tracee_seize(Tracee *t, pid_t pid, CloneError *error)
{
        int r;

        *t = (Tracee){.pid = pid, .options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC};

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

int tracee_interrupt(const Tracee *t)
{
        return (int) trace(PTRACE_INTERRUPT, t->pid, 0, 0);
}

int tracee_set_options(Tracee *t, uint64_t options)
{
        int r = (int) trace(PTRACE_SETOPTIONS, t->pid, 0, options);

        if (r >= 0)
                t->options = options;
        return r;
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

static uint64_t now_usec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
        return (uint64_t) ts.tv_sec * G_USEC_PER_SEC + (uint64_t) ts.tv_nsec / 1000;
}

/*
 * waitpid(2) with a time limit. A stop sends SIGCHLD to the tracer; blocked, it stays pending until sigtimedwait(2) takes
 * it, so none is missed between the look and the wait.
 */
static int wait_status(pid_t pid, uint64_t deadline_usec, int *ret)
{
        sigset_t chld, old;
        pid_t p;

        if (deadline_usec == 0)
                return RETRY_EINTR(waitpid(pid, ret, __WALL)) < 0 ? -errno : 0;

        (void) sigemptyset(&chld);
        (void) sigaddset(&chld, SIGCHLD);
        (void) sigprocmask(SIG_BLOCK, &chld, &old);

        while ((p = waitpid(pid, ret, __WALL | WNOHANG)) == 0) {
                uint64_t now = now_usec(), left = deadline_usec > now ? deadline_usec - now : 0;
                struct timespec ts = {.tv_sec = (time_t) (left / G_USEC_PER_SEC), .tv_nsec = (long) (left % G_USEC_PER_SEC) * 1000};

                if (left == 0)
                        break;
                (void) sigtimedwait(&chld, NULL, &ts); /* whatever it says, the loop looks again */
        }

        (void) sigprocmask(SIG_SETMASK, &old, NULL);
        return p < 0 ? -errno : p == 0 ? -ETIMEDOUT : 0;
}

int tracee_wait(Tracee *t, int resume, bool listen, uint64_t timeout_usec, StopKind *ret, int *ret_status)
{
        uint64_t deadline = timeout_usec > 0 ? now_usec() + timeout_usec : 0;

        for (;;) {
                int status, r;

                r = wait_status(t->pid, deadline, &status);
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
                        r = tracee_resume(t, resume, EVENT_OF(status) == 0 ? WSTOPSIG(status) : 0);
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
#define XFEATURE_TILE_DATA (1ULL << 18)

bool tracee_has_tiles(const Tracee *t)
{
        uint64_t area[(XSTATE_HEADER + 64) / sizeof(uint64_t)];
        struct iovec iov = {.iov_base = area, .iov_len = sizeof(area)};

        if (trace(PTRACE_GETREGSET, t->pid, NT_X86_XSTATE, (unsigned long) &iov) < 0 || iov.iov_len < sizeof(area))
                return false; /* a CPU without XSAVE has no tiles */

        return (area[XSTATE_HEADER / sizeof(uint64_t)] & XFEATURE_TILE_DATA) != 0;
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
