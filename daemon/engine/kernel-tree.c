/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "daemon/engine/fds.h"
#include "daemon/engine/kernel-call.h"
#include "daemon/engine/kernel-fit.h"
#include "daemon/engine/kernel-pidns.h"
#include "daemon/engine/kernel-tids.h"
#include "daemon/engine/kernel-timers.h"
#include "daemon/engine/kernel-tree.h"
#include "daemon/engine/notes.h"
#include "daemon/engine/remfork.h"
#include "daemon/engine/tree-fds.h"
#include "daemon/engine/tree-jobs.h"
#include "daemon/engine/watched.h"
#include "daemon/tree.h"
#include "daemon/util.h"

#define NSEC_PER_USEC 1000U
#define RESTART_USEC 1000U /* before a tree that changed is looked at anew */

/* One process of the tree and its clone. */
typedef struct Member {
        TargetStatus status;
        int park; /* while it is open the process stands still */
        CloneFds *fds; /* borrowed descriptors; NULL for none */
        KernelClone clone; /* descriptors are -EBADF before there is one */
        KernelLists lists; /* of the clone's threads and timers */
} Member;

/* One clone() on its way; the process that runs it does nothing else. */
typedef struct Job {
        Target *target;
        const CloneSpec *spec;
        const EngineHandler *handler;
        Tree *tree;
        GArray *members; /* Member, in the places of the tree's; those that were looked at */
        uint64_t deadline; /* ns of CLOCK_MONOTONIC: by then all must be parked */
        uint64_t pause_begin;
        Fitout *fitout; /* NULL before all are parked */
        KernelFit *fit; /* once they are completed */
        KernelPidns *pidns;
        bool released;
} Job;

#define MEMBER(j, k) (&g_array_index((j)->members, Member, (k)))

static void member_clear(void *p)
{
        Member *m = p;

        safe_close(m->clone.hold); /* a clone that was not let go dies of this */
        safe_close(m->clone.pidfd);
        safe_close(m->park);
        g_free(m->fds);
        kernel_lists_clear(&m->lists);
}

/* Clones that were completed are held by their tracer alone. */
static void destroy_clones(const Job *j)
{
        guint n = j->members && !j->released ? j->members->len : 0, made = 0;
        g_autofree pid_t *pids = g_new(pid_t, n);
        g_autofree int *pidfds = g_new(int, n);

        for (guint k = 0; k < n; k++)
                if (MEMBER(j, k)->clone.pidfd >= 0) {
                        pids[made] = MEMBER(j, k)->clone.pid;
                        pidfds[made++] = MEMBER(j, k)->clone.pidfd;
                }
        kernel_destroy(pids, pidfds, made);
}

/* All but what is asked. */
static void job_clear(Job *j)
{
        destroy_clones(j);
        j->fit = kernel_fit_free(j->fit);
        j->fitout = fitout_free(j->fitout);
        g_clear_pointer(&j->members, g_array_unref); /* before the tree, whose processes it keeps */
        j->tree = tree_free(j->tree);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Job, job_clear)

static uint64_t time_left(const Job *j)
{
        uint64_t now = monotonic_nsec();

        return now < j->deadline ? j->deadline - now : 1; /* 0 would be no limit */
}

static Target *target_of(const Job *j, size_t k)
{
        return TREE_MEMBER(j->tree, k)->target;
}

/* The first of a PID namespace may be a member: its clone has the parent that it needs. */
static int check_member(const Job *j, size_t k, TargetStatus *ret, CloneError *error)
{
        CloneSpec spec = *j->spec;
        int r;

        if (k > 0)
                spec.parent = CLONE_PARENT_DAEMON;
        r = target_read_status(target_of(j, k), ret);
        if (r < 0)
                return r;
        r = engine_check_status(target_of(j, k), ret, &spec, error);
        return r < 0 ? r : kernel_pidns_check(target_of(j, k), ret, &spec, error);
}

/* Looks at the next member, which runs. 1, or 0 where it ended before. */
static int look_at(Job *j, CloneError *error)
{
        size_t k = j->members->len;
        Member m = {.park = -EBADF, .clone = {.pidfd = -EBADF, .hold = -EBADF}};
        int r = check_member(j, k, &m.status, error);

        if (k > 0 && r < 0 && (r == -ESRCH || m.status.state == 'Z' || m.status.state == 'X')) {
                clone_error_clear(error);
                return 0;
        }
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "There is no process %d", (int) target_pid(target_of(j, k)));
        if (r < 0)
                return r;

        g_array_append_val(j->members, m);
        return 1;
}

