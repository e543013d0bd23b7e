/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * The memory of another process, by the calls that ask for CAP_SYS_PTRACE alone. /proc/PID/mem would be handier, but its
 * owner is the process's user and its mode 0600 (fs/proc/base.c): a daemon of another user would need CAP_DAC_OVERRIDE too.
 */

/* Reads all @n bytes at @address of @pid, which need not be stopped: process_vm_readv(2). false where that cannot be done. */
bool memory_read(pid_t pid, uint64_t address, void *buffer, size_t n);

/*
 * Writes all @n bytes at @address of @pid, a tracee that is stopped, also where it could not itself: a private copy of the
 * page is made, a mapped file is not touched (mm/gup.c: FOLL_FORCE). A negative errno of PTRACE_POKEDATA: -EIO where
 * nothing is mapped, -ESRCH where @pid is no stopped tracee.
 */
int memory_write(pid_t pid, uint64_t address, const void *buffer, size_t n);

/*
 * What an execve() changes and nothing else does: where the program, its stack, its arguments and its environment begin and
 * end (fields 26 to 28 and 45 to 51 of /proc/PID/stat). Compared before and at a stop: the same address space, or one that
 * is laid out alike to the byte.
 */
typedef struct MemoryLayout {
        uint64_t at[10];
} MemoryLayout;

/* From the text of /proc/PID/stat; -EBADMSG where it is not as proc(5) has it. */
int memory_layout_parse(const char *stat, MemoryLayout *ret);
