/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdarg.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/notes.h"
#include "daemon/engine/ptrace-rebuild.h"
#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/engine/ptrace-tree.h"
#include "daemon/engine/tree-fds.h"
#include "daemon/util.h"

#define RESTART_USEC 1000U /* before a tree that changed is looked at anew */
#define XSTATE_MAX 16384U

void tree_note(const PtraceTree *t, const char *format, ...)
{
        g_autofree char *text = NULL;
        va_list ap;

        if (!t->handler->note)
                return;
        va_start(ap, format);
        text = g_strdup_vprintf(format, ap);
        va_end(ap);
        t->handler->note(text, t->handler->userdata);
}

static void member_free(void *p)
{
        Member *m = p;

        job_clear(&m->job);
        member_state_clear(&m->state);
        image_clear(&m->image);
        g_clear_pointer(&m->vmas, g_array_unref);
        g_clear_pointer(&m->files, g_array_unref);
        g_free(m->xstate);
        g_free(m->spec_fds);
        g_free(m);
}

static void tree_begin(PtraceTree *t)
{
        if (!t->strangers)
                t->strangers = g_array_new(FALSE, FALSE, sizeof(pid_t));
        t->members = g_ptr_array_new_with_free_func(member_free);
        t->family = g_ptr_array_new();
        t->tree = tree_new(t->target);
}

static void tree_end(PtraceTree *t)
{
        g_clear_pointer(&t->members, g_ptr_array_unref); /* before the tree, whose processes it borrows */
        g_clear_pointer(&t->family, g_ptr_array_unref);
        t->fitout = fitout_free(t->fitout);
        t->tree = tree_free(t->tree);
        marks_clear(&t->marks);
}

