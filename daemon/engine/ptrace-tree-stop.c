/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <sys/ptrace.h>

#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/util.h"

#define RETRY_USEC 200U
#define LEAVE_USEC 1000000U /* to stop, for one that is to be let go: as long as a busy machine may take */
#define LEAST_USEC 50000U /* that a process is given to stop, however late it is: a busy machine is not its doing */
#define ODD_LOOKS_MAX 25U /* of one that is ending: it has lost some of what it had before it is gone */

static uint64_t usec_left(const PtraceTree *t)
{
        uint64_t now = monotonic_nsec();

        return MAX(now < t->deadline ? (t->deadline - now) / 1000 : 0, LEAST_USEC);
}

static bool is_late(const PtraceTree *t)
{
        return monotonic_nsec() >= t->deadline;
}

static bool has_ended(const Member *m)
{
        TargetStatus s;

        return target_read_status(m->job.target, &s) < 0 || ((s.state == 'Z' || s.state == 'X') && s.threads <= 1);
}

static void set_relations(PtraceTree *t, Member *m)
{
        m->job.clones.family = t->family;
        m->job.clones.strangers = t->strangers;
}

/*
 * Only what stands still can be let go, and a tracee that runs would stop at its next signal with nobody there to see it. The parent of
 * one that has ended is told of it when this process was.
 */
static void leave(Member *m)
{
        StopKind kind;

        if (m->job.traced && !m->stopped) {
                (void) job_interrupt(&m->job); /* ESRCH: it ends, the wait tells */
                if (tracee_wait(&m->job.tracee, PTRACE_CONT, false, LEAVE_USEC, &kind, NULL) >= 0 && kind != STOP_EXITED)
                        (void) threads_stop(&m->job.threads, LEAVE_USEC, NULL); /* it is to go on, however that ends */
        }
        job_release(&m->job);
}

/* It goes on, if it is there, and is looked at anew. */
static void start_again(PtraceTree *t, Member *m)
{
        Target *target = m->job.target;

        leave(m);
        m->settings_known = false;
        g_clear_pointer(&m->vmas, g_array_unref);
        job_clear(&m->job);
        job_init(&m->job, target, &m->spec, &m->handler);
        set_relations(t, m);
        m->prepared = m->interrupted = m->stopped = false;
}

static void forget(PtraceTree *t, Member *m)
{
        start_again(t, m);
        m->gone = true;
}

/* Takes hold of it while it runs, or finds that it has ended. What is in the middle of vfork(2) is waited for. */
static int prepare(PtraceTree *t, Member *m, CloneError *error)
{
        for (unsigned looks = 0;; looks++) {
                int r = job_prepare(&m->job, error);

                if (r >= 0) {
                        m->prepared = true;
                        member_read_early(t, m);
                        return 0;
                }
                if (m != tree_member(t, 0) && has_ended(m)) {
                        clone_error_clear(error);
                        forget(t, m);
                        return 0;
                }
                if (is_late(t) || !(m->job.in_vfork || (m != tree_member(t, 0) && looks < ODD_LOOKS_MAX)))
                        return r;
                clone_error_clear(error);
                start_again(t, m);
                g_usleep(RETRY_USEC);
        }
}

static Member *add_member(PtraceTree *t, size_t k)
{
        Member *m = g_new0(Member, 1);

        m->parent = TREE_MEMBER(t->tree, k)->parent;
        m->state.cwd = m->state.root = m->state.exe = -EBADF;
        m->spec = *t->spec;
        m->handler = *t->handler;
        m->handler.judge = NULL; /* of all, once, when all stand still */
        m->handler.stopped = NULL;
        if (k > 0) {
                m->spec.fds = NULL;
                m->spec.session = false;
                m->spec.trigger = CLONE_TRIGGER_IMMEDIATE;
                m->spec.parent = CLONE_PARENT_DAEMON; /* the first of a PID namespace may be one: its clone has the parent that it needs */
        }
        job_init(&m->job, TREE_MEMBER(t->tree, k)->target, &m->spec, &m->handler);
        set_relations(t, m);
        g_array_append_vals(t->strangers, &(pid_t){target_pid(m->job.target)}, 1);
        g_ptr_array_add(t->members, m);
        g_ptr_array_add(t->family, &m->job.clones);
        return m;
}

