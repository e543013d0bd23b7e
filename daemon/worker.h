/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-event.h>

#include "daemon/worker-job.h"

/*
 * Runs requests in a child process, one at a time. The worker may block and may be killed at any instruction; clones that
 * it made and did not let go are destroyed by whichever of the two is left. Most serve one request. One that has nothing left of it
 * (no process, no descriptor, no timer) may be given another one: to make a new process takes longer than a clone.
 */
typedef struct Worker Worker;

/* What became of it; borrowed, valid until the worker is freed. */
typedef struct WorkerResult {
        const pid_t *pids;
        const pid_t *sources; /* what each is a clone of */
        const int *pidfds;
        size_t n;
        char *const *notes; /* ends with NULL */
        uint64_t pause_nsec;
} WorkerResult;

/* Each runs from the event loop, never from worker_start(). A worker may be freed, or given away, from gone() and from nowhere else. */
typedef struct WorkerHandler {
        /* Only with WorkerJob.hold: all clones are made and held; @result has their PIDs and pidfds. worker_go() lets them run. */
        void (*held)(Worker *w, const WorkerResult *result, void *userdata);
        /* The clones run. */
        void (*released)(Worker *w, const WorkerResult *result, void *userdata);
        /* There are no clones. CLONE_ERROR_CHANGED: the target is no longer what was authorised. */
        void (*failed)(Worker *w, const CloneError *error, void *userdata);
        /* After released(), with parent "daemon": a clone ended. */
        void (*exited)(Worker *w, pid_t pid, int code, int status, void *userdata);
        /*
         * Last of all: the child is reaped, was killed a second ago or two and does not end, or worker_is_idle(). Exactly one of
         * released() and failed() came before.
         */
        void (*gone)(Worker *w, void *userdata);
        void *userdata;
} WorkerHandler;

/*
 * Forks the worker, which waits for its job: fork(2) of the daemon, and the pages that the child copies when it first writes
 * to them, take longer than a clone, so that a worker is best made before it is needed. It has none of the daemon's
 * descriptors, and ends with the daemon. A negative errno where it cannot be made.
 */
int worker_new(Worker **ret, sd_event *event);

/* True where it waits for a job: it is new, or done with one and as good as new. */
bool worker_is_idle(const Worker *w);

/* Frees one that is idle without waiting for its end, which it comes to by itself. */
Worker *worker_dismiss(Worker *w);

/*
 * Hands @job over to an idle one. All that the worker goes by is in it, so that it does not matter when the worker was
 * made. @handler is copied. -EPIPE where the worker ended before (it is to be freed, another one may serve), or another
 * negative errno; nothing is called then.
 */
int worker_start(Worker *w, const WorkerJob *job, const WorkerHandler *handler);

/* The clones that held() told of may run; once. What keeps them from it is told by failed(). */
void worker_go(Worker *w);

/*
 * Ends the request: the worker is killed and failed() comes with @code and @reason, unless the clones ran already. Returns at
 * once; does nothing where one of released() and failed() was called.
 */
void worker_kill(Worker *w, CloneErrorCode code, const char *reason);

/* The child must be gone (gone() was called), or is killed and waited for, for two seconds at most. NULL is fine. */
Worker *worker_free(Worker *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Worker, worker_free)

/* 0 once it has ended: the number may be another process's by then. */
pid_t worker_pid(const Worker *w);

/*
 * The child's side, in a fork of @parent's: closes all other descriptors, takes jobs from @fd, sends what each comes to there, and what
 * it holds to @held_fd, and ends.
 */
void worker_run(int fd, int held_fd, pid_t parent) G_GNUC_NORETURN;
