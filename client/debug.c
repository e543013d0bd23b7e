/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/program.h"
#include "client/snapshot.h"

ClientExit verb_debug(int argc, char **argv)
{
        g_auto(Snapshot) snapshot = SNAPSHOT_INIT;
        g_auto(Choice) choice = {};
        gboolean no_ask_password = FALSE, quiet = FALSE;
        const GOptionEntry entries[] = {
                CHOICE_OPTIONS(choice),
                {"no-ask-password", 0, 0, G_OPTION_ARG_NONE, &no_ask_password, "Do not ask for a password", NULL},
                {"quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, "Do not print notes on what the clone could not be given", NULL},
                {},
        };
        g_autofree char *number = NULL;
        ClientExit status;
        uint32_t pid = 0;
        int code;

        status = verb_parse(argc, argv, entries, "PID|--unit=UNIT|--name=NAME",
                            "Opens gdb on a stopped clone of the process, which goes on; the clone ends with gdb.", VERB_UP_TO(1), NULL);
        if (status == CLIENT_OK)
                status = program_require("gdb", "gdb");
        if (status == CLIENT_OK)
                status = choice_resolve(&choice, argv[1], &pid);
        if (status == CLIENT_OK)
                status = snapshot_make(pid, !no_ask_password, quiet, &snapshot);
        if (status != CLIENT_OK)
                return status;

        number = g_strdup_printf("%d", (int) snapshot.pid);
        status = program_run((const char *const[]){"gdb", "-q", "-p", number, NULL}, PROGRAM_INTERACTIVE, NULL, NULL, &code);
        if (status == CLIENT_OK && code != 0)
                return client_error(CLIENT_FAILED, "gdb ended with status %d", code);
        return status;
}
