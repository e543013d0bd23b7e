/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/bus-util.h"
#include "daemon/log.h"
#include "daemon/pidfd.h"
#include "daemon/request.h"

#define ROOM_MAX 16U /* clones for whose descriptors room is kept; of more the worker waits until they are taken */

static const bool transition_table[_REQUEST_STATE_MAX][_REQUEST_STATE_MAX] = {
        [REQUEST_AUTHORIZING] = {[REQUEST_QUEUED] = true, [REQUEST_FINISHED] = true},
        [REQUEST_QUEUED] = {[REQUEST_RUNNING] = true, [REQUEST_FINISHED] = true},
        /* Back to the start: the stopped target was not any more what had been judged. */
        [REQUEST_RUNNING] = {[REQUEST_AUTHORIZING] = true, [REQUEST_FINISHED] = true},
        [REQUEST_FINISHED] = {},
};

static const char *const state_names[_REQUEST_STATE_MAX] = {"authorizing", "queued", "running", "finished"};
static const char *const result_names[_REQUEST_RESULT_MAX] = {"", "done", "failed", "canceled", "timeout", "denied"};

bool request_transition_is_allowed(RequestState from, RequestState to)
{
        return transition_table[from][to];
}

const char *request_state_to_string(RequestState state)
{
        return state_names[state];
}

const char *request_result_to_string(RequestResult result)
{
        return result_names[result];
}

RequestResult request_result_from_error(CloneErrorCode code)
{
        switch (code) {
        case CLONE_ERROR_NONE:
                return REQUEST_DONE;
        case CLONE_ERROR_ACCESS_DENIED:
        case CLONE_ERROR_INTERACTIVE:
        case CLONE_ERROR_CHANGED:
                return REQUEST_DENIED;
        case CLONE_ERROR_TIMEOUT:
                return REQUEST_TIMEOUT;
        case CLONE_ERROR_CANCELED:
                return REQUEST_CANCELED;
        default:
                return REQUEST_FAILED;
        }
}

static void request_set_state(Request *r, RequestState state)
{
        g_assert(request_transition_is_allowed(r->state, state));
        r->state = state;
}

int request_new(Request **ret, Manager *m, Peer *peer, sd_bus_message *message, RequestMethod method, const CloneSpec *spec,
                Target **target, CloneError *error)
{
        Request *r = g_new0(Request, 1);
        int k;

        r->item = (QueueItem){.uid = peer->requester.uid, .target = target_pid(*target), .count = spec->tree ? spec->tree_max : spec->count};
        r->created = now_usec();
        k = queue_admit(m->queue, &r->item, r->created, error);
        if (k < 0) {
                g_free(r);
                return k;
        }

        r->manager = m;
        r->id = m->next_id++;
        r->path = g_strdup_printf(REQUEST_PATH_PREFIX "%" PRIu64, r->id);
        r->method = method;
        r->message = sd_bus_message_ref(message);
        r->peer = peer;
        peer->n_uses++;
        r->spec = *spec;
        r->target = g_steal_pointer(target);
        r->target_pid = target_pid(r->target);
        r->clones = g_array_new(FALSE, FALSE, sizeof(RequestClone));
        r->exits = g_array_new(FALSE, FALSE, sizeof(RequestExit));

        manager_add_request(m, r);
        *ret = r;
        return 0;
}

Request *request_free(Request *r)
{
        if (!r)
                return NULL;

        if (r->peer)
                r->peer->n_uses--;
        queue_remove(r->manager->queue, &r->item);
        polkit_check_free(r->check);
        scope_free(r->scope);
        worker_free(r->worker);
        sd_event_source_disable_unref(r->deadline);
        sd_bus_message_unref(r->message);
        target_free(r->target);
        spec_clear(&r->spec);
        clone_error_clear(&r->error);
        g_array_unref(r->clones);
        g_array_unref(r->exits);
        g_strfreev(r->notes);
        g_free(r->unit);
        g_free(r->path);
        g_free(r);
        return NULL;
}

static void request_log_end(const Request *r)
{
        if (r->result == REQUEST_DONE)
                log_event(LOG_INFO, LOG_EVENT_CLONED, r->target_pid,
                                "Cloned process %d for user %" PRIu32 " (request %" PRIu64 ", %s): %u, the first is %d",
                                (int) r->target_pid, (uint32_t) r->item.uid, r->id, r->engine->name, r->clones->len,
                                (int) g_array_index(r->clones, RequestClone, 0).pid);
        else
                log_event(r->result == REQUEST_DENIED ? LOG_NOTICE : LOG_INFO,
                                r->result == REQUEST_DENIED ? LOG_EVENT_DENIED : LOG_EVENT_FAILED, r->target_pid,
                                "Process %d is not cloned for user %" PRIu32 " (request %" PRIu64 ", %s): %s",
                                (int) r->target_pid, (uint32_t) r->item.uid, r->id, request_result_to_string(r->result),
                                r->error.message);
}

