/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/remfork.h"
#include "daemon/engine/watched.h"
#include "daemon/util.h"

static long remfork(int pidfd, struct remfork_args *args)
{
        long r = syscall(SYS_REMFORK, pidfd, args, sizeof(*args));

        return r < 0 ? -errno : r;
}

static int kernel_probe(CloneError *error)
{
        struct remfork_args args = {.flags = UINT64_MAX}; /* refused before anything else is looked at */
        long r = remfork(-1, &args);

        if (r == -EINVAL)
                return 0;
        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, (int) -r, "This kernel has no remfork(2)");
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
static int remfork_failed(const Target *target, const CloneSpec *spec, long r, CloneError *error)
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
                {EOPNOTSUPP, CLONE_ERROR_UNSUPPORTED, "it has AMX tile data, which a clone would lose"},
                {EAGAIN, CLONE_ERROR_LIMITS_EXCEEDED, "its RLIMIT_NPROC or its control group's pids.max is reached"},
                {ENOMEM, CLONE_ERROR_LIMITS_EXCEEDED, "there is not enough memory"},
                {ETIMEDOUT, CLONE_ERROR_TIMEOUT, "the trigger did not come in time"},
        };

        for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
                if (table[i].error_number == -r)
                        return clone_error_set(error, table[i].code, (int) -r, "Process %d cannot be cloned: %s",
                                        (int) target_pid(target), table[i].what);

        return clone_error_set(error, CLONE_ERROR_FAILED, (int) -r, "remfork() of process %d (%s) failed: %s",
                        (int) target_pid(target), spec->trigger == CLONE_TRIGGER_SYSCALL ? "at its next call" : "at once",
                        g_strerror((int) -r));
}

typedef struct Batch {
        pid_t pids[CLONE_COUNT_MAX];
        int pidfds[CLONE_COUNT_MAX];
        size_t n;
} Batch;

static void batch_clear(Batch *b)
{
        for (size_t i = 0; i < b->n; i++)
                safe_close(b->pidfds[i]);
        b->n = 0;
}

static void batch_kill(const Batch *b)
{
        for (size_t i = 0; i < b->n; i++)
                (void) syscall(SYS_pidfd_send_signal, b->pidfds[i], SIGKILL, NULL, 0); /* ESRCH: it has ended by itself */
}

static int check_threads(Target *target, CloneError *error)
{
        TargetStatus s;
        int r = target_read_status(target, &s);

        if (r < 0)
                return clone_error_set(error, r == -ESRCH ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                                "The status of process %d cannot be read: %s", (int) target_pid(target), g_strerror(-r));
        if (s.threads > 1)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has %u threads, and only one of them could be cloned: processes with one thread are supported so far",
                                (int) target_pid(target), s.threads);
        return 0;
}

/*
 * Clone number 0 comes of the target. The others are copies of the first, which is stopped meanwhile, so that all are of one
 * instant and the target pays for one.
 */
static int make_one(Batch *b, Target *target, const CloneSpec *spec, bool stopped, EngineResult *ret, CloneError *error)
{
        bool first = b->n == 0;
        struct remfork_times times = {};
        int pidfd = -EBADF;
        struct remfork_args args = {
                .flags = REMFORK_PIDFD | REMFORK_TIMES | (stopped ? REMFORK_STOPPED : 0) |
                         (spec->parent == CLONE_PARENT_DAEMON ? REMFORK_PARENT_REQUESTER : 0) |
                         (first && spec->trigger == CLONE_TRIGGER_SYSCALL ? REMFORK_SYSCALL : 0),
                .pidfd = (uint64_t) (uintptr_t) &pidfd,
                .times = (uint64_t) (uintptr_t) &times,
        };
        long pid = remfork(first ? target_pidfd(target) : b->pidfds[0], &args);

        if (pid < 0)
                return remfork_failed(target, spec, pid, error);

        b->pids[b->n] = (pid_t) pid;
        b->pidfds[b->n++] = pidfd;
        if (first)
                ret->pause_nsec = times.copied - times.trigger;
        return 0;
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

static int kernel_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error)
{
        g_autofree Batch *b = g_new0(Batch, 1);
        /* One clone that needs no judging is let run at once: a program that handles SIGCONT would notice the hold. */
        bool hold = spec->stopped || spec->count > 1 || handler->judge;
        int r;

        *ret = (EngineResult){};
        r = check_threads(target, error);
        while (r >= 0 && b->n < spec->count) {
                r = make_one(b, target, spec, hold, ret, error);
                if (r >= 0 && b->n == 1 && handler->judge)
                        r = judge_clone(b, handler, error);
        }
        if (r >= 0 && handler->held)
                r = handler->held(b->pids, b->pidfds, b->n, handler->userdata, error);

        if (r < 0)
                batch_kill(b);
        else {
                for (size_t i = 0; hold && !spec->stopped && i < b->n; i++)
                        (void) syscall(SYS_pidfd_send_signal, b->pidfds[i], SIGCONT, NULL, 0); /* ESRCH: killed meanwhile */
                if (spec->parent == CLONE_PARENT_DAEMON)
                        watched_set(b->pids, b->n);
        }

        batch_clear(b);
        return r;
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
