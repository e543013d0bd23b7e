/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-clones.h"
#include "daemon/engine/sampler.h"
#include "daemon/engine/ptrace-rebuild.h"
#include "daemon/engine/watched.h"
#include "daemon/util.h"

void clones_init(Clones *c, const Instant *instant, const EngineHandler *handler, pid_t target)
{
        *c = (Clones){.instant = instant, .handler = handler, .target = target};
}

void clones_clear(Clones *c)
{
        for (size_t k = 0; k < c->n; k++)
                safe_close(c->pidfds[k]);

        g_clear_pointer(&c->tracees, g_free);
        g_clear_pointer(&c->pids, g_free);
        g_clear_pointer(&c->pidfds, g_free);
        g_clear_pointer(&c->thread_tracees, g_array_unref);
        c->n = 0;
}

static int clone_error(const Clones *c, int r, const char *what, CloneError *error)
{
        if (r == -ECHILD)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "Process %d ended while it was being cloned", (int) c->target);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_FAILED, ESRCH, "The clone of process %d was killed before it was complete",
                                (int) c->target);
        return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The clone of process %d: %s: %s", (int) c->target, what, g_strerror(-r));
}

static bool is_stranger(const Clones *c, pid_t pid)
{
        for (guint k = 0; c->strangers && k < c->strangers->len; k++)
                if (g_array_index(c->strangers, pid_t, k) == pid)
                        return true;

        return false;
}

static bool holds(const Clones *c, pid_t pid)
{
        for (size_t k = 0; k < c->n; k++)
                if (c->pids[k] == pid)
                        return true;
        for (guint k = 0; c->thread_tracees && k < c->thread_tracees->len; k++)
                if (g_array_index(c->thread_tracees, Tracee, k).pid == pid)
                        return true;

        return false;
}

static bool is_held(const Clones *c, pid_t pid)
{
        for (guint k = 0; c->family && k < c->family->len; k++)
                if (holds(g_ptr_array_index(c->family, k), pid))
                        return true;

        return holds(c, pid);
}

/*
 * The new child of a traced task stops before its first instruction and tells this process (CLONE_PTRACE). Its PID is what
 * waitpid(2) says: what clone(2) returned counts in the target's PID namespace.
 */
int clones_wait_for_new(const Clones *c, pid_t *ret)
{
        for (;;) {
                int status;
                pid_t pid = tracee_peek(-1, 0, &status);

                if (pid < 0)
                        return pid;
                if (pid == c->target || (!WIFSTOPPED(status) && (sampler_was(pid) || is_stranger(c, pid))))
                        continue;
                if (!WIFSTOPPED(status))
                        return -ESRCH; /* one that is held, or the new one, was killed */
                if (!is_held(c, pid)) {
                        *ret = pid;
                        return 0;
                }
                (void) waitpid(pid, &status, __WALL | WNOHANG); /* where it is held, no signal waits; not to be told of it again */
        }
}

static int adopt(Clones *c, const Tracee *parent, CloneError *error)
{
        Tracee t = {.options = parent->options, .elsewhere = parent->elsewhere};
        int pidfd, r;

        r = clones_wait_for_new(c, &t.pid);
        if (r < 0)
                return clone_error(c, r, "it cannot be awaited", error);

        c->tracees = g_renew(Tracee, c->tracees, c->n + 1);
        c->pids = g_renew(pid_t, c->pids, c->n + 1);
        c->pidfds = g_renew(int, c->pidfds, c->n + 1);
        c->tracees[c->n] = t;
        c->pids[c->n] = t.pid;
        c->pidfds[c->n] = -EBADF;
        c->n++;

        r = tracee_set_options(&c->tracees[c->n - 1], t.options | PTRACE_O_EXITKILL);
        if (r < 0)
                return clone_error(c, r, "it cannot be held", error);

        pidfd = (int) syscall(SYS_pidfd_open, t.pid, 0);
        if (pidfd < 0)
                return clone_error(c, -errno, "it cannot be opened", error);
        c->pidfds[c->n - 1] = pidfd;
        return 0;
}

int clones_adopt_first(Clones *c, const Tracee *parent, CloneError *error)
{
        return adopt(c, parent, error);
}

