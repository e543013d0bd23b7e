/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <linux/audit.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/ptrace-seccomp.h"
#include "daemon/engine/seccomp-filter.h"

static bool allowed(const struct sock_filter *program, size_t n, const Instant *i)
{
        const struct seccomp_data calls[] = {
                {.nr = SYS_clone,
                                .arch = AUDIT_ARCH_X86_64,
                                .instruction_pointer = i->cave + 2,
                                .args = {CLONE_PARENT | CLONE_PTRACE | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, 0, 0,
                                                i->tid_cache.address}},
                {.nr = SYS_rt_sigprocmask, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = i->cave, .args = {2, i->cave, 0, 8}},
                {.nr = SYS_set_robust_list, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = i->cave + 2, .args = {i->robust_head, i->robust_size}},
                {.nr = SYS_gettid, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = i->cave + 2},
        };

        for (size_t k = 0; k < G_N_ELEMENTS(calls); k++) {
                uint32_t action = seccomp_filter_run(program, n, calls + k) & SECCOMP_RET_ACTION_FULL;

                if (action != SECCOMP_RET_ALLOW && action != SECCOMP_RET_LOG)
                        return false;
        }

        return true;
}

/* 1 where every filter allows the calls, 0 where one does not or cannot be read. */
static int all_allow(const Instant *i, const Tracee *t)
{
        for (unsigned long index = 0;; index++) {
                g_autofree struct sock_filter *program = NULL;
                long n;

                n = ptrace(PTRACE_SECCOMP_GET_FILTER, t->pid, index, NULL);
                if (n < 0)
                        return errno == ENOENT && index > 0; /* past the last one */

                program = g_new0(struct sock_filter, (size_t) n + 1);
                if (ptrace(PTRACE_SECCOMP_GET_FILTER, t->pid, index, program) != n || !allowed(program, (size_t) n, i))
                        return 0;
        }
}

/* What /proc says of the stopped task; true where that cannot be read. */
static bool is_under_seccomp(const Tracee *t)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/status", (int) t->pid), *status = NULL;
        const char *line = NULL;

        if (g_file_get_contents(path, &status, NULL, NULL))
                line = strstr(status, "\nSeccomp:\t");
        return !line || line[strlen("\nSeccomp:\t")] != '0';
}

/* EINVAL: it has no filter; a tracer without CAP_SYS_ADMIN, or under a filter of its own, is told EACCES in any case. */
bool ptrace_came_under_seccomp(const Tracee *t)
{
        if (ptrace(PTRACE_SECCOMP_GET_FILTER, t->pid, 0UL, NULL) >= 0)
                return true;
        return errno == EACCES ? is_under_seccomp(t) : errno != EINVAL;
}

int ptrace_pass_seccomp(const Instant *i, Tracee *t, int seccomp_mode, CloneError *error)
{
        /* Since the mode was read */
        if (seccomp_mode == 0 && ptrace_came_under_seccomp(t))
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Process %d came under seccomp while it was about to be cloned",
                                (int) t->pid);

        if (seccomp_mode == 0 || (seccomp_mode == 2 && all_allow(i, t)))
                return 0;

        if (tracee_set_options(t, t->options | PTRACE_O_SUSPEND_SECCOMP) >= 0)
                return 0;

        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                        "Process %d is under seccomp, which forbids it to be cloned, and the daemon lacks CAP_SYS_ADMIN to suspend that or is under seccomp itself",
                        (int) t->pid);
}

void seccomp_guard_begin(SeccompGuard *g, uint64_t limit_usec)
{
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
        const struct itimerspec limit = {
                .it_value = {(time_t) (limit_usec / G_USEC_PER_SEC), (long) (limit_usec % G_USEC_PER_SEC) * 1000},
        };
        sigset_t signals;

        /* First the limit: without one the signals go on to end this process at once. */
        g->timed = timer_create(CLOCK_MONOTONIC, &event, &g->timer) == 0;
        if (!g->timed || timer_settime(g->timer, 0, &limit, NULL) < 0)
                return;

        (void) sigemptyset(&signals);
        (void) sigaddset(&signals, SIGTERM);
        (void) sigaddset(&signals, SIGALRM);
        g->begun = sigprocmask(SIG_BLOCK, &signals, &g->mask) == 0;
}

void seccomp_guard_end(SeccompGuard *g)
{
        if (g->begun)
                (void) sigprocmask(SIG_SETMASK, &g->mask, NULL);
        if (g->timed)
                (void) timer_delete(g->timer);
        *g = (SeccompGuard){};
}
