/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>

#include "daemon/engine/arch.h"
#include "daemon/engine/kernel-fit.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/remfork.h"
#include "daemon/engine/tracee.h"
#include "daemon/target.h"

#define STOP_TIMEOUT_USEC (2 * G_USEC_PER_SEC)
#define VDSO_SIZE_MAX 65536U

int kernel_fit_find_vdso(const char *maps, uint64_t *ret_start, uint64_t *ret_end)
{
        static const char name[] = "[vdso]";

        for (const char *line = maps, *next; *line; line = next) {
                size_t length = strcspn(line, "\n");
                uint64_t start, end;
                int at = 0;

                next = line + length + (line[length] == '\n');
                /* A file may be called that, too, but its path, which is all of the rest, begins otherwise. */
                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*4s %*x %*x:%*x %*u %n", &start, &end, &at) == 2 && at > 0 &&
                    (size_t) at + strlen(name) == length && memcmp(line + at, name, strlen(name)) == 0) {
                        *ret_start = start;
                        *ret_end = end;
                        return 0;
                }
        }

        return -ENOENT;
}

/* The vDSO, which every process has, falls back on real calls: there is a syscall instruction in it, and nothing to write. */
static int find_syscall(Target *clone, uint64_t *ret)
{
        g_autofree char *maps = NULL;
        g_autofree uint8_t *code = NULL;
        uint64_t start, end;
        int r;

        r = target_read_file(clone, "maps", &maps, NULL);
        if (r >= 0)
                r = kernel_fit_find_vdso(maps, &start, &end);
        if (r < 0 || end - start > VDSO_SIZE_MAX)
                return r < 0 ? r : -ENOENT;

        code = g_malloc(end - start);
        r = memory_read(target_pid(clone), start, code, end - start);
        for (uint64_t i = 0; r >= 0 && i + ARCH_SYSCALL_SIZE <= end - start; i++)
                if (arch_is_syscall(code + i)) {
                        *ret = start + i;
                        return 0;
                }

        return r < 0 ? r : -ENOENT;
}

/* A clone, of which the main thread is traced; the others are held still. */
typedef struct Fitted {
        Target *clone;
        Tracee tracee;
        int hold; /* borrowed */
        const char *obstacle; /* as in FitoutMember */
        bool untraced; /* it waits where remfork(2) made it wait */
        struct user_regs_struct regs;
        uint64_t mask;
} Fitted;

struct KernelFit {
        Fitted *clones;
        size_t n;
};

static int fit_failed(const Fitted *c, int r, const char *what, CloneError *error)
{
        return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The clone %d %s: %s", (int) target_pid(c->clone), what, g_strerror(-r));
}

/* EXITKILL would end it with this process, and only what stands still can be detached from. */
static void spare_stranger(Tracee *t)
{
        StopKind kind;

        if (tracee_interrupt(t) < 0 || tracee_wait(t, PTRACE_CONT, false, STOP_TIMEOUT_USEC, &kind, NULL) < 0 || kind == STOP_EXITED)
                return;
        tracee_hide_eintr(t);
        (void) tracee_detach(t, 0); /* ESRCH: killed meanwhile */
}

/* Out of the hold, into a stop before its first instruction; its other threads wait on. */
static int stop_clone(Fitted *c, const KernelClone *from, CloneError *error)
{
        StopKind kind;
        int r;

        c->hold = from->hold;
        r = target_new_from_pidfd(&c->clone, from->pidfd, error);
        if (r < 0)
                return r;
        r = tracee_seize(&c->tracee, from->pid, PTRACE_O_EXITKILL, error);
        if (r < 0) {
                c->untraced = r == -EPERM;
                return r;
        }

        /* Only now: the PID may have become another's before it was seized. */
        if (target_pid(c->clone) != from->pid || target_check_alive(c->clone) < 0) {
                spare_stranger(&c->tracee);
                return clone_error_set(error, CLONE_ERROR_FAILED, ESRCH, "The clone %d ended before it was complete", (int) from->pid);
        }

        r = tracee_interrupt(&c->tracee); /* takes effect when it is let go */
        if (r >= 0 && ioctl(c->hold, REMFORK_IOC_RELEASE_MAIN, 0) < 0)
                r = -errno;
        if (r >= 0)
                r = tracee_wait(&c->tracee, PTRACE_CONT, false, STOP_TIMEOUT_USEC, &kind, NULL);
        if (r >= 0 && kind == STOP_EXITED)
                r = -ESRCH;
        return r < 0 ? fit_failed(c, r, "cannot be held", error) : 0;
}