/* What libc's fork would set, and what the kernel's leaves out. */
static int complete_one(Clones *c, Tracee *t, CloneError *error)
{
        const Instant *i = c->instant;
        const uint64_t args[5] = {i->robust_head, i->robust_head != 0 ? i->robust_size : 24};
        struct robust_list_head list;
        long result;
        pid_t tid;
        const MemoryRange ranges[] = {
                {.address = i->tid_cache.address, .buffer = &tid, .size = sizeof(tid)},
                {.address = i->robust_head, .buffer = &list, .size = sizeof(list)},
        };
        int r;

        /* Always run: the stop at its exit is the one at which a stop signal can be handed over. */
        r = instant_call(i, t, SYS_set_robust_list, args, &result);
        if (r < 0)
                return clone_error(c, r, "its robust list cannot be set", error);
        if (result < 0 && i->robust_head != 0 && c->handler->note)
                c->handler->note("The clone's list of robust futexes could not be set", c->handler->userdata);

        /* The kernel wrote the clone's ID there before its first stop. Most lists are empty. */
        if (i->robust_head != 0 && i->tid_cache.clear && memory_read_ranges(t->pid, ranges, G_N_ELEMENTS(ranges)) >= 0 &&
            ((uint64_t) (uintptr_t) list.list.next != i->robust_head || list.list_op_pending))
                r = rebuild_robust_owner(t->pid, i->robust_head, i->tid, tid);
        return r < 0 ? clone_error(c, r, "its robust mutexes cannot be made its own", error) : 0;
}

/* A thread ID that libc keeps and the kernel was not told of: the clone's own, as it sees it itself. */
static int set_cached_tid(Clones *c, Tracee *t, CloneError *error)
{
        static const uint64_t none[5];
        const uint64_t address = c->instant->tid_cache.address;
        int32_t words[2];
        long result;
        int r;

        if (c->instant->tid_cache.address == 0 || c->instant->tid_cache.clear)
                return 0;

        r = instant_call(c->instant, t, SYS_gettid, none, &result);
        if (r >= 0 && result <= 0)
                r = result < 0 ? (int) result : -EBADMSG;
        if (r >= 0)
                r = memory_read(t->pid, address, words, sizeof(words));
        if (r >= 0) {
                words[0] = (int32_t) result;
                r = memory_write(-EBADF, t->pid, address, words, sizeof(words)); /* a word, of which the ID is the first half */
        }
        return r < 0 ? clone_error(c, r, "its thread ID cannot be set", error) : 0;
}

static int erase(const Clones *c, const Tracee *t)
{
        _cleanup_close_ int memory = memory_open(t->pid); /* negative: word by word */

        return instant_erase(c->instant, t, memory);
}

/* The others are copied from the first, which needs its code until the last is there. */
static bool erased_when_complete(const Clones *c, size_t k)
{
        return c->bare && k > 0;
}

static int complete(Clones *c, size_t k, CloneError *error)
{
        Tracee *t = &c->tracees[k];
        int r;

        r = complete_one(c, t, error);
        if (r >= 0)
                r = set_cached_tid(c, t, error);
        if (r < 0 || !erased_when_complete(c, k))
                return r;

        r = erase(c, t);
        return r < 0 ? clone_error(c, r, "its memory cannot be written", error) : 0;
}

static int copy_failed(const Clones *c, const CloneSpec *spec, long r, CloneError *error)
{
        if (r == -EAGAIN)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EAGAIN,
                                "Process %d may have no more processes after %zu of %u clones: its RLIMIT_NPROC or its control group's pids.max is reached",
                                (int) c->target, c->n, spec->count);
        return clone_error(c, (int) r, "it cannot be copied", error);
}

/* While the first makes a copy of itself, which takes as long as a fork, the copy before that is completed. */
static int copy_first(Clones *c, const CloneSpec *spec, CloneError *error)
{
        const size_t last = c->n - 1;
        long pid;
        int r;

        r = instant_clone_begin(c->instant, &c->tracees[0]);
        if (r < 0)
                return copy_failed(c, spec, r, error);

        r = last > 0 ? complete(c, last, error) : 0;
        pid = instant_clone_end(&c->tracees[0]);
        if (pid > 0) { /* taken hold of in any case */
                int k = adopt(c, &c->tracees[0], r < 0 ? NULL : error);

                return r < 0 ? r : k;
        }
        return r < 0 ? r : copy_failed(c, spec, pid, error);
}

