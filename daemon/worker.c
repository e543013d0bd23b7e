/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/pidfd.h"
#include "daemon/room.h"
#include "daemon/util.h"
#include "daemon/worker-protocol.h"
#include "daemon/worker.h"

struct Worker {
        WorkerHandler handler;
        pid_t pid;
        pid_t target;
        uint32_t count;   /* clones asked for; of a tree 0, until the worker has told how many there are */
        uint64_t stop_timeout_usec;
        int fd;
        int held_fd; /* for HELD where nothing waits for it: it is taken when something else comes, or the end */
        sd_event_source *io, *child, *overdue;
        bool reaped;
        bool lost;        /* does not end though it was killed; no longer waited for */
        bool tree;        /* of a whole tree */
        bool started;     /* it has its job */
        bool hold;        /* worker_go() was not called yet */
        bool settled;     /* released() or failed() was called */
        bool ready;       /* it says that nothing is left of its job */
        bool misbehaved;  /* sent what it must not */
        CloneError error; /* why it fails */
        GArray *pids;     /* pid_t of the clones held */
        GArray *sources;  /* pid_t of what they are clones of */
        GArray *pidfds;   /* their pidfds, owned */
        Room room;        /* for these, where they are released before they are taken */
        GPtrArray *notes; /* owned strings; NULL at the end once settled */
        unsigned n_more_notes; /* that were too many to be kept */
};

#define NOTES_MAX 64
#define RECEIVE_FAILURES_MAX 2U
#define OVERDUE_USEC (1U * G_USEC_PER_SEC) /* from SIGTERM to SIGKILL, and from then on; what ends takes a millisecond */
#define END_USEC 5000U /* for clones to end, while nobody else is served; what a worker that lives ends has ended before */
#define PRIORITY_CHILD (SD_EVENT_PRIORITY_NORMAL + 10) /* after the messages that were sent before the end */

static void close_pidfds(Worker *w)
{
        for (guint i = 0; i < w->pidfds->len; i++)
                safe_close(g_array_index(w->pidfds, int, i));
        g_array_set_size(w->pidfds, 0);
        g_array_set_size(w->pids, 0);
        g_array_set_size(w->sources, 0);
}

/* -EBADMSG where it makes no sense at this point, or came by the wrong way (@right); takes over @fds in every case. */
static int handle_held(Worker *w, const WorkerMessage *m, const int *fds, bool right)
{
        /* First taken over, so that an error destroys these too. */
        g_array_append_vals(w->pidfds, fds, m->held.n);
        for (uint32_t i = 0; i < m->held.n; i++) {
                pid_t pid = m->held.pids[i], source = m->held.sources[i];

                g_array_append_val(w->pids, pid);
                g_array_append_val(w->sources, source);
        }

        if (w->tree && w->count == 0)
                w->count = m->held.total;
        return !right || !w->started || w->settled || m->held.total != w->count || w->pids->len > w->count ? -EBADMSG : 0;
}

/* Which clones there are: all that was told so far. -EBADMSG where something of it makes no sense. */
static int take_held(Worker *w)
{
        int fds[WORKER_HELD_MAX], r, bad = 0;
        unsigned failures = 0;
        WorkerMessage m;
        size_t n_fds;

        room_give_back(&w->room);
        while ((r = worker_message_receive(w->held_fd, &m, fds, &n_fds)) != 0 && r != -EAGAIN && r != -ECONNRESET)
                if (r < 0 && r != -EBADMSG) { /* for want of memory, say; these clones may run already, so that it is tried again */
                        if (++failures > RECEIVE_FAILURES_MAX)
                                return r;
                } else if (r < 0 || m.type != WORKER_HELD || handle_held(w, &m, fds, !w->hold) < 0)
                        bad = -EBADMSG;
        return bad;
}

/* All or none: clones that were held when the worker ended were not let go, or not for sure. An error is told when they have ended. */
static void destroy_clones(Worker *w)
{
        int r;

        (void) take_held(w); /* whatever else it sent, what is known of is destroyed */
        for (guint i = 0; i < w->pidfds->len; i++)
                if ((r = pidfd_end(g_array_index(w->pidfds, int, i))) < 0)
                        log_event(LOG_ERR, NULL, g_array_index(w->pids, pid_t, i),
                                        "Process %d, a clone that was not finished, cannot be ended: %s",
                                        (int) g_array_index(w->pids, pid_t, i), g_strerror(-r));
        pidfds_await_end((const int *) (void *) w->pidfds->data, w->pidfds->len, END_USEC);
        close_pidfds(w);
}

