/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/owners.h"
#include "daemon/util.h"

#define PAGE 4096U
#define WINDOW (1024U * 1024U)
#define LOOKED_AT_MAX (256U * 1024U * 1024U) /* bytes that are there */

/* sysdeps/nptl/bits/struct_mutex.h, on x86-64; a lock is held while @lock is not 0. */
typedef struct Mutex {
        uint32_t lock, count, owner, n_users, kind;
        uint32_t spins_and_elision;
        uint64_t list[2];
} Mutex;

/* sysdeps/x86/nptl/bits/struct_rwlock.h */
typedef struct RWLock {
        uint32_t readers, writers, phase_futex, writers_futex, pad[2], writer, shared;
        uint64_t elision_and_pad[2];
} RWLock;

/* nptl/pthreadP.h: types, and what may come with them. Robust ones have a list, by which they are found (ptrace-robust.c). */
enum { KIND_RECURSIVE = 1, KIND_ERRORCHECK = 2, KIND_TYPE = 3, KIND_INHERIT = 32, KIND_SHARED = 128, KIND_ELISION = 256 | 512 };

/* Of what is counted in a lock; more is no count. */
#define COUNT_MAX 65536U

static const OwnerPair *find(const OwnerPair *pairs, size_t n, uint32_t id)
{
        for (size_t k = 0; k < n; k++)
                if ((uint32_t) pairs[k].before == id)
                        return pairs + k;
        return NULL;
}

static bool is_held_mutex(const Mutex *m)
{
        const uint32_t type = m->kind & KIND_TYPE;

        if (m->kind & ~(uint32_t) (KIND_TYPE | KIND_INHERIT | KIND_SHARED | KIND_ELISION) || m->spins_and_elision != 0 || m->list[0] != 0 || m->list[1] != 0)
                return false;
        if (m->n_users == 0 || m->n_users > COUNT_MAX || m->count > COUNT_MAX)
                return false;
        if (m->kind & KIND_INHERIT) /* @count is 1, whatever the type */
                return (m->lock & FUTEX_TID_MASK) == m->owner && m->count > 0;
        return (type == KIND_RECURSIVE) == (m->count > 0) && (type == KIND_RECURSIVE || type == KIND_ERRORCHECK) && (m->lock == 1 || m->lock == 2);
}

/* nptl/pthread_rwlock_common.c: the low bits of @readers say that it is in its write phase, and held. */
static bool is_written_rwlock(const RWLock *l)
{
        return (l->readers & 3) == 3 && l->readers < COUNT_MAX && l->writers < COUNT_MAX && (l->phase_futex == 1 || l->phase_futex == 3) &&
               (l->writers_futex == 1 || l->writers_futex == 3) && l->pad[0] == 0 && l->pad[1] == 0 && l->shared <= 1 &&
               l->elision_and_pad[0] == 0 && l->elision_and_pad[1] == 0;
}

static unsigned look_at(const uint8_t *bytes, size_t n, size_t at, const OwnerPair *pair, owners_change_t change, void *userdata)
{
        RWLock l;
        Mutex m;

        if (at >= offsetof(Mutex, owner) && at - offsetof(Mutex, owner) + sizeof(m) <= n) {
                memcpy(&m, bytes + at - offsetof(Mutex, owner), sizeof(m));
                if (is_held_mutex(&m)) {
                        if (m.kind & KIND_INHERIT) /* for the kernel, which knows of no waiter yet: each of them enters its call again */
                                change(at - offsetof(Mutex, owner), (uint32_t) pair->now | (m.lock & FUTEX_WAITERS), userdata);
                        change(at, (uint32_t) pair->now, userdata);
                        return 1;
                }
        }
        if (at >= offsetof(RWLock, writer) && at - offsetof(RWLock, writer) + sizeof(l) <= n) {
                memcpy(&l, bytes + at - offsetof(RWLock, writer), sizeof(l));
                if (is_written_rwlock(&l)) {
                        change(at, (uint32_t) pair->now, userdata);
                        return 1;
                }
        }

        return 0;
}

