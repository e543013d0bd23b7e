/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "daemon/bus-util.h"
#include "daemon/log.h"
#include "daemon/request.h"

static int property_get_target(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t) r->target_pid);
}

static int property_get_uid(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t) r->item.uid);
}

static int property_get_state(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append(reply, "s", request_state_to_string(r->state));
}

static int property_get_result(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append(reply, "s", request_result_to_string(r->result));
}

static int property_get_engine(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append(reply, "s", r->engine ? r->engine->name : "");
}

static int property_get_error(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append(reply, "(ss)", clone_error_name(r->error.code), r->error.message ?: "");
}

static int property_get_unit(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append(reply, "s", r->unit ?: "");
}

static int append_clones(sd_bus_message *m, const Request *r)
{
        int k;

        k = sd_bus_message_open_container(m, 'a', "(uu)");
        if (k < 0)
                return k;

        for (guint i = 0; i < r->clones->len; i++) {
                const RequestClone *c = &g_array_index(r->clones, RequestClone, i);

                k = sd_bus_message_append(m, "(uu)", (uint32_t) c->source, (uint32_t) c->pid);
                if (k < 0)
                        return k;
        }

        return sd_bus_message_close_container(m);
}

static int property_get_clones(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        return append_clones(reply, userdata);
}

static int property_get_notes(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;

        return sd_bus_message_append_strv(reply, r->notes);
}

static int property_get_exits(sd_bus *bus, const char *path, const char *interface, const char *property,
                sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        const Request *r = userdata;
        int k;

        k = sd_bus_message_open_container(reply, 'a', "(uii)");
        if (k < 0)
                return k;

        for (guint i = 0; i < r->exits->len; i++) {
                const RequestExit *x = &g_array_index(r->exits, RequestExit, i);

                k = sd_bus_message_append(reply, "(uii)", (uint32_t) x->pid, x->code, x->status);
                if (k < 0)
                        return k;
        }

        return sd_bus_message_close_container(reply);
}

static int method_cancel(sd_bus_message *message, void *userdata, sd_bus_error *e)
{
        Request *r = userdata;

        return manager_method_cancel(message, r->manager, e);
}

const sd_bus_vtable request_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Cancel", NULL, NULL, method_cancel, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL_WITH_ARGS("CloneExited", SD_BUS_ARGS("u", clone, "i", code, "i", status), 0),
        SD_BUS_PROPERTY("Id", "t", NULL, offsetof(Request, id), SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Target", "u", property_get_target, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("UID", "u", property_get_uid, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("State", "s", property_get_state, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Result", "s", property_get_result, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Engine", "s", property_get_engine, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Error", "(ss)", property_get_error, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Clones", "a(uu)", property_get_clones, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Notes", "as", property_get_notes, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Exits", "a(uii)", property_get_exits, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Unit", "s", property_get_unit, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("TargetPauseNSec", "t", NULL, offsetof(Request, pause_nsec), SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("CreatedUSecMonotonic", "t", NULL, offsetof(Request, created), SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("StartedUSecMonotonic", "t", NULL, offsetof(Request, started), SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("FinishedUSecMonotonic", "t", NULL, offsetof(Request, finished),
                        SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_VTABLE_END,
};

int request_object_find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret, sd_bus_error *e)
{
        Request *r = manager_get_request_by_path(userdata, path);

        if (!r)
                return 0;

        *ret = r;
        return 1;
}

int request_node_enumerator(sd_bus *bus, const char *path, void *userdata, char ***ret, sd_bus_error *e)
{
        Manager *m = userdata;
        GHashTableIter i;
        void *value;
        char **paths;
        size_t n = 0;

        /* sd-bus frees these with free(), which GLib's allocator is since 2.46. */
        paths = g_new0(char *, g_hash_table_size(m->requests) + 1);
        g_hash_table_iter_init(&i, m->requests);
        while (g_hash_table_iter_next(&i, NULL, &value))
                paths[n++] = g_strdup(((Request *) value)->path);

        *ret = paths;
        return 1;
}

static int append_pidfds(sd_bus_message *reply, const int *pidfds, size_t n)
{
        int k;

        k = sd_bus_message_open_container(reply, 'a', "h");
        for (size_t i = 0; i < n && k >= 0; i++)
                k = sd_bus_message_append_basic(reply, 'h', &pidfds[i]); /* duplicates it */
        return k < 0 ? k : sd_bus_message_close_container(reply);
}

static int append_reply(sd_bus_message *reply, const Request *r, const int *pidfds)
{
        int k;

        if (r->method == REQUEST_METHOD_SUBMIT)
                return sd_bus_message_append(reply, "o", r->path);
        if (r->method == REQUEST_METHOD_CLONE)
                return sd_bus_message_append(reply, "u", (uint32_t) g_array_index(r->clones, RequestClone, 0).pid);

        k = append_clones(reply, r);
        if (k >= 0 && r->method == REQUEST_METHOD_CLONE_PIDFD)
                k = append_pidfds(reply, pidfds, r->clones->len);
        return k < 0 ? k : sd_bus_message_append(reply, "o", r->path);
}

static int send_reply(const Request *r, const int *pidfds)
{
        _cleanup_bus_message_ sd_bus_message *reply = NULL;
        int k;

        k = sd_bus_message_new_method_return(r->message, &reply);
        if (k >= 0)
                k = append_reply(reply, r, pidfds);
        return k < 0 ? k : sd_bus_send(NULL, reply, NULL);
}

int request_reply(Request *r, const int *pidfds)
{
        int k;

        if (!r->message) /* Submit() was answered when it was admitted */
                return 0;

        if (r->state == REQUEST_FINISHED && r->result != REQUEST_DONE) {
                bus_reply_error(r->message, &r->error);
                k = 0;
        } else {
                k = send_reply(r, pidfds);
                if (k < 0) /* for want of memory, say: whose next try may be better */
                        k = send_reply(r, pidfds);
        }
        if (k >= 0)
                r->message = sd_bus_message_unref(r->message);
        return k;
}

void request_emit_changed(Request *r, const char *property, ...)
{
        char *names[16];
        size_t n = 0;
        va_list ap;
        int k;

        if (!r->announced) /* whoever hears of it reads it as it is then */
                return;

        va_start(ap, property);
        for (const char *p = property; p && n < G_N_ELEMENTS(names) - 1; p = va_arg(ap, const char *))
                names[n++] = (char *) p;
        va_end(ap);
        names[n] = NULL;

        k = sd_bus_emit_properties_changed_strv(r->manager->bus, r->path, REQUEST_INTERFACE, names);
        if (k < 0)
                log_warning("A signal of request %" PRIu64 " cannot be sent: %s", r->id, g_strerror(-k));
}

void request_emit_exited(Request *r, const RequestExit *e)
{
        int k;

        k = sd_bus_emit_signal(r->manager->bus, r->path, REQUEST_INTERFACE, "CloneExited", "uii", (uint32_t) e->pid, e->code,
                        e->status);
        if (k < 0)
                log_warning("A signal of request %" PRIu64 " cannot be sent: %s", r->id, g_strerror(-k));

        request_emit_changed(r, "Exits", NULL);
}
