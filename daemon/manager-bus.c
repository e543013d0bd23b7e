/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/bus-util.h"
#include "daemon/log-control.h"
#include "daemon/log.h"
#include "daemon/manager.h"
#include "daemon/refuse.h"
#include "daemon/request.h"
#include "daemon/tree.h"

#define WATCHED_MAX 256     /* requests with parent "daemon" whose clones live: each has a worker */
#define PIDFDS_MAX 16U      /* dbus-daemon(1): max_message_unix_fds; for one more it would end the daemon's connection */
#define CANCELLATIONS_PER_USER_MAX 8U
#define CANCELLATIONS_MAX 256U /* of all users; each waits for polkit */

struct Cancellation {
        Manager *manager;
        sd_bus_message *message;
        Peer *peer;
        uint64_t id;
        PolkitCheck *check;
        GList link;
};

/* The arguments of a request, read and checked. */
typedef struct Arguments {
        Target *target;
        CloneSpec spec;
} Arguments;

static int reply_error(sd_bus_message *message, const CloneError *error)
{
        bus_reply_error(message, error);
        return 1;
}

static int open_target(sd_bus_message *message, RequestMethod method, Target **ret, CloneError *error)
{
        uint32_t pid;
        int r, pidfd;

        if (method == REQUEST_METHOD_CLONE_PIDFD) {
                r = sd_bus_message_read_basic(message, 'h', &pidfd);
                return r < 0 ? clone_error_set(error, CLONE_ERROR_INVALID_ARGS, -r, "The pidfd cannot be read: %s",
                                               g_strerror(-r))
                             : target_new_from_pidfd(ret, pidfd, error);
        }

        r = sd_bus_message_read_basic(message, 'u', &pid);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, -r, "The PID cannot be read: %s", g_strerror(-r));
        if (pid == 0 || pid > INT32_MAX)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "%" PRIu32 " is no process ID, a number from 1 to %d was expected", pid, INT32_MAX);
        return target_new(ret, (pid_t) pid, error);
}

/* Reads and validates all of a request; nothing is created by it. On 0 target and spec are the caller's. */
static int read_arguments(Manager *m, sd_bus_message *message, RequestMethod method, const Peer *peer, Arguments *ret,
                CloneError *error)
{
        g_autoptr(Target) target = NULL;
        _cleanup_spec_ CloneSpec spec = CLONE_SPEC_DEFAULT;
        int r;

        r = open_target(message, method, &target, error);
        if (r < 0)
                return r;

        if (method != REQUEST_METHOD_CLONE) {
                r = spec_read(message, &spec, error);
                if (r < 0)
                        return r;
                spec.notes = true; /* Clone() answers with a PID alone, and as fast as can be */
        }

        if (method == REQUEST_METHOD_CLONE_PIDFD && spec.count > PIDFDS_MAX)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option count is %" PRIu32 ", at most %u pidfds fit into an answer", spec.count, PIDFDS_MAX);
        if (spec.parent == CLONE_PARENT_DAEMON && m->n_watched >= WATCHED_MAX)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0,
                                "The clones of %u requests with parent \"daemon\" are followed already", m->n_watched);

        r = refuse_own(m, target, error);
        if (r >= 0 && spec.tree)
                r = refuse_tree(m, target, peer, method == REQUEST_METHOD_CLONE_PIDFD ? PIDFDS_MAX : TREE_MAX, &spec, error);
        /* Where nobody has to be asked the engine's own look comes as soon, unless the answer does not wait for it. */
        if (r >= 0 && (method == REQUEST_METHOD_SUBMIT || !authorize_is_superuser(&peer->requester, &m->host)))
                r = refuse_target(m, target, &spec, error);
        if (r < 0)
                return r;

        ret->target = g_steal_pointer(&target);
        ret->spec = spec;
        spec.fds = NULL; /* the caller's now, both */
        spec.scope = NULL;
        return 0;
}

