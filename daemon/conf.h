/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

#include "daemon/error.h"

/* remforkd.conf: what an administrator can set. 0 means "no limit" for each limit, "never" for the idle timeout. */
typedef struct Conf {
        uint32_t queued_per_user_max;      /* requests of one user that wait for authorisation or for their turn */
        uint32_t running_per_user_max;     /* requests of one user that run */
        uint32_t queued_max;               /* requests of all users that wait */
        uint32_t clones_per_user_max;      /* clones made for one user that are alive */
        uint32_t rate_limit_burst;         /* clones for one user in rate_limit_interval_usec */
        uint64_t rate_limit_interval_usec;
        uint64_t request_timeout_usec;     /* from a request's admission to its end */
        uint64_t target_stop_timeout_usec; /* how long a target may be stopped */
        uint64_t idle_timeout_usec;        /* the daemon exits when it had nothing to do for so long */
} Conf;

extern const Conf conf_default;

/*
 * Reads a time as in "10s", "500ms", "2min 30s", "infinity" (0: no limit) or a plain number of seconds. -EINVAL for what
 * is none of these, -ERANGE for what does not fit into 64 bits of microseconds.
 */
int conf_parse_usec(const char *text, uint64_t *ret);

/*
 * Reads @path over the defaults. All or nothing: on an error @ret is as it was. -ENOENT where there is no such file (and no
 * @error is filled), else a negative errno with @error naming the file, the key, the value and what was expected. An
 * unknown key or section is such an error: a mistyped limit must not silently be no limit.
 */
int conf_load(const char *path, Conf *ret, CloneError *error);
