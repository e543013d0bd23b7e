/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "daemon/queue.h"

#define SECOND G_GUINT64_CONSTANT(1000000)

/* A queue that limits nothing, for the tests to set what they are about. */
static Queue *queue_unlimited(Conf *conf)
{
        Queue *q;

        *conf = (Conf){.rate_limit_interval_usec = 20 * SECOND};
        g_assert_cmpint(queue_new(&q, conf), ==, 0);
        return q;
}

static void admit(Queue *q, QueueItem *item, uid_t uid, pid_t target)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;

        *item = (QueueItem){.uid = uid, .target = target, .count = 1};
        g_assert_cmpint(queue_admit(q, item, 0, &error), ==, 0);
        g_assert_cmpint(item->state, ==, QUEUE_STATE_ADMITTED);
}

static void admit_ready(Queue *q, QueueItem *item, uid_t uid, pid_t target)
{
        admit(q, item, uid, target);
        queue_ready(q, item);
}

static void refused(Queue *q, uid_t uid, uint32_t count, uint64_t now, const char *text)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        QueueItem item = {.uid = uid, .target = 999, .count = count};
        unsigned before = queue_length(q);

        g_assert_cmpint(queue_admit(q, &item, now, &error), ==, -ENOBUFS);
        g_assert_cmpint(error.code, ==, CLONE_ERROR_LIMITS_EXCEEDED);
        g_assert_nonnull(strstr(error.message, text));
        g_assert_cmpint(item.state, ==, QUEUE_STATE_NONE);
        g_assert_cmpuint(queue_length(q), ==, before);
}

/* A user who asks for much first is not served before one who asks for little later. */
static void test_round_robin(void)
{
        static const uid_t expected[] = {1, 2, 3, 1, 2, 1, 1};
        QueueItem items[7];
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        for (int i = 0; i < 4; i++)
                admit_ready(q, &items[i], 1, 100 + i);
        admit_ready(q, &items[4], 2, 200);
        admit_ready(q, &items[5], 2, 201);
        admit_ready(q, &items[6], 3, 300);

        for (size_t i = 0; i < G_N_ELEMENTS(expected); i++) {
                QueueItem *item = queue_next(q);

                g_assert_nonnull(item);
                g_assert_cmpuint(item->uid, ==, expected[i]);
                queue_remove(q, item);
        }
        g_assert_null(queue_next(q));
        g_assert_cmpuint(queue_length(q), ==, 0);
}

/* Requests of one user go in the order of arrival, whichever was authorised first. */
static void test_order(void)
{
        QueueItem a, b, c;
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        admit(q, &a, 1, 100);
        admit(q, &b, 1, 101);
        admit(q, &c, 1, 102);
        queue_ready(q, &c);
        queue_ready(q, &a);
        queue_ready(q, &b);
        g_assert_true(queue_next(q) == &a);
        g_assert_true(queue_next(q) == &b);
        g_assert_true(queue_next(q) == &c);
        queue_remove(q, &a);
        queue_remove(q, &b);
        queue_remove(q, &c);
}

static void test_one_for_each_target(void)
{
        QueueItem a, b, other;
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        admit_ready(q, &a, 1, 100);
        admit_ready(q, &b, 2, 100);
        admit_ready(q, &other, 2, 200);
        g_assert_true(queue_next(q) == &a);
        g_assert_true(queue_next(q) == &other); /* passes b, whose target is busy */
        g_assert_null(queue_next(q));
        queue_remove(q, &a);
        g_assert_true(queue_next(q) == &b);
        g_assert_cmpuint(queue_running(q), ==, 2);
        queue_remove(q, &b);
        queue_remove(q, &other);
}

static void test_running_limit(void)
{
        QueueItem a, b, root_a, root_b;
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        conf.running_per_user_max = 1;
        admit_ready(q, &a, 1, 100);
        admit_ready(q, &b, 1, 101);
        g_assert_true(queue_next(q) == &a);
        g_assert_null(queue_next(q));
        queue_unready(q, &a); /* is judged anew and does not hold the others up */
        g_assert_true(queue_next(q) == &b);
        queue_remove(q, &b);
        queue_ready(q, &a);
        g_assert_true(queue_next(q) == &a);
        queue_remove(q, &a);

        admit_ready(q, &root_a, 0, 100);
        admit_ready(q, &root_b, 0, 101);
        g_assert_true(queue_next(q) == &root_a);
        g_assert_true(queue_next(q) == &root_b);
        queue_remove(q, &root_a);
        queue_remove(q, &root_b);
}

