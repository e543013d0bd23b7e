/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "daemon/engine/memory.h"

int memory_read(pid_t pid, uint64_t address, void *buffer, size_t n)
{
        const struct iovec local = {.iov_base = buffer, .iov_len = n};
        const struct iovec remote = {.iov_base = (void *) (uintptr_t) address, .iov_len = n};
        ssize_t k = process_vm_readv(pid, &local, 1, &remote, 1, 0);

        return k < 0 ? -errno : (size_t) k == n ? 0 : -EFAULT;
}

int memory_write(pid_t pid, uint64_t address, const void *buffer, size_t n)
{
        for (size_t i = 0; i < n; i += sizeof(long)) {
                unsigned long word;

                memcpy(&word, (const char *) buffer + i, sizeof(word));
                if (ptrace(PTRACE_POKEDATA, pid, address + i, word) < 0)
                        return -errno;
        }

        return 0;
}
