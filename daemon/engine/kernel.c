/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/fds.h"
#include "daemon/engine/fitout.h"
#include "daemon/engine/kernel-call.h"
#include "daemon/engine/kernel-fit.h"
#include "daemon/engine/kernel-pidns.h"
#include "daemon/engine/kernel-tids.h"
#include "daemon/engine/kernel-timers.h"
#include "daemon/engine/kernel-tree.h"
#include "daemon/engine/notes.h"
#include "daemon/engine/remfork.h"
#include "daemon/engine/watched.h"
#include "daemon/pidfd.h"
#include "daemon/util.h"

#define END_USEC (1U * G_USEC_PER_SEC) /* what is killed ends in a millisecond, unless its control group is frozen */

long kernel_remfork(int pidfd, struct remfork_args *args)
{
        long r = syscall(SYS_REMFORK, pidfd, args, sizeof(*args));

        return r < 0 ? -errno : r;
}

static int kernel_probe(CloneError *error)
{
        int r = remfork_probe();

        if (r >= 0)
                return 0;
        if (r == -EINVAL || r == -E2BIG)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EINVAL, "The remfork(2) of this kernel is older than this remforkd");
        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, -r, "This kernel has no remfork(2)");
}

uint32_t engine_kernel_interface(void)
{
        uint64_t words[512] = {UINT64_MAX}; /* a page, which no argument struct exceeds; the flags are refused */
        size_t n = sizeof(struct remfork_args) / sizeof(uint64_t);

        /* copy_struct_from_user() refuses with E2BIG what is not zero behind the struct that the kernel knows. */
        for (; n < G_N_ELEMENTS(words); n++) {
                words[n] = UINT64_MAX;
                if (syscall(SYS_REMFORK, -1, words, (n + 1) * sizeof(uint64_t)) < 0 && errno != EINVAL)
                        return errno == E2BIG ? (uint32_t) (n * sizeof(uint64_t)) : 0;
                words[n] = 0;
        }

        return sizeof(words);
}

/* The errnos of kernel-patch/remfork.2 in the words of the bus. */
int kernel_failed(Target *target, const CloneSpec *spec, long r, CloneError *error)
{
        static const struct {
                int error_number;
                CloneErrorCode code;
                const char *what;
        } table[] = {
                {EPERM, CLONE_ERROR_ACCESS_DENIED, "CAP_CHECKPOINT_RESTORE is missing over its user namespace"},
                {EACCES, CLONE_ERROR_ACCESS_DENIED, "the kernel's rule for ptrace, or a security module, denies it"},
                {ESRCH, CLONE_ERROR_NO_SUCH_PROCESS, "it has ended, or is ending"},
                {EDEADLK, CLONE_ERROR_UNSUPPORTED, "it is the one that asks"},
                {ENXIO, CLONE_ERROR_UNSUPPORTED, "it is a kernel thread"},
                {ECHILD, CLONE_ERROR_UNSUPPORTED, "it is the init of its PID namespace, and has no parent that a clone could share"},
                {EBUSY, CLONE_ERROR_BUSY, "it is traced by another process"},
                {EINPROGRESS, CLONE_ERROR_UNSUPPORTED, "it is inside vfork()"},
                {EALREADY, CLONE_ERROR_BUSY, "another request waits for it"},
                {EOPNOTSUPP, CLONE_ERROR_UNSUPPORTED, "it has AMX tile data, or a thread with something that one of a clone cannot be given"},
                {EAGAIN, CLONE_ERROR_LIMITS_EXCEEDED, "its RLIMIT_NPROC or its control group's pids.max is reached"},
                {EEXIST, CLONE_ERROR_UNSUPPORTED, "its clone cannot have its number, or that of a thread, in the new PID namespace"},
                {ENOSPC, CLONE_ERROR_LIMITS_EXCEEDED, "remforkd may have no more namespaces (user.max_uts_namespaces of sysctl)"},
                {E2BIG, CLONE_ERROR_LIMITS_EXCEEDED, "it has too many threads or timers"},
                {ENOMEM, CLONE_ERROR_LIMITS_EXCEEDED, "there is not enough memory"},
                {EBADF, CLONE_ERROR_INVALID_ARGS, "a descriptor that its clone is to be given is beyond its RLIMIT_NOFILE"},
                {ETIMEDOUT, CLONE_ERROR_TIMEOUT, "it made no system call in time, or it, or one of its threads, is frozen or in uninterruptible sleep"},
        };

        if (r == -EOPNOTSUPP && spec->threads == CLONE_THREADS_ALL && error) {
                kernel_name_odd_thread(target, error);
                if (error->code != CLONE_ERROR_NONE)
                        return (int) r;
        }
        for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
                if (table[i].error_number == -r)
                        return clone_error_set(error, table[i].code, (int) -r, "Process %d cannot be cloned: %s",
                                        (int) target_pid(target), table[i].what);

        return clone_error_set(error, CLONE_ERROR_FAILED, (int) -r, "remfork() of process %d (%s) failed: %s",
                        (int) target_pid(target), spec->trigger == CLONE_TRIGGER_SYSCALL ? "at its next call" : "at once",
                        g_strerror((int) -r));
}

