/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/error.h"

#define CLONE_FDS_MAX 64U /* options stdin, stdout, stderr, fds and close taken together */

/* What one descriptor of the clone shall be. */
typedef struct CloneFd {
        int number; /* in the clone, >= 0 */
        int fd;     /* owned by the list; -EBADF: closed in the clone */
} CloneFd;

/* Each number stands in it once. */
typedef struct CloneFds {
        CloneFd items[CLONE_FDS_MAX];
        size_t n;
} CloneFds;

/* What is asked of the access mode of a descriptor that is passed. */
typedef enum CloneFdMode {
        CLONE_FD_ANY,
        CLONE_FD_READ,
        CLONE_FD_WRITE,
} CloneFdMode;

/*
 * Adds to *@fds (NULL at first) that the clone's descriptor @number be a duplicate of @fd, which stays the caller's; @key is the
 * option's name, for the error. -EINVAL, with @error filled: @number is out of range or in the list already, the list is
 * full, @fd is O_PATH or not open as @mode asks. -EMFILE: no descriptor is left. *@fds is as it was on each of them.
 */
int clone_fds_add(CloneFds **fds, const char *key, uint32_t number, int fd, CloneFdMode mode, CloneError *error);

/* The same for a descriptor that shall be closed. */
int clone_fds_add_closed(CloneFds **fds, const char *key, uint32_t number, CloneError *error);

/* Closes what the list owns; returns NULL. NULL is fine. */
CloneFds *clone_fds_free(CloneFds *fds);
