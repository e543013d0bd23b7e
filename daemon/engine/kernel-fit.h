/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/fitout.h"

/* A clone of remfork(2), which @hold holds. */
typedef struct KernelClone {
        pid_t pid;
        int pidfd, hold;
} KernelClone;

/*
 * Clones that are complete, and traced by this process: they stand in a stop before their first instruction, their other threads are held
 * still. They die if this process does.
 */
typedef struct KernelFit KernelFit;

/* Completes held clones, one of each member of @f and in its order; they are let go into that stop. A negative errno, with @error filled. */
int kernel_fit(KernelFit **ret, Fitout *f, const KernelClone *clones, size_t n, CloneError *error);

/* Lets completed clones run, or stop where they were made to be stopped. */
void kernel_unfit(const KernelFit *fit);

KernelFit *kernel_fit_free(KernelFit *fit); /* does not let them go */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KernelFit, kernel_fit_free)

/*
 * Where /proc/PID/maps, whose text is @maps, has the vDSO; -ENOENT, and nothing written, where it has none. A file that the
 * process has mapped is never taken for it, whatever its name is.
 */
int kernel_fit_find_vdso(const char *maps, uint64_t *ret_start, uint64_t *ret_end);
