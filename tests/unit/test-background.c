/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine/background.h"

/* Longer than it takes until a task is put back. */
static void sleep_long(void)
{
        (void) nanosleep(&(struct timespec){.tv_nsec = 5 * BACKGROUND_USEC * 1000}, NULL);
}

static bool way_back(void)
{
        struct rlimit limit;

        return geteuid() == 0 || (getrlimit(RLIMIT_NICE, &limit) == 0 && limit.rlim_cur >= 20);
}

static void check_there_and_back(void)
{
        for (int i = 0; i < 20; i++) {
                g_assert_true(background_enter());
                background_leave();
                g_assert_cmpint(sched_getscheduler(0), ==, SCHED_OTHER);
        }
}

static void test_there_and_back(void)
{
        if (!way_back()) {
                g_assert_false(background_enter());
                g_assert_cmpint(sched_getscheduler(0), ==, SCHED_OTHER);
                return;
        }

        g_assert_true(background_prepare());
        g_assert_cmpint(sched_getscheduler(0), ==, SCHED_OTHER);
        check_there_and_back();
}

static void await_way_back(void)
{
        gint64 end = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;

        while (sched_getscheduler(0) != SCHED_OTHER)
                g_assert_cmpint(g_get_monotonic_time(), <, end);
}

/* However busy the processor is: that is what it is for. */
static void test_put_back(void)
{
        if (!background_enter())
                return; /* as the test above has it */
        await_way_back();
        /* As if it came there only now, having waited for its processor. */
        g_assert_cmpint(sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){}), ==, 0);
        await_way_back();
        background_leave();

        /* What is over stays over. */
        sleep_long();
        g_assert_cmpint(sched_getscheduler(0), ==, SCHED_OTHER);
        check_there_and_back();
}

static int in_child(bool (*function)(void))
{
        pid_t pid = fork();
        int status;

        if (pid == 0)
                _exit(function() ? 0 : 1);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFEXITED(status));
        return WEXITSTATUS(status);
}

static bool child_has_its_own(void)
{
        bool there = background_enter();

        while (there && sched_getscheduler(0) != SCHED_OTHER)
                ;
        return there;
}

/* A child has neither the thread nor the timer. */
static void test_child(void)
{
        g_assert_cmpint(in_child(child_has_its_own), ==, background_prepare() ? 0 : 1);
}

static bool forbidden_is_left_alone(void)
{
        const struct rlimit none = {};

        if (setrlimit(RLIMIT_NICE, &none) < 0 || (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0))
                return false;
        return !background_enter() && sched_getscheduler(0) == SCHED_OTHER;
}

static void test_forbidden(void)
{
        g_assert_cmpint(in_child(forbidden_is_left_alone), ==, 0);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/background/there-and-back", test_there_and_back);
        g_test_add_func("/background/put-back", test_put_back);
        g_test_add_func("/background/child", test_child);
        g_test_add_func("/background/forbidden", test_forbidden);
        return g_test_run();
}
