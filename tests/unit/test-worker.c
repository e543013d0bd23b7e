/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
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
        MODE_STUCK,           /* in a call that no signal ends, with clones handed over */
        MODE_CHILDLESS,       /* as an engine should, whose clones are others' children; but it leaves a descriptor open */
} mode;

static unsigned n_notes; /* that the fake engine makes, at least one */

static int stuck_pipe; /* of this process; its lock is held */

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
        static unsigned n_jobs; /* of this process */
        g_autofree char *note = NULL;
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
        r = h->judge ? h->judge(target, h->userdata, error) : 0;
        if (r < 0)
                return r;
        if (mode == MODE_HANG_STOPPED)
                for (;;)
                        pause();

        note = g_strdup_printf("a\nnote %u", ++n_jobs);
        h->note(note, h->userdata);
        for (unsigned i = 1; i < n_notes; i++)
                h->note("another", h->userdata);
        if (mode == MODE_CHILDLESS) {
                pids[0] = getppid();
                pidfds[0] = (int) syscall(SYS_pidfd_open, pids[0], 0);
        } else
                make_clones(pids, pidfds, n);
        r = h->held(pids, pidfds, NULL, n, h->userdata, error);
        if (r < 0)
                return r;
        if (mode == MODE_STUCK)
                (void) fcntl((int) syscall(SYS_pidfd_getfd, target_pidfd(target), stuck_pipe, 0), F_GETPIPE_SZ);
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
        char *note, *last_note;
        guint n_notes;
        uint64_t pause_nsec;
        unsigned exits;
        int status;
        bool held, go; /* with a job that holds: held() came, and was answered by worker_go() */
} Outcome;

static void on_held(Worker *w, const WorkerResult *result, void *userdata)
{
        Outcome *o = userdata;

        g_assert_false(o->held || o->released || o->failed);
        o->held = true;
        for (size_t i = 0; i < result->n; i++)
                g_assert_cmpint((int) syscall(SYS_pidfd_send_signal, result->pidfds[i], 0, NULL, 0), ==, 0);
        if (o->go)
                worker_go(w);
        else
                worker_kill(w, CLONE_ERROR_UNSUPPORTED, "no place for %d");
}

static void on_released(Worker *w, const WorkerResult *result, void *userdata)
{
        Outcome *o = userdata;

        g_assert_false(o->released || o->failed || o->gone);
        o->released = true;
        g_array_append_vals(o->pids, result->pids, (guint) result->n);
        o->note = g_strdup(result->notes[0]);
        o->n_notes = g_strv_length((char **) result->notes);
        o->last_note = g_strdup(result->notes[o->n_notes - 1]);
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
        g_clear_pointer(&o->last_note, g_free);
        g_clear_pointer(&o->pids, g_array_unref);
        g_clear_pointer(&o->event, sd_event_unref);
}

static int kill_worker(sd_event_source *source, uint64_t usec, void *userdata)
{
        worker_kill(userdata, CLONE_ERROR_CANCELED, "no longer wanted");
        return 0;
}

static Outcome run_job(CloneSpec spec, bool change, bool cancel, uint64_t stop_timeout_usec, bool hold, bool go);

/* Runs one request on this very process (which the fake engine leaves alone) to the end of its worker. */
static Outcome run_worker(CloneSpec spec, bool change, bool cancel, uint64_t stop_timeout_usec)
{
        return run_job(spec, change, cancel, stop_timeout_usec, false, false);
}

static Outcome run_job(CloneSpec spec, bool change, bool cancel, uint64_t stop_timeout_usec, bool hold, bool go)
{
        Outcome o = {.go = go, .pids = g_array_new(FALSE, FALSE, sizeof(pid_t)), .kill_clones = spec.parent == CLONE_PARENT_DAEMON};
        const WorkerHandler handler = {on_held, on_released, on_failed, on_exited, on_gone, &o};
        g_autoptr(Target) target = NULL;
        g_autoptr(Worker) w = NULL;
        WorkerJob job = {.engine = &fake_engine, .spec = spec, .stop_timeout_usec = stop_timeout_usec, .hold = hold};

        /* First the worker: what it goes by is all in the job. */
        g_assert_cmpint(sd_event_new(&o.event), >=, 0);
        g_assert_cmpint(worker_new(&w, o.event), ==, 0);

        g_assert_cmpint(target_new(&target, getpid(), NULL), ==, 0);
        g_assert_cmpint(file_identity_read(-1, "/proc/self/ns/user", &job.own_user_namespace), ==, 0);
        g_assert_cmpint(target_read_credentials(target, job.own_user_namespace, &job.authorized), ==, 0);
        if (change)
                job.authorized.program.inode++;
        job.target = target;

        g_assert_cmpint(worker_start(w, &job, &handler), ==, 0);
        target = target_free(target);
        g_assert_false(o.released || o.failed);
        if (cancel)
                g_assert_cmpint(sd_event_add_time_relative(o.event, NULL, CLOCK_MONOTONIC, 20000, 1, kill_worker, w), >=, 0);
        g_assert_cmpint(sd_event_loop(o.event), ==, 0);
        g_assert_true(o.gone);
        g_assert_cmpint(o.held, ==, hold);
        return o;
}

