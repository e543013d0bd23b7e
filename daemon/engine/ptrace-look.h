/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

#include "daemon/error.h"
#include "daemon/spec.h"
#include "daemon/target.h"

/* What is looked at before the target is stopped. Each: 0, or a negative errno with @error filled. */

/* Refuses what engine_check_status() does, and one that is on either side of a vfork(2), which *@ret_vfork says: soon it may not be. */
int look_check_status(const Target *target, const TargetStatus *status, const CloneSpec *spec, bool *ret_vfork, CloneError *error);

/*
 * A place for the code that the target is to run. The first lines of its memory map have one, nearly always, so that no more is
 * read, unless @ret_maps, which may be NULL, is to have all of it.
 */
int look_find_cave(const Target *target, char **ret_maps, uint64_t *ret, CloneError *error);
