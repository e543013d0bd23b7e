/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>

#include "daemon/engine/remfork.h"
#include "daemon/error.h"
#include "daemon/target.h"

/* What remfork(2) tells of a target and its clone. */
typedef struct KernelLists {
        struct remfork_tid *tids; /* NULL, or one whose clone is 0 is their end */
        struct remfork_timer *timers; /* NULL where they are not asked for; REMFORK_TIMER_NONE is their end */
} KernelLists;

void kernel_lists_clear(KernelLists *lists);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(KernelLists, kernel_lists_clear)

/*
 * kernel_remfork() with REMFORK_TIDS and, where @args has that flag, REMFORK_TIMERS, and as much room as the target has of both. @ret, which
 * is empty before, is to be cleared in any case.
 */
long kernel_remfork_with_lists(int pidfd, struct remfork_args *args, KernelLists *ret);

/*
 * What the memory of a held clone says of its thread IDs, and the kernel does not know of: the owners of robust futexes and
 * of other locks, and the ID that musl keeps. @tids are its threads, of kernel_remfork_with_lists(). 0, or a negative errno with @error filled.
 */
int kernel_adopt_tids(const struct remfork_tid *tids, CloneError *error);

/*
 * Why the kernel refused to clone @target with all its threads (EOPNOTSUPP), by the name of the thread and of what it has.
 * Nothing is written where it is not known.
 */
void kernel_name_odd_thread(Target *target, CloneError *error);
