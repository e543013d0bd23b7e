/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/fds.h"
#include "daemon/engine/fitout.h"
#include "daemon/engine/isolate.h"
#include "daemon/engine/memlocks.h"
#include "daemon/engine/ptrace-seccomp.h"
#include "daemon/engine/timers.h"

typedef struct Member {
        pid_t target;
        const CloneFds *fds; /* NULL for none */
        bool seccomp; /* the target is under seccomp, which could forbid the calls */
        bool filtered; /* and that could not be suspended */
        Timers timers;
        MemoryLocks locks;
        Puppet puppet; /* while there are clones that are worked on */
} Member;

struct Fitout {
        Member *members;
        size_t n;
        FitoutFlags flags;
        const CloneSpec *spec;
        const EngineHandler *handler;
        Isolation *isolation; /* NULL where nothing is isolated */
        bool timers_told; /* notes were given for earlier clones */
        bool session_told;
};

bool fitout_has_work(const Fitout *f, size_t member)
{
        return f->spec->isolate != CLONE_ISOLATE_NONE ||
               f->members[member].locks.list || (f->members[member].fds && !(f->flags & FITOUT_PASSES_FDS)) || (member == 0 && f->spec->session);
}

bool fitout_is_needed(const Fitout *f)
{
        for (size_t k = 0; k < f->n; k++)
                if (fitout_has_work(f, k) || timers_are_to_be_armed(&f->members[k].timers))
                        return true;
        return false;
}

/* The same before timers are known. */
static bool may_be_needed(const Fitout *f)
{
        if (f->flags & FITOUT_TELLS_TIMERS)
                return true;
        for (size_t k = 0; k < f->n; k++)
                if (fitout_has_work(f, k) || timers_are_to_be_asked(&f->members[k].timers))
                        return true;
        return false;
}

int fitout_new(Fitout **ret, Target *const *targets, const TargetStatus *const *statuses, const CloneFds *const *fds, size_t n,
                const CloneSpec *spec, const EngineHandler *handler, FitoutFlags flags, CloneError *error)
{
        g_autoptr(Fitout) f = g_new0(Fitout, 1);
        int r = 0;

        f->members = g_new0(Member, n);
        f->n = n;
        f->spec = spec;
        f->handler = handler;
        f->flags = flags;

        for (size_t k = 0; k < n; k++) {
                Member *m = &f->members[k];

                m->target = target_pid(targets[k]);
                m->fds = fds[k];
                m->seccomp = statuses[k]->seccomp != 0;
                memory_locks_read(&m->locks, targets[k], statuses[k]);
                if (flags & FITOUT_ASKS_TIMERS)
                        r = timers_read(&m->timers, targets[k], statuses[k]);
                if (r < 0)
                        return clone_error_set(error, r == -ESRCH ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                                        "The timers of process %d cannot be listed: %s", (int) m->target, g_strerror(-r));
        }
        if (spec->isolate != CLONE_ISOLATE_NONE)
                r = isolation_new(&f->isolation, targets, fds, n, spec, handler, error);
        if (r < 0)
                return r;

        *ret = may_be_needed(f) ? g_steal_pointer(&f) : NULL;
        return 0;
}

Fitout *fitout_free(Fitout *f)
{
        if (!f)
                return NULL;

        isolation_free(f->isolation);
        for (size_t k = 0; k < f->n; k++) {
                timers_clear(&f->members[k].timers);
                memory_locks_clear(&f->members[k].locks);
        }
        g_free(f->members);
        g_free(f);
        return NULL;
}

struct Timers *fitout_timers(Fitout *f, size_t member)
{
        Timers *t = &f->members[member].timers;

        return f->flags & FITOUT_TELLS_TIMERS || timers_are_to_be_asked(t) ? t : NULL;
}

void fitout_capture(Fitout *f)
{
        if (f->isolation)
                isolation_capture(f->isolation);
}

static int failed(const Member *m, int r, const char *what, CloneError *error)
{
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_FAILED, ESRCH, "The clone of process %d was killed before it was complete",
                                (int) m->target);
        return clone_error_set(error, r == -ENOMEM ? CLONE_ERROR_LIMITS_EXCEEDED : CLONE_ERROR_FAILED, -r,
                        "The clone of process %d: %s: %s", (int) m->target, what, g_strerror(-r));
}

/* After the descriptors are in place: a terminal that is the clone's stdin becomes its session's. */
static int lead_session(Fitout *f)
{
        Puppet *p = &f->members[0].puppet;
        long r = puppet_call(p, SYS_setsid);
        g_autofree char *text = NULL;

        if (r == -EPERM) { /* no group has the clone's new PID but its own: it leads one already, as the root of a tree may */
                long pid = puppet_call(p, SYS_getpid);

                r = pid < 0 ? pid : puppet_call(p, SYS_getsid, 0) == pid ? 0 : r;
        }
        if (r < 0)
                return (int) r;
        r = puppet_call(p, SYS_ioctl, STDIN_FILENO, TIOCSCTTY, 0);
        if (r == -ESRCH || r == -EMFILE || r == -EFAULT)
                return (int) r;
        if (r >= 0 || r == -ENOTTY || r == -EBADF || f->session_told || !f->handler->note) /* ENOTTY, EBADF: it is no terminal */
                return 0;

        /* EPERM: another session has it, and keeps it. A device may have errors of its own. */
        f->session_told = true;
        text = g_strdup_printf("The stdin of the clone of process %d is not the controlling terminal of its session: %s",
                        (int) f->members[0].target,
                        g_strerror((int) -r));
        f->handler->note(text, f->handler->userdata);
        return 0;
}

