/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/engine.h"

/*
 * The PID namespace of a request with spec->same_pids. Its first process, remfork-init, is a child of this one; it has neither rights nor
 * descriptors of it, and reaps what nobody else in the namespace does. Before it is told what it is there for it ends when this process
 * does, and the kernel ends all that is in the namespace with it. After that it ends when all are gone that it was told of, and
 * the children that they left to it.
 */
typedef struct KernelPidns {
        pid_t pid; /* 0: there is none */
        int pidfd, fd;
} KernelPidns;

#define KERNEL_PIDNS_NONE ((KernelPidns){.pidfd = -EBADF, .fd = -EBADF})

/* Makes the namespace where @spec wants it. 0, or a negative errno with @error filled. @ret is to be cleared in any case. */
int kernel_pidns_new(KernelPidns *ret, const CloneSpec *spec, CloneError *error);

/* Whether the clone of @target can have its numbers there. 0, or a negative errno with @error filled. */
int kernel_pidns_check(const Target *target, const TargetStatus *status, const CloneSpec *spec, CloneError *error);

/*
 * All held clones are in it, @numbers are what they are called there: from now on the namespace lives as long as they do.
 * Does nothing where there is none. 0, or a negative errno with @error filled.
 */
int kernel_pidns_leave(KernelPidns *ns, const pid_t *numbers, size_t n, CloneError *error);

/* Tells what is other in the clones than their sources would expect. */
void kernel_pidns_note(const CloneSpec *spec, const EngineHandler *handler, pid_t target);

/* Ends the namespace, if it was not left. The clones in it are to be ended before. */
void kernel_pidns_clear(KernelPidns *ns);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(KernelPidns, kernel_pidns_clear)
