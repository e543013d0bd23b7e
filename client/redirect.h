/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>
#include <systemd/sd-bus.h>

#include "client/verb.h"

/* One descriptor of the clone, as the command line has it. */
typedef struct Redirection {
        uint32_t number;
        int fd; /* -EBADF: to be closed in the clone */
        bool owned;
} Redirection;

typedef struct RedirectOptions {
        char *standard[3]; /* --stdin, --stdout, --stderr: a path, or "inherit" or "-" for this process's own */
        char **fds;        /* --fd: N:PATH, N:FD or N:close */
        unsigned more;     /* descriptors that will be added: a message of the bus carries no more than so many */
} RedirectOptions;

/*
 * Reads the options, then opens what they name, with the rights of whoever runs this: all or nothing. On CLIENT_OK the
 * elements of @ret (Redirection) are those asked for; freeing it closes what was opened.
 */
ClientExit redirect_open(const RedirectOptions *o, GArray **ret);

/* Adds a descriptor that the caller keeps. */
void redirect_add(GArray *redirections, uint32_t number, int fd);

/* An empty list. */
GArray *redirect_new(void);

/* Appends them to the options in @m; 0 or a negative errno. */
int redirect_append(sd_bus_message *m, const GArray *redirections);
