/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <stdio.h>

#include "client/bus.h"
#include "client/output.h"

typedef struct Row {
        uint64_t id;
        uint32_t target, uid;
        const char *state, *engine, *path; /* in the message */
} Row;

static int read_rows(sd_bus_message *reply, GArray *rows)
{
        int r = sd_bus_message_enter_container(reply, 'a', "(tuusso)");
        Row row;

        while (r >= 0 && (r = sd_bus_message_read(reply, "(tuusso)", &row.id, &row.target, &row.uid, &row.state, &row.engine,
                                                  &row.path)) > 0)
                g_array_append_val(rows, row);
        return r;
}

static ClientExit print_table(GArray *rows)
{
        static const char *const titles[] = {"ID", "TARGET", "PROGRAM", "USER", "STATE", "ENGINE"};
        struct libscols_table *table = scols_new_table();
        bool failed = !table;

        for (size_t i = 0; !failed && i < G_N_ELEMENTS(titles); i++)
                failed = !scols_table_new_column(table, titles[i], 0, i < 2 ? SCOLS_FL_RIGHT : 0);
        for (guint i = 0; !failed && i < rows->len; i++) {
                const Row *row = &g_array_index(rows, Row, i);
                g_autofree char *id = g_strdup_printf("%" PRIu64, row->id), *target = g_strdup_printf("%u", row->target),
                                *program = output_program((pid_t) row->target), *user = output_user(row->uid);
                const char *cells[] = {id, target, program, user, row->state, *row->engine ? row->engine : "-"};
                struct libscols_line *line = scols_table_new_line(table, NULL);

                failed = !line;
                for (size_t j = 0; !failed && j < G_N_ELEMENTS(cells); j++)
                        failed = scols_line_set_data(line, j, cells[j]) < 0;
        }
        if (!failed && rows->len > 0)
                failed = scols_print_table(table) < 0;
        scols_unref_table(table);
        return failed ? client_error(CLIENT_FAILED, "the table could not be printed") : CLIENT_OK;
}

static JsonNode *to_json(GArray *rows)
{
        g_autoptr(JsonBuilder) b = json_builder_new();

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
        return json_builder_get_root(b);
}

ClientExit verb_list(int argc, char **argv)
{
        g_autoptr(GArray) rows = g_array_new(FALSE, FALSE, sizeof(Row));
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(sd_bus_message) m = NULL, reply = NULL;
        ClientExit status;
        JsonMode json;
        int r;

        status = verb_parse(argc, argv, NULL, NULL, "Lists the requests that wait and run; prints nothing where there are none.", 0, &json);
        if (status == CLIENT_OK)
                status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;
        m = bus_new_call(bus, "ListRequests");
        if (!m)
                return CLIENT_FAILED;
        status = bus_call(bus, m, false, &reply);
        if (status != CLIENT_OK)
                return status;
        r = read_rows(reply, rows);
        if (r < 0)
                return bus_message_error(r);

        if (json == JSON_OFF)
                return print_table(rows);
        output_json(to_json(rows), json);
        return CLIENT_OK;
}
