/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "daemon/bus-util.h"
#include "daemon/log.h"
#include "daemon/manager.h"
#include "daemon/request.h"
#include "daemon/util.h"

#define USEC_PER_SEC UINT64_C(1000000)
#define FINISHED_MAX 64
#define FINISHED_USEC (60 * USEC_PER_SEC)
#define STATUS_USEC USEC_PER_SEC

/* A clone that counts against its user's limit, until its pidfd says that it ended. */
typedef struct Live {
        Manager *manager;
        uid_t uid;
        int pidfd;
        sd_event_source *source;
        GList link;
} Live;

static int on_schedule(sd_event_source *source, void *userdata);
static int on_forget(sd_event_source *source, uint64_t usec, void *userdata);
static int on_idle(sd_event_source *source, uint64_t usec, void *userdata);

static void live_free(Live *l)
{
        g_queue_unlink(&l->manager->live, &l->link);
        queue_live_remove(l->manager->queue, l->uid);
        sd_event_source_disable_unref(l->source);
        safe_close(l->pidfd);
        g_free(l);
}

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
                r = sd_event_add_time(m->event, &m->forget, CLOCK_MONOTONIC, 0, USEC_PER_SEC, on_forget, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->forget, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_add_time(m->event, &m->idle, CLOCK_MONOTONIC, 0, USEC_PER_SEC, on_idle, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->idle, SD_EVENT_OFF);
        return r;
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

        m->requests = g_hash_table_new(g_int64_hash, g_int64_equal);
        (void) queue_new(&m->queue, &m->conf); /* allocates only */

        m->kernel_interface = engine_kernel_interface();
        r = engine_choose(options->engine, &m->engine, &error);
        if (r < 0) /* not fatal: the requests are told why */
                log_warning("Nothing can be cloned: %s", error.message);

        *ret = g_steal_pointer(&m);
        return 0;
}

