/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/bus.h"
#include "client/output.h"
#include "client/table.h"

typedef struct Event {
        const char *name, *request, *result;
        uint64_t id;
        uint32_t source, clone;
} Event;

static void print_json(const Event *e, JsonMode mode)
{
        g_autoptr(JsonBuilder) b = json_builder_new();

        json_builder_begin_object(b);
        json_builder_set_member_name(b, "event");
        json_builder_add_string_value(b, e->name);
        json_builder_set_member_name(b, "id");
        json_builder_add_int_value(b, (gint64) e->id);
        if (e->request) {
                json_builder_set_member_name(b, "request");
                json_builder_add_string_value(b, e->request);
        }
        if (e->result) {
                json_builder_set_member_name(b, "result");
                json_builder_add_string_value(b, e->result);
        }
        if (e->clone) {
                json_builder_set_member_name(b, "source");
                json_builder_add_int_value(b, e->source);
                json_builder_set_member_name(b, "clone");
                json_builder_add_int_value(b, e->clone);
        }
        json_builder_end_object(b);
        output_json(json_builder_get_root(b), mode);
}

static const TableColumn columns[] = {
        {.title = "TIME    "},
        {.title = "REQUEST", .right = true},
        {.title = "EVENT   ", .mood = true},
        {.title = " SOURCE", .right = true},
        {.title = "  CLONE", .right = true},
        {.title = "PROGRAM"},
};

static TableMood mood(const Event *e)
{
        if (e->clone || g_strcmp0(e->result, "done") == 0)
                return TABLE_GOOD;
        return e->result ? TABLE_BAD : TABLE_WAITS;
}

static bool print_line(struct libscols_table *table, const Event *e)
{
        g_autoptr(GDateTime) now = g_date_time_new_now_local();
        g_autofree char *time = g_date_time_format(now, "%T"), *id = g_strdup_printf("%" PRIu64, e->id),
                        *source = e->clone ? g_strdup_printf("%u", e->source) : g_strdup("-"),
                        *clone = e->clone ? g_strdup_printf("%u", e->clone) : g_strdup("-"),
                        *program = e->clone && !bus_is_remote() ? output_program((pid_t) e->source) : g_strdup("-");

        return table_add(table, (const char *[]){time, id, e->clone ? "cloned" : e->result ?: "new", source, clone, program}, columns,
                         G_N_ELEMENTS(columns), mood(e)) &&
               table_flush(table);
}

typedef struct Monitor {
        JsonMode json;
        struct libscols_table *table;
        bool failed;
} Monitor;

/* Returns 0, so that sd-bus goes on; a signal of another version, with other arguments, is passed over. */
static int on_signal(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        Monitor *monitor = userdata;
        Event e = {.name = sd_bus_message_get_member(m)};
        int r = 0;

        if (strcmp(e.name, "RequestNew") == 0)
                r = sd_bus_message_read(m, "to", &e.id, &e.request);
        else if (strcmp(e.name, "RequestRemoved") == 0)
                r = sd_bus_message_read(m, "tos", &e.id, &e.request, &e.result);
        else if (strcmp(e.name, "Cloned") == 0)
                r = sd_bus_message_read(m, "tuu", &e.id, &e.source, &e.clone);
        if (r <= 0)
                return 0;

        if (monitor->json != JSON_OFF)
                print_json(&e, monitor->json);
        else
                monitor->failed |= !print_line(monitor->table, &e);
        (void) fflush(stdout); /* who reads through a pipe wants it now; an error is seen by the loop */
        return 0;
}

static ClientExit follow(sd_bus *bus, const Monitor *monitor)
{
        for (;;) {
                int r = sd_bus_process(bus, NULL);

                if (r == 0)
                        r = sd_bus_wait(bus, UINT64_MAX);
                if (r < 0 && r != -EINTR)
                        return client_error(CLIENT_NO_DAEMON, "the system bus was lost (%s); run it again", g_strerror(-r));
                if (ferror(stdout))
                        return CLIENT_FAILED; /* output_finish() says why */
                if (monitor->failed)
                        return client_error(CLIENT_FAILED, "the table could not be printed");
        }
}

ClientExit verb_monitor(int argc, char **argv)
{
        g_autoptr(sd_bus) bus = NULL;
        const GOptionEntry entries[] = {LEGEND_OPTION, REMOTE_OPTIONS, {}};
        Monitor monitor = {};
        ClientExit status;
        int r;

        status = verb_parse(argc, argv, entries, NULL, "Prints each request and each clone as it happens, until it is interrupted.", 0,
                            &monitor.json);
        if (status == CLIENT_OK)
                status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;
        r = sd_bus_match_signal(bus, NULL, REMFORK_NAME, REMFORK_PATH, REMFORK_INTERFACE, NULL, on_signal, &monitor);
        if (r < 0)
                return client_error(CLIENT_FAILED, "the daemon's signals cannot be followed: %s", g_strerror(-r));
        monitor.table = table_new(columns, G_N_ELEMENTS(columns));
        if (!monitor.table)
                return table_finish(NULL, true);

        status = follow(bus, &monitor);
        scols_unref_table(monitor.table);
        return status;
}
