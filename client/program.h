/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "client/verb.h"

typedef enum ProgramFlags {
        PROGRAM_INTERACTIVE = 1 << 0, /* it has the terminal, and what is typed to interrupt is for it */
} ProgramFlags;

/* Called every now and then while a program runs. */
typedef void (*ProgramTick)(void *userdata);

/* CLIENT_FAILED, and a sentence that names the Debian package, where there is no program @name. */
ClientExit program_require(const char *name, const char *package);

/*
 * Runs @argv, which is found in PATH, and waits for it; @ret_code is its exit status, or 128 and the number of the signal that ended it.
 * One that is not interactive has no input, and its output is kept and shown only where it fails. It is ended when this
 * process is told to end by SIGINT, SIGTERM or SIGHUP (CLIENT_CANCELED); where this process is killed it goes on, and can put things in
 * order. @tick may be NULL.
 */
ClientExit program_run(const char *const *argv, ProgramFlags flags, ProgramTick tick, void *userdata, int *ret_code);
