/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/manager.h"

/*
 * Refuses what no engine clones, each with its own sentence: remforkd and its workers, kernel threads, what has ended, what
 * another traces, the first process of a PID namespace where the clone is to be its sibling. 0, or a negative errno with
 * @error filled. The engine checks again what can change.
 */
int refuse_target(Manager *m, const Target *target, const CloneSpec *spec, CloneError *error);
