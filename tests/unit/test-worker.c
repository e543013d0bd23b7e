/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/util.h"
#include "daemon/worker-protocol.h"
#include "daemon/worker.h"

/* What the fake engine does; set before worker_new(), which forks. */
static enum {
        MODE_CLONE,           /* as an engine should */
        MODE_FAIL,            /* an error before anything */
        MODE_DIE_HELD,        /* killed when the clones exist and are not let go */
        MODE_HANG,            /* never done */
        MODE_HANG_STOPPED,    /* never done, with the target stopped */
        MODE_TOO_FEW,         /* says "done" with fewer clones than were asked for */
        MODE_GARBAGE,         /* sends what is no message */
} mode;

static int fake_probe(CloneError *error)
{
        return 0;
}

static void make_clones(pid_t *pids, int *pidfds, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                pids[i] = fork();
                if (pids[i] == 0)
                        for (;;)
                                pause();
                pidfds[i] = (int) syscall(SYS_pidfd_open, pids[i], 0);
        }
}

static int fake_clone(Target *target, const CloneSpec *spec, const EngineHandler *h, EngineResult *ret, CloneError *error)
{
        g_autofree pid_t *pids = g_new0(pid_t, spec->count);
        g_autofree int *pidfds = g_new0(int, spec->count);
        size_t n = mode == MODE_TOO_FEW ? spec->count - 1 : spec->count;
        int r;

        if (mode == MODE_HANG)
                for (;;)
                        pause();
        if (mode == MODE_FAIL)
                return clone_error_set(error, CLONE_ERROR_BUSY, 0, "busy with %s", "something");
        if (mode == MODE_GARBAGE) {
                for (int fd = 3; fd < 64; fd++)
                        (void) !send(fd, "garbage", 7, MSG_NOSIGNAL);
                for (;;)
                        pause();
        }

        h->stopped(h->userdata);
        r = h->judge(target, h->userdata, error);
        if (r < 0)
                return r;
        if (mode == MODE_HANG_STOPPED)
                for (;;)
                        pause();

        h->note("a\nnote", h->userdata);
        make_clones(pids, pidfds, n);
        r = h->held(pids, pidfds, n, h->userdata, error);
        if (r < 0)
                return r;
        if (mode == MODE_DIE_HELD)
                raise(SIGKILL);
        ret->pause_nsec = 42;
        return 0;
}

static int fake_watch(const EngineHandler *h, CloneError *error)
{
        siginfo_t si;

        while (waitid(P_ALL, 0, &si, WEXITED) == 0)
                h->exited(si.si_pid, si.si_code, si.si_status, h->userdata);
        return 0;
}

static const Engine fake_engine = {"fake", fake_probe, fake_clone, fake_watch};

typedef struct Outcome {
        sd_event *event;
        bool released, failed, gone, kill_clones;
        CloneErrorCode code;
        char *message;
        GArray *pids;
        char *note;
        uint64_t pause_nsec;
        unsigned exits;
        int status;
} Outcome;

static void on_released(Worker *w, const WorkerResult *result, void *userdata)
{
        Outcome *o = userdata;

        g_assert_false(o->released || o->failed || o->gone);
        o->released = true;
        g_array_append_vals(o->pids, result->pids, (guint) result->n);
        o->note = g_strdup(result->notes[0]);
        o->pause_nsec = result->pause_nsec;
        for (size_t i = 0; i < result->n; i++) {
                g_assert_cmpint((int) syscall(SYS_pidfd_send_signal, result->pidfds[i], 0, NULL, 0), ==, 0);
                if (o->kill_clones)
                        g_assert_cmpint((int) syscall(SYS_pidfd_send_signal, result->pidfds[i], SIGTERM, NULL, 0), ==, 0);
        }
}

static void on_failed(Worker *w, const CloneError *error, void *userdata)
{
        Outcome *o = userdata;

        g_assert_false(o->released || o->failed || o->gone);
        o->failed = true;
        o->code = error->code;
        o->message = g_strdup(error->message);
}

static void on_exited(Worker *w, pid_t pid, int code, int status, void *userdata)
{
        Outcome *o = userdata;

        g_assert_true(o->released && !o->gone);
        g_assert_cmpint(code, ==, CLD_KILLED);
        g_assert_cmpint(status, ==, SIGTERM);
        o->exits++;
}

static void on_gone(Worker *w, void *userdata)
{
        Outcome *o = userdata;

        g_assert_true((o->released || o->failed) && !o->gone);
        o->gone = true;
        g_assert_cmpint(sd_event_exit(o->event, 0), >=, 0);
}

static void outcome_clear(Outcome *o)
{
        g_clear_pointer(&o->message, g_free);
        g_clear_pointer(&o->note, g_free);
        g_clear_pointer(&o->pids, g_array_unref);
        g_clear_pointer(&o->event, sd_event_unref);
}

