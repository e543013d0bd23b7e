/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/uio.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-rebuild.h"

/* glibc, sysdeps/nptl/bits/struct_mutex.h: the link of the list is 32 bytes behind the word, the owner 8. */
#define GLIBC_FUTEX_OFFSET (-32)
#define GLIBC_OWNER 8

/* True where the mapping that has @address is private: what is there is the clone's own. */
static bool is_private(pid_t pid, uint64_t address)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int) pid), *maps = NULL;
        g_auto(GStrv) lines = NULL;

        if (!g_file_get_contents(path, &maps, NULL, NULL))
                return false;

        lines = g_strsplit(maps, "\n", -1);
        for (char **line = lines; *line; line++) {
                uint64_t start, end;
                char permissions[5];

                if (sscanf(*line, "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x %4s", &start, &end, permissions) == 3 &&
                    address >= start && address < end)
                        return permissions[3] == 'p';
        }

        return false;
}

static int write_word(pid_t pid, uint64_t address, uint32_t word)
{
        const struct iovec local = {.iov_base = &word, .iov_len = sizeof(word)};
        const struct iovec remote = {.iov_base = (void *) (uintptr_t) address, .iov_len = sizeof(word)};

        return process_vm_writev(pid, &local, 1, &remote, 1, 0) == sizeof(word) ? 0 : -EFAULT;
}

/* 1 where the futex was held by @old_tid, 0 where not. What cannot be read is for its owner to stumble upon, as in the target. */
static int adopt(pid_t pid, uint64_t entry, int64_t offset, pid_t old_tid, pid_t new_tid)
{
        uint64_t address = (entry & ~UINT64_C(1)) + (uint64_t) offset; /* bit 0 marks one with priority inheritance */
        uint32_t word, owner;
        int r;

        if (memory_read(pid, address, &word, sizeof(word)) < 0 || (word & FUTEX_TID_MASK) != (uint32_t) old_tid ||
            !is_private(pid, address))
                return 0;

        r = write_word(pid, address, (word & ~(uint32_t) FUTEX_TID_MASK) | (uint32_t) new_tid);
        if (r < 0)
                return r;
        if (offset == GLIBC_FUTEX_OFFSET && memory_read(pid, address + GLIBC_OWNER, &owner, sizeof(owner)) >= 0 &&
            owner == (uint32_t) old_tid)
                r = write_word(pid, address + GLIBC_OWNER, (uint32_t) new_tid);
        return r < 0 ? r : 1;
}

int rebuild_robust_owner(pid_t pid, uint64_t head, pid_t old_tid, pid_t new_tid)
{
        struct robust_list_head list;
        uint64_t entry;
        int n = 0, r;

        if (memory_read(pid, head, &list, sizeof(list)) < 0)
                return 0; /* not a list that the kernel could walk either */

        entry = (uint64_t) (uintptr_t) list.list.next;
        for (unsigned i = 0; i < ROBUST_LIST_LIMIT && (entry & ~UINT64_C(1)) != head; i++) {
                r = adopt(pid, entry, list.futex_offset, old_tid, new_tid);
                if (r < 0)
                        return r;
                n += r;
                if (memory_read(pid, entry & ~UINT64_C(1), &entry, sizeof(entry)) < 0)
                        break;
        }

        if (list.list_op_pending) {
                r = adopt(pid, (uint64_t) (uintptr_t) list.list_op_pending, list.futex_offset, old_tid, new_tid);
                n += MAX(r, 0);
        }
        return n;
}