static void test_running_max(void)
{
        QueueItem items[QUEUE_RUNNING_MAX + 1];
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        for (size_t i = 0; i < G_N_ELEMENTS(items); i++)
                admit_ready(q, &items[i], 0, 100 + (pid_t) i);
        for (size_t i = 0; i < QUEUE_RUNNING_MAX; i++)
                g_assert_nonnull(queue_next(q));
        g_assert_null(queue_next(q));
        queue_remove(q, &items[0]);
        g_assert_true(queue_next(q) == &items[QUEUE_RUNNING_MAX]);
        for (size_t i = 0; i < G_N_ELEMENTS(items); i++)
                queue_remove(q, &items[i]);
}

static void test_queued_limits(void)
{
        QueueItem a, b, c, root, more;
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        conf.queued_per_user_max = 2;
        conf.queued_max = 4;
        admit(q, &a, 1, 100); /* one that waits for polkit counts as much */
        admit_ready(q, &b, 1, 101);
        refused(q, 1, 1, 0, "2 requests of user 1");
        admit_ready(q, &c, 2, 102);
        admit_ready(q, &root, 0, 103);
        refused(q, 3, 1, 0, "4 requests wait");
        refused(q, 0, 1, 0, "4 requests wait"); /* this one holds for everyone */

        g_assert_true(queue_next(q) == &b); /* what runs does not wait */
        admit(q, &more, 3, 104);
        queue_remove(q, &a);
        queue_remove(q, &b);
        queue_remove(q, &c);
        queue_remove(q, &root);
        queue_remove(q, &more);
        g_assert_cmpuint(queue_length(q), ==, 0);
}

static void test_rate_limit(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        QueueItem item = {.uid = 1, .target = 100, .count = 3}, big = {.uid = 0, .target = 100, .count = 1000};
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        conf.rate_limit_burst = 5;
        g_assert_cmpint(queue_admit(q, &item, 10 * SECOND, &error), ==, 0);
        queue_remove(q, &item); /* however it ended, it was asked for */
        refused(q, 1, 3, 10 * SECOND, "5 clones");
        refused(q, 1, 6, 10 * SECOND, "5 clones");
        item.count = 2;
        g_assert_cmpint(queue_admit(q, &item, 20 * SECOND, &error), ==, 0);
        queue_remove(q, &item);
        refused(q, 1, 1, 30 * SECOND - 1, "5 clones");
        item.count = 3; /* the first three are forgotten, the two are not */
        g_assert_cmpint(queue_admit(q, &item, 30 * SECOND, &error), ==, 0);
        queue_remove(q, &item);
        refused(q, 1, 1, 30 * SECOND, "5 clones");

        for (int i = 0; i < 1000; i++) {
                g_assert_cmpint(queue_admit(q, &big, 30 * SECOND, &error), ==, 0);
                queue_remove(q, &big);
        }
}

static void test_live_limit(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        QueueItem item = {.uid = 1, .target = 100, .count = 2};
        Conf conf;
        g_autoptr(Queue) q = queue_unlimited(&conf);

        conf.clones_per_user_max = 3;
        g_assert_true(queue_counts_live(q, 1));
        g_assert_false(queue_counts_live(q, 0));
        g_assert_cmpint(queue_admit(q, &item, 0, &error), ==, 0);
        refused(q, 1, 2, 0, "2 are under way");
        queue_remove(q, &item);
        queue_live_add(q, 1);
        queue_live_add(q, 1);
        refused(q, 1, 2, 0, "2 are there");
        refused(q, 1, 4, 0, "may have 3");
        queue_live_remove(q, 1);
        g_assert_cmpint(queue_admit(q, &item, 0, &error), ==, 0);
        queue_remove(q, &item);
        queue_live_remove(q, 1);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/queue/round-robin", test_round_robin);
        g_test_add_func("/queue/order", test_order);
        g_test_add_func("/queue/one-for-each-target", test_one_for_each_target);
        g_test_add_func("/queue/running-limit", test_running_limit);
        g_test_add_func("/queue/running-max", test_running_max);
        g_test_add_func("/queue/queued-limits", test_queued_limits);
        g_test_add_func("/queue/rate-limit", test_rate_limit);
        g_test_add_func("/queue/live-limit", test_live_limit);
        return g_test_run();
}
