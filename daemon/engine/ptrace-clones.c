/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-clones.h"
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

static bool is_held(const Clones *c, pid_t pid)
{
        for (size_t k = 0; k < c->n; k++)
                if (c->pids[k] == pid)
                        return true;

        return false;
}

/*
 * The new child of a traced task stops before its first instruction and tells this process (CLONE_PTRACE). Its PID is what
 * waitpid(2) says: what clone(2) returned counts in the target's PID namespace.
 */
static int wait_for_new(const Clones *c, pid_t *ret)
{
        for (;;) {
                int status;
                pid_t pid = RETRY_EINTR(waitpid(-1, &status, __WALL));

                if (pid < 0)
                        return -errno;
                if (pid == c->target)
                        continue;
                if (WIFSTOPPED(status) && !is_held(c, pid)) {
                        *ret = pid;
                        return 0;
                }
                if (!WIFSTOPPED(status))
                        return -ESRCH; /* one that is held, or the new one, was killed */
        }
}

static int adopt(Clones *c, const Tracee *parent, CloneError *error)
{
        Tracee t = {.options = parent->options};
        int pidfd, r;

        r = wait_for_new(c, &t.pid);
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
        long result;
        int r;

        /* Always run: the stop at its exit is the one at which a stop signal can be handed over. */
        r = instant_call(i, t, SYS_set_robust_list, args, &result);
        if (r < 0)
                return clone_error(c, r, "its robust list cannot be set", error);
        if (result < 0 && i->robust_head != 0 && c->handler->note)
                c->handler->note("The clone's list of robust futexes could not be set", c->handler->userdata);

        return 0;
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
        if (r >= 0)
                r = memory_read(t->pid, address, words, sizeof(words));
        if (r >= 0) {
                words[0] = (int32_t) result;
                r = memory_write(t->pid, address, words, sizeof(words)); /* a word, of which the ID is the first half */
        }
        return r < 0 ? clone_error(c, r, "its thread ID cannot be set", error) : 0;
}

int clones_complete(Clones *c, const CloneSpec *spec, CloneError *error)
{
        int r;

        for (size_t k = 0;; k++) {
                long pid;

                r = complete_one(c, &c->tracees[k], error);
                if (r >= 0)
                        r = set_cached_tid(c, &c->tracees[k], error);
                if (r < 0)
                        return r;
                if (c->n == spec->count)
                        return 0;

                pid = instant_clone(c->instant, &c->tracees[0]);
                if (pid == -EAGAIN)
                        return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EAGAIN,
                                        "Process %d may have no more processes after %zu of %u clones: its RLIMIT_NPROC or its control group's pids.max is reached",
                                        (int) c->target, c->n, spec->count);
                if (pid < 0)
                        return clone_error(c, (int) pid, "it cannot be copied", error);
                r = adopt(c, &c->tracees[0], error);
                if (r < 0)
                        return r;
        }
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

static int release_one(Clones *c, Tracee *t, bool watch, int signal_number)
{
        int r;

        r = instant_erase(c->instant, t);
        if (r >= 0 && watch)
                r = interrupt(t, signal_number);
        if (r >= 0)
                r = instant_restore(c->instant, t);
        if (r < 0)
                return r;

        if (!watch)
                return tracee_detach(t, signal_number);

        r = tracee_set_options(t, 0);
        return r < 0 ? r : t->group_stop != 0 ? tracee_listen(t) : tracee_resume(t, PTRACE_CONT, 0);
}

int clones_release(Clones *c, bool watch, bool stopped, CloneError *error)
{
        for (size_t k = 0; k < c->n; k++) {
                int r = release_one(c, &c->tracees[k], watch, stopped ? SIGSTOP : 0);

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
        for (size_t k = 0; k < c->n; k++)
                tracee_kill(&c->tracees[k]);
}

int clones_watch(const EngineHandler *handler, CloneError *error)
{
        while (watched_any()) {
                int status;
                pid_t pid = RETRY_EINTR(waitpid(-1, &status, __WALL));

                if (pid < 0)
                        return clone_error_set(error, CLONE_ERROR_FAILED, errno, "The clones cannot be watched: %s", g_strerror(errno));

                if (WIFEXITED(status) || WIFSIGNALED(status)) {
                        if (!watched_remove(pid))
                                continue;
                        handler->exited(pid, WIFEXITED(status) ? CLD_EXITED : WCOREDUMP(status) ? CLD_DUMPED : CLD_KILLED,
                                        WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), handler->userdata);
                } else if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
                        (void) ptrace(PTRACE_LISTEN, pid, 0, 0); /* ESRCH here and below: killed, the next wait tells */
                else {
                        tracee_hide_eintr(&(Tracee){.pid = pid});
                        (void) ptrace(PTRACE_CONT, pid, 0, (unsigned long) (status >> 16 == 0 ? WSTOPSIG(status) : 0));
                }
        }

        return 0;
}