static void settle_failed(Worker *w)
{
        if (w->settled)
                return;

        destroy_clones(w);
        w->settled = true;
        w->handler.failed(w, &w->error, w->handler.userdata);
}

static void settle_released(Worker *w, uint64_t pause_nsec)
{
        WorkerResult result;

        if (w->n_more_notes > 0)
                g_ptr_array_add(w->notes, g_strdup_printf("And %u more, which are not told", w->n_more_notes));
        g_ptr_array_add(w->notes, NULL);
        result = (WorkerResult){
                .pids = (const pid_t *) (void *) w->pids->data,
                .sources = (const pid_t *) (void *) w->sources->data,
                .pidfds = (const int *) (void *) w->pidfds->data,
                .n = w->pids->len,
                .notes = (char *const *) w->notes->pdata,
                .pause_nsec = pause_nsec,
        };
        w->settled = true;
        w->handler.released(w, &result, w->handler.userdata);
        close_pidfds(w);
}

static void tell_held(Worker *w)
{
        const WorkerResult result = {
                .pids = (const pid_t *) (void *) w->pids->data,
                .pidfds = (const int *) (void *) w->pidfds->data,
                .n = w->pids->len,
        };

        w->handler.held(w, &result, w->handler.userdata);
}

static int handle_message(Worker *w, const WorkerMessage *m, const int *fds)
{
        if (m->type == WORKER_HELD) {
                int r = handle_held(w, m, fds, w->hold);

                if (r >= 0 && w->pids->len == w->count && w->error.code == CLONE_ERROR_NONE)
                        tell_held(w);
                return r;
        }
        if (!w->started)
                return -EBADMSG;

        if ((m->type == WORKER_EXITED) != w->settled)
                return -EBADMSG;

        if (m->type == WORKER_NOTE) {
                if (w->notes->len < NOTES_MAX)
                        g_ptr_array_add(w->notes, g_strdup(m->note.text));
                else
                        w->n_more_notes++;
                return 0;
        }

        if (m->type == WORKER_EXITED) {
                w->handler.exited(w, m->exited.pid, m->exited.code, m->exited.status, w->handler.userdata);
                return 0;
        }

        if (m->type == WORKER_ERROR) {
                if (w->error.code == CLONE_ERROR_NONE)
                        clone_error_set(&w->error, (CloneErrorCode) m->error.code, m->error.error_number, "%s", m->error.text);
                settle_failed(w);
                return 0;
        }

        if (take_held(w) < 0 || w->pids->len != w->count || w->count == 0 || w->hold)
                return -EBADMSG;
        settle_released(w, m->released.pause_nsec);
        w->ready = m->released.again && w->error.code == CLONE_ERROR_NONE; /* else it is being ended */
        return 0;
}

/* The PID is taken notice of when the kernel lets it end at last. */
static int on_lost_child(sd_event_source *source, const siginfo_t *si, void *userdata)
{
        log_info("Worker %d has ended at last", (int) si->si_pid);
        return sd_event_source_set_floating(source, 0); /* which frees it */
}

static int on_dismissed_child(sd_event_source *source, const siginfo_t *si, void *userdata)
{
        return sd_event_source_set_floating(source, 0); /* which frees it */
}

/* No child of ours that nobody waits for. */
static void disown(Worker *w, sd_event *event, sd_event_child_handler_t handler)
{
        int r;

        w->lost = true;
        w->child = sd_event_source_disable_unref(w->child);
        r = sd_event_add_child(event, NULL, w->pid, WEXITED, handler, NULL);
        if (r < 0)
                log_error("Worker %d cannot be waited for, it will stay a zombie: %s", (int) w->pid, g_strerror(-r));
}

/*
 * It was killed and has not ended: it is in a system call that waits uninterruptibly, perhaps at somebody's will. What it held ends
 * with it, what it had handed over ends now, and the request is answered.
 */
static int on_overdue(sd_event_source *source, uint64_t usec, void *userdata)
{
        Worker *w = userdata;

        log_event(LOG_ERR, NULL, w->pid, "Worker %d for process %d was killed and has not ended, it is no longer waited for", (int) w->pid,
                        (int) w->target);
        w->io = sd_event_source_disable_unref(w->io);
        disown(w, sd_event_source_get_event(source), on_lost_child);
        if (!w->started) /* worker_start() will say so */
                return 0;
        settle_failed(w); /* whoever had it killed said why */
        w->handler.gone(w, w->handler.userdata);
        return 0;
}