/* Those that the tree has and this engine does not know yet. Their number, or a negative errno. */
static int prepare_new(PtraceTree *t, CloneError *error)
{
        int n = 0;

        for (guint k = t->members->len; k < t->tree->members->len; k++, n++) {
                Member *m = add_member(t, k);
                int r = prepare(t, m, error);

                if (r < 0)
                        return r;
        }

        return n;
}

int tree_prepare_all(PtraceTree *t, CloneError *error)
{
        int r;

        do {
                r = prepare_new(t, error);
                if (r >= 0)
                        r = tree_grow(t->tree, t->spec->tree_max, error);
        } while (r > 0);
        return r;
}

/* 0 where it stands still, is gone, or has to be stopped again because it is another program now. */
static int wait_for(PtraceTree *t, Member *m, CloneError *error)
{
        int r = job_wait(&m->job, usec_left(t), error);

        if (r >= 0)
                r = job_take(&m->job, error);
        if (r >= 0) {
                m->stopped = true;
                return 0;
        }
        if (has_ended(m)) {
                clone_error_clear(error);
                forget(t, m);
                return 0;
        }
        if (!error || error->code != CLONE_ERROR_CHANGED || is_late(t))
                return r;

        clone_error_clear(error);
        start_again(t, m);
        return prepare(t, m, error);
}

static bool all_stopped(const PtraceTree *t)
{
        for (guint k = 0; k < t->members->len; k++)
                if (!tree_member(t, k)->stopped && !tree_member(t, k)->gone)
                        return false;
        return true;
}

/* Those that run. 0 or a negative errno. */
static int stop_running(PtraceTree *t, CloneError *error)
{
        for (guint k = 1; k < t->members->len; k++) {
                Member *m = tree_member(t, k);

                if (m->gone || m->stopped)
                        continue;
                if (!m->prepared) {
                        int r = prepare(t, m, error);

                        if (r < 0)
                                return r;
                }
                if (m->prepared && !m->interrupted) {
                        (void) job_interrupt(&m->job); /* ESRCH: it ends, the wait tells */
                        m->interrupted = true;
                }
        }

        for (guint k = 1; k < t->members->len; k++) {
                Member *m = tree_member(t, k);
                int r;

                if (!m->interrupted || m->stopped)
                        continue;
                r = wait_for(t, m, error);
                if (r < 0)
                        return r;
        }

        return 0;
}

/* One that ended has left its children to another parent. */
static bool is_whole(PtraceTree *t)
{
        for (guint k = 0; k < t->members->len; k++) {
                Member *m = tree_member(t, k);
                TargetStatus s;

                if (m->gone)
                        continue;
                if (target_read_status(m->job.target, &s) < 0 || s.state == 'Z' ||
                    (k > 0 && (tree_parent(t, m)->gone || s.parent != target_pid(tree_parent(t, m)->job.target))))
                        return false;
                m->job.status.group = s.group;
                m->job.status.session = s.session;
                m->job.status.seccomp = s.seccomp;
        }

        return true;
}

int tree_stop_all(PtraceTree *t, CloneError *error)
{
        for (;;) {
                bool all;
                int r = stop_running(t, error);

                if (r < 0)
                        return r;
                all = all_stopped(t);
                r = tree_grow(t->tree, t->spec->tree_max, error);
                if (r >= 0)
                        r = prepare_new(t, error);
                if (r < 0)
                        return r;
                if (all && r == 0)
                        break;
                if (r > 0 && is_late(t)) /* what stands still has no more children */
                        return clone_error_set(error, CLONE_ERROR_TIMEOUT, 0,
                                        "Process %d has descendants that begin and end faster than they can be stopped", (int) target_pid(t->target));
        }

        return is_whole(t);
}