static int kill_worker(sd_event_source *source, uint64_t usec, void *userdata)
{
        worker_kill(userdata, CLONE_ERROR_CANCELED, "no longer wanted");
        return 0;
}

/* Runs one request on this very process (which the fake engine leaves alone) to the end of its worker. */
static Outcome run_worker(CloneSpec spec, bool change, bool cancel, uint64_t stop_timeout_usec)
{
        Outcome o = {.pids = g_array_new(FALSE, FALSE, sizeof(pid_t)), .kill_clones = spec.parent == CLONE_PARENT_DAEMON};
        const WorkerHandler handler = {on_released, on_failed, on_exited, on_gone, &o};
        g_autoptr(Target) target = NULL;
        g_autoptr(Worker) w = NULL;
        WorkerJob job = {.engine = &fake_engine, .spec = spec, .stop_timeout_usec = stop_timeout_usec};

        g_assert_cmpint(sd_event_new(&o.event), >=, 0);
        g_assert_cmpint(target_new(&target, getpid(), NULL), ==, 0);
        g_assert_cmpint(file_identity_read(-1, "/proc/self/ns/user", &job.own_user_namespace), ==, 0);
        g_assert_cmpint(target_read_credentials(target, job.own_user_namespace, &job.authorized), ==, 0);
        if (change)
                job.authorized.program.inode++;
        job.target = target;

        g_assert_cmpint(worker_new(&w, o.event, &job, &handler), ==, 0);
        g_assert_false(o.released || o.failed);
        if (cancel)
                g_assert_cmpint(sd_event_add_time_relative(o.event, NULL, CLOCK_MONOTONIC, 20000, 1, kill_worker, w), >=, 0);
        g_assert_cmpint(sd_event_loop(o.event), ==, 0);
        g_assert_true(o.gone);
        return o;
}

/* Waits until none of this process's (adopted) children is left; fails where one lives on. */
static void assert_no_clones(void)
{
        gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;

        while (waitpid(-1, NULL, WNOHANG) >= 0) {
                g_assert_cmpint(g_get_monotonic_time(), <, end);
                g_usleep(1000);
        }
        g_assert_cmpint(errno, ==, ECHILD);
}

static void test_clone(void)
{
        CloneSpec spec = CLONE_SPEC_DEFAULT;
        Outcome o;

        mode = MODE_CLONE;
        spec.count = 300; /* more than fit into one message */
        o = run_worker(spec, false, false, 0);
        g_assert_true(o.released);
        g_assert_cmpuint(o.pids->len, ==, 300);
        g_assert_cmpstr(o.note, ==, "a?note");
        g_assert_cmpuint(o.pause_nsec, ==, 42);
        g_assert_cmpuint(o.exits, ==, 0);
        for (guint i = 0; i < o.pids->len; i++)
                g_assert_cmpint(kill(g_array_index(o.pids, pid_t, i), SIGKILL), ==, 0);
        assert_no_clones();
        outcome_clear(&o);
}

static void test_watch(void)
{
        CloneSpec spec = CLONE_SPEC_DEFAULT;
        Outcome o;

        mode = MODE_CLONE;
        spec.count = 3;
        spec.parent = CLONE_PARENT_DAEMON;
        o = run_worker(spec, false, false, 0);
        g_assert_true(o.released);
        g_assert_cmpuint(o.exits, ==, 3);
        outcome_clear(&o);
}

static void check_failure(bool change, bool cancel, uint64_t stop_timeout_usec, CloneErrorCode code, const char *text)
{
        CloneSpec spec = CLONE_SPEC_DEFAULT;
        Outcome o;

        spec.count = 3;
        o = run_worker(spec, change, cancel, stop_timeout_usec);
        g_assert_true(o.failed);
        g_assert_cmpint(o.code, ==, code);
        if (!strstr(o.message, text))
                g_error("\"%s\" lacks \"%s\"", o.message, text);
        assert_no_clones();
        outcome_clear(&o);
}

static void test_fail(void)
{
        mode = MODE_FAIL;
        check_failure(false, false, 0, CLONE_ERROR_BUSY, "busy with something");
}

static void test_changed(void)
{
        mode = MODE_CLONE;
        check_failure(true, false, 0, CLONE_ERROR_CHANGED, "changed its credentials");
}

static void test_die_held(void)
{
        mode = MODE_DIE_HELD;
        check_failure(false, false, 0, CLONE_ERROR_FAILED, "signal 9");
}

static void test_cancel(void)
{
        mode = MODE_HANG;
        check_failure(false, true, 0, CLONE_ERROR_CANCELED, "no longer wanted");
}

static void test_stop_timeout(void)
{
        mode = MODE_HANG_STOPPED;
        check_failure(false, false, 30000, CLONE_ERROR_TIMEOUT, "more than 30 ms");
}

