/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/manager.h"

/* Refuses remforkd and its workers. 0, or a negative errno with @error filled. */
int refuse_own(Manager *m, const Target *target, CloneError *error);

/*
 * Refuses what engine_check_status() does, before somebody is asked for a password. The engine looks again, as it can change. 0,
 * or a negative errno with @error filled.
 */
int refuse_target(Manager *m, const Target *target, const CloneSpec *spec, CloneError *error);

/*
 * Refuses a tree in which @peer itself is, or remforkd, and one of more processes than can be answered for; decides how many
 * processes the clone may have at most (spec->tree_max). The worker looks again when all of it stands still. 0, or a negative errno
 * with @error filled.
 */
int refuse_tree(Manager *m, Target *target, const Peer *peer, size_t max, CloneSpec *spec, CloneError *error);

/*
 * Makes *@class that of the process of the tree of @target whose clone takes the most; so far it is that of @target. 0, or a negative errno
 * with @error filled.
 */
int classify_tree(const Manager *m, Target *target, const Requester *requester, AuthorizeClass *class, CloneError *error);
