/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/isolate-internal.h"

#ifndef O_TMPFILE_BIT
#define O_TMPFILE_BIT 020000000 /* __O_TMPFILE of include/uapi/asm-generic/fcntl.h: how it came to be, not what it is */
#endif

/*
 * By the clone, through its own descriptor: nothing is opened that it could not open by itself, and a file without a name or
 * out of reach of its root is found. O_NONBLOCK, so that a lease of somebody's does not keep the clone waiting (fcntl(2)).
 */
int isolation_open_again(Isolation *i, unsigned member, const OpenFile *f, int number)
{
        /* O_NOFOLLOW was about the name that it was opened by, and the link that it is opened by here is none of that. */
        int flags = f->flags & ~(O_TMPFILE_BIT | O_NOFOLLOW | O_ASYNC | O_CLOEXEC | (S_ISREG(f->st.st_mode) ? O_DIRECTORY : 0));
        const char *position = fdinfo_get(isolation_first(i, f)->info, "pos");
        const int directory = isolation_directory(i, member);
        Puppet *p = isolation_puppet(i, member);
        char name[16];
        long fd, r;

        if (directory < 0)
                return directory;
        if (!position) /* the end of its fdinfo, or all of it, could not be read */
                return -ENODATA;

        (void) snprintf(name, sizeof(name), "%d", number);
        r = puppet_write(p, p->page, name, sizeof(name));
        if (r < 0)
                return (int) r;
        fd = puppet_call(p, SYS_openat, (uint64_t) directory, p->page, (uint64_t) (flags | O_NONBLOCK | O_CLOEXEC));
        if (fd < 0)
                return (int) fd;

        r = puppet_call(p, SYS_fcntl, (uint64_t) fd, F_SETFL, (uint64_t) flags);
        if (r >= 0)
                r = puppet_call(p, SYS_lseek, (uint64_t) fd, strtoull(position, NULL, 10), SEEK_SET);
        return (int) isolation_close_failed(p, fd, r);
}

long isolation_close_failed(Puppet *p, long fd, long r)
{
        if (r < 0 && r != -ESRCH) /* with which it goes */
                (void) puppet_call(p, SYS_close, (uint64_t) fd);
        return r < 0 ? r : fd;
}

const char *isolation_reason(int r)
{
        return r == -ENOTDIR ? "the daemon may make no mount (CAP_SYS_ADMIN), without which the clone cannot be given what to open it by"
               : r == -ENODATA ? "its offset is not known"
                               : g_strerror(-r);
}

/*
 * By one of those that have it, as they came to have it: one that gave up rights has what it was left by one that opens it. The
 * first who can, in *@ret.
 */
static int open_by_any(Isolation *i, size_t k, unsigned *ret)
{
        int first_error = 0;

        FOR_EACH_SAME(i, n, k) {
                const OpenFile *f = FILE_AT(i, n);
                int fd;

                if (f->done || (first_error < 0 && f->member == *ret))
                        continue;
                *ret = f->member;
                fd = isolation_open_again(i, f->member, f, f->number);
                if (fd >= 0 || isolation_is_fatal(fd))
                        return fd;
                first_error = first_error < 0 ? first_error : fd;
        }

        return first_error;
}

int isolate_files(Isolation *i)
{
        for (guint k = 0; k < i->files->len; k++) {
                const OpenFile *f = FILE_AT(i, k);
                unsigned maker = 0;
                int fd;

                if (f->done || (f->kind != OPEN_REGULAR && f->kind != OPEN_DIRECTORY))
                        continue;

                fd = open_by_any(i, k, &maker);
                if (isolation_is_fatal(fd))
                        return fd;
                if (fd < 0) {
                        isolation_leave(i, k, isolation_reason(fd));
                        continue;
                }

                fd = isolation_install(i, maker, k, fd);
                if (fd < 0)
                        return fd;
        }

        return 0;
}