static void tree_clear(PtraceTree *t)
{
        tree_end(t);
        g_clear_pointer(&t->strangers, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(PtraceTree, tree_clear)

/* The root last: it holds back what must not end this process while another is under way. */
static void release(PtraceTree *t)
{
        for (guint k = t->members->len; k-- > 0;)
                job_release(&tree_member(t, k)->job);
}

static Job *root_job(const PtraceTree *t)
{
        return &tree_member(t, 0)->job;
}

/* The root stands where it is to be cloned. */
static int stop_root(PtraceTree *t, CloneError *error)
{
        Member *root = tree_member(t, 0);
        int r;

        r = job_stop(&root->job, error);
        if (r >= 0 && t->spec->trigger == CLONE_TRIGGER_SYSCALL) {
                r = job_run_to_entry(&root->job, error);
                root->job.pause_begin = monotonic_nsec();
        }
        if (r < 0)
                return r;
        t->deadline = monotonic_nsec() + engine_stop_timeout_usec(t->spec) * 1000;
        if (t->handler->stopped)
                t->handler->stopped(t->handler->userdata);
        r = job_take(&root->job, error);
        root->stopped = r >= 0;
        return r;
}

/* 1 where all of the tree stands still, 0 where it changed under the look. */
static int try_to_stop(PtraceTree *t, CloneError *error)
{
        int r = tree_prepare_all(t, error);

        if (r >= 0) {
                root_job(t)->marks = &t->marks;
                if (root_job(t)->status.threads == 1 || t->spec->threads == CLONE_THREADS_ALL)
                        marks_look(&t->marks, t->target);
                r = stop_root(t, error);
        }
        return r < 0 ? r : tree_stop_all(t, error);
}

static int stop(PtraceTree *t, CloneError *error)
{
        const uint64_t timeout = engine_stop_timeout_usec(t->spec) * 1000, end = monotonic_nsec() + timeout;

        for (;;) {
                int r;

                tree_begin(t);
                t->deadline = monotonic_nsec() + timeout;
                r = try_to_stop(t, error);
                if (r != 0)
                        return r < 0 ? r : 0;

                release(t);
                job_stay_no_longer(root_job(t));
                tree_end(t);
                if (monotonic_nsec() >= end)
                        return clone_error_set(error, CLONE_ERROR_TIMEOUT, 0,
                                        "Process %d has descendants that begin and end faster than they can be stopped", (int) target_pid(t->target));
                g_usleep(RESTART_USEC);
        }
}

static int judge(PtraceTree *t, CloneError *error)
{
        int r = t->handler->judge ? t->handler->judge(t->target, t->handler->userdata, error) : 0;

        for (guint k = 1; r >= 0 && k < t->members->len; k++)
                if (!tree_member(t, k)->gone && t->handler->judge_member)
                        r = t->handler->judge_member(tree_member(t, k)->job.target, t->handler->userdata, error);
        return r;
}

static int read_xstate(Member *m, CloneError *error)
{
        int r;

        m->xstate = g_malloc(XSTATE_MAX);
        r = tracee_get_xstate(&m->job.tracee, m->xstate, XSTATE_MAX, &m->xstate_size);
        return r < 0 ? job_failed(&m->job, r, "its registers cannot be read", error) : 0;
}

/* All of a descendant that its clone is made of. */
static int capture_member(PtraceTree *t, Member *m, CloneError *error)
{
        int r;

        r = member_read(t, m, error);
        if (r >= 0)
                r = member_compare(t, m, error);
        if (r >= 0)
                r = read_xstate(m, error);
        if (r >= 0)
                r = job_ask(&m->job, error);
        if (r >= 0)
                r = member_ask(t, m, error);
        if (r >= 0)
                r = member_read_files(t, m, error);
        if (r >= 0)
                r = member_read_memory(t, m, error);
        return r;
}

/* All members stand still, so that what it looks at is of the instant. */
static int prepare_fitout(PtraceTree *t, CloneError *error)
{
        g_autofree Target **targets = g_new(Target *, t->members->len);
        g_autofree const TargetStatus **statuses = g_new(const TargetStatus *, t->members->len);
        g_autofree const CloneFds **fds = g_new(const CloneFds *, t->members->len);
        size_t n = 0;
        int r = 0;

        for (guint k = 0; r >= 0 && k < t->members->len; k++) {
                Member *m = tree_member(t, k);

                if (m->gone)
                        continue;
                if (k > 0)
                        r = tree_fds(t->spec->fds, t->target, m->job.target, &m->spec_fds, error);
                targets[n] = m->job.target;
                statuses[n] = &m->job.status;
                fds[n] = k > 0 ? m->spec_fds : t->spec->fds;
                m->job.fitout_member = n++;
        }

        if (r >= 0)
                r = fitout_new(&t->fitout, targets, statuses, fds, n, t->spec, t->handler, FITOUT_ASKS_TIMERS, error);
        for (guint k = 0; r >= 0 && k < t->members->len; k++)
                tree_member(t, k)->job.fitout = t->fitout;
        return r;
}

static int capture(PtraceTree *t, CloneError *error)
{
        Member *root = tree_member(t, 0);
        int r;

        for (guint k = 0; k < t->members->len; k++)
                if (!tree_member(t, k)->gone && job_under_seccomp(&tree_member(t, k)->job))
                        job_guard(&root->job);

        r = prepare_fitout(t, error);
        if (r >= 0)
                r = member_read(t, root, error);
        if (r >= 0)
                r = member_read_memory(t, root, error);
        for (guint k = 1; r >= 0 && k < t->members->len; k++)
                if (!tree_member(t, k)->gone)
                        r = capture_member(t, tree_member(t, k), error);
        return r;
}

/* All clones at once: what their sources shared they share, too. */
static int fit_clones(PtraceTree *t, CloneError *error)
{
        g_autofree FitoutMember *clones = g_new(FitoutMember, t->members->len);
        size_t n = 0;

        if (!t->fitout)
                return 0;
        for (guint k = 0; k < t->members->len; k++) {
                const Job *j = &tree_member(t, k)->job;

                if (!tree_member(t, k)->gone)
                        clones[n++] = (FitoutMember){.tracee = &j->clones.tracees[0], .pidfd = j->clones.pidfds[0], .base = j->instant.regs,
                                .syscall_at = j->instant.cave};
        }

        return fitout_apply(t->fitout, clones, n, error);
}

/* While the tree runs again. */
static int make_clones(PtraceTree *t, CloneError *error)
{
        Job *root = root_job(t);
        int r;

        r = clones_adopt_first(&root->clones, &root->tracee, error);
        if (r >= 0) {
                r = marks_settle(&t->marks, &root->instant, &root->clones.tracees[0]);
                if (r < 0)
                        return job_failed(root, r, "its clone cannot be put in order", error);
        }
        if (r >= 0)
                r = clones_complete(&root->clones, t->spec, error);
        if (r >= 0)
                r = tree_build(t, error);
        if (r >= 0) {
                r = marks_restore(&t->marks, &root->instant, &root->clones.tracees[0]);
                if (r < 0)
                        return job_failed(root, r, "the memory of its clone cannot be marked", error);
                r = fit_clones(t, error);
        }
        for (guint k = 0; r >= 0 && k < t->members->len; k++)
                if (!tree_member(t, k)->gone)
                        r = rebuild_threads(&tree_member(t, k)->job.clones, error);
        return r;
}

static void tell_notes(const PtraceTree *t)
{
        for (guint k = 0; t->spec->notes && k < t->tree->zombies->len; k++)
                tree_note(t, "Process %d has ended, but nobody has waited for it: it is missing in the clone",
                                (int) g_array_index(t->tree->zombies, pid_t, k));
        for (guint k = 0; k < t->members->len; k++)
                if (!tree_member(t, k)->gone)
                        notes_tell(tree_member(t, k)->job.target, t->spec, t->handler, 0);
        if (root_job(t)->marks_reason)
                tree_note(t, "Memory that process %d has marked with madvise() is missing in the clone, or zero: %s", (int) target_pid(t->target),
                                root_job(t)->marks_reason);
}

static int hand_over(const PtraceTree *t, CloneError *error)
{
        g_autofree pid_t *pids = g_new(pid_t, t->members->len), *sources = g_new(pid_t, t->members->len);
        g_autofree int *pidfds = g_new(int, t->members->len);
        size_t n = 0;

        for (guint k = 0; k < t->members->len; k++) {
                const Job *j = &tree_member(t, k)->job;

                if (tree_member(t, k)->gone)
                        continue;
                pids[n] = j->clones.pids[0];
                pidfds[n] = j->clones.pidfds[0];
                sources[n++] = target_pid(j->target);
        }

        return t->handler->held ? t->handler->held(pids, pidfds, sources, n, t->handler->userdata, error) : 0;
}

/* Only the root's restart block was copied. */
static void forget_restarts(const PtraceTree *t)
{
        for (guint k = 1; k < t->members->len; k++) {
                Job *j = &tree_member(t, k)->job;

                if (!tree_member(t, k)->gone && instant_forget_restart(&j->instant, j->clones.pids[0]))
                        tree_note(t, "The clone of process %d: a wait with a relative timeout began anew with its full time", (int) target_pid(j->target));
        }
}

/* Children first: what waits for one finds it running. */
static int let_go(PtraceTree *t, CloneError *error)
{
        int r = 0;

        for (guint k = t->members->len; r >= 0 && k-- > 0;) {
                Job *j = &tree_member(t, k)->job;

                if (tree_member(t, k)->gone)
                        continue;
                /* What was stopped has a clone that is. */
                r = clones_release(&j->clones, k == 0 && t->spec->parent == CLONE_PARENT_DAEMON, t->spec->stopped || j->tracee.group_stop != 0, error);
        }

        return r;
}

static void kill_all(PtraceTree *t)
{
        for (guint k = t->members->len; k-- > 0;)
                clones_kill(&tree_member(t, k)->job.clones);
}

static int stop_and_clone(PtraceTree *t, CloneError *error)
{
        int r;

        r = stop(t, error);
        if (r >= 0)
                r = judge(t, error);
        if (r >= 0)
                r = capture(t, error);
        return r < 0 ? r : job_clone(root_job(t), error);
}

int ptrace_tree_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error)
{
        g_auto(PtraceTree) t = {.target = target, .spec = spec, .handler = handler};
        int r;

        r = engine_check_tree(spec, error);
        if (r >= 0)
                r = stop_and_clone(&t, error);
        if (t.members) {
                release(&t);
                ret->pause_nsec = root_job(&t)->pause_begin > 0 ? monotonic_nsec() - root_job(&t)->pause_begin : 0;
                job_stay_no_longer(root_job(&t));
        }
        if (handler->resumed)
                handler->resumed(handler->userdata);
        if (r < 0)
                return r;

        tell_notes(&t);
        r = make_clones(&t, error);
        if (r >= 0)
                forget_restarts(&t);
        if (r >= 0)
                r = hand_over(&t, error);
        if (r >= 0)
                r = let_go(&t, error);
        if (r < 0)
                kill_all(&t);
        return r;
}
