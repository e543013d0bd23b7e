/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

/* The kernel's PID_MAX_LIMIT on 64 bits (include/linux/threads.h). */
#define PID_LIMIT 4194304

/* The exit statuses; the table in --help and README.md is made of the same. */
typedef enum ClientExit {
        CLIENT_OK = 0,
        CLIENT_FAILED = 1,
        CLIENT_USAGE = 2,
        CLIENT_DENIED = 3,
        CLIENT_NOT_FOUND = 4,
        CLIENT_UNSUPPORTED = 5,
        CLIENT_TIMEOUT = 6,
        CLIENT_CANCELED = 7,
        CLIENT_LIMIT = 8,
        CLIENT_NO_DAEMON = 9,
} ClientExit;

typedef enum JsonMode {
        JSON_OFF,
        JSON_SHORT,
        JSON_PRETTY,
} JsonMode;

/* Each takes its own arguments, argv[0] being the verb, tells about errors on stderr, and returns the exit status. */
ClientExit verb_cancel(int argc, char **argv);
ClientExit verb_clone(int argc, char **argv);
ClientExit verb_core(int argc, char **argv);
ClientExit verb_debug(int argc, char **argv);
ClientExit verb_kill(int argc, char **argv);
ClientExit verb_list(int argc, char **argv);
ClientExit verb_monitor(int argc, char **argv);
ClientExit verb_show(int argc, char **argv);
ClientExit verb_status(int argc, char **argv);
ClientExit verb_wait(int argc, char **argv);

/* As @n_arguments of verb_parse(): so many words, or fewer. */
#define VERB_UP_TO(n) (-(n))

/*
 * Parses the options of a verb: @entries and --json (where @ret_json is not NULL), then checks that exactly
 * @n_arguments words are left, which @usage names. On CLIENT_OK they are argv[1]..., with NULL at the end; --help prints
 * and exits.
 */
ClientExit verb_parse(int argc, char **argv, const GOptionEntry *entries, const char *usage, const char *summary,
                      int n_arguments, JsonMode *ret_json);

/* Prints "remforkctl: ..." and a line feed on stderr, with what does not belong on a terminal escaped; returns @status. */
ClientExit client_error(ClientExit status, const char *format, ...) G_GNUC_PRINTF(2, 3);
