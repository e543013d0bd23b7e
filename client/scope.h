/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-bus.h>

#include "client/verb.h"

/* --scope, --slice and --property as they were given. */
typedef struct ScopeOptions {
        char *name; /* NULL: none; "": the name is the daemon's to choose */
        char *slice;
        char **properties; /* NAME=VALUE */
} ScopeOptions;

void scope_options_clear(ScopeOptions *o);

/* Options for these, to be put into a verb's table. */
#define SCOPE_OPTIONS(o) \
        {"scope", 0, 0, G_OPTION_ARG_STRING, &(o).name, "Put the clone into a systemd scope before it runs; =NAME may be left out", "NAME"}, \
        {"slice", 0, 0, G_OPTION_ARG_STRING, &(o).slice, "The slice of that scope (default: system.slice)", "SLICE"}, \
        {"property", 'p', 0, G_OPTION_ARG_STRING_ARRAY, &(o).properties, "A property of that scope, such as MemoryMax=1G", "NAME=VALUE"}

/* Before the options are parsed: makes --scope alone an option with a value, so that it does not take the word behind it. */
void scope_options_prepare(char **argv);

/*
 * Appends the options scope, slice and properties to the open a{sv} of @m. CLIENT_USAGE where a property is unknown or its value
 * no such one; every error was told.
 */
ClientExit scope_append(sd_bus_message *m, const ScopeOptions *o);
