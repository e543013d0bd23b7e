/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/engine/isolate-shared.h"

static SharedKind kind_of(const char *name)
{
        /* mm/shmem.c: shmem_zero_setup(); ipc/shm.c: newseg(); mm/memfd.c */
        if (strcmp(name, "/dev/zero (deleted)") == 0)
                return SHARED_ANONYMOUS;
        if (g_str_has_prefix(name, "/SYSV"))
                return SHARED_SYSV;
        if (g_str_has_prefix(name, "/memfd:"))
                return SHARED_MEMFD;
        return g_str_has_suffix(name, " (deleted)") ? SHARED_DELETED : SHARED_FILE;
}

bool shared_mapping_parse(const char *line, SharedMapping *ret)
{
        SharedMapping m = {};
        int at = 0;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %15s %lu %n", &m.start, &m.end, m.permissions, &m.offset, m.device, &m.inode, &at) != 6 ||
            at == 0 || m.permissions[3] != 's')
                return false;

        g_strlcpy(m.name, line + at, sizeof(m.name));
        m.kind = kind_of(m.name);
        *ret = m;
        return true;
}

int shared_mappings_read(pid_t pid, GArray **ret)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int) pid), *text = NULL;
        g_autoptr(GArray) mappings = g_array_new(FALSE, FALSE, sizeof(SharedMapping));
        g_auto(GStrv) lines = NULL;

        if (!g_file_get_contents(path, &text, NULL, NULL))
                return -ESRCH;

        lines = g_strsplit(text, "\n", -1);
        for (char **line = lines; *line; line++) {
                SharedMapping m;

                if (shared_mapping_parse(*line, &m))
                        g_array_append_val(mappings, m);
        }

        *ret = g_steal_pointer(&mappings);
        return 0;
}
