/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>

#include "daemon/engine/tree-jobs.h"

#define FOREIGN 7   /* a group, and its leader, that the tree has nothing to do with */
#define SHELL 5     /* the leader of the session in which the root was started */
#define DEAD 8      /* a group whose leader is gone */

#define CHECK(step, m, k, w)                                                            \
        G_STMT_START {                                                                  \
                g_assert_cmpuint((step).member, ==, m);                                 \
                g_assert_cmpint((step).kind, ==, k);                                    \
                g_assert_cmpuint((step).with, ==, w);                                   \
                g_assert_false((step).other_leader);                                           \
        } G_STMT_END

/* A job of a shell with job control: the root leads the group. */
static void test_job(void)
{
        const JobMember members[] = {{10, 10, SHELL, 0, true}, {11, 10, SHELL, 0, true}, {12, 10, SHELL, 1, true}};
        JobStep plan[3];

        jobs_plan(members, 3, false, plan);
        CHECK(plan[0], 0, JOB_NEW_GROUP, JOB_NOBODY);
        CHECK(plan[1], 1, JOB_JOIN, 0);
        CHECK(plan[2], 2, JOB_JOIN, 0);
}

/* What was started without job control shares a group with who started it. */
static void test_foreign(void)
{
        const JobMember members[] = {{10, FOREIGN, SHELL, 0, true}, {11, FOREIGN, SHELL, 0, true}};
        JobStep plan[2];

        jobs_plan(members, 2, false, plan);
        CHECK(plan[0], 0, JOB_INHERIT, JOB_NOBODY);
        CHECK(plan[1], 1, JOB_INHERIT, JOB_NOBODY);

        jobs_plan(members, 2, true, plan);
        CHECK(plan[0], 0, JOB_NEW_SESSION, JOB_NOBODY);
        CHECK(plan[1], 1, JOB_JOIN, 0);
}

/* A daemon, or a terminal's shell with a job of two, whose leader has ended, and one that has left the session. */
static void test_session(void)
{
        const JobMember members[] = {
                {10, 10, 10, 0, true}, {11, DEAD, 10, 0, false}, {12, DEAD, 10, 0, false}, {13, 13, 10, 0, true}, {14, 13, 10, 3, true},
                {15, 15, 15, 0, true}, {16, 16, 15, 5, true},
        };
        JobStep plan[7];

        jobs_plan(members, 7, false, plan);
        CHECK(plan[0], 0, JOB_NEW_SESSION, JOB_NOBODY);
        CHECK(plan[1], 1, JOB_NEW_GROUP, 0);
        CHECK(plan[2], 2, JOB_JOIN, 1);
        CHECK(plan[3], 3, JOB_NEW_GROUP, 0);
        CHECK(plan[4], 4, JOB_JOIN, 3);
        CHECK(plan[5], 5, JOB_NEW_SESSION, JOB_NOBODY);
        CHECK(plan[6], 6, JOB_NEW_GROUP, 5);
}

/* The root is in a group of which the leader is gone: others may be in it. A child leads one in the same, foreign session. */
static void test_orphaned(void)
{
        const JobMember members[] = {{10, DEAD, SHELL, 0, false}, {11, DEAD, SHELL, 0, false}, {12, 12, SHELL, 0, true}, {13, 9, SHELL, 0, false}};
        JobStep plan[4];

        jobs_plan(members, 4, false, plan);
        CHECK(plan[0], 0, JOB_INHERIT, JOB_NOBODY);
        CHECK(plan[1], 1, JOB_INHERIT, JOB_NOBODY);
        CHECK(plan[2], 2, JOB_NEW_GROUP, JOB_NOBODY);
        CHECK(plan[3], 3, JOB_NEW_GROUP, JOB_NOBODY);
}

/* The leader is the younger brother. */
static void test_order(void)
{
        const JobMember members[] = {{10, 10, 10, 0, true}, {11, 12, 10, 0, true}, {12, 12, 10, 0, true}, {13, 13, 10, 1, true}};
        JobStep plan[4];

        jobs_plan(members, 4, false, plan);
        CHECK(plan[0], 0, JOB_NEW_SESSION, JOB_NOBODY);
        CHECK(plan[1], 2, JOB_NEW_GROUP, 0);
        CHECK(plan[2], 1, JOB_JOIN, 2);
        CHECK(plan[3], 3, JOB_NEW_GROUP, 0);
}

/* The leader is the own child: its clone cannot be there before its parent's. They are together all the same, in a group of the parent's. */
static void test_child_leads(void)
{
        const JobMember members[] = {{10, 10, 10, 0, true}, {11, 12, 10, 0, true}, {12, 12, 10, 1, true}};
        JobStep plan[3];

        jobs_plan(members, 3, false, plan);
        CHECK(plan[0], 0, JOB_NEW_SESSION, JOB_NOBODY);
        g_assert_cmpuint(plan[1].member, ==, 1);
        g_assert_cmpint(plan[1].kind, ==, JOB_NEW_GROUP);
        g_assert_true(plan[1].other_leader);
        CHECK(plan[2], 2, JOB_JOIN, 1);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/tree-jobs/job", test_job);
        g_test_add_func("/tree-jobs/foreign", test_foreign);
        g_test_add_func("/tree-jobs/session", test_session);
        g_test_add_func("/tree-jobs/orphaned", test_orphaned);
        g_test_add_func("/tree-jobs/order", test_order);
        g_test_add_func("/tree-jobs/child-leads", test_child_leads);
        return g_test_run();
}
