/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/engine.h"

/*
 * The kernel engine's clone() for spec->tree. All processes are parked (REMFORK_PARK) one after the other, until no new one is
 * found; what is parked neither runs nor has children, so that all stand still at one instant. Then they are cloned, parents first,
 * each as a child of its parent's clone, and let go. A park ends with the last copy of its descriptor, a held clone too: whenever this process
 * ends, the tree goes on and no clone is left.
 */
int kernel_tree_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error);
