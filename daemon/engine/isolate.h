/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/engine.h"
#include "daemon/engine/puppet.h"

/*
 * Open file descriptions, and with CLONE_ISOLATE_ALL memory, of their own for held clones. What the targets do to their own
 * right after the instant must not be seen in the clones: so the state is taken at the instant, from duplicates that were
 * fetched before. Everything else is done in the held clones, with the clones' rights, while the targets run.
 *
 * Processes that are cloned together stay together: what some of them shared, their clones share, and what had both its ends
 * among them has them among the clones.
 *
 * What cannot be had is told by handler->note() and stays shared.
 */
typedef struct Isolation Isolation;

/*
 * Looks at the @n @targets, which are cloned at one instant; what one of @fds (NULL: nothing) says of a target's clone is left alone. All
 * that is passed but the arrays must outlive it.
 */
int isolation_new(Isolation **ret, Target *const *targets, const CloneFds *const *fds, size_t n, const CloneSpec *spec,
                const EngineHandler *handler, CloneError *error);
Isolation *isolation_free(Isolation *i);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Isolation, isolation_free)

/*
 * Takes what may change, at the instant or as near to it as the engine comes. Where it is called twice, before and after an
 * instant that the engine cannot stop at, what differs is told by a note.
 */
void isolation_capture(Isolation *i);

/*
 * Gives the clones their own: one for each target, in the same order. Once for each such set of clones. The descriptors
 * that the request gives them are in place.
 */
int isolation_apply(Isolation *i, Puppet *const *puppets, size_t n, CloneError *error);
