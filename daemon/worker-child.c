/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/background.h"
#include "daemon/engine/memory.h"
#include "daemon/tree.h"
#include "daemon/util.h"
#include "daemon/worker-protocol.h"
#include "daemon/worker.h"

/* The child's side of a worker: calls the engine and tells the daemon. */
typedef struct Child {
        int fd, held_fd;
        const WorkerJob *job;
} Child;

/* Nobody listens any more: the daemon is gone or gave the request up. What is held dies with this process. */
static void send_or_exit(const Child *c, const WorkerMessage *m, const int *fds, size_t n_fds)
{
        if (worker_message_send(c->fd, m, fds, n_fds) < 0)
                _exit(EXIT_FAILURE);
}

static void copy_text(char *to, const char *from)
{
        g_strlcpy(to, from && from[0] ? from : "no reason is known", WORKER_TEXT_MAX);
}

static void send_error(const Child *c, int r, const CloneError *error)
{
        WorkerMessage m = {.type = WORKER_ERROR};

        m.error.code = error->code == CLONE_ERROR_NONE ? CLONE_ERROR_FAILED : (int32_t) error->code;
        m.error.error_number = error->error_number > 0 ? error->error_number : -r;
        copy_text(m.error.text, error->message ?: g_strerror(-r));
        send_or_exit(c, &m, NULL, 0);
}

static void on_stopped(void *userdata)
{
        const Child *c = userdata;
        const struct itimerval timer = {
                .it_value = {(time_t) (c->job->stop_timeout_usec / 1000000), (suseconds_t) (c->job->stop_timeout_usec % 1000000)},
        };

        /* SIGALRM ends this process, after which the target goes on: no handler could be as sure. 0 sets no timer. */
        (void) setitimer(ITIMER_REAL, &timer, NULL); /* cannot fail for a valid timer */
}

static void on_resumed(void *userdata)
{
        const struct itimerval off = {};

        (void) setitimer(ITIMER_REAL, &off, NULL); /* cannot fail for a valid timer */
}

/* @target cannot change any more, and is the target or a clone of it: what is read now is what is cloned. */
static int on_judge(Target *target, void *userdata, CloneError *error)
{
        const Child *c = userdata;
        Credentials now;
        int r;

        r = target_read_credentials(target, c->job->own_user_namespace, &now);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "Process %d ended",
                                (int) target_pid(target));
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, -r, "The credentials of process %d cannot be read: %s",
                                (int) target_pid(target), g_strerror(-r));

        if (target_pid(target) != target_pid(c->job->target)) /* a clone began later; all else is copied */
                now.start_time = c->job->authorized.start_time;

        if (!credentials_equal(&now, &c->job->authorized))
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Process %d changed its credentials or its program",
                                (int) target_pid(c->job->target));

        return 0;
}

/* Another process of a tree, which cannot change any more. */
static int on_judge_member(Target *member, void *userdata, CloneError *error)
{
        const Child *c = userdata;
        Credentials now;
        int r;

        r = tree_refuse_member(member, getppid(), c->job->requester.pid, error);
        if (r < 0 || c->job->superuser)
                return r;

        r = target_read_credentials(member, c->job->own_user_namespace, &now);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, -r, "The credentials of process %d cannot be read: %s",
                                (int) target_pid(member), g_strerror(-r));
        if (authorize_classify(&c->job->requester, &now, &c->job->host) > c->job->class)
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Process %d of the tree is another than what was judged",
                                (int) target_pid(member));
        return 0;
}

/* SIGTERM comes when the daemon dies or gives the request up. */
static void hold_back_end(int how)
{
        sigset_t term;

        (void) sigemptyset(&term);
        (void) sigaddset(&term, SIGTERM);
        (void) sigprocmask(how, &term, NULL); /* cannot fail for a valid @how */
}

static int on_held(const pid_t *pids, const int *pidfds, const pid_t *sources, size_t n, void *userdata, CloneError *error)
{
        const Child *c = userdata;

        for (size_t done = 0; done < n;) {
                WorkerMessage m = {.type = WORKER_HELD};
                size_t k = MIN(n - done, WORKER_HELD_MAX);
                int r;

                m.held.total = (uint32_t) n;
                m.held.n = (uint32_t) k;
                for (size_t i = 0; i < k; i++) {
                        m.held.pids[i] = pids[done + i];
                        m.held.sources[i] = sources ? sources[done + i] : target_pid(c->job->target);
                }

                r = worker_message_send(c->job->hold ? c->fd : c->held_fd, &m, pidfds + done, k);
                if (r < 0)
                        return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The clones cannot be handed over: %s",
                                        g_strerror(-r));
                done += k;
        }

        if (c->job->hold) {
                int r = worker_go_receive(c->fd);

                if (r < 0)
                        return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The clones were given up: %s", g_strerror(-r));
        }

        /* From here on they are let go one by one: all or none, though nobody may be there any more to end those that went. */
        hold_back_end(SIG_BLOCK);
        return 0;
}

static void on_note(const char *text, void *userdata)
{
        WorkerMessage m = {.type = WORKER_NOTE};

        copy_text(m.note.text, text);
        send_or_exit(userdata, &m, NULL, 0);
}

