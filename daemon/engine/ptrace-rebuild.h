/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/ptrace-clones.h"

/*
 * Makes in each of the held @c, by calls that its main thread runs, the other threads as c->threads has them, and holds them
 * too. On an error the clones are of no use. LimitsExceeded where the kernel allows no more threads.
 */
int rebuild_threads(Clones *c, CloneError *error);

/* Lets the threads of clone @k go, but the main one. */
int rebuild_release(Clones *c, size_t k);

/*
 * Robust futexes that the thread with the ID @old_tid held at the instant, and its copy with @new_tid holds in the memory of
 * process @pid: their words, and the owner as glibc notes it, get the new ID. Not those in shared memory, which are the
 * target's still. Returns how many there were, or a negative errno of reading and writing.
 */
int rebuild_robust_owner(pid_t pid, uint64_t head, pid_t old_tid, pid_t new_tid);
