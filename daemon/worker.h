/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-event.h>

#include "daemon/credentials.h"
#include "daemon/engine/engine.h"

/*
 * Runs one request in a single-use child process. The worker may block and may be killed at any instruction; clones that
 * it made and did not let go are destroyed by whichever of the two is left.
 */
typedef struct Worker Worker;

typedef struct WorkerJob {
        const Engine *engine;
        Target *target;                  /* borrowed for worker_new() */
        CloneSpec spec;
        bool superuser;                  /* the right does not depend on what the target is: nothing is compared */
        Credentials authorized;          /* what the requester's right was judged by; compared while the target is stopped */
        FileIdentity own_user_namespace;
        uint64_t stop_timeout_usec;      /* 0: none */
} WorkerJob;

/* What became of it; borrowed, valid until the worker is freed. */
typedef struct WorkerResult {
        const pid_t *pids;
        const int *pidfds;
        size_t n;
        char *const *notes; /* ends with NULL */
        uint64_t pause_nsec;
} WorkerResult;

/* Each runs from the event loop, never from worker_new(). A worker may be freed from gone() and from nowhere else. */
typedef struct WorkerHandler {
        /* The clones run. */
        void (*released)(Worker *w, const WorkerResult *result, void *userdata);
        /* There are no clones. CLONE_ERROR_CHANGED: the target is no longer what was authorised. */
        void (*failed)(Worker *w, const CloneError *error, void *userdata);
        /* After released(), with parent "daemon": a clone ended. */
        void (*exited)(Worker *w, pid_t pid, int code, int status, void *userdata);
        /* Last of all: the child is reaped. Exactly one of released() and failed() came before. */
        void (*gone)(Worker *w, void *userdata);
        void *userdata;
} WorkerHandler;

/* Forks the worker. A negative errno where that cannot be done; @handler is copied. */
int worker_new(Worker **ret, sd_event *event, const WorkerJob *job, const WorkerHandler *handler);

/*
 * Ends the request: the worker is killed and failed() comes with @code and @reason, unless the clones ran already. Returns at
 * once; does nothing where one of released() and failed() was called.
 */
void worker_kill(Worker *w, CloneErrorCode code, const char *reason);

/* The child must be reaped (gone() was called), or is killed and waited for. NULL is fine. */
Worker *worker_free(Worker *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Worker, worker_free)

pid_t worker_pid(const Worker *w);

/* The child's side, which never returns; for the tests too. Sends what @job comes to over @fd. */
void worker_run(int fd, const WorkerJob *job) G_GNUC_NORETURN;