/* Waits until none of this process's (adopted) children is left; fails where one lives on, however loaded the machine is. */
static void assert_no_clones(void)
{
        gint64 end = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;

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
        g_assert_cmpstr(o.note, ==, "a?note 1");
        g_assert_cmpuint(o.pause_nsec, ==, 42);
        g_assert_cmpuint(o.exits, ==, 0);
        for (guint i = 0; i < o.pids->len; i++)
                g_assert_cmpint(kill(g_array_index(o.pids, pid_t, i), SIGKILL), ==, 0);
        assert_no_clones();
        outcome_clear(&o);
}

/* What does not fit is counted: whoever reads the notes knows that there are more. */
static void test_many_notes(void)
{
        const struct {
                unsigned made, told;
                const char *last;
        } cases[] = {{64, 64, "another"}, {65, 65, "And 1 more, which are not told"}, {100, 65, "And 36 more, which are not told"}};

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                CloneSpec spec = CLONE_SPEC_DEFAULT;
                Outcome o;

                mode = MODE_CLONE;
                n_notes = cases[i].made;
                spec.parent = CLONE_PARENT_DAEMON;
                o = run_worker(spec, false, false, 0);
                g_assert_true(o.released);
                g_assert_cmpuint(o.n_notes, ==, cases[i].told);
                g_assert_cmpstr(o.last_note, ==, cases[i].last);
                outcome_clear(&o);
        }
        n_notes = 0;
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

/* What is held runs when it is told to, all of it at once, and not before. */
static void test_hold(void)
{
        CloneSpec spec = CLONE_SPEC_DEFAULT;
        Outcome o;

        mode = MODE_CLONE;
        spec.count = 300;
        spec.parent = CLONE_PARENT_DAEMON;
        o = run_job(spec, false, false, 0, true, true);
        g_assert_true(o.released);
        g_assert_cmpuint(o.pids->len, ==, 300);
        assert_no_clones();
        outcome_clear(&o);
}