/* What keeps a clone from being worked on, where it is to be given timers and no more: it goes without them. */
static int do_without(Fitted *c, FitoutMember *ret, int r, const char *obstacle, CloneError *error)
{
        if (r >= 0 || !obstacle)
                return r;

        clone_error_clear(error);
        *ret = (FitoutMember){.obstacle = c->obstacle = obstacle};
        return 0;
}

static int prepare(Fitted *c, FitoutMember *ret, CloneError *error)
{
        Tracee *t = &c->tracee;
        uint64_t syscall_at = 0;
        int r;

        r = find_syscall(c->clone, &syscall_at);
        if (r == -ENOENT)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has no vDSO with a system call in it, which its clone needs to be completed", (int) t->pid);
        if (r >= 0)
                r = tracee_get_regs(t, &c->regs);
        if (r >= 0 && arch_is_compat(&c->regs))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d runs 32-bit code, 64-bit code was expected where a clone is given descriptors or isolated",
                                (int) t->pid);
        if (r >= 0)
                r = tracee_get_mask(t, &c->mask);
        if (r >= 0)
                r = tracee_set_mask(t, UINT64_MAX);
        if (r < 0)
                return fit_failed(c, r, "cannot be completed", error);

        *ret = (FitoutMember){.tracee = t, .pidfd = target_pidfd(c->clone), .base = c->regs, .syscall_at = syscall_at};
        return 0;
}

static int restore(Fitted *c, CloneError *error)
{
        const Tracee *t = &c->tracee;
        int r;

        if (c->obstacle) /* nothing was changed */
                return 0;
        r = tracee_set_mask(t, c->mask);
        if (r >= 0)
                r = tracee_set_regs(t, &c->regs);
        return r < 0 ? fit_failed(c, r, "cannot be given back its registers", error) : 0;
}

int kernel_fit(KernelFit **ret, Fitout *f, const KernelClone *clones, size_t n, CloneError *error)
{
        g_autoptr(KernelFit) fit = g_new0(KernelFit, 1);
        g_autofree FitoutMember *members = g_new0(FitoutMember, n);
        int r = 0;

        fit->clones = g_new0(Fitted, n);
        fit->n = n;

        for (size_t k = 0; r >= 0 && k < n; k++) {
                Fitted *c = &fit->clones[k];
                bool is_optional = !fitout_has_work(f, k);

                r = stop_clone(c, &clones[k], error);
                if (r < 0) {
                        r = do_without(c, &members[k], r, is_optional && c->untraced ? "it cannot be traced" : NULL, error);
                        continue;
                }
                r = prepare(c, &members[k], error);
                r = do_without(c, &members[k], r, is_optional && r == -EOPNOTSUPP ? "it makes no 64-bit calls" : NULL, error);
        }
        if (r >= 0)
                r = fitout_apply(f, members, n, error);
        for (size_t k = 0; r >= 0 && k < n; k++)
                r = restore(&fit->clones[k], error);
        if (r < 0)
                return r;

        *ret = g_steal_pointer(&fit);
        return 0;
}

void kernel_unfit(const KernelFit *fit)
{
        /* The kernel looks for a call to restart, and for a stop in force, after the end of tracing. ESRCH: killed meanwhile, by somebody else. */
        for (size_t k = 0; k < fit->n; k++) {
                if (!fit->clones[k].untraced)
                        (void) tracee_detach(&fit->clones[k].tracee, 0);
                (void) ioctl(fit->clones[k].hold, REMFORK_IOC_RELEASE, 0); /* cannot fail on such a descriptor */
        }
}

KernelFit *kernel_fit_free(KernelFit *fit)
{
        if (!fit)
                return NULL;

        for (size_t k = 0; k < fit->n; k++)
                target_free(fit->clones[k].clone);
        g_free(fit->clones);
        g_free(fit);
        return NULL;
}
