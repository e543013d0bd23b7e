/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/puppet.h"

/* Memory that is locked, mlock(2), which no copy of a process has: a clone locks it again by itself, under its own limit. */
typedef struct MemoryLocks {
        GArray *list; /* MemoryLock; NULL for none */
        bool all;     /* the stack is locked, too: by mlockall(2), perhaps for what is mapped later as well */
} MemoryLocks;

typedef struct MemoryLock {
        uint64_t start, end;
} MemoryLock;

/* From the text of /proc/PID/smaps. */
void memory_locks_parse(MemoryLocks *l, const char *smaps);

/* Nothing is read where @status says that nothing is locked. What cannot be read is none. */
void memory_locks_read(MemoryLocks *l, Target *target, const TargetStatus *status);
void memory_locks_clear(MemoryLocks *l);

/*
 * Locks it in the clone @p of process @target. What has gone since it was read is passed over, what cannot be had is noted: by no
 * fault of the request's. -ESRCH where the clone is gone.
 */
int memory_locks_apply(const MemoryLocks *l, Puppet *p, pid_t target, const EngineHandler *handler);
