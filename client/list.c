/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "client/bus.h"
#include "client/clones.h"
#include "client/output.h"
#include "client/table.h"

typedef struct Row {
        uint64_t id;
        uint32_t target, uid;
        const char *state, *engine, *path; /* in the message */
} Row;

static int read_rows(sd_bus_message *reply, GArray *rows)
{
        int r = sd_bus_message_enter_container(reply, 'a', "(tuusso)");
        Row row;

        /* Finished ones are kept for who asks how they ended, they neither wait nor run. */
        while (r >= 0 && (r = sd_bus_message_read(reply, "(tuusso)", &row.id, &row.target, &row.uid, &row.state, &row.engine,
                                                  &row.path)) > 0)
                if (strcmp(row.state, "finished") != 0)
                        g_array_append_val(rows, row);
        return r;
}

static ClientExit print_requests(GArray *rows)
{
        static const TableColumn columns[] = {{.title = "ID", .right = true}, {.title = "TARGET", .right = true}, {.title = "PROGRAM"}, {.title = "USER"},
                                              {.title = "STATE", .mood = true}, {.title = "ENGINE"}};
        struct libscols_table *table = table_new(columns, G_N_ELEMENTS(columns));
        bool failed = !table;

        for (guint i = 0; !failed && i < rows->len; i++) {
                const Row *row = &g_array_index(rows, Row, i);
                g_autofree char *id = g_strdup_printf("%" PRIu64, row->id), *target = g_strdup_printf("%u", row->target),
                                *program = bus_is_remote() ? g_strdup("-") : output_program((pid_t) row->target),
                                *user = bus_is_remote() ? g_strdup_printf("%u", row->uid) : output_user(row->uid);

                failed = !table_add(table, (const char *[]){id, target, program, user, row->state, *row->engine ? row->engine : "-"}, columns,
                                    G_N_ELEMENTS(columns), strcmp(row->state, "running") == 0 ? TABLE_GOOD : TABLE_WAITS);
        }
        return table_finish(table, failed);
}

static ClientExit print_clones(sd_bus *bus, GArray *clones)
{
        static const TableColumn columns[] = {{.title = "CLONE", .right = true}, {.title = "SOURCE", .right = true}, {.title = "PROGRAM"},
                                              {.title = "USER"}, {.title = "AGE", .right = true}, {.title = "MEMORY", .right = true},
                                              {.title = "UNIT"}};
        struct libscols_table *table = table_new(columns, G_N_ELEMENTS(columns));
        bool failed = !table;

        for (guint i = 0; !failed && i < clones->len; i++) {
                const LiveClone *c = &g_array_index(clones, LiveClone, i);
                g_autofree char *pid = g_strdup_printf("%u", c->pid), *source = g_strdup_printf("%u", c->source);
                g_auto(CloneFacts) f = {};

                clones_read_facts(bus, c, &f);
                failed = !table_add(table, (const char *[]){pid, source, f.program, f.user, f.age_text, f.memory_text, f.unit}, columns,
                                    G_N_ELEMENTS(columns), TABLE_PLAIN);
        }
        return table_finish(table, failed);
}

static ClientExit print_tables(sd_bus *bus, GArray *rows, GArray *clones)
{
        ClientExit status = rows->len > 0 ? print_requests(rows) : CLIENT_OK;

        if (rows->len > 0 && clones->len > 0)
                puts("");
        return status == CLIENT_OK && clones->len > 0 ? print_clones(bus, clones) : status;
}

static void requests_to_json(JsonBuilder *b, GArray *rows)
{
        json_builder_begin_array(b);
        for (guint i = 0; i < rows->len; i++) {
                const Row *row = &g_array_index(rows, Row, i);

                json_builder_begin_object(b);
                json_builder_set_member_name(b, "id");
                json_builder_add_int_value(b, (gint64) row->id);
                json_builder_set_member_name(b, "target");
                json_builder_add_int_value(b, row->target);
                json_builder_set_member_name(b, "uid");
                json_builder_add_int_value(b, row->uid);
                json_builder_set_member_name(b, "state");
                json_builder_add_string_value(b, row->state);
                json_builder_set_member_name(b, "engine");
                json_builder_add_string_value(b, row->engine);
                json_builder_set_member_name(b, "path");
                json_builder_add_string_value(b, row->path);
                json_builder_end_object(b);
        }
        json_builder_end_array(b);
}

static JsonNode *to_json(sd_bus *bus, GArray *rows, GArray *clones)
{
        g_autoptr(JsonBuilder) b = json_builder_new();

        json_builder_begin_object(b);
        json_builder_set_member_name(b, "requests");
        requests_to_json(b, rows);
        json_builder_set_member_name(b, "clones");
        json_builder_begin_array(b);
        for (guint i = 0; i < clones->len; i++) {
                const LiveClone *c = &g_array_index(clones, LiveClone, i);
                g_auto(CloneFacts) f = {};

                clones_read_facts(bus, c, &f);
                clones_to_json(b, c, &f);
        }
        json_builder_end_array(b);
        json_builder_end_object(b);
        return json_builder_get_root(b);
}

ClientExit verb_list(int argc, char **argv)
{
        g_autoptr(GArray) rows = g_array_new(FALSE, FALSE, sizeof(Row)), clones = NULL;
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(sd_bus_message) m = NULL, reply = NULL;
        const GOptionEntry entries[] = {LEGEND_OPTION, REMOTE_OPTIONS, {}};
        ClientExit status;
        JsonMode json;
        int r;

        status = verb_parse(argc, argv, entries, NULL,
                            "Lists the requests that wait and run, then the clones that are alive; prints nothing where there are none.", 0,
                            &json);
        if (status == CLIENT_OK)
                status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;
        m = bus_new_call(bus, "ListRequests");
        if (!m)
                return CLIENT_FAILED;
        status = bus_call(bus, m, false, &reply);
        if (status == CLIENT_OK)
                status = clones_get(bus, &clones);
        if (status != CLIENT_OK)
                return status;
        r = read_rows(reply, rows);
        if (r < 0)
                return bus_message_error(r);

        if (json == JSON_OFF)
                return print_tables(bus, rows, clones);
        output_json(to_json(bus, rows, clones), json);
        return CLIENT_OK;
}
