/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <json-glib/json-glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/verb.h"

/*
 * @text with control characters, and bytes that are not UTF-8, written as \xNN: a process chooses its own name, and a
 * terminal obeys what it is sent. To be freed with g_free().
 */
char *output_escape(const char *text);

/* The name of a process, escaped, "-" where it is gone. To be freed with g_free(). */
char *output_program(pid_t pid);

/* The name of a user, or its number. To be freed with g_free(). */
char *output_user(uid_t uid);

/* A time as in "2min 30s", "0" being "no limit". To be freed with g_free(). */
char *output_usec(uint64_t usec);

/* Prints @root, which it frees, and a line feed. */
void output_json(JsonNode *root, JsonMode mode);

/* Sees that everything reached stdout: @status, or CLIENT_FAILED with a message where it was 0 and something did not. */
ClientExit output_finish(ClientExit status);