static void test_hold_refused(void)
{
        CloneSpec spec = CLONE_SPEC_DEFAULT;
        Outcome o;

        mode = MODE_CLONE;
        spec.count = 3;
        o = run_job(spec, false, false, 0, true, false);
        g_assert_true(o.failed);
        g_assert_cmpint(o.code, ==, CLONE_ERROR_UNSUPPORTED);
        g_assert_cmpstr(o.message, ==, "no place for %d"); /* as it is: no format */
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

typedef struct Holder {
        int pipe[2], faults;
        void *page;
        GThread *thread;
} Holder;

static void *hold(void *userdata)
{
        const Holder *h = userdata;

        (void) !write(h->pipe[1], h->page, 4096);
        return NULL;
}

/* A write() from a page that is not delivered keeps a pipe's lock. False where this process may not do that. */
static bool holder_start(Holder *h)
{
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register r = {.range = {.len = 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
        struct uffd_msg message;

        h->faults = (int) syscall(SYS_userfaultfd, O_CLOEXEC);
        if (h->faults < 0)
                return false;
        h->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        r.range.start = (uintptr_t) h->page;
        g_assert_cmpint(ioctl(h->faults, UFFDIO_API, &api), ==, 0);
        g_assert_cmpint(ioctl(h->faults, UFFDIO_REGISTER, &r), ==, 0);
        g_assert_cmpint(pipe(h->pipe), ==, 0);
        h->thread = g_thread_new("holder", hold, h);
        g_assert_cmpint((int) read(h->faults, &message, sizeof(message)), ==, sizeof(message));
        return true;
}

static void holder_stop(Holder *h)
{
        struct uffdio_zeropage zero = {.range = {.start = (uintptr_t) h->page, .len = 4096}};

        g_assert_cmpint(ioctl(h->faults, UFFDIO_ZEROPAGE, &zero), ==, 0);
        g_thread_join(h->thread);
        close(h->faults);
        close(h->pipe[0]);
        close(h->pipe[1]);
        munmap(h->page, 4096);
}

/* One that SIGKILL does not end: the request is answered, its clones end, and it is reaped when it can be. */
static void test_stuck(void)
{
        CloneSpec spec = CLONE_SPEC_DEFAULT;
        gint64 begin;
        Holder h;
        Outcome o;

        if (!holder_start(&h)) {
                g_test_skip("userfaultfd(2) is not on this kernel, or not for this user");
                return;
        }

        mode = MODE_STUCK;
        stuck_pipe = h.pipe[0];
        spec.count = 3;
        begin = g_get_monotonic_time();
        o = run_worker(spec, false, true, 0);
        g_assert_cmpint(g_get_monotonic_time() - begin, <, 5 * G_USEC_PER_SEC);
        g_assert_true(o.failed);
        g_assert_cmpint(o.code, ==, CLONE_ERROR_CANCELED);
        g_assert_cmpstr(o.message, ==, "no longer wanted");
        holder_stop(&h);
        assert_no_clones();
        outcome_clear(&o);
}

static void test_misbehaved(void)
{
        mode = MODE_TOO_FEW;
        check_failure(false, false, 0, CLONE_ERROR_FAILED, "makes no sense");
        mode = MODE_GARBAGE;
        check_failure(false, false, 0, CLONE_ERROR_FAILED, "makes no sense");
}

/* Waits until @pid is asleep in the call that it waits for its job in. */
static void wait_idle(pid_t pid)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/syscall", (int) pid);
        gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;

        for (;;) {
                g_autofree char *text = NULL;

                if (g_file_get_contents(path, &text, NULL, NULL) && atoi(text) == SYS_recvmsg)
                        return;
                g_assert_cmpint(g_get_monotonic_time(), <, end);
                g_usleep(1000);
        }
}

/* One that was ended before there was work for it: that is told, whether or not its end was taken notice of. */
static void test_idle_killed(void)
{
        for (int noticed = 0; noticed < 2; noticed++) {
                g_autoptr(Target) target = NULL;
                g_autoptr(Worker) w = NULL;
                WorkerJob job = {.engine = &fake_engine, .spec = CLONE_SPEC_DEFAULT};
                sd_event *event = NULL;
                siginfo_t si;

                g_assert_cmpint(sd_event_new(&event), >=, 0);
                g_assert_cmpint(target_new(&target, getpid(), NULL), ==, 0);
                job.target = target;

                g_assert_cmpint(worker_new(&w, event), ==, 0);
                g_assert_cmpint(kill(worker_pid(w), SIGKILL), ==, 0);
                g_assert_cmpint(waitid(P_PID, (id_t) worker_pid(w), &si, WEXITED | WNOWAIT), ==, 0);
                while (noticed && sd_event_run(event, 100000) > 0)
                        ;
                if (noticed) /* the number is free for any process, which must not be taken for a worker */
                        g_assert_cmpint(worker_pid(w), ==, 0);
                g_assert_cmpint(worker_start(w, &job, &(WorkerHandler){}), ==, -EPIPE);
                w = worker_free(w);
                assert_no_clones();
                sd_event_unref(event);
        }
}

/* One that says something without a job is ended; when it has, nothing more is done to its number, which may be another process's. */
static void test_idle_misbehaved(void)
{
        g_autoptr(Worker) w = NULL;
        sd_event *event = NULL;
        int pidfd;

        g_assert_cmpint(sd_event_new(&event), >=, 0);
        g_assert_cmpint(worker_new(&w, event), ==, 0);
        wait_idle(worker_pid(w));
        pidfd = (int) syscall(SYS_pidfd_open, worker_pid(w), 0);
        for (int fd = 3; fd < 64; fd++) {
                int copy = (int) syscall(SYS_pidfd_getfd, pidfd, fd, 0);

                (void) !send(copy, "garbage", 7, MSG_NOSIGNAL);
                safe_close(copy);
        }
        safe_close(pidfd);

        while (worker_pid(w) != 0)
                g_assert_cmpint(sd_event_run(event, UINT64_MAX), >=, 0);
        g_assert_false(worker_is_idle(w));
        g_assert_cmpint(sd_event_run(event, 1500000), ==, 0); /* longer than a worker has from SIGTERM to SIGKILL */
        w = worker_free(w);
        assert_no_clones();
        sd_event_unref(event);
}

static unsigned count_descriptors(pid_t pid)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int) pid);
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        unsigned n = 0;

        g_assert_nonnull(dir);
        for (const char *name; (name = g_dir_read_name(dir));)
                n += atoi(name) > STDERR_FILENO;
        return n;
}

