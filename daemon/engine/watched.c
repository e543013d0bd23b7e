/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>

#include "daemon/engine/watched.h"

static GArray *watched;

void watched_set(const pid_t *pids, size_t n)
{
        watched = g_array_new(FALSE, FALSE, sizeof(pid_t));
        g_array_append_vals(watched, pids, (guint) n);
}

bool watched_any(void)
{
        return watched && watched->len > 0;
}

bool watched_remove(pid_t pid)
{
        for (guint k = 0; k < watched->len; k++)
                if (g_array_index(watched, pid_t, k) == pid) {
                        g_array_remove_index_fast(watched, k);
                        return true;
                }

        return false;
}