static void test_misbehaved(void)
{
        mode = MODE_TOO_FEW;
        check_failure(false, false, 0, CLONE_ERROR_FAILED, "makes no sense");
        mode = MODE_GARBAGE;
        check_failure(false, false, 0, CLONE_ERROR_FAILED, "makes no sense");
}

static void bad_message(const WorkerMessage *m, size_t size, size_t n_fds)
{
        WorkerMessage ret = {.reserved = 77};

        g_assert_cmpint(worker_message_parse(m, size, n_fds, &ret), ==, -EBADMSG);
        g_assert_cmpuint(ret.reserved, ==, 77);
}

static void test_parse(void)
{
        WorkerMessage m = {.type = WORKER_HELD}, ret;
        size_t held = worker_message_size(WORKER_HELD);

        m.held.total = m.held.n = 2;
        m.held.pids[0] = 5;
        m.held.pids[1] = 6;
        g_assert_cmpint(worker_message_parse(&m, held, 2, &ret), ==, 0);
        g_assert_cmpint(ret.held.pids[1], ==, 6);
        bad_message(&m, held, 1);
        bad_message(&m, held - 1, 2);
        bad_message(&m, held + 1, 2);
        bad_message(&m, 3, 2);
        bad_message(&m, 0, 0);
        m.held.pids[1] = 0;
        bad_message(&m, held, 2);
        m.held.pids[1] = 6;
        m.held.total = 1;
        bad_message(&m, held, 2);
        m.held.total = CLONE_COUNT_MAX + 1;
        bad_message(&m, held, 2);
        m.held.total = CLONE_COUNT_MAX;
        m.held.n = WORKER_HELD_MAX + 1;
        bad_message(&m, held, WORKER_HELD_MAX + 1);
        m.held.n = 2;
        m.reserved = 1;
        bad_message(&m, held, 2);

        m = (WorkerMessage){.type = WORKER_RELEASED};
        g_assert_cmpint(worker_message_parse(&m, worker_message_size(WORKER_RELEASED), 0, &ret), ==, 0);
        bad_message(&m, worker_message_size(WORKER_RELEASED), 1);
        bad_message(&m, held, 0);
        m.type = 99;
        bad_message(&m, worker_message_size(WORKER_RELEASED), 0);

        m = (WorkerMessage){.type = WORKER_NOTE};
        bad_message(&m, worker_message_size(WORKER_NOTE), 0); /* empty */
        memset(m.note.text, 'x', WORKER_TEXT_MAX);
        bad_message(&m, worker_message_size(WORKER_NOTE), 0); /* endless */
        strcpy(m.note.text, "a\xff" "b\x1b");
        g_assert_cmpint(worker_message_parse(&m, worker_message_size(WORKER_NOTE), 0, &ret), ==, 0);
        g_assert_cmpstr(ret.note.text, ==, "a?b?");

        m = (WorkerMessage){.type = WORKER_ERROR};
        strcpy(m.error.text, "x");
        m.error.error_number = 5;
        bad_message(&m, worker_message_size(WORKER_ERROR), 0);
        m.error.code = CLONE_ERROR_BUSY;
        g_assert_cmpint(worker_message_parse(&m, worker_message_size(WORKER_ERROR), 0, &ret), ==, 0);
        m.error.code = _CLONE_ERROR_MAX;
        bad_message(&m, worker_message_size(WORKER_ERROR), 0);
        m.error.code = CLONE_ERROR_BUSY;
        m.error.error_number = -5;
        bad_message(&m, worker_message_size(WORKER_ERROR), 0);

        m = (WorkerMessage){.type = WORKER_EXITED};
        bad_message(&m, worker_message_size(WORKER_EXITED), 0);
}

int main(int argc, char *argv[])
{
        sigset_t set;

        g_test_init(&argc, &argv, NULL);

        /* As in remforkd; and the clones of the fake engine come here when their worker ends. */
        sigemptyset(&set);
        sigaddset(&set, SIGCHLD);
        g_assert_cmpint(sigprocmask(SIG_BLOCK, &set, NULL), ==, 0);
        g_assert_cmpint(prctl(PR_SET_CHILD_SUBREAPER, 1), ==, 0);

        g_test_add_func("/worker/clone", test_clone);
        g_test_add_func("/worker/watch", test_watch);
        g_test_add_func("/worker/fail", test_fail);
        g_test_add_func("/worker/changed", test_changed);
        g_test_add_func("/worker/die-held", test_die_held);
        g_test_add_func("/worker/cancel", test_cancel);
        g_test_add_func("/worker/stop-timeout", test_stop_timeout);
        g_test_add_func("/worker/misbehaved", test_misbehaved);
        g_test_add_func("/worker/parse", test_parse);
        return g_test_run();
}
