/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/spec-fds.h"
#include "daemon/target.h"

/*
 * What of @fds, which say what the clone of @root gets, holds for the clone of @member, another process of the tree: every descriptor
 * of @member with the open file description that one of @fds replaces or closes in @root. Both stand still. What a shell
 * passed on to the processes of a pipeline is so replaced in all of them at once.
 *
 * The list is the caller's, to be freed with g_free(): its descriptors are those of @fds, borrowed. NULL where nothing holds.
 * -ESRCH where one is gone, -ENOBUFS (LimitsExceeded) where there are more than CLONE_FDS_MAX, or another negative errno, with @error filled.
 */
int tree_fds(const CloneFds *fds, const Target *root, const Target *member, CloneFds **ret, CloneError *error);