static int handle_clone(sd_bus_message *message, Manager *m, RequestMethod method, sd_bus_message_handler_t again)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Target) target = NULL;
        Arguments arguments;
        Request *request;
        Peer *peer;
        int r;

        if (m->stopping) {
                clone_error_set(&error, CLONE_ERROR_CANCELED, 0, "remforkd is shutting down");
                return reply_error(message, &error);
        }

        r = peers_get(m->peers, message, again, m, &peer, &error);
        if (r < 0)
                return reply_error(message, &error);
        if (r == 0)
                return 1; /* runs again */

        r = read_arguments(m, message, method, peer, &arguments, &error);
        if (r < 0)
                return reply_error(message, &error);

        target = arguments.target;
        r = request_new(&request, m, peer, message, method, &arguments.spec, &target, &error);
        if (r < 0) {
                spec_clear(&arguments.spec);
                log_event(LOG_NOTICE, LOG_EVENT_LIMIT, 0, "A request of user %" PRIu32 " is refused: %s",
                                (uint32_t) peer->requester.uid, error.message);
                return reply_error(message, &error);
        }

        request_authorize(request);
        manager_run_queued(m); /* a turn of the event loop sooner than manager_schedule() */
        return 1;
}

static int method_clone(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        return handle_clone(message, userdata, REQUEST_METHOD_CLONE, method_clone);
}

static int method_clone_full(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        return handle_clone(message, userdata, REQUEST_METHOD_CLONE_FULL, method_clone_full);
}

static int method_clone_pidfd(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        return handle_clone(message, userdata, REQUEST_METHOD_CLONE_PIDFD, method_clone_pidfd);
}

static int method_submit(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        return handle_clone(message, userdata, REQUEST_METHOD_SUBMIT, method_submit);
}

