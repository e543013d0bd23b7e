/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "daemon/engine/arch.h"
#include "daemon/engine/cave.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ptrace-look.h"
#include "daemon/util.h"

/* kcmp(2): a child of vfork(2) runs in its parent's memory while the parent waits for it. */
static bool same_memory(pid_t a, pid_t b)
{
        return a > 0 && b > 0 && syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0;
}

/* The child that the target waits for in vfork(2), which no signal but SIGKILL ends (kernel/fork.c); 0 where there is none. */
static pid_t vfork_child(const Target *target, const TargetStatus *status)
{
        g_autofree char *name = NULL, *children = NULL;
        g_auto(GStrv) pids = NULL;

        if (status->state != 'D')
                return 0;

        name = g_strdup_printf("task/%d/children", (int) target_pid(target));
        if (target_read_file(target, name, &children, NULL) < 0)
                return 0;

        pids = g_strsplit(children, " ", -1);
        for (char **p = pids; *p; p++) {
                pid_t child = (pid_t) strtol(*p, NULL, 10);

                if (same_memory(target_pid(target), child))
                        return child;
        }

        return 0;
}

int look_check_status(const Target *target, const TargetStatus *status, const CloneSpec *spec, bool *ret_vfork, CloneError *error)
{
        pid_t child = vfork_child(target, status);
        int pid = (int) target_pid(target), r;

        r = engine_check_status(target, status, spec, error);
        if (r < 0)
                return r;
        *ret_vfork = child > 0 || same_memory(pid, status->parent);
        if (child > 0)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d waits in vfork() for its child %d, which uses its memory", pid, (int) child);
        if (*ret_vfork)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d is inside vfork(), its memory is that of its parent %d", pid, (int) status->parent);
        return 0;
}

/* Why no place was found. Where one was, the registers say at the stop what runs. */
static bool is_32bit(const Target *target)
{
        _cleanup_close_ int fd = openat(target_procfd(target), "exe", O_RDONLY | O_CLOEXEC);
        char ident[EI_NIDENT];

        return fd >= 0 && read(fd, ident, sizeof(ident)) == sizeof(ident) && memcmp(ident, ELFMAG, SELFMAG) == 0 &&
               ident[EI_CLASS] == ELFCLASS32;
}

static bool is_gadget(const uint8_t *bytes)
{
        return arch_is_gadget(bytes);
}

static bool none(const uint8_t *bytes)
{
        return false;
}

int look_find_cave(const Target *target, char **ret_maps, uint64_t *ret, CloneError *error)
{
        g_autofree char *begin = NULL, *maps = NULL;
        int pid = (int) target_pid(target), r = -ENOENT;

        if (!ret_maps) {
                r = target_read_lines(target, "maps", &begin);
                if (r >= 0) /* one that was used is only taken where there is no other */
                        r = cave_find(begin, pid, ARCH_GADGET_SIZE, none, ret);
        }
        if (r == -ENOENT) {
                r = target_read_file(target, "maps", &maps, NULL);
                if (r >= 0)
                        r = cave_find(maps, pid, ARCH_GADGET_SIZE, is_gadget, ret);
        }

        if (r == -ENOENT && is_32bit(target))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d runs 32-bit code, 64-bit code was expected", pid);
        if (r == -ENOENT)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has no %u unused bytes of 64-bit ELF code mapped, which the clone call needs", pid,
                                ARCH_GADGET_SIZE);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "Process %d ended while it was being cloned", pid);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "Process %d: its memory map cannot be read: %s", pid,
                                g_strerror(-r));

        if (ret_maps)
                *ret_maps = g_steal_pointer(&maps);
        return 0;
}