/* 1 where it is parked, 0 where it ended before. */
static int park(Job *j, size_t k, CloneError *error)
{
        uint64_t left = time_left(j);
        struct remfork_args args = {.flags = REMFORK_PARK, .timeout = left, .pause = left, .hold = (uint64_t) (uintptr_t) &MEMBER(j, k)->park};
        long r;

        if (j->pause_begin == 0) {
                j->pause_begin = monotonic_nsec();
                if (j->handler->stopped)
                        j->handler->stopped(j->handler->userdata);
        }
        r = kernel_remfork(target_pidfd(target_of(j, k)), &args);
        if (r >= 0)
                return 1;

        MEMBER(j, k)->park = -EBADF; /* -1 was written there */
        return r == -ESRCH && k > 0 ? 0 : kernel_failed(target_of(j, k), j->spec, r, error);
}

/* Process group and session of each as they are now; false where one has ended. All stand still: /proc, which has more, takes ten times longer. */
static bool read_jobs(const Job *j)
{
        guint n = j->members->len;
        g_autofree struct pollfd *ends = g_new0(struct pollfd, n);

        for (guint k = 0; k < n; k++) {
                pid_t pid = target_pid(target_of(j, k));

                MEMBER(j, k)->status.group = getpgid(pid);
                MEMBER(j, k)->status.session = getsid(pid);
                ends[k] = (struct pollfd){.fd = target_pidfd(target_of(j, k)), .events = POLLIN};
        }

        return RETRY_EINTR(poll(ends, n, 0)) == 0; /* a pidfd can be read when its process has ended */
}

/*
 * All that is found, until nothing is new. 1 where it is the whole tree, 0 where it changed under the look. What can be found while the
 * tree runs is looked at before any of it stands still.
 */
static int park_all(Job *j, CloneError *error)
{
        size_t parked = 0;
        int r;

        do {
                r = tree_grow(j->tree, j->spec->tree_max, error);
                if (r < 0)
                        return r;
                while (j->members->len < j->tree->members->len) {
                        r = look_at(j, error);
                        if (r <= 0)
                                return r;
                }
                for (r = 0; parked < j->members->len; parked++) {
                        r = park(j, parked, error);
                        if (r <= 0)
                                return r;
                }
        } while (r > 0); /* none of them had children that were not found, or has any by now */

        /* One that was killed has left its children to another parent. */
        if (!tree_is_whole(j->tree) || !read_jobs(j))
                return 0;

        return 1;
}

/* The tree goes on. */
static void unpark(Job *j)
{
        for (guint k = 0; j->members && k < j->members->len; k++)
                MEMBER(j, k)->park = safe_close(MEMBER(j, k)->park);
        if (j->pause_begin > 0 && j->handler->resumed)
                j->handler->resumed(j->handler->userdata);
}

/*
 * One that sits in vfork(2) goes on when its child executes a program or ends, which takes that child to run: so all are let go, and asked
 * again.
 */
static int collect(Job *j, CloneError *error)
{
        int r;

        j->deadline = monotonic_nsec() + engine_stop_timeout_usec(j->spec) * NSEC_PER_USEC;
        for (;;) {
                j->members = g_array_new(FALSE, FALSE, sizeof(Member));
                g_array_set_clear_func(j->members, member_clear);
                j->tree = tree_new(j->target);

                r = park_all(j, error);
                if (r > 0)
                        return 0;
                if (r < 0 && (r != -EINPROGRESS || monotonic_nsec() >= j->deadline))
                        return r;

                unpark(j);
                j->pause_begin = 0;
                job_clear(j);
                if (monotonic_nsec() >= j->deadline)
                        return r < 0 ? r : clone_error_set(error, CLONE_ERROR_TIMEOUT, 0,
                                        "Process %d has descendants that begin and end faster than they can be stopped", (int) target_pid(j->target));
                clone_error_clear(error);
                g_usleep(RESTART_USEC);
        }
}

static int judge(Job *j, CloneError *error)
{
        int r = j->handler->judge ? j->handler->judge(j->target, j->handler->userdata, error) : 0;

        for (guint k = 1; r >= 0 && k < j->members->len; k++)
                r = j->handler->judge_member(target_of(j, k), j->handler->userdata, error);
        return r;
}

static int find_fds(Job *j, CloneError *error)
{
        int r = 0;

        if (j->spec->fds)
                MEMBER(j, 0)->fds = g_memdup2(j->spec->fds, sizeof(*j->spec->fds));
        for (guint k = 1; r >= 0 && k < j->members->len; k++)
                r = tree_fds(j->spec->fds, j->target, target_of(j, k), &MEMBER(j, k)->fds, error);
        return r;
}

