/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>

#include "daemon/engine/tree-jobs.h"

/* What is known of the clone of a member. */
typedef struct Made {
        bool made;
        bool new_group;   /* its group is not that of what it is a clone of */
        bool new_session; /* nor its session */
} Made;

static size_t find_pid(const JobMember *members, size_t n, pid_t pid)
{
        for (size_t k = 0; k < n; k++)
                if (members[k].pid == pid)
                        return k;
        return JOB_NOBODY;
}

static bool is_made(const Made *made, size_t k)
{
        return k == JOB_NOBODY || made[k].made;
}

/* Its parent's clone is there, and that of the leader of its group where the tree has it. */
static bool is_ready(const JobMember *members, size_t n, const Made *made, size_t k, bool leader)
{
        const JobMember *m = &members[k];

        if (made[k].made || (k > 0 && !made[m->parent].made))
                return false;
        return !leader || m->group == m->pid || is_made(made, find_pid(members, n, m->group));
}

/* The next to be made. The tree's order has parents first, so that one is ready if leaders are not asked for. */
static size_t choose(const JobMember *members, size_t n, const Made *made, bool *ret_other)
{
        for (int leader = 1; leader >= 0; leader--)
                for (size_t k = 0; k < n; k++)
                        if (is_ready(members, n, made, k, leader)) {
                                *ret_other = !leader;
                                return k;
                        }
        g_return_val_if_reached(0);
}

static size_t find_made(const JobMember *members, size_t n, const Made *made, size_t k, bool group)
{
        for (size_t other = 0; other < n; other++)
                if (made[other].made && (group ? made[other].new_group && members[other].group == members[k].group
                                               : made[other].new_session && members[other].session == members[k].session))
                        return other;
        return JOB_NOBODY;
}

static JobStep decide(const JobMember *members, size_t n, const Made *made, size_t k, bool session)
{
        const JobMember *m = &members[k];
        JobStep step = {.member = k, .with = JOB_NOBODY};

        if (m->session == m->pid || session) {
                step.kind = JOB_NEW_SESSION;
                return step;
        }

        step.with = find_made(members, n, made, k, true);
        if (step.with != JOB_NOBODY) {
                step.kind = JOB_JOIN;
                return step;
        }

        /* A group that the root shares with its leader, or with others that outlived it, is the clones' as well. */
        step.with = find_made(members, n, made, k, false);
        if (m->group == m->pid || step.with != JOB_NOBODY || (!m->leader_exists && m->group != members[0].group))
                step.kind = JOB_NEW_GROUP;
        return step;
}

void jobs_plan(const JobMember *members, size_t n, bool session, JobStep *ret)
{
        g_autofree Made *made = g_new0(Made, n);

        for (size_t i = 0; i < n; i++) {
                bool other = false;
                size_t k = choose(members, n, made, &other);

                ret[i] = decide(members, n, made, k, session && k == 0);
                ret[i].other_leader = other;
                made[k].made = true;
                made[k].new_group = ret[i].kind != JOB_INHERIT;
                made[k].new_session = ret[i].kind == JOB_NEW_SESSION || (ret[i].with != JOB_NOBODY && made[ret[i].with].new_session);
        }
}
