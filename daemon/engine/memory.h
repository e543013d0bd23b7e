/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The memory of another process. */

/* process_vm_readv(2), all of @n bytes: 0, -EFAULT where not all is there, -ESRCH, -EPERM. */
int memory_read(pid_t pid, uint64_t address, void *buffer, size_t n);

/* As many ranges as there are in one call, which is several times as fast as a call for each; all of them, or -EFAULT. */
typedef struct MemoryRange {
        uint64_t address;
        void *buffer;
        size_t size;
} MemoryRange;

#define MEMORY_RANGES_MAX 32U

int memory_read_ranges(pid_t pid, const MemoryRange *ranges, size_t n);

/*
 * Opens what has a mode beside the right of ptrace, with CAP_DAC_OVERRIDE made effective for this one call where it is permitted: files of
 * /proc/PID of a process that may be traced, and what it has open or mapped already. Negative errno of open(2).
 */
int open_with_override(const char *path, int flags);

/*
 * Opens /proc/PID/mem of a tracee (whose PID is not used again before this process has waited for it), which a write to its
 * code is fastest through. The file has a mode beside the right of ptrace, so CAP_DAC_OVERRIDE is made effective for this
 * one call where it is permitted. A descriptor that the caller closes, or -EACCES: then memory_write() takes the slow way.
 */
int memory_open(pid_t pid);

/* The same for another file of /proc/PID that is for its owner alone beside the right of ptrace: map_files, pagemap. Negative errno. */
int memory_open_file(pid_t pid, const char *name, int flags);

/*
 * Writes into a stopped tracee; @n is a multiple of 8. By @fd of memory_open(), or word by word by PTRACE_POKEDATA where that is
 * negative or the kernel does not let it write where @pid may not (proc_mem.force_override=, Linux 6.12). A private copy of
 * a file's page is made, also of one that is not writable (mm/gup.c: FOLL_FORCE). What lies within one page is written
 * whole or not at all where @fd is used: SIGKILL does not end a copy. 0, or -EIO and -ESRCH of ptrace(2).
 */
int memory_write(int fd, pid_t pid, uint64_t address, const void *buffer, size_t n);
