/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/engine.h"
#include "daemon/engine/notes.h"
#include "daemon/engine/remfork.h"

/* remfork(2): what it returns, or a negative errno. */
long kernel_remfork(int pidfd, struct remfork_args *args);

/* Marked memory is lifted where nobody runs in it meanwhile (REMFORK_MARKED). */
NotesLack kernel_lacks(const CloneSpec *spec, const TargetStatus *status);

/* Ends clones of this process that nobody was told of, and waits until that can be seen. */
void kernel_destroy(const pid_t *pids, const int *pidfds, size_t n);

/* Fills @error with what @r, a negative errno of kernel_remfork() for @target, means. Returns a negative errno. */
int kernel_failed(Target *target, const CloneSpec *spec, long r, CloneError *error);
