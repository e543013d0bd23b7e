/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/util.h"
#include "daemon/worker-protocol.h"
#include "daemon/worker.h"

struct Worker {
        WorkerHandler handler;
        pid_t pid;
        pid_t target;
        uint32_t count;   /* clones asked for */
        uint64_t stop_timeout_usec;
        int fd;
        sd_event_source *io, *child;
        bool reaped;
        bool settled;     /* released() or failed() was called */
        bool misbehaved;  /* sent what it must not */
        CloneError error; /* why it fails */
        GArray *pids;     /* pid_t of the clones held */
        GArray *pidfds;   /* their pidfds, owned */
        GPtrArray *notes; /* owned strings; NULL at the end once settled */
};

#define NOTES_MAX 64
#define PRIORITY_CHILD (SD_EVENT_PRIORITY_NORMAL + 10) /* after the messages that were sent before the end */

static void close_pidfds(Worker *w)
{
        for (guint i = 0; i < w->pidfds->len; i++)
                safe_close(g_array_index(w->pidfds, int, i));
        g_array_set_size(w->pidfds, 0);
        g_array_set_size(w->pids, 0);
}

/* All or none: clones that were held when the worker ended were not let go, or not for sure. */
static void destroy_clones(Worker *w)
{
        for (guint i = 0; i < w->pidfds->len; i++)
                if (syscall(SYS_pidfd_send_signal, g_array_index(w->pidfds, int, i), SIGKILL, NULL, 0) < 0 && errno != ESRCH)
                        log_event(LOG_ERR, NULL, g_array_index(w->pids, pid_t, i),
                                        "Process %d, a clone that was not finished, cannot be ended: %s",
                                        (int) g_array_index(w->pids, pid_t, i), g_strerror(errno));
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

        g_ptr_array_add(w->notes, NULL);
        result = (WorkerResult){
                .pids = (const pid_t *) (void *) w->pids->data,
                .pidfds = (const int *) (void *) w->pidfds->data,
                .n = w->pids->len,
                .notes = (char *const *) w->notes->pdata,
                .pause_nsec = pause_nsec,
        };
        w->settled = true;
        w->handler.released(w, &result, w->handler.userdata);
        close_pidfds(w);
}

/* -EBADMSG where it makes no sense at this point; takes over @fds in every case. */
static int handle_held(Worker *w, const WorkerMessage *m, const int *fds)
{
        /* First taken over, so that an error destroys these too. */
        g_array_append_vals(w->pidfds, fds, m->held.n);
        for (uint32_t i = 0; i < m->held.n; i++) {
                pid_t pid = m->held.pids[i];

                g_array_append_val(w->pids, pid);
        }

        return w->settled || m->held.total != w->count || w->pids->len > w->count ? -EBADMSG : 0;
}

