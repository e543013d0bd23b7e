/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/kernel-timers.h"
#include "daemon/engine/puppet.h"
#include "daemon/engine/timers.h"

static void test_parse(void)
{
        g_autoptr(GArray) timers = g_array_new(FALSE, FALSE, sizeof(PosixTimer));
        static const char text[] =
                "ID: 7\nsignal: 35/0000123456789abc\nnotify: signal/pid.42\nClockID: 1\n"
                "ID: 2\nsignal: 0/0000000000000000\nnotify: none/pid.42\nClockID: 0\n"
                "ID: 5\nsignal: 32/00007f0000000000\nnotify: signal/tid.43\nClockID: -6\n";
        const PosixTimer *t;

        g_assert_cmpint(timers_parse("", timers), ==, 0);
        g_assert_cmpuint(timers->len, ==, 0);
        g_assert_cmpint(timers_parse(text, timers), ==, 0);
        t = (const PosixTimer *) (void *) timers->data;
        g_assert_cmpuint(timers->len, ==, 3);
        g_assert_cmpint(t[0].id, ==, 2);
        g_assert_cmpint(t[0].notify, ==, SIGEV_NONE);
        g_assert_cmpint(t[1].id, ==, 5);
        g_assert_cmpint(t[1].notify, ==, SIGEV_THREAD_ID);
        g_assert_cmpint(t[1].tid, ==, 43);
        g_assert_cmpint(t[1].clock, ==, -6);
        g_assert_cmpint(t[2].id, ==, 7);
        g_assert_cmpint(t[2].notify, ==, SIGEV_SIGNAL);
        g_assert_cmpint(t[2].signal, ==, 35);
        g_assert_cmphex(t[2].value, ==, 0x123456789abc);
        g_assert_cmpint(t[2].clock, ==, 1);
}

static void test_bad(void)
{
        static const char *const bad[] = {
                "x", "ID: 7\n", "ID: 7\nsignal: 35/12\nnotify: signal/pid.42\n", "ID: 7\nsignal: 35/12\nnotify: /pid.42\nClockID: 1\n",
                "ID: 7\nsignal: 35/12\nnotify: signal/pid.42\nClockID: 1\nID: 8\n",
        };

        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                g_autoptr(GArray) timers = g_array_new(FALSE, FALSE, sizeof(PosixTimer));

                g_assert_cmpint(timers_parse(bad[i], timers), ==, -EBADMSG);
        }
}

/* As remfork(2) tells them, in no order. */
static void test_take(void)
{
        const struct remfork_timer told[] = {
                {.kind = REMFORK_TIMER_POSIX, .id = 7, .clock = 1, .notify = SIGEV_THREAD_ID, .signal = 35, .tid = 43, .value = 0x123456789abc,
                                .left = 1500000000, .interval = 7},
                {.kind = REMFORK_TIMER_INTERVAL, .id = ITIMER_PROF, .left = 1, .interval = UINT64_C(3000001000)},
                {.kind = REMFORK_TIMER_POSIX, .id = 2, .notify = SIGEV_NONE},
                {.kind = REMFORK_TIMER_INTERVAL, .id = 3, .left = 1}, /* there is none */
                {.kind = REMFORK_TIMER_NONE},
                {.kind = REMFORK_TIMER_POSIX, .id = 9},
        };
        const PosixTimer *t;
        Timers timers;

        kernel_timers_take(&timers, told);
        t = (const PosixTimer *) (void *) timers.posix->data;
        g_assert_true(timers.known && timers_are_to_be_armed(&timers));
        g_assert_cmpuint(timers.posix->len, ==, 2);
        g_assert_cmpint(t[0].id, ==, 2);
        g_assert_cmpint(t[0].notify, ==, SIGEV_NONE);
        g_assert_cmpint(t[1].id, ==, 7);
        g_assert_cmpint(t[1].notify, ==, SIGEV_THREAD_ID);
        g_assert_cmpint(t[1].tid, ==, 43);
        g_assert_cmpint(t[1].signal, ==, 35);
        g_assert_cmpint(t[1].clock, ==, 1);
        g_assert_cmphex(t[1].value, ==, 0x123456789abc);
        g_assert_cmpint(t[1].left.it_value.tv_sec, ==, 1);
        g_assert_cmpint(t[1].left.it_value.tv_nsec, ==, 500000000);
        g_assert_cmpint(t[1].left.it_interval.tv_nsec, ==, 7);
        g_assert_cmpint(timers.interval[ITIMER_PROF].it_value.tv_usec, ==, 1); /* 0 would be: it does not run */
        g_assert_cmpint(timers.interval[ITIMER_PROF].it_interval.tv_sec, ==, 3);
        g_assert_cmpint(timers.interval[ITIMER_PROF].it_interval.tv_usec, ==, 1);
        g_assert_cmpint(timers.interval[ITIMER_REAL].it_value.tv_usec, ==, 0);
        timers_clear(&timers);

        kernel_timers_take(&timers, &told[4]);
        g_assert_false(timers_are_to_be_armed(&timers));
        timers_clear(&timers);
}

