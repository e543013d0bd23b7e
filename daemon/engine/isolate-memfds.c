/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/isolate-mappings.h"
#include "daemon/util.h"

#define PAGE 4096U
#define CHUNK (1024U * 1024U)

static int copy_bytes(int from, int to, off_t begin, off_t end)
{
        static char buffer[CHUNK];

        for (off_t at = begin; at < end;) {
                ssize_t n = pread(from, buffer, (size_t) MIN(end - at, (off_t) CHUNK), at), k;

                if (n <= 0)
                        return n < 0 ? -errno : 0; /* it was made shorter meanwhile */
                k = pwrite(to, buffer, (size_t) n, at);
                if (k != n)
                        return k < 0 ? -errno : -EIO;
                at += n;
        }

        return 0;
}

static int copy_content(int from, int to, off_t size)
{
        for (off_t at = 0; at < size;) {
                off_t data = lseek(from, at, SEEK_DATA), hole;
                int r;

                if (data < 0)
                        return errno == ENXIO ? 0 : -errno; /* nothing but a hole is left */
                hole = lseek(from, data, SEEK_HOLE);
                if (hole < 0)
                        return -errno;
                r = copy_bytes(from, to, data, hole);
                if (r < 0)
                        return r;
                at = hole;
        }

        return 0;
}

/* The kernel has "/memfd:NAME (deleted)". */
static long make_memfd(Puppet *p, const OpenFile *f)
{
        g_autofree char *name = g_strdup(f->name + strlen("/memfd:"));
        long fd, r;

        if (g_str_has_suffix(name, " (deleted)"))
                name[strlen(name) - strlen(" (deleted)")] = '\0';
        r = puppet_write(p, p->page, name, strlen(name) + 1);
        fd = r < 0 ? r : puppet_call(p, SYS_memfd_create, p->page, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd >= 0)
                r = puppet_call(p, SYS_ftruncate, (uint64_t) fd, (uint64_t) f->st.st_size);
        return r < 0 ? r : fd;
}

/*
 * Through another description of its own: lseek() on the copy would move the offset of the clone's and the target's. Where its mode
 * does not let this process make one, all of it is read by the copy.
 */
static int fill_memfd(Isolation *i, Puppet *p, const OpenFile *first, int fd)
{
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", first->copy), *id = mappings_id_of(first);
        _cleanup_close_ int from = isolation_snapshot(i, id), to = puppet_take(p, fd);

        if (to < 0)
                return to;
        if (from < 0) /* nobody has it mapped, or it is large */
                from = open(path, O_RDONLY | O_CLOEXEC);
        return from >= 0 ? copy_content(from, to, first->st.st_size) : copy_bytes(first->copy, to, 0, first->st.st_size);
}

/* The mappings of the memfd become those of the new one, @reading and @writing in the clone of @maker. */
static int map_memfd(Isolation *i, unsigned maker, const Mappings *t, size_t k, int reading, int writing)
{
        _cleanup_lender_ Lender lender = LENDER_INIT(i);
        int r = 0;

        lender.ours[LEND_READING] = puppet_take(isolation_puppet(i, maker), reading);
        lender.ours[LEND_WRITING] = puppet_take(isolation_puppet(i, maker), writing);
        for (unsigned how = 0; how < LEND_MAX; how++)
                if (lender.ours[how] < 0)
                        return lender.ours[how];

        FOR_EACH_OF_OBJECT(t, n, k) {
                SharedMapping *m = MAPPING_AT(t, n);

                if (r < 0)
                        break;
                r = lender_map(&lender, m, mapping_may_write(i, m) ? LEND_WRITING : LEND_READING);
                m->done = true;
        }

        return r < 0 ? r : lender_end(&lender);
}

/*
 * Mappings that may be written are made before F_SEAL_FUTURE_WRITE forbids them; with F_SEAL_WRITE, which is not to be had
 * while one might be written, all come after, by a description that cannot write (memfd_create(2), fcntl(2)).
 */