static int handle_message(Worker *w, const WorkerMessage *m, const int *fds)
{
        if (m->type == WORKER_HELD)
                return handle_held(w, m, fds);

        if ((m->type == WORKER_EXITED) != w->settled)
                return -EBADMSG;

        if (m->type == WORKER_NOTE) {
                if (w->notes->len < NOTES_MAX)
                        g_ptr_array_add(w->notes, g_strdup(m->note.text));
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

        if (w->pids->len != w->count)
                return -EBADMSG;
        settle_released(w, m->released.pause_nsec);
        return 0;
}

/* A worker that does not keep to the protocol is not listened to any longer. */
static void give_up(Worker *w)
{
        log_event(LOG_ERR, NULL, w->pid, "Worker %d sent a message that makes no sense, it is ended", (int) w->pid);
        if (w->error.code == CLONE_ERROR_NONE)
                clone_error_set(&w->error, CLONE_ERROR_FAILED, EBADMSG,
                                "The worker for process %d sent a message that makes no sense", (int) w->target);
        w->misbehaved = true;
        w->io = sd_event_source_disable_unref(w->io);
        if (w->settled)
                close_pidfds(w);
        (void) kill(w->pid, SIGKILL); /* not reaped yet, so the PID is its own */
}

/* Takes all that was sent so far. */
static void drain(Worker *w)
{
        int fds[WORKER_HELD_MAX], r;
        WorkerMessage m;
        size_t n_fds;

        while (!w->misbehaved) {
                r = worker_message_receive(w->fd, &m, fds, &n_fds);
                if (r == -EAGAIN)
                        return;
                if (r == 0 || r == -ECONNRESET) { /* closed: the child's end comes next */
                        w->io = sd_event_source_disable_unref(w->io);
                        return;
                }
                if (r < 0 || handle_message(w, &m, fds) < 0)
                        give_up(w);
        }
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
        drain(userdata);
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
        drain(w);
        if (!w->settled)
                explain_end(w, si);
        settle_failed(w);
        w->handler.gone(w, w->handler.userdata);
        return 0;
}

static int compare_fds(const void *a, const void *b)
{
        return *(const int *) a - *(const int *) b;
}

/* Closes all descriptors but the standard ones and @keep, which is sorted here. */
static int close_all_but(int *keep, size_t n)
{
        unsigned from = STDERR_FILENO + 1;

        qsort(keep, n, sizeof(int), compare_fds);
        for (size_t i = 0; i < n; i++) {
                if ((unsigned) keep[i] > from && close_range(from, (unsigned) keep[i] - 1, 0) < 0)
                        return -errno;
                from = MAX(from, (unsigned) keep[i] + 1);
        }

        return close_range(from, ~0U, 0) < 0 ? -errno : 0;
}

/* The child: nothing of the daemon stays but memory and the capabilities. */
static void become_worker(int fd, const WorkerJob *job, pid_t parent) G_GNUC_NORETURN;
static void become_worker(int fd, const WorkerJob *job, pid_t parent)
{
        int keep[] = {fd, target_pidfd(job->target), target_procfd(job->target)};
        sigset_t none;

        /* The death of the daemon must end the request. It may have died before the first line took effect. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                _exit(EXIT_FAILURE);

        (void) prctl(PR_SET_NAME, "remfork-worker");
        (void) signal(SIGPIPE, SIG_DFL); /* whoever started the daemon may have ignored these two; */
        (void) signal(SIGALRM, SIG_DFL); /* it has no handlers of its own */
        sigemptyset(&none);
        if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || close_all_but(keep, G_N_ELEMENTS(keep)) < 0)
                _exit(EXIT_FAILURE);

        worker_run(fd, job);
}

int worker_new(Worker **ret, sd_event *event, const WorkerJob *job, const WorkerHandler *handler)
{
        g_autoptr(Worker) w = g_new0(Worker, 1);
        int pair[2], r;
        pid_t parent = getpid();

        w->handler = *handler;
        w->target = target_pid(job->target);
        w->count = job->spec.count;
        w->stop_timeout_usec = job->stop_timeout_usec;
        w->fd = -EBADF;
        w->reaped = true; /* so far there is none */
        w->pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
        w->pidfds = g_array_new(FALSE, FALSE, sizeof(int));
        w->notes = g_ptr_array_new_with_free_func(g_free);

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        w->fd = pair[0];

        r = sd_event_add_io(event, &w->io, w->fd, EPOLLIN, on_io, w);
        if (r < 0) {
                safe_close(pair[1]);
                return r;
        }

        w->pid = fork();
        if (w->pid < 0) {
                r = -errno;
                safe_close(pair[1]);
                return r;
        }
        if (w->pid == 0)
                become_worker(pair[1], job, parent);

        w->reaped = false;
        safe_close(pair[1]);

        r = sd_event_add_child(event, &w->child, w->pid, WEXITED, on_child, w);
        if (r >= 0)
                r = sd_event_source_set_priority(w->child, PRIORITY_CHILD);
        if (r < 0)
                return r;

        *ret = g_steal_pointer(&w);
        return 0;
}

void worker_kill(Worker *w, CloneErrorCode code, const char *reason)
{
        if (w->settled || w->reaped || w->error.code != CLONE_ERROR_NONE)
                return;

        clone_error_set(&w->error, code, 0, "%s", reason);
        (void) kill(w->pid, SIGKILL); /* not reaped yet, so the PID is its own */
}

Worker *worker_free(Worker *w)
{
        if (!w)
                return NULL;

        sd_event_source_disable_unref(w->io);
        sd_event_source_disable_unref(w->child);
        if (!w->reaped) {
                (void) kill(w->pid, SIGKILL);
                (void) RETRY_EINTR(waitpid(w->pid, NULL, 0));
        }
        if (!w->settled)
                destroy_clones(w);
        safe_close(w->fd);
        g_array_unref(w->pids);
        g_array_unref(w->pidfds);
        g_ptr_array_unref(w->notes);
        clone_error_clear(&w->error);
        g_free(w);
        return NULL;
}

pid_t worker_pid(const Worker *w)
{
        return w->pid;
}