Manager *manager_free(Manager *m)
{
        GHashTableIter i;
        void *r;

        if (!m)
                return NULL;

        if (m->requests) {
                g_hash_table_iter_init(&i, m->requests);
                while (g_hash_table_iter_next(&i, NULL, &r)) {
                        g_hash_table_iter_steal(&i);
                        request_free(r);
                }
                g_hash_table_unref(m->requests);
                manager_drop_cancellations(m, NULL);
        }
        while (m->live.head)
                live_free(m->live.head->data);

        queue_free(m->queue);
        polkit_free(m->polkit);
        peers_free(m->peers);
        sd_event_source_disable_unref(m->schedule);
        sd_event_source_disable_unref(m->forget);
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

static void notify_status(Manager *m)
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

/* Cancels what is not running; a cancelled one leaves the table or becomes "finished", so that each pass starts anew. */
static void refuse_waiting(Manager *m)
{
        g_autoptr(GList) requests = g_hash_table_get_values(m->requests);
        g_autoptr(GArray) ids = g_array_new(FALSE, FALSE, sizeof(uint64_t));

        for (GList *l = requests; l; l = l->next) {
                Request *r = l->data;

                if (r->state == REQUEST_AUTHORIZING || r->state == REQUEST_QUEUED)
                        g_array_append_val(ids, r->id);
        }

        for (guint i = 0; i < ids->len; i++) {
                Request *r = manager_get_request(m, g_array_index(ids, uint64_t, i));

                if (r)
                        request_cancel(r, CLONE_ERROR_CANCELED, "remforkd is shutting down");
        }
}

void manager_stop(Manager *m)
{
        if (m->stopping)
                return;

        m->stopping = true;
        (void) sd_notify(false, "STOPPING=1");
        refuse_waiting(m);
        manager_schedule(m);
}

void manager_schedule(Manager *m)
{
        (void) sd_event_source_set_enabled(m->schedule, SD_EVENT_ONESHOT); /* cannot fail for a source of this loop */
}

/* Clones that count keep it running too: their number would be forgotten. */
static bool manager_is_idle(const Manager *m)
{
        return queue_length(m->queue) == 0 && g_hash_table_size(m->requests) == 0 && m->live.length == 0 &&
               m->cancellations.length == 0 && !peers_are_busy(m->peers);
}

static void arm_idle(Manager *m, uint64_t when)
{
        (void) sd_event_source_set_time(m->idle, when);
        (void) sd_event_source_set_enabled(m->idle, SD_EVENT_ONESHOT);
}

static int on_schedule(sd_event_source *source, void *userdata)
{
        Manager *m = userdata;
        QueueItem *item;
        int armed;

        if (m->stopping) {
                /* One that was judged anew meanwhile waits again. */
                refuse_waiting(m);
                if (queue_length(m->queue) == 0)
                        return sd_event_exit(m->event, 0);
                return 0;
        }

        while ((item = queue_next(m->queue)))
                request_run((Request *) (void *) ((char *) item - offsetof(Request, item)));

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

void manager_add_request(Manager *m, Request *r)
{
        g_hash_table_insert(m->requests, &r->id, r);
        manager_emit_request_new(m, r);
}

static void forget_request(Manager *m, Request *r)
{
        g_hash_table_remove(m->requests, &r->id);
        request_free(r);
        manager_schedule(m);
}

static void arm_forget(Manager *m)
{
        const Request *oldest = g_queue_peek_head(&m->finished);

        if (!oldest) {
                (void) sd_event_source_set_enabled(m->forget, SD_EVENT_OFF);
                return;
        }

        (void) sd_event_source_set_time(m->forget, oldest->finished + FINISHED_USEC);
        (void) sd_event_source_set_enabled(m->forget, SD_EVENT_ONESHOT);
}

static void forget_finished(Manager *m, Request *r)
{
        g_queue_unlink(&m->finished, &r->kept);
        forget_request(m, r);
}

static int on_forget(sd_event_source *source, uint64_t usec, void *userdata)
{
        Manager *m = userdata;
        uint64_t now = now_usec();
        Request *r;

        while ((r = g_queue_peek_head(&m->finished)) && r->finished + FINISHED_USEC <= now)
                forget_finished(m, r);
        arm_forget(m);
        return 0;
}

/* A finished request can be read for a while, unless nobody is left who asked. */
static void keep_finished(Manager *m, Request *r)
{
        if (!r->peer) {
                forget_request(m, r);
                return;
        }

        r->kept = (GList){.data = r};
        g_queue_push_tail_link(&m->finished, &r->kept);
        if (m->finished.length > FINISHED_MAX)
                forget_finished(m, g_queue_peek_head(&m->finished));
        if (m->finished.length == 1) /* else the timer is on for an older one */
                arm_forget(m);
}

void manager_request_finished(Manager *m, Request *r)
{
        uint64_t now = r->finished;

        if (r->result == REQUEST_DONE)
                m->completed++;
        else
                m->failed++;
        m->last_used = now;

        manager_emit_request_removed(m, r);
        if (now - m->last_status >= STATUS_USEC)
                notify_status(m);

        if (r->worker) /* goes on to the end of the worker */
                m->n_watched++;
        else
                keep_finished(m, r);
        manager_schedule(m);
}

void manager_worker_gone(Manager *m, Request *r)
{
        m->n_watched--;
        keep_finished(m, r);
        manager_schedule(m);
}

static int on_live_exit(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
        Live *l = userdata;
        Manager *m = l->manager;

        live_free(l);
        manager_schedule(m);
        return 0;
}

void manager_count_live(Manager *m, uid_t uid, const int *pidfds, size_t n)
{
        if (!queue_counts_live(m->queue, uid))
                return;

        for (size_t i = 0; i < n; i++) {
                Live *l = g_new0(Live, 1);
                int r;

                l->manager = m;
                l->uid = uid;
                l->link.data = l;
                l->pidfd = fcntl(pidfds[i], F_DUPFD_CLOEXEC, 3);
                r = l->pidfd < 0 ? -errno : sd_event_add_io(m->event, &l->source, l->pidfd, EPOLLIN, on_live_exit, l);
                queue_live_add(m->queue, uid);
                g_queue_push_tail_link(&m->live, &l->link);
                if (r < 0) {
                        log_warning("A clone of user %" PRIu32 " cannot be counted: %s", (uint32_t) uid, g_strerror(-r));
                        live_free(l);
                }
        }
}

int manager_choose_engine(Manager *m, CloneEngine choice, const Engine **ret, CloneError *error)
{
        if (choice != CLONE_ENGINE_AUTO || !m->engine)
                return engine_choose(choice, ret, error);

        *ret = m->engine;
        return 0;
}

Request *manager_get_request(Manager *m, uint64_t id)
{
        return g_hash_table_lookup(m->requests, &id);
}

Request *manager_get_request_by_path(Manager *m, const char *path)
{
        g_autofree char *canonical = NULL;
        guint64 id;

        if (!g_str_has_prefix(path, REQUEST_PATH_PREFIX) ||
            !g_ascii_string_to_unsigned(path + strlen(REQUEST_PATH_PREFIX), 10, 0, UINT64_MAX, &id, NULL))
                return NULL;

        canonical = g_strdup_printf(REQUEST_PATH_PREFIX "%" PRIu64, (uint64_t) id); /* 007 is no object */
        return strcmp(canonical, path) == 0 ? manager_get_request(m, id) : NULL;
}

void manager_peer_lost(Peer *peer, void *userdata)
{
        Manager *m = userdata;
        g_autoptr(GList) requests = g_hash_table_get_values(m->requests);
        g_autoptr(GArray) ids = g_array_new(FALSE, FALSE, sizeof(uint64_t));

        manager_drop_cancellations(m, peer);

        for (GList *l = requests; l; l = l->next) {
                Request *r = l->data;

                if (r->peer == peer)
                        g_array_append_val(ids, r->id);
        }

        for (guint i = 0; i < ids->len; i++) {
                Request *r = manager_get_request(m, g_array_index(ids, uint64_t, i));

                if (!r)
                        continue;
                r->check = polkit_check_free(r->check); /* it points to the peer */
                r->peer = NULL;
                r->message = sd_bus_message_unref(r->message);
                if (r->state != REQUEST_FINISHED)
                        request_cancel(r, CLONE_ERROR_CANCELED, "The caller left the bus");
                else if (!r->worker)
                        forget_finished(m, r);
        }
        arm_forget(m);
}
