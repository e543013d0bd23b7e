/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/isolate-internal.h"
#include "daemon/util.h"

#define FILL_USEC (1U * G_USEC_PER_SEC)

static bool can_read(const OpenFile *f)
{
        return (f->flags & O_ACCMODE) != O_WRONLY;
}

static bool can_write(const OpenFile *f)
{
        return (f->flags & O_ACCMODE) != O_RDONLY;
}

/* Is one of the clones' own descriptors the other end, so that nobody outside is needed? */
static bool has_both_ends(Isolation *i, size_t k)
{
        bool readable = false, writable = false;

        FOR_EACH_OF_INODE(i, n, k)
                if (!FILE_AT(i, n)->done) {
                        readable |= can_read(FILE_AT(i, n));
                        writable |= can_write(FILE_AT(i, n));
                }

        return readable && writable;
}

typedef struct Filling {
        int from, to, size;
} Filling;

/* The clone's pipe may be others' too by now: whoever may trace it may fetch it, and keep it busy. */
static int fill_pipe(void *userdata)
{
        const Filling *f = userdata;
        ssize_t n;

        (void) fcntl(f->to, F_SETPIPE_SZ, f->size); /* where it may not be as large it takes less, which is noted */
        n = tee(f->from, f->to, INT32_MAX, SPLICE_F_NONBLOCK);
        return n < 0 ? -errno : (int) n;
}

/* One of the pipe's descriptors that has the bytes in flight; NULL where none was there before the instant. */
static const OpenFile *find_bytes(Isolation *i, size_t k)
{
        FOR_EACH_OF_INODE(i, n, k)
                if (FILE_AT(i, n)->tee >= 0)
                        return FILE_AT(i, n);
        return NULL;
}

/* The bytes that were in the pipe at the instant; @write_end is the clone's. They stay in the tee for the next clone. */
static void copy_bytes(Isolation *i, Puppet *p, size_t k, int write_end)
{
        const OpenFile *f = FILE_AT(i, k), *reader = find_bytes(i, k);
        _cleanup_close_ int ours = puppet_take(p, write_end);
        int waiting = 0, n;

        if (!reader || ours < 0) {
                isolation_note_file(i, f, "bytes in flight may be missing in the clone's own pipe, which was opened at the instant");
                return;
        }
        if (ioctl(reader->tee, FIONREAD, &waiting) < 0 || waiting == 0)
                return;
        n = sampler_run(fill_pipe, &(Filling){reader->tee, ours, reader->pipe_size}, FILL_USEC);
        if (waiting > MAX(n, 0))
                isolation_note_file(i, f, "%d bytes in flight are missing in the clone's own pipe", waiting - MAX(n, 0));
}

/*
 * A description of the clone's new pipe with the flags of @f, as a new descriptor: the end that pipe2(2) made, @used says, or
 * where that has its place already, or both ends are one, another of the same pipe.
 */
static long open_end(Isolation *i, unsigned maker, const OpenFile *f, const int pair[2], bool used[2])
{
        const unsigned end = can_read(f) ? 0 : 1;
        Puppet *p = isolation_puppet(i, maker);
        int directory;
        char name[16];
        long fd, r;

        if (!used[end] && can_read(f) != can_write(f)) {
                used[end] = true;
                fd = puppet_call(p, SYS_fcntl, (uint64_t) pair[end], F_DUPFD_CLOEXEC, 0);
                r = fd < 0 ? fd : puppet_call(p, SYS_fcntl, (uint64_t) fd, F_SETFL, (uint64_t) (f->flags & ~(O_ASYNC | O_CLOEXEC)));
                return r < 0 ? r : fd;
        }

        directory = isolation_directory(i, maker);
        if (directory < 0)
                return directory;
        (void) snprintf(name, sizeof(name), "%d", pair[end]);
        r = puppet_write(p, p->page, name, sizeof(name));
        if (r < 0)
                return r;
        /* O_NONBLOCK: as with a FIFO, the other end is looked for; both are open still. */
        fd = puppet_call(p, SYS_openat, (uint64_t) directory, p->page, (uint64_t) ((f->flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC));
        r = fd < 0 ? fd : puppet_call(p, SYS_fcntl, (uint64_t) fd, F_SETFL, (uint64_t) (f->flags & ~(O_ASYNC | O_CLOEXEC)));
        return r < 0 ? r : fd;
}

/*
 * All descriptors of the pipe of file @k get a new one: with the bytes in flight where both ends are the clones', else with nobody
 * at the other end.
 */
static int replace_pipe(Isolation *i, size_t k, bool inside)
{
        const unsigned maker = FILE_AT(i, k)->member;
        Puppet *p = isolation_puppet(i, maker);
        bool used[2] = {};
        int pair[2];
        long r;

        r = puppet_call(p, SYS_pipe2, p->page, O_CLOEXEC);
        if (r >= 0)
                r = puppet_read(p, p->page, pair, sizeof(pair));
        if (r < 0)
                return (int) r;
        if (inside)
                copy_bytes(i, p, k, pair[1]);

        FOR_EACH_OF_INODE(i, n, k) {
                if (FILE_AT(i, n)->done)
                        continue;
                r = open_end(i, maker, FILE_AT(i, n), pair, used);
                if (r >= 0)
                        r = isolation_install(i, maker, n, (int) r);
                if (r < 0)
                        return (int) r;
        }

        p = isolation_puppet(i, maker);
        r = puppet_call(p, SYS_close, (uint64_t) pair[0]);
        return r < 0 ? (int) r : (int) puppet_call(p, SYS_close, (uint64_t) pair[1]);
}

/* Are there more descriptions of one pipe than the two that pipe2(2) makes? */
static bool needs_opening(Isolation *i, size_t k)
{
        unsigned ends[2] = {};

        FOR_EACH_OF_INODE(i, n, k) {
                const OpenFile *f = FILE_AT(i, n);

                if (f->done || f->same.first != n)
                        continue;
                if (can_read(f) && can_write(f))
                        return true;
                ends[can_read(f) ? 0 : 1]++;
        }

        return ends[0] > 1 || ends[1] > 1;
}

int isolate_pipes(Isolation *i)
{
        for (guint k = 0; k < i->files->len; k++) {
                const OpenFile *f = FILE_AT(i, k);
                int r = 0;

                if (f->done || f->kind != OPEN_PIPE)
                        continue;
                if (needs_opening(i, k))
                        r = isolation_directory(i, f->member);
                if (r == -ENOTDIR) { /* all or none: its ends belong together */
                        FOR_EACH_OF_INODE(i, n, k)
                                if (!FILE_AT(i, n)->done)
                                        isolation_leave(i, n, isolation_reason(r));
                        continue;
                }
                if (r >= 0)
                        r = replace_pipe(i, k, has_both_ends(i, k));
                if (r < 0)
                        return r;
        }

        return 0;
}

int isolate_terminals(Isolation *i)
{
        for (guint k = 0; k < i->files->len; k++) {
                _cleanup_close_ int null = -EBADF;
                const OpenFile *f = FILE_AT(i, k);
                int r;

                if (f->done || f->kind != OPEN_TERMINAL)
                        continue;

                /* From here: where the clone is there may be no /dev. */
                null = open("/dev/null", (f->flags & (O_ACCMODE | O_NONBLOCK | O_APPEND)) | O_CLOEXEC);
                r = null < 0 ? -errno : isolation_install_ours(i, k, null);
                if (r < 0)
                        return r;
        }

        return 0;
}