static void take_clones(Request *r, const WorkerResult *made)
{
        for (size_t i = 0; i < made->n; i++) {
                const RequestClone c = {made->sources[i], made->pids[i]};

                g_array_append_val(r->clones, c);
        }
}

/* Nobody can be told of them, so that they are to be nobody's. */
static void end_clones(Request *r, const WorkerResult *made, int k)
{
        for (size_t i = 0; i < made->n; i++) {
                int e = pidfd_end(made->pidfds[i]);

                if (e < 0)
                        log_event(LOG_ERR, NULL, made->pids[i], "Process %d, a clone that nobody was told of, cannot be ended: %s",
                                        (int) made->pids[i], g_strerror(-e));
        }
        g_array_set_size(r->clones, 0);
        clone_error_set(&r->error, CLONE_ERROR_FAILED, -k, "The clones of process %d were ended, because the answer could not be sent: %s",
                        (int) r->target_pid, g_strerror(-k));
        r->result = REQUEST_FAILED;
        (void) request_reply(r, NULL); /* an error is answered for good */
}

void request_finish(Request *r, const WorkerResult *made)
{
        int k;

        request_set_state(r, REQUEST_FINISHED);
        r->result = request_result_from_error(r->error.code);
        r->finished = now_usec();
        r->check = polkit_check_free(r->check);
        r->scope = scope_free(r->scope);
        r->deadline = sd_event_source_disable_unref(r->deadline);
        queue_remove(r->manager->queue, &r->item);

        if (made) {
                take_clones(r, made);
                r->notes = g_strdupv((char **) made->notes);
                r->pause_nsec = made->pause_nsec;
        }

        /* The caller waits for the answer, nobody for the signals. */
        k = request_reply(r, made ? made->pidfds : NULL);
        if (k < 0 && made) {
                end_clones(r, made, k);
                made = NULL;
        }
        if (!made) /* ended with what it had, or was never there */
                g_clear_pointer(&r->unit, g_free);
        if (made)
                live_add(r->manager->live,
                                &(LiveClone){.uid = r->item.uid, .request = r->id, .followed = r->spec.parent == CLONE_PARENT_DAEMON},
                                made->sources, made->pidfds, made->n);
        r->target = target_free(r->target);
        r->spec.fds = clone_fds_free(r->spec.fds); /* whoever reads from the other end of a pipe waits for this */
        request_log_end(r);
        request_emit_changed(r, "State", "Result", "Error", "Clones", "Notes", "TargetPauseNSec", "FinishedUSecMonotonic",
                        "Unit", NULL);
        manager_announce(r->manager, r);
        manager_request_finished(r->manager, r); /* may free it */
}

void request_fail(Request *r, const CloneError *error)
{
        if (error != &r->error)
                clone_error_set(&r->error, error->code, error->error_number, "%s", error->message);
        request_finish(r, NULL);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
        Request *r = userdata;
        g_autofree char *reason = g_strdup_printf("Request %" PRIu64 " was not done in %" PRIu64 " ms, process %d is untouched",
                        r->id, r->spec.timeout_usec / 1000, (int) r->target_pid);

        request_cancel(r, CLONE_ERROR_TIMEOUT, reason);
        return 0;
}

void request_admit(Request *r)
{
        int k = 0;

        if (r->spec.timeout_usec == 0)
                r->spec.timeout_usec = r->manager->conf.request_timeout_usec;
        if (r->spec.timeout_usec > 0 && !r->deadline)
                k = sd_event_add_time_relative(r->manager->event, &r->deadline, CLOCK_MONOTONIC, r->spec.timeout_usec, 1000,
                                on_deadline, r);
        if (k < 0) {
                clone_error_set(&r->error, CLONE_ERROR_FAILED, -k, "The request's timer cannot be set: %s", g_strerror(-k));
                request_finish(r, NULL);
                return;
        }

        request_set_state(r, REQUEST_QUEUED);
        queue_ready(r->manager->queue, &r->item);
        k = r->method == REQUEST_METHOD_SUBMIT ? request_reply(r, NULL) : 0;
        if (k < 0) {
                clone_error_set(&r->error, CLONE_ERROR_FAILED, -k, "Request %" PRIu64 " cannot be told of: %s", r->id, g_strerror(-k));
                request_finish(r, NULL);
                return;
        }
        manager_schedule(r->manager);
}

