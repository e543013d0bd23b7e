/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/output.h"
#include "client/table.h"

/* What is shown, in this order; the words on the left are also what scripts may look for. */
static const struct {
        const char *property, *label;
        char type; /* of the value on the bus */
        bool limit; /* 0 is "no limit" */
} property_table[] = {
        {"Engine", "engine", 's', false},
        {"Version", "version", 's', false},
        {"KernelInterface", "kernel interface", 'u', false},
        {"QueueLength", "requests", 'u', false},
        {"Completed", "completed", 't', false},
        {"Failed", "failed", 't', false},
        {"QueuedMax", "waiting, all users", 'u', true},
        {"QueuedPerUserMax", "waiting, a user", 'u', true},
        {"RunningPerUserMax", "running, a user", 'u', true},
        {"ClonesPerUserMax", "live clones, a user", 'u', true},
        {"RateLimitBurst", "clones in the interval", 'u', true},
        {"RateLimitIntervalUSec", "interval", 't', true},
        {"RequestTimeoutUSec", "deadline", 't', true},
        {"TargetStopTimeoutUSec", "target stopped", 't', true},
};

typedef struct Value {
        bool known;
        const char *text; /* in the message */
        uint64_t number;
} Value;

/* Reads the variant of property @i, or skips one that this version does not know. */
static int read_value(sd_bus_message *m, const char *name, Value values[static G_N_ELEMENTS(property_table)])
{
        for (size_t i = 0; i < G_N_ELEMENTS(property_table); i++) {
                const char type[] = {property_table[i].type, '\0'};
                uint32_t small = 0;
                int r;

                if (strcmp(name, property_table[i].property) != 0)
                        continue;
                if (*type == 's')
                        r = sd_bus_message_read(m, "v", type, &values[i].text);
                else if (*type == 'u') {
                        r = sd_bus_message_read(m, "v", type, &small);
                        values[i].number = small;
                } else
                        r = sd_bus_message_read(m, "v", type, &values[i].number);
                values[i].known = r > 0;
                return r;
        }

        return sd_bus_message_skip(m, "v");
}

static int read_values(sd_bus_message *m, Value values[static G_N_ELEMENTS(property_table)])
{
        const char *name;
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");

        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read_basic(m, 's', &name);
                if (r >= 0)
                        r = read_value(m, name, values);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r;
}

static char *to_text(size_t i, const Value *v)
{
        if (property_table[i].type == 's')
                return output_escape(v->text);
        if (property_table[i].limit && property_table[i].type == 't')
                return output_usec(v->number);
        if (property_table[i].limit && v->number == 0)
                return g_strdup("no limit");
        return g_strdup_printf("%" PRIu64, v->number);
}

/* On a terminal one below the other, as systemctl has it; elsewhere each with one blank, which is easy to cut. */
static ClientExit print_text(const Value values[static G_N_ELEMENTS(property_table)])
{
        static const TableColumn columns[] = {{.title = "", .right = true}, {.title = "", .mood = true}};
        bool terminal = isatty(STDOUT_FILENO), failed = false;
        struct libscols_table *table = NULL;

        if (terminal) {
                table_no_legend = TRUE; /* the words on the left are headings enough */
                table = table_new(columns, G_N_ELEMENTS(columns));
                failed = !table;
        }

        for (size_t i = 0; i < G_N_ELEMENTS(property_table) && !failed; i++) {
                g_autofree char *text = NULL, *label = g_strdup_printf("%s:", property_table[i].label);

                if (!values[i].known)
                        continue;
                text = to_text(i, &values[i]);
                if (terminal)
                        failed = !table_add(table, (const char *[]){label, text}, columns, G_N_ELEMENTS(columns),
                                            i > 0 ? TABLE_PLAIN : *text ? TABLE_GOOD : TABLE_BAD); /* the engine */
                else
                        printf("%s %s\n", label, text);
        }
        return terminal ? table_finish(table, failed) : CLIENT_OK;
}

static JsonNode *to_json(const Value values[static G_N_ELEMENTS(property_table)])
{
        g_autoptr(JsonBuilder) b = json_builder_new();

        json_builder_begin_object(b);
        for (size_t i = 0; i < G_N_ELEMENTS(property_table); i++) {
                if (!values[i].known)
                        continue;
                json_builder_set_member_name(b, property_table[i].property);
                if (property_table[i].type == 's')
                        json_builder_add_string_value(b, values[i].text);
                else
                        json_builder_add_int_value(b, (gint64) values[i].number);
        }
        json_builder_end_object(b);
        return json_builder_get_root(b);
}

ClientExit verb_status(int argc, char **argv)
{
        Value values[G_N_ELEMENTS(property_table)] = {};
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(sd_bus_message) m = NULL, reply = NULL;
        const GOptionEntry entries[] = {REMOTE_OPTIONS, {}};
        ClientExit status;
        JsonMode json;
        int r;

        status = verb_parse(argc, argv, entries, NULL, "Shows the daemon's engine and version, its queue, and the limits in force.", 0,
                            &json);
        if (status == CLIENT_OK)
                status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;
        r = sd_bus_message_new_method_call(bus, &m, REMFORK_NAME, REMFORK_PATH, "org.freedesktop.DBus.Properties", "GetAll");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", REMFORK_INTERFACE);
        if (r < 0)
                return bus_message_error(r);
        status = bus_call(bus, m, false, &reply);
        if (status != CLIENT_OK)
                return status;
        r = read_values(reply, values);
        if (r < 0)
                return bus_message_error(r);

        if (json == JSON_OFF)
                return print_text(values);
        output_json(to_json(values), json);
        return CLIENT_OK;
}
