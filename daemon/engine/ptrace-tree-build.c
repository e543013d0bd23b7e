/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/engine/tree-jobs.h"

int member_failed(const Member *m, long r, const char *what, CloneError *error)
{
        int pid = (int) target_pid(m->job.target);

        if (r == -ESRCH || r == -ECHILD)
                return clone_error_set(error, CLONE_ERROR_FAILED, ESRCH, "The clone of process %d was killed before it was complete", pid);
        if (r == -EMFILE)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EMFILE,
                                "Process %d has no descriptor left under its RLIMIT_NOFILE, which making its clone needs", pid);
        return clone_error_set(error, r == -ENOMEM ? CLONE_ERROR_LIMITS_EXCEEDED : CLONE_ERROR_FAILED, (int) -r, "The clone of process %d: %s: %s", pid,
                        what, g_strerror((int) -r));
}

static bool exists(pid_t pid)
{
        return kill(pid, 0) == 0 || errno != ESRCH;
}

/* By place: which group and session each clone gets; in @ret_order the order in which groups are to be made. */
static JobStep *plan_jobs(const PtraceTree *t, JobStep **ret_order)
{
        g_autofree size_t *places = g_new0(size_t, t->members->len);
        g_autofree JobMember *members = g_new0(JobMember, t->members->len);
        JobStep *steps = g_new0(JobStep, t->members->len), *order = g_new0(JobStep, t->members->len);
        size_t n = 0;

        for (guint k = 0; k < t->members->len; k++) {
                const Member *m = tree_member(t, k);
                size_t parent = 0;

                if (m->gone)
                        continue;
                while (places[parent] != m->parent)
                        parent++;
                members[n] = (JobMember){target_pid(m->job.target), m->job.status.group, m->job.status.session, parent, exists(m->job.status.group)};
                places[n++] = k;
        }

        jobs_plan(members, n, t->spec->session, order);
        for (size_t i = 0; i < n; i++) {
                order[i].member = places[order[i].member];
                order[i].with = order[i].with == JOB_NOBODY ? JOB_NOBODY : places[order[i].with];
                steps[order[i].member] = order[i];
        }
        *ret_order = order;
        return steps;
}

/* The clone of the parent makes it: what the kernel makes of that is the child that it is to be. */
static int give_birth(PtraceTree *t, Member *m, CloneError *error)
{
        Member *parent = tree_parent(t, m);
        Tracee *from = &parent->job.clones.tracees[0];
        const uint64_t args[5] = {CLONE_PTRACE | ((unsigned) m->state.exit_signal & CSIGNAL)};
        long pid;
        int r;

        r = instant_call(&parent->job.instant, from, SYS_clone, args, &pid);
        if (r < 0)
                return member_failed(m, r, "it cannot be made", error);
        if (pid == -EAGAIN)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EAGAIN,
                                "The clone of process %d may have no more children: its RLIMIT_NPROC or its control group's pids.max is reached",
                                (int) target_pid(parent->job.target));
        if (pid < 0)
                return member_failed(m, pid, "it cannot be made", error);
        r = clones_adopt_first(&m->job.clones, from, error);
        m->born = r >= 0;
        return r;
}

/* Children of @k whose session is that which their parent had before it made one of its own (@early), or the others. */
static int give_births(PtraceTree *t, size_t k, bool early, const JobStep *steps, CloneError *error)
{
        const Member *m = tree_member(t, k);
        int r = 0;

        for (guint i = 1; r >= 0 && i < t->members->len; i++) {
                Member *child = tree_member(t, i);
                const TargetStatus *s = &child->job.status;
                bool is_early = steps[k].kind == JOB_NEW_SESSION && s->session != m->job.status.session && steps[i].kind != JOB_NEW_SESSION;

                if (child->parent == k && !child->gone && !child->born && is_early == early)
                        r = give_birth(t, child, error);
        }

        return r;
}

/* The code of a process that was made is there: calls without memory of their own. */
static Puppet puppet_of(Member *m)
{
        return (Puppet){.tracee = &m->job.clones.tracees[0], .pidfd = m->job.clones.pidfds[0], .base = m->job.instant.regs,
                .syscall_at = m->job.instant.cave};
}

static int suspend_seccomp(Member *m, CloneError *error)
{
        Tracee *t = &m->job.clones.tracees[0];

        if (m->job.status.seccomp == 0 || (t->options & PTRACE_O_SUSPEND_SECCOMP) || tracee_set_options(t, t->options | PTRACE_O_SUSPEND_SECCOMP) >= 0)
                return 0;
        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                        "Process %d is under seccomp, and the daemon lacks CAP_SYS_ADMIN to suspend that or is under seccomp itself",
                        (int) target_pid(m->job.target));
}

/* @m has a clone that is its parent's in everything. */
static int build(PtraceTree *t, Member *m, CloneError *error)
{
        Puppet p = puppet_of(m);
        int r;

        p.syscall_at = tree_parent(t, m)->job.instant.cave;
        r = member_dress(t, m, &p, error);
        return r < 0 ? r : clones_complete(&m->job.clones, &m->spec, error);
}

static int lead_session(PtraceTree *t, Member *m, CloneError *error)
{
        Puppet p = puppet_of(m);
        long r = puppet_call(&p, SYS_setsid);

        if (r < 0)
                return member_failed(m, r, "it cannot lead a session", error);
        if (m->state.has_terminal)
                tree_note(t, "The clone of process %d leads a session without a controlling terminal: that stays the process'",
                                (int) target_pid(m->job.target));
        return 0;
}

/* All clones are there: the groups, those that others join first. */
static int set_group(PtraceTree *t, const JobStep *step, CloneError *error)
{
        Member *m = tree_member(t, step->member);
        Puppet p = puppet_of(m);
        long r = 0, group;

        if (step->kind == JOB_NEW_GROUP)
                r = puppet_call(&p, SYS_setpgid, 0, 0);
        else if (step->kind == JOB_JOIN)
                r = puppet_call(&p, SYS_setpgid, 0, (uint64_t) tree_member(t, step->with)->clone_own_group);
        group = puppet_call(&p, SYS_getpgid, 0);
        if (r >= 0 && step->kind == JOB_INHERIT && step->member > 0 && group >= 0 && group != m->state.own_group)
                r = puppet_call(&p, SYS_setpgid, 0, (uint64_t) m->state.own_group);
        if (r == -EPERM || r == -EACCES)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                "Process %d is in a process group or session that its clone cannot be made to be in", (int) target_pid(m->job.target));
        if (r < 0 || group < 0)
                return member_failed(m, r < 0 ? r : group, "its process group cannot be set", error);
        m->clone_own_group = (pid_t) group;
        return 0;
}

int tree_build(PtraceTree *t, CloneError *error)
{
        g_autofree JobStep *order = NULL, *steps = plan_jobs(t, &order);
        size_t n = 0;
        int r = 0;

        for (guint k = 0; r >= 0 && k < t->members->len; k++) {
                Member *m = tree_member(t, k);

                if (m->gone)
                        continue;
                n++;
                r = suspend_seccomp(m, error);
                if (r >= 0 && k > 0)
                        r = build(t, m, error);
                if (r >= 0)
                        r = give_births(t, k, true, steps, error);
                if (r >= 0 && steps[k].kind == JOB_NEW_SESSION)
                        r = lead_session(t, m, error);
                if (r >= 0)
                        r = give_births(t, k, false, steps, error);
        }

        for (size_t i = 0; r >= 0 && i < n; i++)
                r = set_group(t, &order[i], error);
        return r;
}
