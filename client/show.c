/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/clones.h"
#include "client/output.h"

static void print_text(const LiveClone *c, const CloneFacts *f)
{
        g_autofree char *request = c->request ? g_strdup_printf("%" PRIu64, c->request) : g_strdup("-");

        printf("pid: %u\nprogram: %s\nsource: %u\nrequest: %s\nuser: %s\nage: %s\nmemory: %s\nunit: %s\nparent: %s\n", c->pid, f->program,
               c->source, request, f->user, f->age_text, f->memory_text, f->unit, c->followed ? "daemon" : "shared");
}

ClientExit verb_show(int argc, char **argv)
{
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(JsonBuilder) b = json_builder_new();
        g_auto(CloneFacts) facts = {};
        const GOptionEntry entries[] = {REMOTE_OPTIONS, {}};
        ClientExit status;
        LiveClone clone;
        JsonMode json;

        status = verb_parse(argc, argv, entries, "PID", "Shows what is known of the clone PID.", 1, &json);
        if (status == CLIENT_OK)
                status = bus_open(&bus);
        if (status == CLIENT_OK)
                status = clones_get_one(bus, argv[1], &clone);
        if (status != CLIENT_OK)
                return status;

        clones_read_facts(bus, &clone, &facts);
        if (json == JSON_OFF)
                print_text(&clone, &facts);
        else {
                clones_to_json(b, &clone, &facts);
                output_json(json_builder_get_root(b), json);
        }
        return CLIENT_OK;
}