static void on_exited(pid_t pid, int code, int status, void *userdata)
{
        WorkerMessage m = {.type = WORKER_EXITED};

        m.exited.pid = pid;
        m.exited.code = code;
        m.exited.status = status;
        send_or_exit(userdata, &m, NULL, 0);
}

/*
 * What memory this process writes to first is copied from the daemon's, page by page, and what it reads of /proc is looked up
 * the first time: better now than while a caller waits. Whether it succeeds is all the same.
 */
static void warm_up(void)
{
        g_autoptr(Target) self = NULL;
        g_autofree char *maps = NULL;
        TargetStatus status;

        (void) background_prepare();
        safe_close(memory_open(getpid()));
        if (target_new(&self, getpid(), NULL) < 0)
                return;
        (void) target_read_status(self, &status);
        (void) target_read_lines(self, "maps", &maps);
}

/* Closes @begin to @end - 1, which may be none. */
static int close_between(int begin, int end)
{
        return begin < end && close_range((unsigned) begin, (unsigned) end - 1, 0) < 0 ? -errno : 0;
}

/* Closes all descriptors but the standard ones, @low and @high. */
static int close_all_but(int low, int high)
{
        int r = close_between(STDERR_FILENO + 1, low);

        if (r >= 0)
                r = close_between(low + 1, high);
        return r < 0 ? r : close_range((unsigned) high + 1, ~0U, 0) < 0 ? -errno : 0;
}

static bool is_awaited(int fd)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};

        return poll(&p, 1, 0) > 0;
}

/* Of the jobs that a process may do: what it loses of memory, should it, has an end. */
#define JOBS_MAX 64U

/* What leaves nothing behind in this process but, for a moment, descriptors and the target. */
static bool is_plain(const WorkerJob *job)
{
        return job->spec.parent == CLONE_PARENT_SHARED && job->spec.isolate == CLONE_ISOLATE_NONE && !job->spec.tree && !job->spec.same_pids && !job->spec.fds &&
               !job->hold;
}

/* Puts away what is left of @job, and looks whether all of it is gone: neither a child nor a tracee, which the next would be taken for. */
static bool forget_job(const Child *c, WorkerJob *job)
{
        siginfo_t si;

        job->target = target_free(job->target);
        return close_all_but(MIN(c->fd, c->held_fd), MAX(c->fd, c->held_fd)) >= 0 &&
               waitid(P_ALL, 0, &si, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0 && errno == ECHILD;
}

/* True where this process is as good as a new one when it is done, and has said so. */
static bool run_job(int fd, int held_fd, WorkerJob *job, bool last)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Child c = {fd, held_fd, job};
        const EngineHandler handler = {
                .stopped = on_stopped,
                .resumed = on_resumed,
                .judge = job->superuser ? NULL : on_judge,
                .judge_member = on_judge_member,
                .held = on_held,
                .note = on_note,
                .exited = on_exited,
                .userdata = &c,
        };
        WorkerMessage m = {.type = WORKER_RELEASED};
        EngineResult result = {};
        int r;

        r = job->engine->clone(job->target, &job->spec, &handler, &result, &error);
        hold_back_end(SIG_UNBLOCK);
        if (r < 0) {
                on_resumed(&c);
                send_error(&c, r, &error);
                return false;
        }

        /* This process may live as long as the clones: the other end of a pipe must see theirs closed. */
        for (size_t i = 0; job->spec.fds && i < job->spec.fds->n; i++)
                safe_close(job->spec.fds->items[i].fd);

        m.released.pause_nsec = result.pause_nsec;
        m.released.again = !last && is_plain(job) && forget_job(&c, job);
        send_or_exit(&c, &m, NULL, 0);

        if (job->spec.parent == CLONE_PARENT_DAEMON)
                (void) job->engine->watch(&handler, &error); /* the request is answered: an unwatched clone is no failure */
        return m.released.again;
}

/* Nothing of the daemon stays but memory and the capabilities. */
static void become_worker(int fd, int held_fd, pid_t parent)
{
        sigset_t none;

        (void) signal(SIGTERM, SIG_DFL); /* blocked in the daemon, which takes it from a descriptor; here it ends the process */

        /* The death of the daemon must end the request. It may have died before the first line took effect. */
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
                _exit(EXIT_FAILURE);

        (void) prctl(PR_SET_NAME, "remfork-worker");
        (void) signal(SIGPIPE, SIG_DFL); /* whoever started the daemon may have ignored these two; */
        (void) signal(SIGALRM, SIG_DFL); /* it has no handlers of its own */
        sigemptyset(&none);
        if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || close_all_but(MIN(fd, held_fd), MAX(fd, held_fd)) < 0)
                _exit(EXIT_FAILURE);
}

void worker_run(int fd, int held_fd, pid_t parent)
{
        WorkerJob job;
        int r;

        become_worker(fd, held_fd, parent);
        if (!is_awaited(fd))
                warm_up();

        for (unsigned n = 1;; n++) {
                r = worker_job_receive(fd, &job);
                if (r < 0)
                        break;
                if (!run_job(fd, held_fd, &job, n == JOBS_MAX))
                        break;
        }

        /* Without what a normal exit does: buffers and handlers are the daemon's. */
        _exit(r < 0 && r != -EPIPE ? EXIT_FAILURE : EXIT_SUCCESS);
}
