/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/tree.h"
#include "daemon/util.h"

/*
 * The tree: a root with a child that has two children, a child that a thread of it made, and one that has ended. Each writes a byte
 * when it is there.
 */
static int ready = -1;

static void begin(void)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (write(ready, "x", 1) != 1)
                _exit(1);
}

static pid_t sleeper(void)
{
        pid_t pid = fork();

        if (pid != 0)
                return pid;
        begin();
        for (;;)
                pause();
}

static void *fork_in_thread(void *unused)
{
        sleeper();
        for (;;)
                pause(); /* PDEATHSIG is sent when the thread ends */
        return NULL;
}

static void run_root(void)
{
        pthread_t thread;

        begin();
        if (fork() == 0) {
                begin();
                sleeper();
                sleeper();
                for (;;)
                        pause();
        }
        if (pthread_create(&thread, NULL, fork_in_thread, NULL) != 0)
                _exit(1);
        if (fork() == 0)
                _exit(0);
        for (;;)
                pause();
}

static pid_t start_root(unsigned n)
{
        int pair[2];
        pid_t pid;
        char c;

        g_assert_cmpint(pipe(pair), ==, 0);
        ready = pair[1];
        pid = fork();
        g_assert_cmpint(pid, >=, 0);
        if (pid == 0)
                run_root();
        close(pair[1]);
        while (n-- > 0)
                g_assert_cmpint(read(pair[0], &c, 1), ==, 1);
        close(pair[0]);
        return pid;
}

static void end(pid_t pid)
{
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

#define STARTED 5U /* of them live, with the root */

static void wait_for_zombie(Tree *t)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;

        /* It has a PID before it ends, and is a member until then: looked for in a tree of its own each time. */
        for (int i = 0; i < 5000; i++) {
                g_autoptr(Tree) again = NULL;

                g_assert_cmpint(tree_read(&again, TREE_MEMBER(t, 0)->target, TREE_MAX, &error), ==, 0);
                if (again->zombies->len == 1)
                        return;
                g_usleep(1000);
        }
        g_assert_not_reached();
}

static void test_tree(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Target) root = NULL;
        g_autoptr(Tree) alone = NULL, t = NULL;
        pid_t pid = start_root(STARTED), killed = 0;
        unsigned of_root = 0;

        g_assert_cmpint(target_new(&root, pid, &error), ==, 0);
        alone = tree_new(root);
        g_assert_cmpuint(alone->members->len, ==, 1);
        wait_for_zombie(alone);
        g_assert_cmpint(tree_read(&t, root, TREE_MAX, &error), ==, 0);
        g_assert_cmpuint(t->members->len, ==, STARTED);
        g_assert_cmpuint(t->zombies->len, ==, 1);

        g_assert_true(TREE_MEMBER(t, 0)->target == root);
        for (guint k = 1; k < t->members->len; k++) {
                TargetStatus s;

                g_assert_cmpuint(TREE_MEMBER(t, k)->parent, <, k);
                of_root += TREE_MEMBER(t, k)->parent == 0;
                g_assert_cmpint(target_read_status(TREE_MEMBER(t, k)->target, &s), ==, 0);
                g_assert_cmpint(s.parent, ==, target_pid(TREE_MEMBER(t, TREE_MEMBER(t, k)->parent)->target));
        }
        g_assert_cmpuint(of_root, ==, 2); /* the thread's is one */

        /* Nothing is new, and nothing comes twice. */
        g_assert_cmpint(tree_grow(t, TREE_MAX, &error), ==, 0);
        g_assert_cmpuint(t->members->len, ==, STARTED);
        g_assert_true(tree_is_whole(t));

        /* A member that is killed leaves its child to another parent. */
        for (guint k = 1; k < t->members->len && !killed; k++)
                if (TREE_MEMBER(t, k)->parent > 0) {
                        killed = target_pid(TREE_MEMBER(t, TREE_MEMBER(t, k)->parent)->target);
                        g_assert_cmpint(kill(killed, SIGKILL), ==, 0);
                }
        g_assert_cmpint(killed, !=, 0);
        for (int i = 0; i < 5000 && tree_is_whole(t); i++) {
                g_assert_cmpint(tree_grow(t, TREE_MAX, &error), ==, 0);
                g_usleep(1000);
        }
        g_assert_false(tree_is_whole(t));
        end(pid);
}

static void test_too_many(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Target) root = NULL;
        g_autoptr(Tree) t = NULL;
        pid_t pid = start_root(STARTED);
        g_autofree char *expected = NULL;

        g_assert_cmpint(target_new(&root, pid, &error), ==, 0);
        g_assert_cmpint(tree_read(&t, root, STARTED - 1, &error), ==, -ENOBUFS);
        g_assert_cmpint(error.code, ==, CLONE_ERROR_LIMITS_EXCEEDED);
        expected = g_strdup_printf("The tree of process %d has more than %u processes", (int) pid, STARTED - 1);
        g_assert_cmpstr(error.message, ==, expected);
        g_assert_null(t);
        end(pid);
}

static void test_gone(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Target) root = NULL;
        g_autoptr(Tree) t = NULL;
        pid_t pid = start_root(STARTED);

        g_assert_cmpint(target_new(&root, pid, &error), ==, 0);
        end(pid);
        g_assert_cmpint(tree_read(&t, root, TREE_MAX, &error), ==, -ESRCH);
        g_assert_cmpint(error.code, ==, CLONE_ERROR_NO_SUCH_PROCESS);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/tree/read", test_tree);
        g_test_add_func("/tree/too-many", test_too_many);
        g_test_add_func("/tree/gone", test_gone);
        return g_test_run();
}
