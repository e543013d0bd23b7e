/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * The memory of another process, with the right of ptrace alone: /proc/PID/mem has a file mode too, and the daemon has no
 * capability to overrule that.
 */

/* process_vm_readv(2), all of @n bytes: 0, -EFAULT where not all is there, -ESRCH, -EPERM. */
int memory_read(pid_t pid, uint64_t address, void *buffer, size_t n);

/*
 * PTRACE_POKEDATA into a stopped tracee; @n is a multiple of 8. A private copy of a file's page is made, also of one that is
 * not writable (mm/gup.c: FOLL_FORCE). 0, or -EIO and -ESRCH of ptrace(2).
 */
int memory_write(pid_t pid, uint64_t address, const void *buffer, size_t n);
