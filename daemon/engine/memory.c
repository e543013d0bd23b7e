/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "daemon/engine/memory.h"

#define WORD sizeof(long)

bool memory_read(pid_t pid, uint64_t address, void *buffer, size_t n)
{
        struct iovec here = {buffer, n}, there = {(void *) (uintptr_t) address, n};

        return process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t) n;
}

int memory_write(pid_t pid, uint64_t address, const void *buffer, size_t n)
{
        const uint8_t *from = buffer;

        while (n > 0) {
                uint64_t at = address & ~(uint64_t) (WORD - 1);
                size_t skip = address - at, k = MIN(n, WORD - skip);
                long word = 0;

                if (k < WORD) { /* the other bytes of the word stay */
                        errno = 0;
                        word = ptrace(PTRACE_PEEKDATA, pid, (void *) (uintptr_t) at, NULL);
                        if (errno != 0)
                                return -errno;
                }
                memcpy((uint8_t *) &word + skip, from, k);
                if (ptrace(PTRACE_POKEDATA, pid, (void *) (uintptr_t) at, (void *) word) < 0)
                        return -errno;

                address += k;
                from += k;
                n -= k;
        }

        return 0;
}

int memory_layout_parse(const char *stat, MemoryLayout *ret)
{
        MemoryLayout layout = {};
        const char *p = strrchr(stat, ')'); /* the end of field 2 */
        size_t n = 0;

        if (!p)
                return -EBADMSG;

        p++;
        for (unsigned field = 3; field <= 51; field++) {
                p = strchr(p, ' ');
                if (!p)
                        return -EBADMSG;
                p++;
                if ((field >= 26 && field <= 28) || field >= 45)
                        layout.at[n++] = strtoull(p, NULL, 10);
        }

        *ret = layout;
        return 0;
}
