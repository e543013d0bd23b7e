/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/target.h"
#include "daemon/util.h"

/* A child that sleeps until it is killed, under a name that tries to look like the end of /proc/PID/stat's name. */
static pid_t start_sleeper(void)
{
        int ready[2];
        pid_t pid;
        char c;

        g_assert_cmpint(pipe(ready), ==, 0);
        pid = fork();
        g_assert_cmpint(pid, >=, 0);
        if (pid == 0) {
                prctl(PR_SET_NAME, ") Z 1 1 (");
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (write(ready[1], "x", 1) != 1)
                        _exit(1);
                for (;;)
                        pause();
        }
        g_assert_cmpint(read(ready[0], &c, 1), ==, 1);
        close(ready[0]);
        close(ready[1]);
        return pid;
}

static void end(pid_t pid)
{
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

static void test_status(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Target) t = NULL;
        uint64_t start_time = 0;
        TargetStatus s;
        pid_t pid = start_sleeper();

        g_assert_cmpint(target_new(&t, pid, &error), ==, 0);
        g_assert_cmpint(target_pid(t), ==, pid);
        g_assert_cmpint(target_read_status(t, &s), ==, 0);
        g_assert_cmpint(target_read_start_time(t, &start_time), ==, 0);
        g_assert_cmpuint(start_time, ==, s.start_time);
        g_assert_true(s.state == 'S' || s.state == 'R');
        g_assert_cmpint(s.parent, ==, getpid());
        g_assert_cmpint(s.group, ==, getpgid(pid));
        g_assert_cmpint(s.session, ==, getsid(pid));
        g_assert_cmpint(s.tracer, ==, 0);
        g_assert_cmpuint(s.threads, ==, 1);
        g_assert_false(s.kernel_thread);
        g_assert_cmpuint(s.start_time, >, 0);

        end(pid);
        g_assert_cmpint(target_check_alive(t), ==, -ESRCH);
        g_assert_cmpint(target_read_status(t, &s), ==, -ESRCH);
        g_assert_cmpint(target_read_start_time(t, &start_time), ==, -ESRCH);
}

static void test_pidfd(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Target) t = NULL;
        pid_t pid = start_sleeper();
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, pid, 0);

        g_assert_cmpint(target_new_from_pidfd(&t, pidfd, &error), ==, 0);
        g_assert_cmpint(target_pid(t), ==, pid);
        g_assert_cmpint(target_pidfd(t), !=, pidfd);
        g_clear_pointer(&t, target_free);

        end(pid);
        g_assert_cmpint(target_new_from_pidfd(&t, pidfd, &error), ==, -ESRCH);
        g_assert_cmpint(error.code, ==, CLONE_ERROR_NO_SUCH_PROCESS);
        g_assert_cmpint(target_new_from_pidfd(&t, STDIN_FILENO, &error), ==, -EBADF);
        g_assert_cmpint(error.code, ==, CLONE_ERROR_INVALID_ARGS);
        g_assert_cmpint(target_new_from_pidfd(&t, -1, &error), ==, -EBADF);
}

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* include/uapi/linux/pidfd.h, since Linux 6.9 */
#endif

static gpointer thread_main(gpointer pipe_end)
{
        pid_t tid = (pid_t) syscall(SYS_gettid);
        int *end = pipe_end;
        char c;

        g_assert_cmpint(write(end[1], &tid, sizeof(tid)), ==, sizeof(tid));
        (void) read(end[2], &c, 1); /* until the test is done */
        return NULL;
}

/* By the number of a thread a process would have a second queue, and two workers at once. */
static void test_pidfd_of_thread(void)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        _cleanup_close_ int leader = -EBADF, other = -EBADF;
        g_autoptr(Target) t = NULL;
        g_autofree char *number = NULL;
        int tid_pipe[2], end_pipe[2];
        GThread *thread;
        pid_t tid;

        leader = (int) syscall(SYS_pidfd_open, getpid(), PIDFD_THREAD);
        if (leader < 0 && errno == EINVAL) {
                g_test_skip("this kernel has no pidfd of threads (documented: since Linux 6.9)");
                return;
        }
        g_assert_cmpint(leader, >=, 0);

        g_assert_cmpint(pipe(tid_pipe), ==, 0);
        g_assert_cmpint(pipe(end_pipe), ==, 0);
        thread = g_thread_new("other", thread_main, (int[]){tid_pipe[0], tid_pipe[1], end_pipe[0]});
        g_assert_cmpint(read(tid_pipe[0], &tid, sizeof(tid)), ==, sizeof(tid));
        number = g_strdup_printf("thread %d, one of its process %d", (int) tid, (int) getpid());

        other = (int) syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
        g_assert_cmpint(other, >=, 0);
        g_assert_cmpint(target_new_from_pidfd(&t, other, &error), ==, -EINVAL);
        g_assert_cmpint(error.code, ==, CLONE_ERROR_INVALID_ARGS);
        g_assert_nonnull(strstr(error.message, number));
        g_assert_null(t);

        /* The first thread's is as good as that of the process. */
        g_assert_cmpint(target_new_from_pidfd(&t, leader, &error), ==, 0);
        g_assert_cmpint(target_pid(t), ==, getpid());

        close(end_pipe[1]);
        g_thread_join(thread);
        close(tid_pipe[0]);
        close(tid_pipe[1]);
        close(end_pipe[0]);
}

static void test_bad_pid(void)
{
        static const struct {
                pid_t pid;
                int r;
                CloneErrorCode code;
        } bad[] = {
                {0, -EINVAL, CLONE_ERROR_INVALID_ARGS},
                {-1, -EINVAL, CLONE_ERROR_INVALID_ARGS},
                {(1 << 22) + 1, -ESRCH, CLONE_ERROR_NO_SUCH_PROCESS},
        };

        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
                g_autofree char *number = g_strdup_printf("%d", bad[i].pid);
                g_autoptr(Target) t = NULL;

                g_assert_cmpint(target_new(&t, bad[i].pid, &error), ==, bad[i].r);
                g_assert_cmpint(error.code, ==, bad[i].code);
                g_assert_null(t);
                g_assert_nonnull(strstr(error.message, number));
        }
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/target/status", test_status);
        g_test_add_func("/target/pidfd", test_pidfd);
        g_test_add_func("/target/pidfd-of-thread", test_pidfd_of_thread);
        g_test_add_func("/target/bad-pid", test_bad_pid);
        return g_test_run();
}