static bool exists(pid_t pid)
{
        char path[sizeof("/proc/") + 3 * sizeof(pid_t)];

        (void) snprintf(path, sizeof(path), "/proc/%d", (int) pid);
        return access(path, F_OK) == 0;
}

static JobStep *plan(Job *j)
{
        size_t n = j->members->len;
        g_autofree JobMember *members = g_new0(JobMember, n);
        JobStep *steps = g_new0(JobStep, n);

        for (guint k = 0; k < n; k++) {
                const TargetStatus *s = &MEMBER(j, k)->status;
                const bool known = k > 0 && members[k - 1].group == s->group;

                members[k] = (JobMember){target_pid(target_of(j, k)), s->group, s->session, TREE_MEMBER(j->tree, k)->parent,
                                known ? members[k - 1].leader_exists : exists(s->group)};
        }

        jobs_plan(members, n, j->spec->session, steps);
        return steps;
}

static uint64_t job_flags(const JobStep *step)
{
        switch (step->kind) {
        case JOB_JOIN:
                return REMFORK_PGRP_PIDFD;
        case JOB_NEW_GROUP:
                return REMFORK_NEW_PGRP | (step->with != JOB_NOBODY ? REMFORK_PGRP_PIDFD : 0);
        case JOB_NEW_SESSION:
                return REMFORK_NEW_SESSION;
        default:
                return 0;
        }
}

static int make_clone(Job *j, const JobStep *step, CloneError *error)
{
        size_t k = step->member, parent = TREE_MEMBER(j->tree, k)->parent;
        Member *m = MEMBER(j, k);
        struct remfork_fd fds[CLONE_FDS_MAX];
        size_t n_fds = fds_to_remfork(m->fds, fds);
        struct remfork_args args = {
                .flags = REMFORK_PIDFD | REMFORK_HOLD | REMFORK_TIDS | REMFORK_TIMERS | REMFORK_MARKED | job_flags(step) | (j->spec->stopped ? REMFORK_STOPPED : 0) |
                         (j->spec->threads == CLONE_THREADS_ALL ? REMFORK_THREADS : 0) | (j->spec->same_pids ? REMFORK_SAME_PIDS : 0) |
                         (k > 0 ? REMFORK_PARENT_PIDFD : j->spec->parent == CLONE_PARENT_DAEMON ? REMFORK_PARENT_REQUESTER : 0),
                .timeout = time_left(j),
                .pause = j->spec->threads == CLONE_THREADS_ALL ? time_left(j) : 0,
                .fds = n_fds > 0 ? (uint64_t) (uintptr_t) fds : 0,
                .nr_fds = n_fds,
                .pidfd = (uint64_t) (uintptr_t) &m->clone.pidfd,
                .hold = (uint64_t) (uintptr_t) &m->clone.hold,
                .parent = k > 0 ? (uint64_t) MEMBER(j, parent)->clone.pidfd : 0,
                .pgrp = step->with != JOB_NOBODY ? (uint64_t) MEMBER(j, step->with)->clone.pidfd : 0,
                .pidns = j->spec->same_pids ? (uint64_t) j->pidns->pidfd : 0,
        };
        long pid = kernel_remfork_with_lists(target_pidfd(target_of(j, k)), &args, &m->lists);

        if (pid < 0) {
                m->clone.pidfd = m->clone.hold = -EBADF; /* -1 was written there */
                return kernel_failed(target_of(j, k), j->spec, pid, error);
        }
        m->clone.pid = (pid_t) pid;
        kernel_timers_take(fitout_timers(j->fitout, k), m->lists.timers); /* what is left of them begins to pass */
        return 0;
}

static int make_clones(Job *j, CloneError *error)
{
        g_autofree JobStep *steps = plan(j);
        int r = 0;

        for (guint i = 0; r >= 0 && i < j->members->len; i++)
                r = make_clone(j, &steps[i], error);
        return r;
}

/* The clones are held, so the tree need not wait for this. */
static int adopt_tids(const Job *j, CloneError *error)
{
        int r = 0;

        for (guint k = 0; r >= 0 && k < j->members->len; k++)
                r = kernel_adopt_tids(MEMBER(j, k)->lists.tids, error);
        return r;
}

