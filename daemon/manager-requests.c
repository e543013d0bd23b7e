/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <string.h>

#include "daemon/bus-util.h"
#include "daemon/manager.h"
#include "daemon/request.h"

#define USEC_PER_SEC UINT64_C(1000000)
#define FINISHED_PER_USER_MAX 32U
#define FINISHED_MAX 512U
#define FINISHED_USEC (60 * USEC_PER_SEC)
#define STATUS_USEC USEC_PER_SEC

/*
 * Who asked waits for the answer, and each signal is work for the bus that would come before it. What is done sooner is told
 * all at once, after the answer.
 */
#define ANNOUNCE_USEC 5000

static int on_announce(sd_event_source *source, uint64_t usec, void *userdata);
static int on_forget(sd_event_source *source, uint64_t usec, void *userdata);

int manager_requests_init(Manager *m)
{
        int r;

        m->requests = g_hash_table_new(g_int64_hash, g_int64_equal);

        r = sd_event_add_time(m->event, &m->announce, CLOCK_MONOTONIC, 0, ANNOUNCE_USEC, on_announce, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->announce, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_add_time(m->event, &m->forget, CLOCK_MONOTONIC, 0, USEC_PER_SEC, on_forget, m);
        return r < 0 ? r : sd_event_source_set_enabled(m->forget, SD_EVENT_OFF);
}

void manager_requests_clear(Manager *m)
{
        GHashTableIter i;
        void *r;

        m->announce = sd_event_source_disable_unref(m->announce);
        m->forget = sd_event_source_disable_unref(m->forget);
        if (!m->requests)
                return;

        g_hash_table_iter_init(&i, m->requests);
        while (g_hash_table_iter_next(&i, NULL, &r)) {
                g_hash_table_iter_steal(&i);
                request_free(r);
        }
        g_clear_pointer(&m->requests, g_hash_table_unref);
}

void manager_add_request(Manager *m, Request *r)
{
        int armed;

        g_hash_table_insert(m->requests, &r->id, r);
        if (r->method == REQUEST_METHOD_SUBMIT) { /* its caller gets its object before it is done, and listens there */
                manager_announce(m, r);
                return;
        }

        if (sd_event_source_get_enabled(m->announce, &armed) == 0) {
                (void) sd_event_source_set_time_relative(m->announce, ANNOUNCE_USEC);
                (void) sd_event_source_set_enabled(m->announce, SD_EVENT_ONESHOT);
        }
}

void manager_announce(Manager *m, Request *r)
{
        if (r->announced)
                return;

        r->announced = true;
        manager_emit_request_new(m, r);
}

static int on_announce(sd_event_source *source, uint64_t usec, void *userdata)
{
        Manager *m = userdata;
        g_autoptr(GList) requests = manager_list_requests(m);

        for (GList *l = requests; l; l = l->next)
                manager_announce(m, l->data);
        manager_fill_spare(m); /* what takes so long may take longer still */
        return 0;
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

/* For one more finished request of @uid: the oldest of the same user goes, so that nobody's are lost by what others ask. */
static void make_room(Manager *m, uid_t uid)
{
        Request *oldest = NULL;
        unsigned n = 0;

        for (GList *l = m->finished.tail; l; l = l->prev) {
                Request *r = l->data;

                if (r->item.uid == uid) {
                        oldest = r;
                        n++;
                }
        }

        if (n >= FINISHED_PER_USER_MAX)
                forget_finished(m, oldest);
        else if (m->finished.length >= FINISHED_MAX)
                forget_finished(m, g_queue_peek_head(&m->finished));
}

/*
 * A finished request can be read for a while, unless nobody is left who asked. How a clone ended, though, is of interest to
 * others than who asked: "remforkctl clone" is gone when "remforkctl wait" comes.
 */
static void keep_finished(Manager *m, Request *r)
{
        if (!r->peer && r->exits->len == 0) {
                forget_request(m, r);
                return;
        }

        make_room(m, r->item.uid);
        r->kept = (GList){.data = r};
        g_queue_push_tail_link(&m->finished, &r->kept);
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
                manager_notify_status(m);

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

void manager_refuse_waiting(Manager *m)
{
        g_autoptr(GList) requests = manager_list_requests(m);
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

static gint compare_ids(const void *a, const void *b)
{
        const Request *x = a, *y = b;

        return x->id < y->id ? -1 : x->id > y->id;
}

GList *manager_list_requests(Manager *m)
{
        return g_list_sort(g_hash_table_get_values(m->requests), compare_ids);
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
        g_autoptr(GList) requests = manager_list_requests(m);
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
                else if (!r->worker && r->exits->len == 0)
                        forget_finished(m, r);
        }
        arm_forget(m);
}