static void on_gone_again(Worker *w, void *userdata)
{
        Outcome *o = userdata;

        g_assert_true(o->released && !o->gone);
        o->gone = true;
}

/* One more job for @w, its @nth, to its end. */
static void run_again(Worker *w, sd_event *event, const CloneSpec *spec, unsigned nth)
{
        g_autofree char *note = g_strdup_printf("a?note %u", nth);
        Outcome o = {.pids = g_array_new(FALSE, FALSE, sizeof(pid_t)), .kill_clones = mode != MODE_CHILDLESS};
        const WorkerHandler handler = {on_held, on_released, on_failed, on_exited, on_gone_again, &o};
        g_autoptr(Target) target = NULL;
        WorkerJob job = {.engine = &fake_engine, .spec = *spec, .superuser = true};

        g_assert_cmpint(target_new(&target, getpid(), NULL), ==, 0);
        job.target = target;
        g_assert_cmpint(worker_start(w, &job, &handler), ==, 0);
        g_assert_false(worker_is_idle(w));
        while (!o.gone)
                g_assert_cmpint(sd_event_run(event, UINT64_MAX), >=, 0);
        g_assert_cmpuint(o.pids->len, ==, spec->count);
        g_assert_cmpuint(o.n_notes, ==, 1);
        g_assert_cmpstr(o.note, ==, note); /* of this job, not of the one before */
        outcome_clear(&o);
}

/* One that has nothing left of its job does another, but not for ever. */
static void test_again(void)
{
        const CloneSpec spec = CLONE_SPEC_DEFAULT;
        g_autoptr(Worker) w = NULL;
        sd_event *event = NULL;
        unsigned n = 0;
        pid_t pid;

        mode = MODE_CHILDLESS;
        g_assert_cmpint(sd_event_new(&event), >=, 0);
        g_assert_cmpint(worker_new(&w, event), ==, 0);
        g_assert_true(worker_is_idle(w));
        pid = worker_pid(w);
        do {
                run_again(w, event, &spec, ++n);
                if (worker_is_idle(w)) {
                        g_assert_cmpint(worker_pid(w), ==, pid);
                        wait_idle(pid);
                        g_assert_cmpuint(count_descriptors(pid), ==, 2);
                }
        } while (worker_is_idle(w));
        g_assert_cmpuint(n, ==, 64);
        w = worker_free(w);
        assert_no_clones();
        sd_event_unref(event);
}

/* Others end with their job. */
static void test_not_again(void)
{
        CloneSpec specs[4] = {CLONE_SPEC_DEFAULT, CLONE_SPEC_DEFAULT, CLONE_SPEC_DEFAULT, CLONE_SPEC_DEFAULT};

        specs[1].isolate = CLONE_ISOLATE_FILES;
        specs[2].parent = CLONE_PARENT_DAEMON;
        g_assert_cmpint(clone_fds_add_closed(&specs[3].fds, "fd", 7, NULL), ==, 0);

        for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
                g_autoptr(Worker) w = NULL;
                sd_event *event = NULL;

                mode = i == 0 ? MODE_CLONE : MODE_CHILDLESS; /* the first leaves children, the others ask for more than a plain clone */
                g_assert_cmpint(sd_event_new(&event), >=, 0);
                g_assert_cmpint(worker_new(&w, event), ==, 0);
                run_again(w, event, specs + i, 1);
                g_assert_false(worker_is_idle(w));
                w = worker_free(w);
                assert_no_clones();
                sd_event_unref(event);
        }
        specs[3].fds = clone_fds_free(specs[3].fds);
}

/* It need not be waited for, and is reaped all the same. */
static void test_dismiss(void)
{
        Worker *w = NULL;
        sd_event *event = NULL;
        gint64 end = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;

        g_assert_cmpint(sd_event_new(&event), >=, 0);
        g_assert_cmpint(worker_new(&w, event), ==, 0);
        g_assert_null(worker_dismiss(w));
        while (waitid(P_ALL, 0, &(siginfo_t){}, WEXITED | WNOHANG | WNOWAIT) == 0) {
                g_assert_cmpint(sd_event_run(event, 10000), >=, 0);
                g_assert_cmpint(g_get_monotonic_time(), <, end);
        }
        g_assert_cmpint(errno, ==, ECHILD);
        sd_event_unref(event);
}

