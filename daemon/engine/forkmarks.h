/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Memory that madvise(2) marked for fork(2): MADV_DONTFORK, which a child does not have, and MADV_WIPEONFORK, which is zero in
 * it. Read from the text of /proc/PID/smaps, the only place where the marks are shown.
 */
typedef struct ForkMark {
        uint64_t start, end;
        bool wipe; /* MADV_WIPEONFORK */
} ForkMark;

/*
 * The marks, in as few stretches as can be: between the mappings of one there is nothing, or nothing mapped, which madvise(2)
 * passes over. What drivers map (PFNs, device memory, what may not grow) is not among them: its mark is the driver's. @ret_maps,
 * where it is wanted, gets the lines that /proc/PID/maps had at the same time.
 */
GArray *forkmarks_parse(const char *smaps, char **ret_maps);

/* VmFlags of one mapping (Documentation/filesystems/proc.rst): two letters each. */
bool forkmarks_has_flag(const char *flags, const char *flag);

/* True where a mapping with these VmFlags is a driver's. */
bool forkmarks_is_driver(const char *flags);

/* Pages of user memory that the kernel counts for a process, as TargetStatus has it; 0 where it is gone. */
uint64_t forkmarks_pages_of(pid_t pid);
