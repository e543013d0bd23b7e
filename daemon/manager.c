/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "daemon/bus-util.h"
#include "daemon/log.h"
#include "daemon/manager.h"
#include "daemon/request.h"

#define USEC_PER_SEC UINT64_C(1000000)

static int on_schedule(sd_event_source *source, void *userdata);
static int on_idle(sd_event_source *source, uint64_t usec, void *userdata);

static int load_conf(const Manager *m, Conf *ret, CloneError *error)
{
        int r;

        r = conf_load(m->conf_path, ret, error);
        if (r != -ENOENT)
                return r;
        if (m->conf_must_exist)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, ENOENT, "%s: there is no such file", m->conf_path);

        *ret = conf_default;
        return 0;
}

static int add_sources(Manager *m)
{
        int r;

        r = sd_event_add_defer(m->event, &m->schedule, on_schedule, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->schedule, SD_EVENT_OFF);
        if (r >= 0)
                r = manager_requests_init(m);
        if (r >= 0)
                r = sd_event_add_time(m->event, &m->idle, CLOCK_MONOTONIC, 0, USEC_PER_SEC, on_idle, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->idle, SD_EVENT_OFF);
        return r;
}

static void on_live_ended(void *userdata)
{
        manager_schedule(userdata); /* its user may have one more */
}

int manager_new(Manager **ret, const ManagerOptions *options)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Manager) m = g_new0(Manager, 1);
        int r;

        m->conf_path = g_strdup(options->conf_path ?: REMFORK_SYSCONFDIR "/remforkd.conf");
        m->conf_must_exist = options->conf_path != NULL;
        m->next_id = 1;

        r = load_conf(m, &m->conf, &error);
        if (r < 0) {
                log_error("%s", error.message);
                return r;
        }
        m->exit_when_idle = !options->no_idle_exit;

        r = host_read("/proc", &m->host);
        if (r < 0) {
                log_error("/proc/self/ns/user cannot be read: %s", g_strerror(-r));
                return r;
        }

        r = sd_event_default(&m->event);
        if (r >= 0)
                r = sd_event_set_watchdog(m->event, true);
        if (r >= 0)
                r = add_sources(m);
        if (r < 0) {
                log_error("The event loop cannot be set up: %s", g_strerror(-r));
                return r;
        }

        (void) queue_new(&m->queue, &m->conf); /* allocates only */
        (void) live_new(&m->live, m->event, m->queue, g_getenv("RUNTIME_DIRECTORY"), on_live_ended, m);

        m->kernel_interface = engine_kernel_interface();
        r = engine_choose(options->engine, &m->engine, &error);
        if (r < 0) /* not fatal: the requests are told why */
                log_warning("Nothing can be cloned: %s", error.message);

        *ret = g_steal_pointer(&m);
        return 0;
}

Manager *manager_free(Manager *m)
{
        if (!m)
                return NULL;

        manager_requests_clear(m);
        manager_drop_cancellations(m, NULL);
        live_free(m->live);
        m->spare = worker_free(m->spare);
        m->kept = worker_free(m->kept);
        queue_free(m->queue);
        polkit_free(m->polkit);
        peers_free(m->peers);
        sd_event_source_disable_unref(m->schedule);
        sd_event_source_disable_unref(m->idle);
        sd_bus_flush_close_unref(m->bus);
        sd_event_unref(m->event);
        g_free(m->conf_path);
        g_free(m);
        return NULL;
}

static int open_bus(Manager *m, const char *address)
{
        int r;

        if (!address)
                return sd_bus_open_system(&m->bus);

        r = sd_bus_new(&m->bus);
        if (r >= 0)
                r = sd_bus_set_address(m->bus, address);
        if (r >= 0)
                r = sd_bus_set_bus_client(m->bus, true);
        if (r >= 0)
                r = sd_bus_negotiate_fds(m->bus, true);
        if (r >= 0)
                r = sd_bus_start(m->bus);
        return r;
}

int manager_startup(Manager *m, const char *bus_address)
{
        int r;

        r = open_bus(m, bus_address);
        if (r < 0) {
                log_error("The bus cannot be reached: %s", g_strerror(-r));
                return r;
        }

        r = sd_bus_set_exit_on_disconnect(m->bus, true);
        if (r >= 0)
                r = sd_bus_attach_event(m->bus, m->event, SD_EVENT_PRIORITY_NORMAL);
        if (r >= 0)
                r = peers_new(&m->peers, m->bus, &m->host, manager_peer_lost, m);
        if (r >= 0)
                r = polkit_new(&m->polkit, m->bus, m->peers);
        if (r >= 0)
                r = manager_bus_add(m);
        if (r < 0) {
                log_error("The objects cannot be put on the bus: %s", g_strerror(-r));
                return r;
        }

        r = sd_bus_request_name(m->bus, MANAGER_NAME, 0);
        if (r < 0) {
                log_error("The name " MANAGER_NAME " cannot be had: %s",
                                r == -EEXIST ? "another remforkd has it" : g_strerror(-r));
                return r;
        }

        m->last_used = now_usec();
        manager_schedule(m);
        return 0;
}

void manager_notify_status(Manager *m)
{
        m->last_status = now_usec();
        (void) sd_notifyf(false, "STATUS=Engine %s, %" PRIu64 " requests done, %" PRIu64 " not, %u in the queue",
                        m->engine ? m->engine->name : "none", m->completed, m->failed, queue_length(m->queue));
}

