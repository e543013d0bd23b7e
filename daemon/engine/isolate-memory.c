/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/isolate-mappings.h"
#include "daemon/util.h"

#define CHUNK (1024U * 1024U)

/* Memory that no descriptor is of: shared anonymous and System V's. Memfds: isolate-memfds.c. */

static int copy_run(Puppet *from_puppet, uint64_t from, Puppet *p, uint64_t to, uint64_t n)
{
        static char buffer[CHUNK];

        for (uint64_t done = 0; done < n;) {
                size_t k = MIN(n - done, CHUNK);
                int r = puppet_read(from_puppet, from + done, buffer, k);

                if (r >= 0)
                        r = puppet_write(p, to + done, buffer, k);
                if (r < 0)
                        return r;
                done += k;
        }

        return 0;
}

/*
 * @n bytes of @from from @offset on to @to in the clone, without holes. SEEK_DATA finds what is in memory and what is swapped out
 * (mm/filemap.c: mapping_seek_hole_data()), of which mincore(2) knows only the first; huge pages have no holes for it.
 */
static int copy_data(Puppet *p, int from, uint64_t offset, uint64_t to, uint64_t n)
{
        static char buffer[CHUNK];
        const off_t begin = (off_t) offset, end = (off_t) (offset + n);

        for (off_t at = begin; at < end;) {
                off_t data = lseek(from, at, SEEK_DATA), hole;

                if (data < 0)
                        return errno == ENXIO ? 0 : -errno; /* nothing but a hole is left */
                hole = lseek(from, data, SEEK_HOLE);
                if (hole < 0)
                        return -errno;
                for (at = data; at < MIN(hole, end);) {
                        ssize_t k = pread(from, buffer, (size_t) MIN(MIN(hole, end) - at, (off_t) CHUNK), at);
                        int r;

                        if (k <= 0)
                                return k < 0 ? -errno : 0; /* it was made shorter meanwhile */
                        r = puppet_write(p, to + (uint64_t) (at - begin), buffer, (size_t) k);
                        if (r < 0)
                                return r;
                        at += k;
                }
        }

        return 0;
}

/* What a clone has in a mapping, by reading it: that fills its holes at the cost of all who have it, and takes no capability. */
static int copy_by_reading(Isolation *i, const SharedMapping *m, Puppet *p, uint64_t at)
{
        Puppet *reader = isolation_puppet(i, m->member);
        uint64_t n = m->end - m->start;
        long r = 0;

        if (m->permissions[0] != 'r')
                r = puppet_call(reader, SYS_mprotect, m->start, n, PROT_READ);
        return r < 0 ? (int) r : copy_run(reader, m->start, p, at + m->offset, n);
}

typedef struct Range {
        uint64_t begin, end;
} Range;

static int compare_ranges(const void *a, const void *b)
{
        const Range *x = a, *y = b;

        return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* What of an object is mapped at all, once: many processes may have mapped the same. */
static int copy_object(const Mappings *t, size_t k, Puppet *p, int from, uint64_t at)
{
        g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Range));
        uint64_t copied = 0;

        FOR_EACH_OF_OBJECT(t, n, k) {
                const SharedMapping *m = MAPPING_AT(t, n);
                const Range range = {m->offset, m->offset + (m->end - m->start)};

                g_array_append_val(ranges, range);
        }
        g_array_sort(ranges, compare_ranges);

        for (guint n = 0; n < ranges->len; n++) {
                Range range = g_array_index(ranges, Range, n);
                int r;

                range.begin = MAX(range.begin, copied);
                if (range.begin >= range.end)
                        continue;
                r = copy_data(p, from, range.begin, at + range.begin, range.end - range.begin);
                if (r < 0)
                        return r;
                copied = range.end;
        }

        return 0;
}

/* With a length of 0 the pages are mapped a second time, mremap(2). */
static int place_mapping(Puppet *p, const SharedMapping *m, uint64_t at)
{
        uint64_t n = m->end - m->start;
        long r;

        r = puppet_call(p, SYS_mremap, at + m->offset, 0, n, MREMAP_MAYMOVE | MREMAP_FIXED, m->start);
        if (r >= 0 && mapping_prot(m) != (PROT_READ | PROT_WRITE))
                r = puppet_call(p, SYS_mprotect, m->start, n, (uint64_t) mapping_prot(m));
        return r < 0 ? (int) r : 0;
}

/* One who may write to it makes the new one: who may only read it must not come to write. */
static size_t choose_maker(Isolation *i, const Mappings *t, size_t k)
{
        FOR_EACH_OF_OBJECT(t, n, k)
                if (mapping_may_write(i, MAPPING_AT(t, n)))
                        return n;
        return k;
}

static uint64_t object_size(const Mappings *t, size_t k)
{
        uint64_t size = 0;

        FOR_EACH_OF_OBJECT(t, n, k)
                size = MAX(size, MAPPING_AT(t, n)->offset + (MAPPING_AT(t, n)->end - MAPPING_AT(t, n)->start));
        return size;
}

