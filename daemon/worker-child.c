/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "daemon/worker-protocol.h"
#include "daemon/worker.h"

/* The child's side of a worker: calls the engine and tells the daemon. */
typedef struct Child {
        int fd;
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

static int on_held(const pid_t *pids, const int *pidfds, size_t n, void *userdata, CloneError *error)
{
        const Child *c = userdata;

        for (size_t done = 0; done < n;) {
                WorkerMessage m = {.type = WORKER_HELD};
                size_t k = MIN(n - done, WORKER_HELD_MAX);
                int r;

                m.held.total = (uint32_t) n;
                m.held.n = (uint32_t) k;
                for (size_t i = 0; i < k; i++)
                        m.held.pids[i] = pids[done + i];

                r = worker_message_send(c->fd, &m, pidfds + done, k);
                if (r < 0)
                        return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The clones cannot be handed over: %s",
                                        g_strerror(-r));
                done += k;
        }

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

void worker_run(int fd, const WorkerJob *job)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Child c = {fd, job};
        const EngineHandler handler = {
                .stopped = on_stopped,
                .judge = job->superuser ? NULL : on_judge,
                .held = on_held,
                .note = on_note,
                .exited = on_exited,
                .userdata = &c,
        };
        const struct itimerval off = {};
        WorkerMessage m = {.type = WORKER_RELEASED};
        EngineResult result = {};
        int r;

        r = job->engine->clone(job->target, &job->spec, &handler, &result, &error);
        (void) setitimer(ITIMER_REAL, &off, NULL); /* cannot fail for a valid timer */
        if (r < 0) {
                send_error(&c, r, &error);
                _exit(EXIT_SUCCESS);
        }

        m.released.pause_nsec = result.pause_nsec;
        send_or_exit(&c, &m, NULL, 0);

        if (job->spec.parent == CLONE_PARENT_DAEMON)
                (void) job->engine->watch(&handler, &error); /* the request is answered: an unwatched clone is no failure */

        _exit(EXIT_SUCCESS);
}
