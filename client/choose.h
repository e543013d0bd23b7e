/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

#include "client/verb.h"

/* How the command line names a process. */
typedef struct Choice {
        char *unit, *name;
        gboolean newest, oldest;
} Choice;

/* Options for these, to be put into a verb's table. */
#define CHOICE_OPTIONS(c) \
        {"unit", 0, 0, G_OPTION_ARG_STRING, &(c).unit, "The main process of this unit, not PID", "UNIT"}, \
        {"name", 0, 0, G_OPTION_ARG_STRING, &(c).name, "The process whose program has this name, not PID", "NAME"}, \
        {"newest", 0, 0, G_OPTION_ARG_NONE, &(c).newest, "Of many of that name the one that was started last", NULL}, \
        {"oldest", 0, 0, G_OPTION_ARG_NONE, &(c).oldest, "Of many of that name the one that was started first", NULL}

void choice_clear(Choice *c);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Choice, choice_clear)

/*
 * The PID that is meant by exactly one of @word (NULL where there is none), --unit= and --name=. CLIENT_USAGE where they contradict
 * each other, or the name is that of many; CLIENT_NOT_FOUND where there is no such process; every error is told.
 */
ClientExit choice_resolve(const Choice *c, const char *word, uint32_t *ret);