static void await_end(Worker *w, sd_event_time_handler_t overdue)
{
        int r;

        w->overdue = sd_event_source_disable_unref(w->overdue);
        r = sd_event_add_time_relative(sd_event_source_get_event(w->child), &w->overdue, CLOCK_MONOTONIC, OVERDUE_USEC, 0, overdue, w);
        if (r < 0)
                log_warning("Worker %d will be waited for without a limit: %s", (int) w->pid, g_strerror(-r));
}

static int on_grace_over(sd_event_source *source, uint64_t usec, void *userdata)
{
        Worker *w = userdata;

        (void) kill(w->pid, SIGKILL); /* not reaped yet, so the PID is its own */
        await_end(w, on_overdue);
        return 0;
}

/* SIGTERM ends it as surely, but not in the few microseconds in which that would harm the target: see SeccompGuard. */
static void end_worker(Worker *w)
{
        if (w->overdue)
                return;
        (void) kill(w->pid, SIGTERM);
        await_end(w, on_grace_over);
        if (!w->overdue)
                (void) kill(w->pid, SIGKILL);
}

/* A worker that does not keep to the protocol (-EBADMSG), or cannot be heard, is not listened to any longer. */
static void give_up(Worker *w, int r)
{
        const char *why = r == -EBADMSG ? "sent a message that makes no sense" : "sent a message that cannot be received";

        log_event(LOG_ERR, NULL, w->pid, "Worker %d %s, it is ended: %s", (int) w->pid, why, g_strerror(-r));
        if (w->error.code == CLONE_ERROR_NONE)
                clone_error_set(&w->error, CLONE_ERROR_FAILED, -r, "The worker for process %d %s: %s", (int) w->target, why, g_strerror(-r));
        w->misbehaved = true;
        w->io = sd_event_source_disable_unref(w->io);
        if (w->settled)
                close_pidfds(w);
        end_worker(w);
}

/* Takes all that was sent so far. */
static void drain(Worker *w)
{
        int fds[WORKER_HELD_MAX], r;
        WorkerMessage m;
        size_t n_fds;

        while (!w->misbehaved && !w->ready) {
                r = worker_message_receive(w->fd, &m, fds, &n_fds);
                if (r == -EAGAIN)
                        return;
                if (r == 0 || r == -ECONNRESET) { /* closed: the child's end comes next */
                        w->io = sd_event_source_disable_unref(w->io);
                        return;
                }
                if (r >= 0)
                        r = handle_message(w, &m, fds);
                if (r < 0)
                        give_up(w, r);
        }
}

/* Here too, nothing is left of the job. */
static void become_idle(Worker *w)
{
        const WorkerHandler handler = w->handler;

        g_ptr_array_set_size(w->notes, 0);
        w->n_more_notes = 0;
        w->handler = (WorkerHandler){};
        w->started = w->settled = w->ready = false;
        handler.gone(w, handler.userdata); /* may free it */
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
        Worker *w = userdata;

        drain(w);
        if (w->ready)
                become_idle(w);
        return 0;
}

static void explain_end(Worker *w, const siginfo_t *si)
{
        if (w->error.code != CLONE_ERROR_NONE)
                return;

        if (si->si_code == CLD_KILLED && si->si_status == SIGALRM)
                clone_error_set(&w->error, CLONE_ERROR_TIMEOUT, 0,
                                "Process %d would have been stopped for more than %" G_GUINT64_FORMAT
                                " ms, it goes on without a clone",
                                (int) w->target, w->stop_timeout_usec / 1000);
        else if (si->si_code == CLD_EXITED)
                clone_error_set(&w->error, CLONE_ERROR_FAILED, 0,
                                "The worker for process %d ended with status %d before it was done", (int) w->target,
                                si->si_status);
        else
                clone_error_set(&w->error, CLONE_ERROR_FAILED, 0,
                                "The worker for process %d was ended by signal %d (%s) before it was done", (int) w->target,
                                si->si_status, strsignal(si->si_status));
}

static int on_child(sd_event_source *source, const siginfo_t *si, void *userdata)
{
        Worker *w = userdata;

        w->reaped = true; /* sd-event reaps it after this returns; the PID is not used again */
        w->overdue = sd_event_source_disable_unref(w->overdue);
        if (!w->started) { /* somebody killed it: worker_start() will say so */
                log_warning("Worker %d ended before there was work for it", (int) w->pid);
                return 0;
        }
        drain(w);
        if (!w->settled)
                explain_end(w, si);
        settle_failed(w);
        w->handler.gone(w, w->handler.userdata);
        return 0;
}

static int make_channel(int *ret_ours, int *ret_theirs)
{
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        *ret_ours = pair[0];
        *ret_theirs = pair[1];
        return 0;
}