unsigned owners_scan(const uint8_t *bytes, size_t n, const OwnerPair *pairs, size_t n_pairs, owners_change_t change, void *userdata)
{
        uint32_t least = UINT32_MAX, most = 0;
        unsigned found = 0;

        for (size_t k = 0; k < n_pairs; k++) {
                least = MIN(least, (uint32_t) pairs[k].before);
                most = MAX(most, (uint32_t) pairs[k].before);
        }

        /* Both kinds have the ID in the first half of a word of 8 bytes. */
        for (size_t at = 0; at + sizeof(uint64_t) <= n; at += sizeof(uint64_t)) {
                const OwnerPair *pair;
                uint32_t id;

                memcpy(&id, bytes + at, sizeof(id));
                if (id < least || id > most)
                        continue;
                pair = find(pairs, n_pairs, id);
                if (pair)
                        found += look_at(bytes, n, at, pair, change, userdata);
        }

        return found;
}

typedef struct Hand {
        pid_t pid;
        int pagemap;
        const OwnerPair *pairs;
        size_t n_pairs, looked_at;
        uint64_t at; /* address of what is looked at */
        unsigned found;
        int error;
        uint8_t *buffer; /* of WINDOW + PAGE bytes */
} Hand;

static void change_word(size_t offset, uint32_t value, void *userdata)
{
        Hand *h = userdata;
        const struct iovec local = {.iov_base = &value, .iov_len = sizeof(value)};
        const struct iovec remote = {.iov_base = (void *) (uintptr_t) (h->at + offset), .iov_len = sizeof(value)};

        if (process_vm_writev(h->pid, &local, 1, &remote, 1, 0) != sizeof(value))
                h->error = -errno;
}

/* Pages that are there, one behind the other: at most a window. Locks that lie across the end of a window are found with the page more. */
static int look_at_run(Hand *h, uint64_t start, uint64_t end)
{
        h->looked_at += end - start;
        if (h->looked_at > LOOKED_AT_MAX)
                return -E2BIG;
        if (memory_read(h->pid, start, h->buffer, end - start) < 0)
                return 0; /* what cannot be read, nobody can lock */
        h->at = start;
        h->found += owners_scan(h->buffer, end - start, h->pairs, h->n_pairs, change_word, h);
        return h->error;
}

/* Documentation/admin-guide/mm/pagemap.rst: bit 63 for in memory, 62 for swapped out. */
static bool is_there(uint64_t entry)
{
        return entry >> 62 != 0;
}

static int look_at_mapping(Hand *h, uint64_t start, uint64_t end)
{
        uint64_t entries[WINDOW / PAGE];

        for (uint64_t at = start; at < end; at += WINDOW) {
                const size_t n = (size_t) (MIN(end - at, (uint64_t) WINDOW) / PAGE);

                if (pread(h->pagemap, entries, n * sizeof(entries[0]), (off_t) (at / PAGE * sizeof(entries[0]))) != (ssize_t) (n * sizeof(entries[0])))
                        return -EIO;
                for (size_t k = 0, first; k < n; k++) {
                        int r;

                        if (!is_there(entries[k]))
                                continue;
                        for (first = k; k < n && is_there(entries[k]);)
                                k++;
                        /* One page more where it goes on: what begins in this window and ends in the next. */
                        r = look_at_run(h, at + first * PAGE, MIN(end, at + k * PAGE + (k == n ? PAGE : 0)));
                        if (r < 0)
                                return r;
                }
        }

        return 0;
}

int owners_hand_over(pid_t pid, const OwnerPair *pairs, size_t n_pairs)
{
        g_autofree char *maps_path = g_strdup_printf("/proc/%d/maps", (int) pid);
        _cleanup_close_ int pagemap = memory_open_file(pid, "pagemap", O_RDONLY);
        g_autofree uint8_t *buffer = g_malloc(WINDOW + PAGE);
        g_autofree char *maps = NULL;
        Hand h = {.pid = pid, .pagemap = pagemap, .pairs = pairs, .n_pairs = n_pairs, .buffer = buffer};

        for (size_t k = 0; k < n_pairs; k++)
                if (pairs[k].before < OWNER_ID_MIN)
                        return -EDOM;
        if (pagemap < 0)
                return pagemap;
        if (!g_file_get_contents(maps_path, &maps, NULL, NULL))
                return -ESRCH;

        for (const char *line = maps; line && *line; line = strchr(line, '\n'), line += line != NULL) {
                uint64_t start, end;
                char permissions[5];
                int r = 0;

                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, permissions) == 3 && permissions[1] == 'w' && permissions[3] == 'p')
                        r = look_at_mapping(&h, start, end);
                if (r < 0)
                        return r;
        }

        return (int) h.found;
}
