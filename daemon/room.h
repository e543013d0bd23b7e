/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>

/*
 * Descriptors that are set aside, so that as many can be taken later without a failure: the kernel drops those of a message that find no
 * room (net/core/scm.c: scm_detach_fds()), and with them what is known of clones that run already.
 */
typedef struct Room {
        int *fds;
        size_t n;
} Room;

/* Duplicates of @fd in @r, which has none. 0, or a negative errno and none is kept. */
int room_set_aside(Room *r, int fd, size_t n);

/* Right before they are needed, by nobody else than this thread; or no longer. */
void room_give_back(Room *r);
