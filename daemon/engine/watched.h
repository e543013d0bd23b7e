/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The clones of parent "daemon" that this process, which serves one request, still watches. */

/* Begins to watch @n clones; called once. */
void watched_set(const pid_t *pids, size_t n);

/* False where none is left, or none was set. */
bool watched_any(void);

/* @pid ended. False for a process that is none of the clones: a child that one of them made to be waited for here. */
bool watched_remove(pid_t pid);