static int method_list_requests(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        _cleanup_bus_message_ sd_bus_message *reply = NULL;
        Manager *m = userdata;
        g_autoptr(GList) requests = manager_list_requests(m);
        int r;

        r = sd_bus_message_new_method_return(message, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(tuusso)");
        for (GList *l = requests; l && r >= 0; l = l->next) {
                const Request *q = l->data;

                r = sd_bus_message_append(reply, "(tuusso)", q->id, (uint32_t) q->target_pid, (uint32_t) q->item.uid,
                                request_state_to_string(q->state), q->engine ? q->engine->name : "", q->path);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_list_clones(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        _cleanup_bus_message_ sd_bus_message *reply = NULL;
        Manager *m = userdata;
        g_autoptr(GArray) clones = live_list(m->live);
        int r;

        r = sd_bus_message_new_method_return(message, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(utuutb)");
        for (guint i = 0; i < clones->len && r >= 0; i++) {
                const LiveClone *c = &g_array_index(clones, LiveClone, i);

                r = sd_bus_message_append(reply, "(utuutb)", (uint32_t) c->pid, c->start_time, (uint32_t) c->source, (uint32_t) c->uid,
                                c->request, (int) c->followed);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int no_such_request(CloneError *error, uint64_t id)
{
        return clone_error_set(error, CLONE_ERROR_NO_SUCH_REQUEST, 0, "There is no request %" PRIu64, id);
}

/* The request that may be cancelled. */
static int get_unfinished(Manager *m, uint64_t id, Request **ret, CloneError *error)
{
        Request *request = manager_get_request(m, id);

        if (!request)
                return no_such_request(error, id);
        if (request->state == REQUEST_FINISHED)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_REQUEST, 0, "Request %" PRIu64 " is finished already", id);

        *ret = request;
        return 0;
}

static int method_get_request(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Manager *m = userdata;
        const Request *request;
        uint64_t id;
        int r;

        r = sd_bus_message_read(message, "t", &id);
        if (r < 0)
                return r;

        request = manager_get_request(m, id);
        if (!request) {
                no_such_request(&error, id);
                return reply_error(message, &error);
        }

        return sd_bus_reply_method_return(message, "o", request->path);
}

static void cancel_and_reply(Manager *m, sd_bus_message *message, uint64_t id)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Request *request;

        if (get_unfinished(m, id, &request, &error) < 0) {
                bus_reply_error(message, &error);
                return;
        }

        request_cancel(request, CLONE_ERROR_CANCELED, "The request was cancelled");
        (void) sd_bus_reply_method_return(message, NULL); /* whoever left needs no answer */
}

static void cancellation_free(Cancellation *c)
{
        g_queue_unlink(&c->manager->cancellations, &c->link);
        polkit_check_free(c->check);
        sd_bus_message_unref(c->message);
        c->peer->n_uses--;
        manager_schedule(c->manager);
        g_free(c);
}

void manager_drop_cancellations(Manager *m, const Peer *peer)
{
        for (GList *l = m->cancellations.head, *next; l; l = next) {
                Cancellation *c = l->data;

                next = l->next;
                if (!peer || c->peer == peer)
                        cancellation_free(c);
        }
}

static void on_cancel_decided(int r, const CloneError *error, void *userdata)
{
        Cancellation *c = userdata;

        c->check = NULL; /* freed by whoever calls this */
        if (r < 0)
                bus_reply_error(c->message, error);
        else
                cancel_and_reply(c->manager, c->message, c->id);
        cancellation_free(c);
}

/* The request is somebody else's: polkit decides. */
static int ask_to_cancel(Manager *m, sd_bus_message *message, Peer *peer, uint64_t id, CloneError *error)
{
        const PolkitQuestion question = {
                .class = AUTHORIZE_MANAGE_REQUESTS,
                .interactive = sd_bus_message_get_allow_interactive_authorization(message) > 0,
        };
        Cancellation *c;
        unsigned n = 0;
        int r;

        for (GList *l = m->cancellations.head; l; l = l->next)
                n += ((Cancellation *) l->data)->peer->requester.uid == peer->requester.uid;
        if (n >= CANCELLATIONS_PER_USER_MAX)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0,
                                "%u cancellations of user %" PRIu32 " wait already, more are not taken", n,
                                (uint32_t) peer->requester.uid);
        if (m->cancellations.length >= CANCELLATIONS_MAX)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0, "%u cancellations wait already, more are not taken",
                                m->cancellations.length);

        c = g_new0(Cancellation, 1);
        c->manager = m;
        c->message = sd_bus_message_ref(message);
        c->peer = peer;
        c->id = id;
        c->link.data = c;
        peer->n_uses++;
        g_queue_push_tail_link(&m->cancellations, &c->link);

        r = polkit_ask(m->polkit, peer, &question, on_cancel_decided, c, &c->check, error);
        if (r == 0)
                return 0;
        if (r > 0)
                cancel_and_reply(m, message, id);
        cancellation_free(c);
        return r < 0 ? r : 0;
}

int manager_method_cancel(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        const char *path = sd_bus_message_get_path(message);
        Manager *m = userdata;
        uint64_t id;
        Request *request;
        Peer *peer;
        int r;

        r = peers_get(m->peers, message, manager_method_cancel, m, &peer, &error);
        if (r < 0)
                return reply_error(message, &error);
        if (r == 0)
                return 1; /* runs again */

        if (g_str_has_prefix(path, REQUEST_PATH_PREFIX)) {
                id = g_ascii_strtoull(path + strlen(REQUEST_PATH_PREFIX), NULL, 10); /* checked by request_object_find() */
        } else {
                r = sd_bus_message_read(message, "t", &id);
                if (r < 0) {
                        clone_error_set(&error, CLONE_ERROR_INVALID_ARGS, -r, "The ID cannot be read: %s", g_strerror(-r));
                        return reply_error(message, &error);
                }
        }

        r = get_unfinished(m, id, &request, &error); /* before somebody is asked for a password */
        if (r < 0)
                return reply_error(message, &error);

        /* Own requests are those of the same user, as with kill(2). */
        if (request->item.uid == peer->requester.uid || authorize_is_superuser(&peer->requester, &m->host)) {
                cancel_and_reply(m, message, id);
                return 1;
        }

        r = ask_to_cancel(m, message, peer, id, &error);
        return r < 0 ? reply_error(message, &error) : 1;
}

static int property_get_version(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        return sd_bus_message_append(reply, "s", PACKAGE_VERSION);
}

static int property_get_engine(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Manager *m = userdata;

        return sd_bus_message_append(reply, "s", m->engine ? m->engine->name : "");
}

static int property_get_queue_length(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Manager *m = userdata;

        return sd_bus_message_append(reply, "u", queue_length(m->queue));
}

#define LIMIT(name, type, member) SD_BUS_PROPERTY(name, type, NULL, offsetof(Manager, conf.member), 0)

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Clone", SD_BUS_ARGS("u", pid), SD_BUS_RESULT("u", clone), method_clone,
                        SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("CloneFull", SD_BUS_ARGS("u", pid, "a{sv}", options),
                        SD_BUS_RESULT("a(uu)", clones, "o", request), method_clone_full, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ClonePIDFD", SD_BUS_ARGS("h", pidfd, "a{sv}", options),
                        SD_BUS_RESULT("a(uu)", clones, "ah", pidfds, "o", request), method_clone_pidfd,
                        SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Submit", SD_BUS_ARGS("u", pid, "a{sv}", options), SD_BUS_RESULT("o", request),
                        method_submit, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListRequests", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(tuusso)", requests), method_list_requests,
                        SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListClones", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(utuutb)", clones), method_list_clones,
                        SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("GetRequest", SD_BUS_ARGS("t", id), SD_BUS_RESULT("o", request), method_get_request,
                        SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_ARGS("t", id), SD_BUS_NO_RESULT, manager_method_cancel,
                        SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL_WITH_ARGS("RequestNew", SD_BUS_ARGS("t", id, "o", request), 0),
        SD_BUS_SIGNAL_WITH_ARGS("RequestRemoved", SD_BUS_ARGS("t", id, "o", request, "s", result), 0),
        SD_BUS_SIGNAL_WITH_ARGS("Cloned", SD_BUS_ARGS("t", id, "u", source, "u", clone), 0),
        SD_BUS_PROPERTY("Version", "s", property_get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Engine", "s", property_get_engine, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("KernelInterface", "u", NULL, offsetof(Manager, kernel_interface), SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("QueueLength", "u", property_get_queue_length, 0, 0),
        SD_BUS_PROPERTY("Completed", "t", NULL, offsetof(Manager, completed), 0),
        SD_BUS_PROPERTY("Failed", "t", NULL, offsetof(Manager, failed), 0),
        LIMIT("QueuedPerUserMax", "u", queued_per_user_max),
        LIMIT("RunningPerUserMax", "u", running_per_user_max),
        LIMIT("QueuedMax", "u", queued_max),
        LIMIT("ClonesPerUserMax", "u", clones_per_user_max),
        LIMIT("RateLimitBurst", "u", rate_limit_burst),
        LIMIT("RateLimitIntervalUSec", "t", rate_limit_interval_usec),
        LIMIT("RequestTimeoutUSec", "t", request_timeout_usec),
        LIMIT("TargetStopTimeoutUSec", "t", target_stop_timeout_usec),
        SD_BUS_VTABLE_END,
};

/* Whoever reads a property takes notice of the daemon as well: it does not end as idle right after. */
static int on_message(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        Manager *m = userdata;

        if (sd_bus_message_is_method_call(message, NULL, NULL) > 0)
                m->last_used = now_usec();
        return 0; /* and it goes its way */
}

int manager_bus_add(Manager *m)
{
        int r;

        r = sd_bus_add_filter(m->bus, NULL, on_message, m);
        if (r >= 0)
                r = sd_bus_add_object_vtable(m->bus, NULL, MANAGER_PATH, MANAGER_INTERFACE, manager_vtable, m);
        if (r >= 0)
                r = sd_bus_add_fallback_vtable(m->bus, NULL, REQUEST_PATH, REQUEST_INTERFACE, request_vtable,
                                request_object_find, m);
        if (r >= 0)
                r = log_control_add(m->bus);
        if (r >= 0)
                r = sd_bus_add_node_enumerator(m->bus, NULL, REQUEST_PATH, request_node_enumerator, m);
        return r;
}

void manager_emit_request_new(Manager *m, const Request *request)
{
        int r = sd_bus_emit_signal(m->bus, MANAGER_PATH, MANAGER_INTERFACE, "RequestNew", "to", request->id, request->path);

        if (r < 0)
                log_warning("A signal of request %" PRIu64 " cannot be sent: %s", request->id, g_strerror(-r));
}

void manager_emit_request_removed(Manager *m, const Request *request)
{
        int r = 0;

        for (guint i = 0; i < request->clones->len && r >= 0; i++) {
                const RequestClone *c = &g_array_index(request->clones, RequestClone, i);

                r = sd_bus_emit_signal(m->bus, MANAGER_PATH, MANAGER_INTERFACE, "Cloned", "tuu", request->id, (uint32_t) c->source,
                                (uint32_t) c->pid);
        }
        if (r >= 0)
                r = sd_bus_emit_signal(m->bus, MANAGER_PATH, MANAGER_INTERFACE, "RequestRemoved", "tos", request->id,
                                request->path, request_result_to_string(request->result));
        if (r < 0)
                log_warning("A signal of request %" PRIu64 " cannot be sent: %s", request->id, g_strerror(-r));
}