/* Do only mappings of one member, which may write, have the object: can it be replaced without a descriptor of it? */
static bool is_of_one(Isolation *i, const Mappings *t, size_t k)
{
        FOR_EACH_OF_OBJECT(t, n, k)
                if (MAPPING_AT(t, n)->member != MAPPING_AT(t, k)->member || !mapping_may_write(i, MAPPING_AT(t, n)))
                        return false;
        return true;
}

static int fill_object(Isolation *i, const Mappings *t, size_t k, unsigned maker, uint64_t at, int from)
{
        Puppet *p = isolation_puppet(i, maker);
        int r = 0;

        if (from >= 0)
                return copy_object(t, k, p, from, at);
        FOR_EACH_OF_OBJECT(t, n, k)
                if (r >= 0)
                        r = copy_by_reading(i, MAPPING_AT(t, n), p, at);
        return r;
}

static int place_object(Isolation *i, const Mappings *t, size_t k, unsigned maker, uint64_t at, Lender *lender)
{
        int r = 0;

        FOR_EACH_OF_OBJECT(t, n, k) {
                SharedMapping *m = MAPPING_AT(t, n);

                if (r < 0)
                        break;
                if (m->member == maker && (lender->ours[LEND_WRITING] < 0 || mapping_may_write(i, m)))
                        r = place_mapping(isolation_puppet(i, maker), m, at);
                else
                        r = lender_map(lender, m, mapping_may_write(i, m) ? LEND_WRITING : LEND_READING);
                m->done = true;
        }

        return r;
}

/* Descriptors, in this process, of what the clone of @made_by has mapped at @at, which is of the same kind. */
static int borrow(Isolation *i, const SharedMapping *made_by, uint64_t at, uint64_t size, Lender *lender)
{
        const pid_t pid = isolation_puppet(i, made_by->member)->tracee->pid;
        SharedMapping m = *made_by;
        int r;

        m.start = at;
        m.end = at + size;
        lender->ours[LEND_READING] = r = mapping_open(&m, pid, O_RDONLY);
        if (r >= 0)
                lender->ours[LEND_WRITING] = r = mapping_open(&m, pid, O_RDWR);
        return MIN(r, 0);
}

/* What it had at the instant, or has now. */
static int open_content(Isolation *i, const SharedMapping *m)
{
        g_autofree char *id = mapping_id(m);
        int fd = isolation_snapshot(i, id);

        if (fd >= 0)
                return fd;
        isolation_note(i, "Memory at %" PRIx64 " (%s) of process %d was not copied at the instant of the clone, but a moment later", m->start, m->name,
                        (int) target_pid(MEMBER_AT(i, m->member)->target));
        return mapping_open(m, isolation_puppet(i, m->member)->tracee->pid, O_RDONLY);
}

/* All mappings of the object of mapping @k become mappings of a new one. */
static int replace_object(Isolation *i, const Mappings *t, size_t k)
{
        const SharedMapping *made_by = MAPPING_AT(t, choose_maker(i, t, k));
        const unsigned maker = made_by->member;
        const uint64_t size = object_size(t, k);
        Puppet *p = isolation_puppet(i, maker);
        _cleanup_lender_ Lender lender = LENDER_INIT(i);
        _cleanup_close_ int from = open_content(i, made_by);
        const bool alone = is_of_one(i, t, k);
        long at;
        int r;

        /* Memory of the kernel's own can be read where it is mapped; a file system may keep who reads it waiting. */
        if (from < 0 && (!alone || made_by->kind == SHARED_DELETED)) {
                mappings_leave(i, t, k, from == -EPERM ? "the daemon may not open it (CAP_SYS_ADMIN)" : g_strerror(-from));
                return 0;
        }

        at = puppet_call(p, SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t) -1);
        if (at < 0)
                return (int) at;
        r = alone ? 0 : borrow(i, made_by, (uint64_t) at, size, &lender);
        if (r >= 0)
                r = fill_object(i, t, k, maker, (uint64_t) at, from);
        if (r >= 0)
                r = place_object(i, t, k, maker, (uint64_t) at, &lender);
        if (r >= 0)
                r = lender_end(&lender);
        return r < 0 ? r : (int) puppet_call(isolation_puppet(i, maker), SYS_munmap, (uint64_t) at, size);
}

int isolate_memory(Isolation *i)
{
        _cleanup_mappings_ Mappings t = {};
        int r;

        r = mappings_read(i, &t);
        if (r >= 0)
                r = isolate_memfds(i, &t);

        for (guint k = 0; r >= 0 && k < t.list->len; k++) {
                const SharedMapping *m = MAPPING_AT(&t, k);

                if (m->done)
                        continue;
                if (m->kind != SHARED_FILE)
                        r = replace_object(i, &t, k);
                else if (m->permissions[1] == 'w')
                        isolation_note(i, "Memory at %" PRIx64 " (%s) stays shared with process %d", m->start, m->name,
                                        (int) target_pid(MEMBER_AT(i, m->member)->target));
        }

        return r;
}