int worker_new(Worker **ret, sd_event *event)
{
        g_autoptr(Worker) w = g_new0(Worker, 1);
        _cleanup_close_ int theirs = -EBADF, their_held = -EBADF;
        pid_t parent = getpid();
        int r;

        w->fd = w->held_fd = -EBADF;
        w->reaped = true; /* so far there is none */
        w->pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
        w->sources = g_array_new(FALSE, FALSE, sizeof(pid_t));
        w->pidfds = g_array_new(FALSE, FALSE, sizeof(int));
        w->notes = g_ptr_array_new_with_free_func(g_free);

        r = make_channel(&w->fd, &theirs);
        if (r >= 0)
                r = make_channel(&w->held_fd, &their_held);
        if (r >= 0)
                r = sd_event_add_io(event, &w->io, w->fd, EPOLLIN, on_io, w);
        if (r < 0)
                return r;

        w->pid = fork();
        if (w->pid < 0)
                return -errno;
        if (w->pid == 0)
                worker_run(theirs, their_held, parent);

        w->reaped = false;

        r = sd_event_add_child(event, &w->child, w->pid, WEXITED, on_child, w);
        if (r >= 0)
                r = sd_event_source_set_priority(w->child, PRIORITY_CHILD);
        if (r < 0)
                return r;

        *ret = g_steal_pointer(&w);
        return 0;
}

bool worker_is_idle(const Worker *w)
{
        return !w->started && !w->reaped && !w->lost && !w->misbehaved;
}

int worker_start(Worker *w, const WorkerJob *job, const WorkerHandler *handler)
{
        int r;

        g_assert(!w->started);

        if (!worker_is_idle(w)) /* somebody ended it */
                return -EPIPE;
        r = job->hold ? 0 : room_set_aside(&w->room, w->fd, job->spec.count);
        if (r >= 0)
                r = worker_job_send(w->fd, job);
        if (r < 0) {
                room_give_back(&w->room);
                return r;
        }

        w->started = true;
        w->handler = *handler;
        w->target = target_pid(job->target);
        w->tree = job->spec.tree;
        w->count = job->spec.tree ? 0 : job->spec.count;
        w->hold = job->hold;
        w->stop_timeout_usec = job->stop_timeout_usec;
        return 0;
}

void worker_go(Worker *w)
{
        if (w->error.code != CLONE_ERROR_NONE) /* it is being ended */
                return;
        w->hold = false;
        (void) worker_go_send(w->fd); /* fails where it has ended, which is told anyway */
}

void worker_kill(Worker *w, CloneErrorCode code, const char *reason)
{
        if (w->settled || w->reaped || w->lost || w->error.code != CLONE_ERROR_NONE)
                return;

        clone_error_set(&w->error, code, 0, "%s", reason);
        end_worker(w);
}

/* For two seconds at most: see end_worker() and on_overdue(). */
static void kill_and_wait(Worker *w)
{
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, w->pid, 0);
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        (void) kill(w->pid, SIGTERM); /* not reaped yet, so the PID is its own */
        if (pidfd < 0 || RETRY_EINTR(poll(&p, 1, OVERDUE_USEC / 1000)) == 0)
                (void) kill(w->pid, SIGKILL);
        if (pidfd >= 0 && RETRY_EINTR(poll(&p, 1, OVERDUE_USEC / 1000)) == 0)
                disown(w, sd_event_source_get_event(w->child), on_lost_child);
        else
                (void) RETRY_EINTR(waitpid(w->pid, NULL, 0));
}

Worker *worker_free(Worker *w)
{
        if (!w)
                return NULL;

        sd_event_source_disable_unref(w->io);
        sd_event_source_disable_unref(w->overdue);
        if (!w->reaped && !w->lost)
                kill_and_wait(w);
        sd_event_source_disable_unref(w->child);
        if (!w->settled)
                destroy_clones(w);
        safe_close(w->fd);
        safe_close(w->held_fd);
        room_give_back(&w->room);
        g_array_unref(w->pids);
        g_array_unref(w->sources);
        g_array_unref(w->pidfds);
        g_ptr_array_unref(w->notes);
        clone_error_clear(&w->error);
        g_free(w);
        return NULL;
}

Worker *worker_dismiss(Worker *w)
{
        if (worker_is_idle(w)) {
                (void) kill(w->pid, SIGTERM); /* not reaped yet, so the PID is its own */
                disown(w, sd_event_source_get_event(w->child), on_dismissed_child);
        }
        return worker_free(w);
}

pid_t worker_pid(const Worker *w)
{
        return w->reaped ? 0 : w->pid;
}