void manager_reload(Manager *m)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Conf conf;

        (void) sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec());
        if (load_conf(m, &conf, &error) < 0)
                log_error("The configuration stays as it was: %s", error.message);
        else {
                m->conf = conf;
                log_event(LOG_INFO, LOG_EVENT_RELOADED, 0, "Configuration %s was read again", m->conf_path);
        }
        (void) sd_notify(false, "READY=1");
        manager_schedule(m); /* a limit may have been lifted */
}

void manager_stop(Manager *m)
{
        if (m->stopping)
                return;

        m->stopping = true;
        (void) sd_notify(false, "STOPPING=1");
        manager_refuse_waiting(m);
        manager_schedule(m);
}

void manager_schedule(Manager *m)
{
        (void) sd_event_source_set_enabled(m->schedule, SD_EVENT_ONESHOT); /* cannot fail for a source of this loop */
}

/* Clones that count keep it running too: it is the one that knows when they end, and lets others be made. */
static bool manager_is_idle(const Manager *m)
{
        return queue_length(m->queue) == 0 && g_hash_table_size(m->requests) == 0 && live_count(m->live) == 0 &&
               m->cancellations.length == 0 && !peers_are_busy(m->peers);
}

static void arm_idle(Manager *m, uint64_t when)
{
        (void) sd_event_source_set_time(m->idle, when);
        (void) sd_event_source_set_enabled(m->idle, SD_EVENT_ONESHOT);
}

void manager_fill_spare(Manager *m)
{
        int r;

        if (m->spare && worker_pid(m->spare) == 0) /* somebody ended it */
                m->spare = worker_free(m->spare);
        if (m->spare || m->stopping)
                return;

        r = worker_new(&m->spare, m->event);
        if (r < 0) /* tried again when a request needs it, and told then */
                log_debug("No worker can be started in advance: %s", g_strerror(-r));
}

/* NULL is fine. -EPIPE where it is none, or somebody ended it: freed then. */
static int try_worker(Worker **w, const WorkerJob *job, const WorkerHandler *handler)
{
        int r = *w ? worker_start(*w, job, handler) : -EPIPE;

        if (r == -EPIPE)
                *w = worker_free(*w);
        return r;
}

/* No process serves two users: what a worker may have learned, or have been talked into, ends with the first. */
int manager_start_worker(Manager *m, uid_t uid, const WorkerJob *job, const WorkerHandler *handler, Worker **ret)
{
        g_autoptr(Worker) w = NULL;
        int r;

        if (m->kept && m->kept_uid == uid)
                w = g_steal_pointer(&m->kept);
        r = try_worker(&w, job, handler);
        if (r == -EPIPE) {
                w = g_steal_pointer(&m->spare);
                r = try_worker(&w, job, handler);
        }
        if (r == -EPIPE) { /* there is none: so one that is made now */
                r = worker_new(&w, m->event);
                if (r >= 0)
                        r = worker_start(w, job, handler);
        }
        if (r < 0)
                return r;

        *ret = g_steal_pointer(&w);
        return 0;
}

void manager_put_worker(Manager *m, uid_t uid, Worker *w)
{
        if (!worker_is_idle(w)) {
                (void) worker_free(w);
                return;
        }

        if (m->kept)
                (void) worker_dismiss(m->kept);
        m->kept = w;
        m->kept_uid = uid;
}

void manager_run_queued(Manager *m)
{
        QueueItem *item;

        while (!m->stopping && (item = queue_next(m->queue)))
                request_run((Request *) (void *) ((char *) item - offsetof(Request, item)));
}

static int on_schedule(sd_event_source *source, void *userdata)
{
        Manager *m = userdata;
        int armed;

        if (m->stopping) {
                /* One that was judged anew meanwhile waits again. */
                manager_refuse_waiting(m);
                if (queue_length(m->queue) == 0)
                        return sd_event_exit(m->event, 0);
                return 0;
        }

        manager_run_queued(m);
        if (queue_running(m->queue) == 0) /* else fork(2) would be in the way of an answer */
                manager_fill_spare(m);

        if (m->exit_when_idle && m->conf.idle_timeout_usec > 0 && manager_is_idle(m) &&
            sd_event_source_get_enabled(m->idle, &armed) == 0)
                arm_idle(m, now_usec() + m->conf.idle_timeout_usec);
        return 0;
}

static int on_name_released(sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        Manager *m = userdata;

        /* What was sent to the name came before this answer and is in the queue by now; it is served, then the end comes. */
        if (manager_is_idle(m))
                manager_stop(m);
        else
                arm_idle(m, now_usec() + USEC_PER_SEC);
        return 0;
}

static int on_idle(sd_event_source *source, uint64_t usec, void *userdata)
{
        Manager *m = userdata;
        uint64_t due = m->last_used + m->conf.idle_timeout_usec;

        if (m->stopping || m->conf.idle_timeout_usec == 0 || !manager_is_idle(m))
                return 0; /* armed again when all is done */

        if (now_usec() < due) {
                arm_idle(m, due);
                return 0;
        }

        log_info("Nothing was asked for in %" PRIu64 " s, the next request starts remforkd again",
                        m->conf.idle_timeout_usec / USEC_PER_SEC);
        if (sd_bus_release_name_async(m->bus, NULL, MANAGER_NAME, on_name_released, m) < 0)
                manager_stop(m);
        return 0;
}

int manager_choose_engine(Manager *m, const CloneSpec *spec, const Engine **ret, CloneError *error)
{
        if (spec->engine != CLONE_ENGINE_AUTO || !m->engine)
                return engine_choose(spec->engine, ret, error);

        *ret = m->engine;
        return 0;
}