int clones_complete(Clones *c, const CloneSpec *spec, CloneError *error)
{
        int r;

        r = complete(c, 0, error);
        while (r >= 0 && c->n < spec->count)
                r = copy_first(c, spec, error);
        return r < 0 || c->n == 1 ? r : complete(c, c->n - 1, error);
}

int clones_fit(Clones *c, Fitout *fitout, CloneError *error)
{
        for (size_t k = 0; k < c->n; k++) {
                const FitoutMember clone = {.tracee = &c->tracees[k], .pidfd = c->pidfds[k], .base = c->instant->regs,
                        .syscall_at = c->instant->cave};
                int r = fitout_apply(fitout, &clone, 1, error);

                if (r < 0)
                        return r;
        }

        return 0;
}

/* The clone stays traced, so its registers are to be set where the kernel's restart code still comes: at an interrupt's stop. */
static int interrupt(Tracee *t, int signal_number)
{
        StopKind kind;
        int r;

        r = tracee_interrupt(t);
        if (r >= 0)
                r = tracee_resume(t, PTRACE_CONT, signal_number);
        if (r >= 0)
                r = tracee_wait(t, PTRACE_CONT, false, 0, &kind, NULL);
        return r < 0 ? r : kind == STOP_EXITED ? -ESRCH : 0;
}

static int release_one(Clones *c, size_t k, bool watch, int signal_number)
{
        const bool has_threads = c->thread_tracees != NULL;
        Tracee *t = &c->tracees[k];
        int r = erased_when_complete(c, k) ? 0 : erase(c, t);

        /*
         * Sent, not given with the detachment: a SIGCONT that comes before the clone takes it removes a signal that is pending, and
         * would be lost to one that is not yet. Before a thread is let go: the first that goes stops all.
         */
        if (r >= 0 && signal_number > 0 && (!watch || has_threads) && kill(t->pid, signal_number) < 0)
                r = -errno;
        if (r >= 0)
                r = rebuild_release(c, k);
        if (r >= 0 && watch)
                r = interrupt(t, has_threads ? 0 : signal_number);
        if (r >= 0)
                r = instant_restore(c->instant, t);
        if (r < 0)
                return r;

        if (!watch)
                return tracee_detach(t, 0);

        r = tracee_set_options(t, 0);
        return r < 0 ? r : t->group_stop != 0 ? tracee_listen(t) : tracee_resume(t, PTRACE_CONT, 0);
}

int clones_release(Clones *c, bool watch, bool stopped, CloneError *error)
{
        for (size_t k = 0; k < c->n; k++) {
                int r = release_one(c, k, watch, stopped ? SIGSTOP : 0);

                if (r == -ESRCH) /* killed by somebody since it was held: it existed, and its end is its own */
                        continue;
                if (r < 0)
                        return clone_error(c, r, "it cannot be let go", error);
        }

        if (watch)
                watched_set(c->pids, c->n);
        return 0;
}

void clones_kill(Clones *c)
{
        /* The main thread's end is told when that of all others was. */
        for (guint k = 0; c->thread_tracees && k < c->thread_tracees->len; k++)
                tracee_kill(&g_array_index(c->thread_tracees, Tracee, k));
        for (size_t k = 0; k < c->n; k++)
                tracee_kill(&c->tracees[k]);
}

int clones_watch(const EngineHandler *handler, CloneError *error)
{
        while (watched_any()) {
                int status;
                pid_t pid = tracee_peek(-1, 0, &status);

                if (pid < 0)
                        return clone_error_set(error, CLONE_ERROR_FAILED, -pid, "The clones cannot be watched: %s", g_strerror(-pid));

                if (WIFEXITED(status) || WIFSIGNALED(status)) {
                        if (!watched_remove(pid))
                                continue;
                        handler->exited(pid, WIFEXITED(status) ? CLD_EXITED : WCOREDUMP(status) ? CLD_DUMPED : CLD_KILLED,
                                        WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), handler->userdata);
                } else if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
                        (void) ptrace(PTRACE_LISTEN, pid, 0, 0); /* ESRCH here and below: killed, the next wait tells */
                else {
                        tracee_hide_eintr(&(Tracee){.pid = pid});
                        (void) ptrace(PTRACE_CONT, pid, 0, (unsigned long) (tracee_is_signal(status) ? WSTOPSIG(status) : 0));
                }
        }

        return 0;
}