static void on_scope_done(int k, const CloneError *error, void *userdata)
{
        Request *r = userdata;

        r->scope = NULL; /* freed by whoever calls this */
        if (k < 0)
                worker_kill(r->worker, error->code, error->message);
        else
                worker_go(r->worker);
}

/* Held, they have not run yet: systemd puts them into their scope, where one is asked for. */
static void on_held(Worker *w, const WorkerResult *result, void *userdata)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Request *r = userdata;
        const ScopeMembers members = {result->pids, result->pidfds, result->n};
        g_autofree char *description = NULL;

        if (!r->spec.scope) {
                worker_go(w);
                return;
        }

        /* Both numbers together are never given twice while the machine runs, and the first is what people look for. */
        description = g_strdup_printf("Clone of process %d", (int) r->target_pid);
        r->unit = r->spec.scope->name ? g_strdup(r->spec.scope->name)
                                      : g_strdup_printf("remfork-%d-%" PRIx64 ".scope", (int) result->pids[0], r->started);
        if (scope_start(&r->scope, r->manager->bus, r->unit, description, r->spec.scope, &members, on_scope_done, r, &error) < 0)
                worker_kill(w, error.code, error.message);
}

static void on_released(Worker *w, const WorkerResult *result, void *userdata)
{
        request_finish(userdata, result);
}

static void on_failed(Worker *w, const CloneError *error, void *userdata)
{
        Request *r = userdata;

        if (error->code == CLONE_ERROR_CHANGED)
                r->judge_again = true; /* when the worker is gone */
        else
                request_fail(r, error);
}

static void on_exited(Worker *w, pid_t pid, int code, int status, void *userdata)
{
        Request *r = userdata;
        const RequestExit e = {pid, code, status};
        bool known = false;

        for (guint i = 0; i < r->clones->len && !known; i++)
                known = g_array_index(r->clones, RequestClone, i).pid == pid;
        for (guint i = 0; i < r->exits->len && known; i++)
                known = g_array_index(r->exits, RequestExit, i).pid != pid;
        if (!known)
                return; /* nothing of that request, or told twice */

        g_array_append_val(r->exits, e);
        request_emit_exited(r, &e);
}

static void on_gone(Worker *w, void *userdata)
{
        Request *r = userdata;

        manager_put_worker(r->manager, r->item.uid, g_steal_pointer(&r->worker));

        if (r->state == REQUEST_FINISHED) {
                manager_worker_gone(r->manager, r); /* may free it */
                return;
        }

        g_assert(r->judge_again);
        r->judge_again = false;
        request_set_state(r, REQUEST_AUTHORIZING);
        queue_unready(r->manager->queue, &r->item);
        request_authorize(r);
        manager_schedule(r->manager);
}

void request_run(Request *r)
{
        Manager *m = r->manager;
        const WorkerHandler handler = {on_held, on_released, on_failed, on_exited, on_gone, r};
        WorkerJob job;
        int k;

        request_set_state(r, REQUEST_RUNNING);
        r->started = now_usec();

        k = manager_choose_engine(m, &r->spec, &r->engine, &r->error);
        if (k < 0) {
                request_finish(r, NULL);
                return;
        }

        r->spec.stop_timeout_usec = m->conf.target_stop_timeout_usec;
        job = (WorkerJob){
                .engine = r->engine,
                .target = r->target,
                .spec = r->spec,
                .authorized = r->credentials,
                .class = r->class,
                .requester = r->peer ? r->peer->requester : (Requester){},
                .host = m->host,
                .superuser = r->superuser,
                .own_user_namespace = m->host.user_namespace,
                .stop_timeout_usec = m->conf.target_stop_timeout_usec,
                .hold = r->spec.scope || r->spec.tree || r->spec.count > ROOM_MAX,
        };
        k = manager_start_worker(m, r->item.uid, &job, &handler, &r->worker);
        if (k < 0) {
                clone_error_set(&r->error, CLONE_ERROR_FAILED, -k, "A worker cannot be started: %s", g_strerror(-k));
                request_finish(r, NULL);
                return;
        }

        request_emit_changed(r, "State", "Engine", "StartedUSecMonotonic", NULL);
}

void request_cancel(Request *r, CloneErrorCode code, const char *reason)
{
        if (r->state == REQUEST_FINISHED)
                return;

        if (r->state == REQUEST_RUNNING && !r->judge_again) {
                worker_kill(r->worker, code, reason); /* and on_failed() comes, or the clones run already */
                return;
        }

        clone_error_set(&r->error, code, 0, "%s", reason);
        request_finish(r, NULL);
}