static void note_zombies(const Job *j)
{
        for (guint k = 0; j->spec->notes && j->handler->note && k < j->tree->zombies->len; k++) {
                g_autofree char *text = g_strdup_printf("Process %d has ended, but nobody has waited for it: it is missing in the clone",
                                (int) g_array_index(j->tree->zombies, pid_t, k));

                j->handler->note(text, j->handler->userdata);
        }
}

static int leave_pidns(Job *j, CloneError *error)
{
        g_autofree pid_t *numbers = g_new(pid_t, j->members->len);

        for (guint k = 0; k < j->members->len; k++)
                numbers[k] = MEMBER(j, k)->status.own_pid;
        return kernel_pidns_leave(j->pidns, numbers, j->members->len, error);
}

static int hand_over(const Job *j, CloneError *error)
{
        guint n = j->members->len;
        g_autofree pid_t *pids = g_new(pid_t, n), *sources = g_new(pid_t, n);
        g_autofree int *pidfds = g_new(int, n);

        for (guint k = 0; k < n; k++) {
                pids[k] = MEMBER(j, k)->clone.pid;
                pidfds[k] = MEMBER(j, k)->clone.pidfd;
                sources[k] = target_pid(target_of(j, k));
        }

        return j->handler->held ? j->handler->held(pids, pidfds, sources, n, j->handler->userdata, error) : 0;
}

/* Looks at all while they stand still: what is captured is of the instant. */
static int prepare_fitout(Job *j, CloneError *error)
{
        guint n = j->members->len;
        g_autofree Target **targets = g_new(Target *, n);
        g_autofree const TargetStatus **statuses = g_new(const TargetStatus *, n);
        g_autofree const CloneFds **fds = g_new(const CloneFds *, n);
        int r;

        for (guint k = 0; k < n; k++) {
                targets[k] = target_of(j, k);
                statuses[k] = &MEMBER(j, k)->status;
                fds[k] = MEMBER(j, k)->fds;
        }

        r = fitout_new(&j->fitout, targets, statuses, fds, n, j->spec, j->handler, FITOUT_PASSES_FDS | FITOUT_TELLS_TIMERS, error);
        if (r >= 0)
                fitout_capture(j->fitout);
        return r;
}

static int complete(Job *j, CloneError *error)
{
        guint n = j->members->len;
        g_autofree KernelClone *clones = g_new(KernelClone, n);

        if (!fitout_is_needed(j->fitout))
                return 0;
        for (guint k = 0; k < n; k++)
                clones[k] = MEMBER(j, k)->clone;
        return kernel_fit(&j->fit, j->fitout, clones, n, error);
}

/* Children first: what waits for one finds it running. */
static void release(Job *j)
{
        j->released = true;
        if (j->fit) {
                kernel_unfit(j->fit);
                return;
        }
        for (guint k = j->members->len; k-- > 0;)
                (void) ioctl(MEMBER(j, k)->clone.hold, REMFORK_IOC_RELEASE, 0); /* cannot fail on such a descriptor */
}

int kernel_tree_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error)
{
        g_auto(KernelPidns) pidns = KERNEL_PIDNS_NONE; /* cleared after the job, whose clones are in it */
        g_auto(Job) j = {.target = target, .spec = spec, .handler = handler, .pidns = &pidns};
        int r;

        r = engine_check_tree(spec, error);
        if (r >= 0)
                r = kernel_pidns_new(&pidns, spec, error);
        if (r >= 0)
                r = collect(&j, error);
        if (r >= 0)
                r = judge(&j, error);
        if (r >= 0)
                r = find_fds(&j, error);
        if (r >= 0)
                r = prepare_fitout(&j, error);
        if (r >= 0)
                r = make_clones(&j, error);
        unpark(&j);
        ret->pause_nsec = j.pause_begin > 0 ? monotonic_nsec() - j.pause_begin : 0;
        if (r >= 0)
                r = adopt_tids(&j, error);
        if (r < 0)
                return r; /* what is held dies with the job */

        note_zombies(&j);
        for (guint k = 0; k < j.members->len; k++)
                notes_tell(target_of(&j, k), spec, handler, kernel_lacks(spec, &MEMBER(&j, k)->status));
        kernel_pidns_note(spec, handler, target_pid(target));
        r = complete(&j, error);
        if (r >= 0)
                r = leave_pidns(&j, error);
        if (r >= 0)
                r = hand_over(&j, error);
        if (r < 0)
                return r;

        release(&j);
        if (spec->parent == CLONE_PARENT_DAEMON)
                watched_set(&MEMBER(&j, 0)->clone.pid, 1);
        return 0;
}