/* What the daemon has open when a worker is made is no business of a later request's. */
static void test_idle_descriptors(void)
{
        int extra = fcntl(STDERR_FILENO, F_DUPFD, 100); /* without close-on-exec, and above the socket */
        g_autoptr(Worker) w = NULL;
        sd_event *event = NULL;

        g_assert_cmpint(extra, >=, 100);
        g_assert_cmpint(sd_event_new(&event), >=, 0);
        g_assert_cmpint(worker_new(&w, event), ==, 0);
        wait_idle(worker_pid(w));

        g_assert_cmpuint(count_descriptors(worker_pid(w)), ==, 2); /* its ends of the two socket pairs */

        w = worker_free(w);
        sd_event_unref(event);
        close(extra);
}

/* A worker that waits ends when the daemon is killed; this process inherits it. */
static void test_idle_orphan(void)
{
        pid_t daemon, pid = 0;
        int fds[2], status;

        g_assert_cmpint(pipe(fds), ==, 0);
        daemon = fork();
        if (daemon == 0) {
                Worker *w;
                sd_event *event;

                if (sd_event_new(&event) < 0 || worker_new(&w, event) < 0)
                        _exit(1);
                pid = worker_pid(w);
                wait_idle(pid);
                (void) !write(fds[1], &pid, sizeof(pid));
                for (;;)
                        pause();
        }
        g_assert_cmpint((int) read(fds[0], &pid, sizeof(pid)), ==, sizeof(pid));
        g_assert_cmpint(kill(daemon, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(daemon, &status, 0), ==, daemon);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        close(fds[0]);
        close(fds[1]);
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
        m.held.sources[0] = 1;
        m.held.sources[1] = 2;
        g_assert_cmpint(worker_message_parse(&m, held, 2, &ret), ==, 0);
        g_assert_cmpint(ret.held.pids[1], ==, 6);
        g_assert_cmpint(ret.held.sources[1], ==, 2);
        bad_message(&m, held, 1);
        bad_message(&m, held - 1, 2);
        bad_message(&m, held + 1, 2);
        bad_message(&m, 3, 2);
        bad_message(&m, 0, 0);
        m.held.pids[1] = 0;
        bad_message(&m, held, 2);
        m.held.pids[1] = 6;
        m.held.sources[1] = 0;
        bad_message(&m, held, 2);
        m.held.sources[1] = 2;
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
        m.released.again = 1;
        g_assert_cmpint(worker_message_parse(&m, worker_message_size(WORKER_RELEASED), 0, &ret), ==, 0);
        g_assert_cmpuint(ret.released.again, ==, 1);
        m.released.again = 2;
        bad_message(&m, worker_message_size(WORKER_RELEASED), 0);
        m.released.again = 0;
        m.released.zero = 1;
        bad_message(&m, worker_message_size(WORKER_RELEASED), 0);
        m.released.zero = 0;
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
        g_test_add_func("/worker/many-notes", test_many_notes);
        g_test_add_func("/worker/watch", test_watch);
        g_test_add_func("/worker/hold", test_hold);
        g_test_add_func("/worker/hold-refused", test_hold_refused);
        g_test_add_func("/worker/fail", test_fail);
        g_test_add_func("/worker/changed", test_changed);
        g_test_add_func("/worker/die-held", test_die_held);
        g_test_add_func("/worker/cancel", test_cancel);
        g_test_add_func("/worker/stop-timeout", test_stop_timeout);
        g_test_add_func("/worker/misbehaved", test_misbehaved);
        g_test_add_func("/worker/stuck", test_stuck);
        g_test_add_func("/worker/idle-killed", test_idle_killed);
        g_test_add_func("/worker/idle-misbehaved", test_idle_misbehaved);
        g_test_add_func("/worker/idle-descriptors", test_idle_descriptors);
        g_test_add_func("/worker/idle-orphan", test_idle_orphan);
        g_test_add_func("/worker/again", test_again);
        g_test_add_func("/worker/not-again", test_not_again);
        g_test_add_func("/worker/dismiss", test_dismiss);
        g_test_add_func("/worker/parse", test_parse);
        return g_test_run();
}
