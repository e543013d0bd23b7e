/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "daemon/engine/tree-fds.h"
#include "daemon/util.h"

/* The one of @fds that says what becomes of descriptor @number of @member; NULL for none. */
static const CloneFd *find_same(const CloneFds *fds, const Target *root, const Target *member, int number)
{
        for (size_t i = 0; i < fds->n; i++)
                /* EBADF where @root has no such descriptor: then it is the root's clone's alone. */
                if (syscall(SYS_kcmp, target_pid(root), target_pid(member), KCMP_FILE, fds->items[i].number, number) == 0)
                        return &fds->items[i];
        return NULL;
}

static int add_one(CloneFds *list, const Target *member, int number, int fd, CloneError *error)
{
        if (list->n >= CLONE_FDS_MAX)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, ENOBUFS,
                                "Process %d has more than %u descriptors of what is replaced in the clone of its tree",
                                (int) target_pid(member), CLONE_FDS_MAX);
        list->items[list->n++] = (CloneFd){.number = number, .fd = fd};
        return 0;
}

int tree_fds(const CloneFds *fds, const Target *root, const Target *member, CloneFds **ret, CloneError *error)
{
        g_autofree CloneFds *list = NULL;
        DIR *directory;
        int fd, r = 0;

        *ret = NULL;
        if (!fds || fds->n == 0)
                return 0;

        fd = openat(target_procfd(member), "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        directory = fd < 0 ? NULL : fdopendir(fd);
        if (!directory) {
                r = -errno;
                safe_close(fd);
                return clone_error_set(error, r == -ENOENT ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                                "The descriptors of process %d cannot be listed: %s", (int) target_pid(member), g_strerror(-r));
        }

        list = g_new0(CloneFds, 1);
        for (const struct dirent *d; r >= 0 && (d = readdir(directory));) {
                int number = atoi(d->d_name);
                const CloneFd *same = g_ascii_isdigit(d->d_name[0]) ? find_same(fds, root, member, number) : NULL;

                if (same)
                        r = add_one(list, member, number, same->fd, error);
        }
        (void) closedir(directory); /* it was read only */

        if (r >= 0 && list->n > 0)
                *ret = g_steal_pointer(&list);
        return r;
}