static int seal_and_map(Isolation *i, unsigned maker, const OpenFile *first, int fd, const Mappings *t)
{
        const size_t mapped = mappings_find(t, first);
        Puppet *p = isolation_puppet(i, maker);
        OpenFile reading = *first;
        int seals = fcntl(first->copy, F_GET_SEALS), ro;
        long r;

        reading.flags = O_RDONLY;
        ro = isolation_open_again(i, maker, &reading, fd);
        if (ro < 0)
                return ro;
        r = puppet_call(p, SYS_fchmod, (uint64_t) fd, first->st.st_mode & 07777); /* last: the mode may forbid opening */
        if (r >= 0 && mapped != ROW_END && (seals <= 0 || !(seals & F_SEAL_WRITE)))
                r = map_memfd(i, maker, t, mapped, ro, fd);
        if (r >= 0 && seals > 0)
                r = puppet_call(p, SYS_fcntl, (uint64_t) fd, F_ADD_SEALS, (uint64_t) seals);
        if (r >= 0 && mapped != ROW_END && seals > 0 && seals & F_SEAL_WRITE)
                r = map_memfd(i, maker, t, mapped, ro, ro);
        return r < 0 ? (int) r : (int) puppet_call(isolation_puppet(i, maker), SYS_close, (uint64_t) ro);
}

/* Descriptors and mappings of the memfd of file @k become those of the new one, @fd in the clone of @maker. */
static int replace_memfd(Isolation *i, unsigned maker, size_t k, int fd, const Mappings *t)
{
        int r;

        FOR_EACH_OF_INODE(i, n, k) {
                if (FILE_AT(i, n)->done)
                        continue;
                r = isolation_open_again(i, maker, FILE_AT(i, n), fd);
                if (r < 0 && !isolation_is_fatal(r)) {
                        isolation_leave(i, n, isolation_reason(r));
                        continue;
                }
                if (r >= 0)
                        r = isolation_install(i, maker, n, r);
                if (r < 0)
                        return r;
        }

        r = seal_and_map(i, maker, isolation_first(i, FILE_AT(i, k)), fd, t);
        return r < 0 ? r : (int) puppet_call(isolation_puppet(i, maker), SYS_close, (uint64_t) fd);
}

/* It stays what it is, with all its descriptors and mappings: they belong together. */
static void leave_memfd(Isolation *i, size_t k, const Mappings *t, const char *reason)
{
        const size_t mapped = mappings_find(t, FILE_AT(i, k));

        if (mapped != ROW_END)
                mappings_leave(i, t, mapped, reason);
        FOR_EACH_OF_INODE(i, n, k)
                if (!FILE_AT(i, n)->done)
                        isolation_leave(i, n, reason);
}

static int isolate_memfd(Isolation *i, size_t k, const Mappings *t)
{
        const OpenFile *f = FILE_AT(i, k);
        const unsigned maker = f->member;
        Puppet *p = isolation_puppet(i, maker);
        long fd;
        int r;

        r = f->st.st_blksize != PAGE ? 0 : isolation_directory(i, maker);
        if (f->st.st_blksize != PAGE || r == -ENOTDIR) { /* hugetlbfs */
                leave_memfd(i, k, t, r < 0 ? isolation_reason(r) : "it is made of huge pages");
                return 0;
        }
        if (r < 0)
                return r;

        fd = make_memfd(p, f);
        r = fd < 0 ? (int) fd : fill_memfd(i, p, isolation_first(i, f), (int) fd);
        if (fd >= 0 && r < 0 && !isolation_is_fatal(r)) {
                leave_memfd(i, k, t, g_strerror(-r));
                return (int) puppet_call(p, SYS_close, (uint64_t) fd);
        }
        return r < 0 ? r : replace_memfd(i, maker, k, (int) fd, t);
}

int isolate_memfds(Isolation *i, Mappings *t)
{
        for (guint k = 0; k < i->files->len; k++) {
                int r;

                if (FILE_AT(i, k)->done || FILE_AT(i, k)->kind != OPEN_MEMFD)
                        continue;
                r = isolate_memfd(i, k, t);
                if (r < 0)
                        return r;
        }

        return 0;
}
