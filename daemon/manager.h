/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "daemon/conf.h"
#include "daemon/engine/engine.h"
#include "daemon/live.h"
#include "daemon/peer.h"
#include "daemon/polkit.h"
#include "daemon/queue.h"
#include "daemon/worker.h"

#define MANAGER_NAME "org.remfork.Clone"
#define MANAGER_PATH "/org/remfork/Clone"
#define MANAGER_INTERFACE "org.remfork.Clone"
#define REQUEST_INTERFACE "org.remfork.Clone.Request"
#define REQUEST_PATH "/org/remfork/Clone/request"
#define REQUEST_PATH_PREFIX REQUEST_PATH "/"

typedef struct Request Request;
typedef struct Cancellation Cancellation; /* a Cancel() that polkit decides on, manager-bus.c */

/* Owns the bus, the queue, the limits and the requests; knows when there is nothing to do. */
typedef struct Manager {
        sd_event *event;
        sd_bus *bus;
        char *conf_path;
        bool conf_must_exist;
        Conf conf;
        Host host;
        const Engine *engine; /* what "auto" takes, NULL where there is none */
        uint32_t kernel_interface;
        bool exit_when_idle;
        bool stopping;

        Peers *peers;
        Polkit *polkit;
        Queue *queue;
        Live *live;
        Worker *spare;  /* new, waits for the next request's job; NULL where there is none at the moment */
        Worker *kept;   /* has served kept_uid, and waits for another job of that user's; NULL for none */
        uid_t kept_uid;
        GHashTable *requests; /* &id -> Request */
        GQueue finished;      /* Request.kept: finished ones that can still be read, oldest first */
        GQueue cancellations;
        unsigned n_watched;   /* finished requests whose worker waits for the clones to end */
        uint64_t next_id;
        uint64_t completed, failed;

        sd_event_source *schedule, *announce, *forget, *idle;
        uint64_t last_used; /* CLOCK_MONOTONIC, microseconds */
        uint64_t last_status;
} Manager;

typedef struct ManagerOptions {
        const char *conf_path;   /* NULL: the default one, which need not be there */
        const char *bus_address; /* NULL: the system bus */
        CloneEngine engine;      /* what "auto" takes */
        bool no_idle_exit;
} ManagerOptions;

/* Reads the configuration and this machine; -EINVAL with a logged sentence where that cannot be. */
int manager_new(Manager **ret, const ManagerOptions *options);
Manager *manager_free(Manager *m);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Manager, manager_free)

/* Connects to the bus and takes the name; every error is logged. */
int manager_startup(Manager *m, const char *bus_address);

/* Reads the configuration again; where it is bad, that is logged and the old one stays. */
void manager_reload(Manager *m);

/* What runs is finished, what waits is refused, then the event loop ends. */
void manager_stop(Manager *m);

/* For requests. */
void manager_run_queued(Manager *m);                   /* now; requests may be finished, and freed, when it returns */
void manager_schedule(Manager *m);                     /* soon, from the event loop: runs whose turn it is, or notes that all is idle */
void manager_fill_spare(Manager *m); /* makes the next worker in advance */
int manager_start_worker(Manager *m, uid_t uid, const WorkerJob *job, const WorkerHandler *handler, Worker **ret); /* a negative errno */
void manager_put_worker(Manager *m, uid_t uid, Worker *w); /* takes it over: its job, of @uid's, is done */

/*
 * The engine for a clone by @spec: the one that the caller or the administrator named, or that of "auto". A negative errno, with
 * @error filled, where there is none.
 */
int manager_choose_engine(Manager *m, const CloneSpec *spec, const Engine **ret, CloneError *error);
void manager_notify_status(Manager *m); /* to systemd */

/* manager-requests.c: the requests that there are, and those that were */
int manager_requests_init(Manager *m);    /* a negative errno */
void manager_requests_clear(Manager *m);  /* frees all, also where init did not come to its end */
void manager_refuse_waiting(Manager *m);  /* cancels what does not run yet */
void manager_add_request(Manager *m, Request *r);
void manager_announce(Manager *m, Request *r);         /* RequestNew, where it was not sent yet */
void manager_request_finished(Manager *m, Request *r); /* may free it */
void manager_worker_gone(Manager *m, Request *r);      /* may free it */
Request *manager_get_request(Manager *m, uint64_t id);
GList *manager_list_requests(Manager *m);              /* the oldest first; the list is the caller's */
Request *manager_get_request_by_path(Manager *m, const char *path);
void manager_peer_lost(Peer *peer, void *userdata);

/* manager-bus.c */
int manager_bus_add(Manager *m);
void manager_drop_cancellations(Manager *m, const Peer *peer); /* of @peer, or all where it is NULL */
void manager_emit_request_new(Manager *m, const Request *r);
void manager_emit_request_removed(Manager *m, const Request *r);

/* Serves Cancel() of both interfaces. */
int manager_method_cancel(sd_bus_message *message, void *userdata, sd_bus_error *e);