/* @obstacle: why they cannot be armed, or NULL. */
static void note_timers(Fitout *f, const Member *m, const char *obstacle)
{
        g_autofree char *text = NULL;

        if (obstacle && !f->timers_told && timers_are_to_be_armed(&m->timers) && f->handler->note) {
                text = g_strdup_printf("The timers of process %d are missing in the clone: %s", (int) m->target, obstacle);
                f->handler->note(text, f->handler->userdata);
                return;
        }
        if (f->timers_told || m->timers.known || !timers_are_to_be_asked(&m->timers) || !f->handler->note)
                return;

        text = g_strdup_printf("Process %d could not be asked for its timers, which are missing in the clone", (int) m->target);
        f->handler->note(text, f->handler->userdata);
}

/* Notes for the first clones only. */
static const EngineHandler *handler_of(const Fitout *f)
{
        static const EngineHandler silent;

        return f->timers_told ? &silent : f->handler;
}

/* Last of all, so that little of what is left passes while the clone is held. */
static int arm_timers(Fitout *f, Member *m)
{
        return timers_are_to_be_armed(&m->timers) ? timers_arm(&m->timers, &m->puppet, m->target, handler_of(f)) : 0;
}

static void note_filter(const Fitout *f, const Member *m)
{
        g_autofree char *text = NULL;

        if (!m->filtered || f->timers_told || !f->handler->note)
                return;

        text = g_strdup_printf("Process %d is under seccomp, which was in force while its clone was completed", (int) m->target);
        f->handler->note(text, f->handler->userdata);
}

static int tell_of_filter(const Fitout *f, int r, CloneError *error)
{
        for (size_t k = 0; r < 0 && k < f->n; k++)
                if (f->members[k].filtered) {
                        g_autofree char *why = g_strdup(error ? error->message : "");

                        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, -r,
                                        "Process %d is under seccomp, which remforkd may not suspend, and which forbids what its clone needs to be complete (%s)",
                                        (int) f->members[k].target, why);
                }
        return r;
}

static int open_member(const Fitout *f, Member *m, const FitoutMember *c, CloneError *error)
{
        int r;

        note_filter(f, m);
        r = puppet_open(&m->puppet, c->tracee, c->pidfd, &c->base, c->syscall_at);
        return r < 0 ? failed(m, r, "it has no page for its calls", error) : 0;
}

static int isolate(Fitout *f, CloneError *error)
{
        g_autofree Puppet **puppets = g_new(Puppet *, f->n);

        for (size_t k = 0; k < f->n; k++)
                puppets[k] = &f->members[k].puppet;
        return isolation_apply(f->isolation, puppets, f->n, error);
}

static int close_member(Fitout *f, Member *m, CloneError *error)
{
        int r;

        r = m->locks.list ? memory_locks_apply(&m->locks, &m->puppet, m->target, handler_of(f)) : 0;
        if (r < 0)
                return failed(m, r, "its memory cannot be locked", error);
        r = m->puppet.page ? arm_timers(f, m) : 0;
        if (r < 0)
                return failed(m, r, "its timers cannot be armed", error);
        r = puppet_close(&m->puppet);
        return r < 0 ? failed(m, r, "the page for its calls cannot be returned", error) : 0;
}

/*
 * Where the filter cannot be suspended it has its say: most allow what is needed. What it forbids fails, and what it kills or traps for
 * is the clone, which was not let go yet: a signal that no mask holds back. For the sake of timers alone none is worked on under it, which
 * could end it; nor one refused: that is an obstacle.
 */
static const char *suspend_filter(const Fitout *f, size_t k, const FitoutMember *c)
{
        Member *m = &f->members[k];

        m->filtered = (m->seccomp || ptrace_came_under_seccomp(c->tracee)) &&
                        tracee_set_options(c->tracee, c->tracee->options | PTRACE_O_SUSPEND_SECCOMP) < 0;
        if (!m->filtered || fitout_has_work(f, k))
                return NULL;

        m->filtered = false; /* in no clone's way */
        return "it is under seccomp, which remforkd may not suspend";
}

static int complete(Fitout *f, const FitoutMember *clones, size_t n, CloneError *error)
{
        int r = 0;

        for (size_t k = 0; r >= 0 && k < n; k++) {
                Member *m = &f->members[k];
                const bool wanted = fitout_has_work(f, k) || timers_are_to_be_armed(&m->timers);
                const char *obstacle = clones[k].obstacle;

                if (wanted && !obstacle)
                        obstacle = suspend_filter(f, k, &clones[k]);
                note_timers(f, m, obstacle);
                m->puppet = (Puppet){};
                if (wanted && !obstacle)
                        r = open_member(f, m, &clones[k], error);
        }

        for (size_t k = 0; r >= 0 && k < n && !(f->flags & FITOUT_PASSES_FDS); k++)
                r = fds_place(&f->members[k].puppet, f->members[k].fds, f->members[k].target, error);
        if (r >= 0 && f->isolation)
                r = isolate(f, error);
        if (r >= 0 && f->spec->session) {
                r = lead_session(f);
                if (r < 0)
                        return failed(&f->members[0], r, "it cannot lead a session", error);
        }

        for (size_t k = 0; r >= 0 && k < n; k++)
                r = close_member(f, &f->members[k], error);
        return r;
}

int fitout_apply(Fitout *f, const FitoutMember *clones, size_t n, CloneError *error)
{
        int r;

        g_return_val_if_fail(n == f->n, -EINVAL);

        r = tell_of_filter(f, complete(f, clones, n, error), error);
        f->timers_told = true;
        return r;
}
