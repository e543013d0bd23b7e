/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/engine/isolate-mappings.h"
#include "daemon/util.h"

/*
 * Shared memory at the instant. Locks are in it, and what they guard: of a moment later it does not fit to what else a clone has. No
 * kernel copies it on write, so it is copied while the targets wait. It was copied before, which finds all pages of the copy
 * there at the instant; and what would take too long is not, but when the targets run again, with a note.
 */

#define SNAPSHOT_MAX (64U * 1024U * 1024U) /* bytes in memory of all objects: some 10 ms */

typedef struct Snapshot {
        char *id;    /* "DEVICE:INODE" */
        int from;    /* the targets'; owned */
        int copy;    /* a memfd; owned */
        char *bytes; /* the same, mapped */
        size_t size;
        bool taken;
        bool changed; /* between the two captures */
} Snapshot;

static void snapshot_clear(void *p)
{
        Snapshot *s = p;

        if (s->bytes)
                (void) munmap(s->bytes, s->size);
        safe_close(s->from);
        safe_close(s->copy);
        g_free(s->id);
}

/* The part from @at to @end, which is in memory. False where it became shorter. */
static bool copy_part(const Snapshot *s, off_t at, off_t end)
{
        while (at < end) {
                ssize_t n = pread(s->from, s->bytes + at, (size_t) (end - at), at);

                if (n <= 0)
                        return false;
                at += n;
        }

        return true;
}

/* Holes are holes in the copy too. */
static bool copy_all(const Snapshot *s)
{
        const off_t size = (off_t) s->size;

        for (off_t at = 0; at < size;) {
                off_t data = lseek(s->from, at, SEEK_DATA), hole;

                if (data < 0 && errno != ENXIO)
                        return false;
                data = data < 0 ? size : MIN(data, size);
                if (data > at && fallocate(s->copy, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, data - at) < 0)
                        return false;
                hole = data < size ? lseek(s->from, data, SEEK_HOLE) : size;
                if (hole < 0 || !copy_part(s, data, MIN(hole, size)))
                        return false;
                at = hole;
        }

        return true;
}

static bool is_same_part(const Snapshot *s, off_t at, off_t end)
{
        static char buffer[1024 * 1024];

        while (at < end) {
                ssize_t n = pread(s->from, buffer, (size_t) MIN(end - at, (off_t) sizeof(buffer)), at);

                if (n <= 0 || memcmp(buffer, s->bytes + at, (size_t) n) != 0)
                        return false;
                at += n;
        }

        return true;
}

/* A page that is new and empty is no change. */
static bool is_same(const Snapshot *s)
{
        for (off_t at = 0; at < (off_t) s->size;) {
                off_t data = lseek(s->from, at, SEEK_DATA), hole;

                if (data < 0)
                        return errno == ENXIO;
                hole = lseek(s->from, data, SEEK_HOLE);
                if (hole < 0 || !is_same_part(s, data, MIN(hole, (off_t) s->size)))
                        return false;
                at = hole;
        }

        return true;
}

static bool open_copy(Snapshot *s)
{
        s->copy = memfd_create("remfork", MFD_CLOEXEC);
        if (s->copy < 0 || ftruncate(s->copy, (off_t) s->size) < 0)
                return false;
        s->bytes = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->copy, 0);
        if (s->bytes == MAP_FAILED)
                s->bytes = NULL;
        return s->bytes && copy_all(s);
}

static uint64_t in_memory(const struct stat *st)
{
        return (uint64_t) st->st_blocks * 512U;
}

static void add_snapshot(Isolation *i, const SharedMapping *m, pid_t pid)
{
        Snapshot s = {.id = mapping_id(m), .from = -EBADF, .copy = -EBADF};
        struct stat st;

        if (!g_hash_table_contains(i->snapshots, s.id)) {
                s.from = mapping_open(m, pid, O_RDONLY);
                if (s.from >= 0 && fstat(s.from, &st) >= 0 && st.st_size > 0 && i->snapshots_size + in_memory(&st) <= SNAPSHOT_MAX) {
                        s.size = (size_t) st.st_size;
                        if (open_copy(&s)) {
                                i->snapshots_size += in_memory(&st);
                                g_hash_table_insert(i->snapshots, s.id, g_memdup2(&s, sizeof(s)));
                                return;
                        }
                }
        }
        snapshot_clear(&s);
}

static void snapshot_free(void *p)
{
        snapshot_clear(p);
        g_free(p);
}

void isolation_look_memory(Isolation *i, unsigned member)
{
        g_autoptr(GArray) mappings = NULL;
        const pid_t pid = target_pid(MEMBER_AT(i, member)->target);

        if (!i->snapshots)
                i->snapshots = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, snapshot_free);
        if (i->spec->isolate != CLONE_ISOLATE_ALL || shared_mappings_read(pid, &mappings) < 0)
                return;
        for (guint k = 0; k < mappings->len; k++) {
                const SharedMapping *m = &g_array_index(mappings, SharedMapping, k);

                if (m->kind != SHARED_FILE)
                        add_snapshot(i, m, pid);
        }
}

void isolation_capture_memory(Isolation *i)
{
        uint64_t left = 2 * SNAPSHOT_MAX; /* it may have grown since */
        GHashTableIter iter;
        gpointer p;

        g_hash_table_iter_init(&iter, i->snapshots);
        while (g_hash_table_iter_next(&iter, NULL, &p)) {
                Snapshot *s = p;
                struct stat st;

                if (i->n_captured > 0) {
                        s->changed = s->taken && !is_same(s);
                        continue;
                }
                if (fstat(s->from, &st) < 0 || (size_t) st.st_size != s->size || in_memory(&st) > left)
                        continue;
                left -= in_memory(&st);
                s->taken = copy_all(s);
        }
}

int isolation_snapshot(const Isolation *i, const char *id)
{
        const Snapshot *s = g_hash_table_lookup(i->snapshots, id);

        return s && s->taken ? fcntl(s->copy, F_DUPFD_CLOEXEC, 3) : -ENOENT;
}

bool isolation_snapshot_changed(const Isolation *i)
{
        GHashTableIter iter;
        gpointer p;

        g_hash_table_iter_init(&iter, i->snapshots);
        while (g_hash_table_iter_next(&iter, NULL, &p))
                if (((const Snapshot *) p)->changed)
                        return true;
        return false;
}
