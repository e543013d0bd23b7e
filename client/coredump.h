/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sys/types.h>

#include "client/verb.h"

/* CLIENT_FAILED or CLIENT_DENIED, and a sentence, where a dump cannot be handed over to systemd-coredump(8). */
ClientExit coredump_require(void);

/*
 * gdb's command that hands the dump, which /proc/self/fd/@fd of this process is, over as the kernel does: it is run while the process
 * @pid, of which it is, is still there, because systemd-coredump looks at it. To be freed with g_free().
 */
char *coredump_command(pid_t pid, int fd);
