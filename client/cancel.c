/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <stdint.h>

#include "client/bus.h"

ClientExit verb_cancel(int argc, char **argv)
{
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(sd_bus_message) m = NULL;
        gboolean no_ask_password = FALSE;
        const GOptionEntry entries[] = {
                REMOTE_OPTIONS,
                {"no-ask-password", 0, 0, G_OPTION_ARG_NONE, &no_ask_password, "Do not ask for a password", NULL},
                {},
        };
        ClientExit status;
        guint64 id;
        int r;

        status = verb_parse(argc, argv, entries, "ID", "Cancels the request ID, as \"remforkctl list\" shows it.", 1, NULL);
        if (status != CLIENT_OK)
                return status;
        if (!g_ascii_string_to_unsigned(argv[1], 10, 1, UINT64_MAX, &id, NULL))
                return client_error(CLIENT_USAGE, "ID \"%s\": the number of a request was expected; \"remforkctl list\" shows them",
                                    argv[1]);

        status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;
        m = bus_new_call(bus, "Cancel");
        if (!m)
                return CLIENT_FAILED;
        r = sd_bus_message_append(m, "t", (uint64_t) id);
        return r < 0 ? bus_message_error(r) : bus_call(bus, m, !no_ask_password, NULL);
}
