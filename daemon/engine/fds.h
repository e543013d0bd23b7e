/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/puppet.h"
#include "daemon/engine/remfork.h"
#include "daemon/spec-fds.h"

/*
 * Replaces and closes descriptors of a held clone as @fds says (NULL: nothing). The new ones stay open over an execve().
 * @target is the PID for the error's text.
 */
int fds_place(Puppet *p, const CloneFds *fds, pid_t target, CloneError *error);

/* The same as remfork(2) takes it: fills @ret, of CLONE_FDS_MAX places, and returns how many there are. */
size_t fds_to_remfork(const CloneFds *fds, struct remfork_fd *ret);
