/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

/* The text of /proc/PID/fdinfo/N: lines of "key: value"; Documentation/filesystems/proc.rst. */

/* The value behind "\n@key:" (or at the beginning), up to the end of @info; NULL where it has none. NULL has nothing. */
const char *fdinfo_get(const char *info, const char *key);

/* True where both have @key, and not with the same value. */
bool fdinfo_differs(const char *a, const char *b, const char *key);