/*
 * The clones of a request, each held by a descriptor of this process: the kernel kills a clone that was not let go when the
 * last copy of its descriptor is closed, so also when this process is killed. Nothing of the hold can be seen in the clone.
 */
typedef struct Batch {
        pid_t pids[CLONE_COUNT_MAX];
        int pidfds[CLONE_COUNT_MAX];
        int holds[CLONE_COUNT_MAX];
        KernelFit *fits[CLONE_COUNT_MAX]; /* of those that were completed */
        size_t n;
        bool released;
        KernelPidns pidns;
} Batch;

void kernel_destroy(const pid_t *pids, const int *pidfds, size_t n)
{
        for (size_t i = 0; i < n; i++)
                (void) pidfd_end(pidfds[i]); /* it cannot be refused: this process could clone it */
        pidfds_await_end(pidfds, n, END_USEC);
        for (size_t i = 0; i < n; i++)
                (void) waitpid(pids[i], NULL, __WALL | WNOHANG); /* ECHILD: no child or tracee of this process, which would hide its end */
}

static void batch_free(Batch *b)
{
        if (b && !b->released) /* one that was completed is held by its tracer alone */
                kernel_destroy(b->pids, b->pidfds, b->n);
        if (b)
                kernel_pidns_clear(&b->pidns);
        for (size_t i = 0; b && i < b->n; i++) {
                safe_close(b->holds[i]);
                safe_close(b->pidfds[i]);
                kernel_fit_free(b->fits[i]);
        }
        g_free(b);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Batch, batch_free)

static void batch_release(Batch *b)
{
        for (size_t i = 0; i < b->n; i++)
                if (b->fits[i])
                        kernel_unfit(b->fits[i]);
                else
                        (void) ioctl(b->holds[i], REMFORK_IOC_RELEASE, 0); /* cannot fail on such a descriptor */
        b->released = true;
}

static int check_status(Target *target, const CloneSpec *spec, TargetStatus *ret, CloneError *error)
{
        int r = target_read_status(target, ret);

        if (r < 0)
                return clone_error_set(error, r == -ESRCH ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                                "The status of process %d cannot be read: %s", (int) target_pid(target), g_strerror(-r));
        r = engine_check_status(target, ret, spec, error);
        return r < 0 ? r : kernel_pidns_check(target, ret, spec, error);
}

/* How long the target may take to come to its trigger, in ns. 0: as long as the request lives. */
static uint64_t trigger_timeout(const CloneSpec *spec)
{
        uint64_t usec = spec->timeout_usec;

        if (spec->trigger == CLONE_TRIGGER_IMMEDIATE)
                usec = engine_stop_timeout_usec(spec);
        return usec > UINT64_MAX / 1000 ? UINT64_MAX : usec * 1000;
}

/* A group or session that the target leads has its number, so that its clone leads one of that number; others have none there. */
static uint64_t leader_flags(const CloneSpec *spec, const TargetStatus *status, pid_t target)
{
        if (spec->session)
                return 0;
        return status->session == target ? REMFORK_NEW_SESSION : status->group == target ? REMFORK_NEW_PGRP : 0;
}

/*
 * Clone number 0 comes of the target. The others are copies of the first, which is held meanwhile, so that all are of one
 * instant and the target pays for one.
 */
