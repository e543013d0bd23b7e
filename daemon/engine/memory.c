/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/engine/memory.h"

int memory_read_ranges(pid_t pid, const MemoryRange *ranges, size_t n)
{
        struct iovec local[MEMORY_RANGES_MAX], remote[MEMORY_RANGES_MAX];
        size_t size = 0;
        ssize_t k;

        if (n > MEMORY_RANGES_MAX)
                return -EINVAL;

        for (size_t i = 0; i < n; i++) {
                local[i] = (struct iovec){.iov_base = ranges[i].buffer, .iov_len = ranges[i].size};
                remote[i] = (struct iovec){.iov_base = (void *) (uintptr_t) ranges[i].address, .iov_len = ranges[i].size};
                size += ranges[i].size;
        }

        k = process_vm_readv(pid, local, n, remote, n, 0);
        return k < 0 ? -errno : (size_t) k == size ? 0 : -EFAULT;
}

int memory_read(pid_t pid, uint64_t address, void *buffer, size_t n)
{
        return memory_read_ranges(pid, &(MemoryRange){.address = address, .buffer = buffer, .size = n}, 1);
}

/*
 * Nothing else of the daemon is to be done with it, so it is in force for one open() only. Without cap_set_flag(3), for which what
 * there is would be read each time: a request comes here twice. False where nothing was changed.
 */
static bool set_override(bool on)
{
        static struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
        static bool known;
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        const uint32_t bit = CAP_TO_MASK(CAP_DAC_OVERRIDE);

        if (!known)
                known = capget(&header, sets) == 0;
        if (!known || !(sets[CAP_TO_INDEX(CAP_DAC_OVERRIDE)].permitted & bit))
                return false;
        if (on)
                sets[CAP_TO_INDEX(CAP_DAC_OVERRIDE)].effective |= bit;
        else
                sets[CAP_TO_INDEX(CAP_DAC_OVERRIDE)].effective &= ~bit;
        return capset(&header, sets) == 0;
}

int open_with_override(const char *path, int flags)
{
        static bool denied; /* the mode of mem was in the way once, and will be again */
        const bool is_mem = g_str_has_suffix(path, "/mem");
        int fd, r;

        if (!is_mem || !denied) {
                fd = open(path, flags | O_CLOEXEC);
                if (fd >= 0 || errno != EACCES)
                        return fd >= 0 ? fd : -errno;
                denied |= is_mem;
        }

        if (!set_override(true)) /* not permitted */
                return -EACCES;
        fd = open(path, flags | O_CLOEXEC);
        r = fd >= 0 ? fd : -errno;
        if (!set_override(false))
                _exit(EXIT_FAILURE); /* no file that is opened from now on would be judged by its mode */
        return r;
}

int memory_open_file(pid_t pid, const char *name, int flags)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int) pid, name);

        return open_with_override(path, flags);
}

int memory_open(pid_t pid)
{
        return memory_open_file(pid, "mem", O_RDWR);
}

int memory_write(int fd, pid_t pid, uint64_t address, const void *buffer, size_t n)
{
        if (fd >= 0 && pwrite(fd, buffer, n, (off_t) address) == (ssize_t) n)
                return 0;

        for (size_t i = 0; i < n; i += sizeof(long)) {
                unsigned long word;

                memcpy(&word, (const char *) buffer + i, sizeof(word));
                if (ptrace(PTRACE_POKEDATA, pid, address + i, word) < 0)
                        return -errno;
        }

        return 0;
}
