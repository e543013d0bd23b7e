/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>

#include "daemon/room.h"
#include "daemon/util.h"

int room_set_aside(Room *r, int fd, size_t n)
{
        r->fds = g_new(int, n);
        for (r->n = 0; r->n < n; r->n++) {
                r->fds[r->n] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
                if (r->fds[r->n] < 0) {
                        int e = errno;

                        room_give_back(r);
                        return -e;
                }
        }
        return 0;
}

void room_give_back(Room *r)
{
        for (size_t i = 0; i < r->n; i++)
                safe_close(r->fds[i]);
        g_free(r->fds);
        *r = (Room){};
}