static int make_one(Batch *b, Target *target, const CloneSpec *spec, uint64_t flags, Fitout *fitout, EngineResult *ret, CloneError *error)
{
        g_auto(KernelLists) lists = {};
        bool first = b->n == 0;
        struct remfork_times times = {};
        struct remfork_fd fds[CLONE_FDS_MAX];
        size_t n_fds = first ? fds_to_remfork(spec->fds, fds) : 0; /* the others have those of the first */
        int pidfd = -EBADF, hold = -EBADF;
        struct remfork_args args = {
                .flags = flags | REMFORK_PIDFD | REMFORK_TIMES | REMFORK_HOLD | REMFORK_TIDS | REMFORK_MARKED | (spec->stopped ? REMFORK_STOPPED : 0) |
                         (spec->threads == CLONE_THREADS_ALL ? REMFORK_THREADS : 0) |
                         (spec->parent == CLONE_PARENT_DAEMON ? REMFORK_PARENT_REQUESTER : 0) |
                         (first && spec->trigger == CLONE_TRIGGER_SYSCALL ? REMFORK_SYSCALL : 0) | (first ? REMFORK_TIMERS : 0),
                .timeout = first ? trigger_timeout(spec) : 0,
                .fds = n_fds > 0 ? (uint64_t) (uintptr_t) fds : 0,
                .nr_fds = n_fds,
                .pidfd = (uint64_t) (uintptr_t) &pidfd,
                .times = (uint64_t) (uintptr_t) &times,
                .hold = (uint64_t) (uintptr_t) &hold,
                .pause = spec->threads == CLONE_THREADS_ALL ? engine_stop_timeout_usec(spec) * 1000 : 0,
                .pidns = b->pidns.pid ? (uint64_t) b->pidns.pidfd : 0,
        };
        long pid = kernel_remfork_with_lists(first ? target_pidfd(target) : b->pidfds[0], &args, &lists);

        if (pid < 0)
                return kernel_failed(target, spec, pid, error);

        b->pids[b->n] = (pid_t) pid;
        b->holds[b->n] = hold;
        b->pidfds[b->n++] = pidfd;
        if (first) {
                ret->pause_nsec = times.copied - times.trigger;
                kernel_timers_take(fitout_timers(fitout, 0), lists.timers);
        }
        return kernel_adopt_tids(lists.tids, error);
}

/*
 * remfork(2) judges this process's right, not the requester's, and waits while the target may call execve(). So what is
 * judged is the clone itself, which has not run yet and is what the target was at that instant.
 */
static int judge_clone(const Batch *b, const EngineHandler *handler, CloneError *error)
{
        g_autoptr(Target) clone = NULL;
        int r;

        r = target_new_from_pidfd(&clone, b->pidfds[0], error);
        return r < 0 ? r : handler->judge(clone, handler->userdata, error);
}

NotesLack kernel_lacks(const CloneSpec *spec, const TargetStatus *status)
{
        return spec->threads == CLONE_THREADS_ALL || status->threads <= 1 ? 0 : NOTES_MARKS;
}

static int kernel_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error)
{
        g_autoptr(Fitout) fitout = NULL;
        g_autoptr(Batch) b = g_new0(Batch, 1);
        TargetStatus status;
        uint64_t flags = 0;
        int r;

        b->pidns = KERNEL_PIDNS_NONE;
        *ret = (EngineResult){};
        if (spec->tree)
                return kernel_tree_clone(target, spec, handler, ret, error);
        r = check_status(target, spec, &status, error);
        if (r >= 0)
                notes_tell(target, spec, handler, kernel_lacks(spec, &status));
        if (r >= 0)
                r = fitout_new(&fitout, &target, &(const TargetStatus *){&status}, &(const CloneFds *){spec->fds}, 1, spec, handler, FITOUT_PASSES_FDS | FITOUT_TELLS_TIMERS, error);
        if (r >= 0)
                fitout_capture(fitout);
        if (r >= 0)
                r = kernel_pidns_new(&b->pidns, spec, error);
        if (r >= 0 && spec->same_pids)
                flags = REMFORK_SAME_PIDS | leader_flags(spec, &status, target_pid(target));
        while (r >= 0 && b->n < spec->count) {
                r = make_one(b, target, spec, flags, fitout, ret, error);
                if (r >= 0 && b->n == 1)
                        fitout_capture(fitout);
                if (r >= 0 && b->n == 1 && handler->judge)
                        r = judge_clone(b, handler, error);
        }
        for (size_t i = 0; r >= 0 && i < b->n && fitout_is_needed(fitout); i++)
                r = kernel_fit(&b->fits[i], fitout, &(KernelClone){b->pids[i], b->pidfds[i], b->holds[i]}, 1, error);
        if (r >= 0)
                r = kernel_pidns_leave(&b->pidns, &status.own_pid, 1, error);
        if (r >= 0 && handler->held)
                r = handler->held(b->pids, b->pidfds, NULL, b->n, handler->userdata, error);
        if (r < 0)
                return r; /* what is held dies with the batch */

        batch_release(b);
        kernel_pidns_note(spec, handler, target_pid(target));
        if (spec->parent == CLONE_PARENT_DAEMON)
                watched_set(b->pids, b->n);
        return 0;
}

static int kernel_watch(const EngineHandler *handler, CloneError *error)
{
        while (watched_any()) {
                siginfo_t info = {};

                if (RETRY_EINTR(waitid(P_ALL, 0, &info, WEXITED)) < 0)
                        return clone_error_set(error, CLONE_ERROR_FAILED, errno, "The clones cannot be watched: %s", g_strerror(errno));
                if (watched_remove(info.si_pid))
                        handler->exited(info.si_pid, info.si_code, info.si_status, handler->userdata);
        }

        return 0;
}

const Engine engine_kernel = {
        .name = "kernel",
        .probe = kernel_probe,
        .clone = kernel_clone,
        .watch = kernel_watch,
};
