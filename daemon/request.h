/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "daemon/manager.h"
#include "daemon/polkit.h"
#include "daemon/queue.h"
#include "daemon/scope.h"
#include "daemon/worker.h"

typedef enum RequestState {
        REQUEST_AUTHORIZING,
        REQUEST_QUEUED,
        REQUEST_RUNNING,
        REQUEST_FINISHED,
        _REQUEST_STATE_MAX,
} RequestState;

typedef enum RequestResult {
        REQUEST_RESULT_NONE, /* not finished */
        REQUEST_DONE,
        REQUEST_FAILED,
        REQUEST_CANCELED,
        REQUEST_TIMEOUT,
        REQUEST_DENIED,
        _REQUEST_RESULT_MAX,
} RequestResult;

/* How it was asked for, which says how it is answered. */
typedef enum RequestMethod {
        REQUEST_METHOD_CLONE,
        REQUEST_METHOD_CLONE_FULL,
        REQUEST_METHOD_CLONE_PIDFD,
        REQUEST_METHOD_SUBMIT,
} RequestMethod;

typedef struct RequestExit {
        pid_t pid;
        int code, status;
} RequestExit;

/* One clone (or count of them) asked for. */
typedef struct RequestClone {
        pid_t source, pid;
} RequestClone;

typedef struct Request {
        Manager *manager;
        uint64_t id;
        char *path; /* of its object */
        RequestState state;
        RequestResult result;
        bool announced; /* RequestNew was sent; before it no other signal is */

        RequestMethod method;
        sd_bus_message *message; /* to be answered; NULL once it is */
        Peer *peer;              /* NULL once it left the bus */
        CloneSpec spec;
        Target *target; /* NULL once finished */
        pid_t target_pid;

        QueueItem item;
        const Engine *engine; /* NULL until it runs */
        bool superuser; /* who asks may clone any process */
        AuthorizeClass class;    /* what was granted, where it is no superuser */
        Credentials credentials; /* of the target: what the right was judged by */
        PolkitCheck *check;
        unsigned n_judged;
        bool judge_again; /* the worker found the target changed and is about to be gone */
        bool scope_allowed;
        Scope *scope; /* being started, while the worker holds the clones */
        char *unit;   /* its name; NULL where none was asked for, or nothing is held yet */
        Worker *worker;
        sd_event_source *deadline;

        CloneError error;
        GArray *clones; /* RequestClone */
        GStrv notes;
        GArray *exits; /* RequestExit */
        uint64_t pause_nsec;
        uint64_t created, started, finished; /* CLOCK_MONOTONIC, microseconds; 0: not yet */
        GList kept; /* in Manager.finished */
} Request;

/* The transitions that there are; every change of state goes through request_set_state(), which holds itself to them. */
bool request_transition_is_allowed(RequestState from, RequestState to);

const char *request_state_to_string(RequestState state);
const char *request_result_to_string(RequestResult result); /* "" for REQUEST_RESULT_NONE */
RequestResult request_result_from_error(CloneErrorCode code);

/*
 * Takes a validated request into the queue's accounts and announces it; *@target and what *@spec holds are taken over on
 * success. -ENOBUFS with
 * @error filled where a limit is in the way. It belongs to the manager.
 */
int request_new(Request **ret, Manager *m, Peer *peer, sd_bus_message *message, RequestMethod method, const CloneSpec *spec,
                Target **target, CloneError *error);
Request *request_free(Request *r);

/* request-authorize.c. Begins; everything that can go wrong finishes the request. */
void request_authorize(Request *r);

/* The requester may; the request takes its place in the queue. Only now time starts to run: before, a password may be typed. */
void request_admit(Request *r);

/* r->error says how it ended; @made is what the worker made, NULL where it made nothing. Answers, tells, logs. */
void request_finish(Request *r, const WorkerResult *made);

/* Finishes it with @error, which is copied; it made nothing. */
void request_fail(Request *r, const CloneError *error);

/* Its turn came. */
void request_run(Request *r);

/* Ends it as soon as that can be done, with @code and @reason as its error; nothing where it is finished. */
void request_cancel(Request *r, CloneErrorCode code, const char *reason);

/* request-bus.c */
extern const sd_bus_vtable request_vtable[];

int request_object_find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret, sd_bus_error *e);
int request_node_enumerator(sd_bus *bus, const char *path, void *userdata, char ***ret, sd_bus_error *e);

/*
 * Answers its message for good, with the clones or its error. @pidfds: of the clones, borrowed; for REQUEST_METHOD_CLONE_PIDFD. A negative
 * errno where the caller could not be told of the clones, and is still to be answered.
 */
int request_reply(Request *r, const int *pidfds);

/* Tells listeners of what changed; names end with NULL. */
void request_emit_changed(Request *r, const char *property, ...) G_GNUC_NULL_TERMINATED;
void request_emit_exited(Request *r, const RequestExit *e);