static void on_note(const char *text, void *userdata)
{
        g_assert_null(*(char **) userdata);
        *(char **) userdata = g_strdup(text);
}

/* A process whose filter answers setitimer(2) with EPERM; in pause(2). */
static pid_t start_filtered(void)
{
        struct sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_setitimer, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        gint64 end = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;
        g_autofree char *path = NULL;
        pid_t pid = fork();
        int call;

        if (pid == 0) {
                if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &(struct sock_fprog){G_N_ELEMENTS(filter), filter}) < 0)
                        _exit(1);
                for (;;)
                        (void) syscall(SYS_pause);
        }

        path = g_strdup_printf("/proc/%d/syscall", (int) pid);
        do {
                g_autofree char *text = NULL;

                g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
                g_assert_cmpint(g_get_monotonic_time(), <, end);
                call = g_ascii_isdigit(text[0]) ? atoi(text) : -1; /* else it runs */
        } while (call != SYS_pause);
        return pid;
}

/* What cannot be armed is said, and is no reason for there to be no clone; what can is. */
static void test_forbidden(void)
{
        const struct remfork_timer told[] = {
                {.kind = REMFORK_TIMER_INTERVAL, .id = ITIMER_REAL, .left = UINT64_C(3600000000000)},
                {.kind = REMFORK_TIMER_POSIX, .id = 0, .notify = SIGEV_SIGNAL, .signal = SIGUSR1, .left = UINT64_C(3600000000000)},
                {},
        };
        g_autofree char *note = NULL, *path = NULL, *listed = NULL;
        const EngineHandler handler = {.note = on_note, .userdata = &note};
        struct user_regs_struct regs;
        Timers timers;
        StopKind kind;
        Puppet puppet;
        Tracee t;
        pid_t pid = start_filtered();

        g_assert_cmpint(tracee_seize(&t, pid, PTRACE_O_EXITKILL, NULL), ==, 0);
        g_assert_cmpint(tracee_interrupt(&t), ==, 0);
        g_assert_cmpint(tracee_wait(&t, PTRACE_CONT, false, 0, &kind, NULL), ==, 0);
        g_assert_cmpint(tracee_get_regs(&t, &regs), ==, 0);
        g_assert_cmpint(puppet_open(&puppet, &t, -1, &regs, regs.rip - 2), ==, 0); /* it stands behind a syscall instruction */

        kernel_timers_take(&timers, told);
        g_assert_cmpint(timers_arm(&timers, &puppet, pid, &handler), ==, 0);
        g_assert_nonnull(note);
        g_assert_nonnull(strstr(note, "ITIMER_REAL"));
        path = g_strdup_printf("/proc/%d/timers", (int) pid);
        if (g_file_get_contents(path, &listed, NULL, NULL)) /* not without CONFIG_CHECKPOINT_RESTORE */
                g_assert_true(g_str_has_prefix(listed, "ID: 0\n"));

        timers_clear(&timers);
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, __WALL), ==, pid);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);

        g_test_add_func("/timers/parse", test_parse);
        g_test_add_func("/timers/bad", test_bad);
        g_test_add_func("/timers/take", test_take);
        g_test_add_func("/timers/forbidden", test_forbidden);
        return g_test_run();
}
