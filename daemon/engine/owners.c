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

#include "daemon/engine/cave.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/owners.h"
#include "daemon/util.h"

#define PAGE 4096U
#define WINDOW (1024U * 1024U)
#define LOOKED_AT_MAX (256U * 1024U * 1024U) /* bytes that are there */
#define MAPPING_MAX (UINT64_C(16) << 30) /* what is larger is an area in which little is used, a sanitizer's shadow: to learn what would take minutes */
#define FILES_MAX 512U /* whose variables are told from other memory */
#define STACK_LOOKED_AT (256U * 1024U)
#define PART_MAX 256U       /* how far into an object its lock may lie */
#define CANDIDATES_MAX 4096U /* more are no locks */

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

static unsigned look_at(const uint8_t *bytes, size_t n, size_t at, const OwnerPair *pair, owners_found_t found, void *userdata)
{
        RWLock l;
        Mutex m;

        if (at >= offsetof(Mutex, owner) && at - offsetof(Mutex, owner) + sizeof(m) <= n) {
                OwnedLock lock = {.begin = at - offsetof(Mutex, owner), .holder = pair->now, .n_words = 1, .words = {{at, (uint32_t) pair->now}}};

                memcpy(&m, bytes + lock.begin, sizeof(m));
                if (is_held_mutex(&m)) {
                        if (m.kind & KIND_INHERIT) /* for the kernel, which knows of no waiter yet: each of them enters its call again */
                                lock.words[lock.n_words++] = (OwnedWord){lock.begin, (uint32_t) pair->now | (m.lock & FUTEX_WAITERS)};
                        found(&lock, userdata);
                        return 1;
                }
        }
        if (at >= offsetof(RWLock, writer) && at - offsetof(RWLock, writer) + sizeof(l) <= n) {
                const OwnedLock lock = {.begin = at - offsetof(RWLock, writer), .holder = pair->now, .n_words = 1, .words = {{at, (uint32_t) pair->now}}};

                memcpy(&l, bytes + lock.begin, sizeof(l));
                if (is_written_rwlock(&l)) {
                        found(&lock, userdata);
                        return 1;
                }
        }

        return 0;
}

unsigned owners_scan(const uint8_t *bytes, size_t n, const OwnerPair *pairs, size_t n_pairs, owners_found_t found, void *userdata)
{
        uint32_t least = UINT32_MAX, most = 0;
        unsigned n_found = 0;

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
                        n_found += look_at(bytes, n, at, pair, found, userdata);
        }

        return n_found;
}

/* What looks like a lock, and whether anything else says that it is one. */
typedef struct Candidate {
        uint64_t address, stack; /* where the stack of its holder begins, 0 where it cannot be told */
        OwnedLock lock;
        bool confirmed;
} Candidate;

typedef struct Hand {
        pid_t pid;
        int pagemap;
        const OwnerPair *pairs;
        size_t n_pairs, looked_at;
        GArray *candidates;
        uint64_t at; /* address of what is looked at */
        void (*look)(struct Hand *h, size_t n);
        uint8_t *buffer; /* of WINDOW + PAGE bytes */
} Hand;

static void add_candidate(const OwnedLock *lock, void *userdata)
{
        Hand *h = userdata;
        const Candidate c = {.address = h->at + lock->begin, .lock = *lock};

        for (guint i = h->candidates->len; i-- > 0;) /* in the page that two windows have */
                if (g_array_index(h->candidates, Candidate, i).address == c.address)
                        return;
        if (h->candidates->len < CANDIDATES_MAX)
                g_array_append_val(h->candidates, c);
}

static void look_for_locks(Hand *h, size_t n)
{
        (void) owners_scan(h->buffer, n, h->pairs, h->n_pairs, add_candidate, h);
}

/* Words that point to a candidate: to its begin, wherever the word is; on the stack of its holder also to what it may be a part of. */
static void look_for_pointers(Hand *h, size_t n)
{
        const guint n_candidates = h->candidates->len;
        uint64_t least = UINT64_MAX, most = 0;

        for (guint i = 0; i < n_candidates; i++) {
                least = MIN(least, g_array_index(h->candidates, Candidate, i).address - PART_MAX);
                most = MAX(most, g_array_index(h->candidates, Candidate, i).address);
        }
        for (size_t at = 0; at + sizeof(uint64_t) <= n; at += sizeof(uint64_t)) {
                uint64_t word;

                memcpy(&word, h->buffer + at, sizeof(word));
                if (word < least || word > most)
                        continue;
                for (guint i = 0; i < n_candidates; i++) {
                        Candidate *c = &g_array_index(h->candidates, Candidate, i);
                        const bool on_stack = c->stack != 0 && h->at + at - c->stack < STACK_LOOKED_AT;

                        c->confirmed |= word == c->address || (on_stack && word <= c->address && c->address - word <= PART_MAX);
                }
        }
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
        h->look(h, end - start);
        return 0;
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

/* With @look at all private memory of the process. */
static int look_at_all(Hand *h, const char *maps, void (*look)(Hand *h, size_t n))
{
        h->look = look;
        h->looked_at = 0;
        for (const char *line = maps; line && *line; line = strchr(line, '\n'), line += line != NULL) {
                uint64_t start, end;
                char permissions[5];
                int r;

                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, permissions) != 3)
                        continue;
                if (permissions[1] != 'w' || permissions[3] != 'p' || end - start > MAPPING_MAX)
                        continue;
                r = look_at_mapping(h, start, end);
                if (r < 0)
                        return r;
        }

        return 0;
}

/* What lies among a file's variables. A mapping does not tell: that of zeroed ones grows together with others. */
static void confirm_variables(Hand *h, const char *maps)
{
        uint64_t ranges[FILES_MAX][2];
        int n = cave_find_variable_ranges(maps, h->pid, ranges, FILES_MAX);

        for (guint i = 0; i < h->candidates->len; i++) {
                Candidate *c = &g_array_index(h->candidates, Candidate, i);

                for (int k = 0; k < n && !c->confirmed; k++)
                        c->confirmed = c->address >= ranges[k][0] && c->address < ranges[k][1];
        }
}

/* proc(5), /proc/PID/syscall of one that waits: "... SP PC". 0 where it cannot be read. */
static uint64_t stack_of(pid_t pid, const char *tid)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/task/%s/syscall", (int) pid, tid), *text = NULL;
        g_auto(GStrv) words = NULL;
        guint n;

        if (!g_file_get_contents(path, &text, NULL, NULL))
                return 0;
        words = g_strsplit(g_strchomp(text), " ", -1);
        n = g_strv_length(words);
        return n >= 3 ? g_ascii_strtoull(words[n - 2], NULL, 16) : 0;
}

/* The threads have the IDs of their own namespace in @pairs: the last in the list of each one's IDs. */
static void find_stacks(Hand *h)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/task", (int) h->pid);
        g_autoptr(GDir) directory = g_dir_open(path, 0, NULL);
        const char *name;

        while (directory && (name = g_dir_read_name(directory))) {
                g_autofree char *status_path = g_strdup_printf("%s/%s/status", path, name), *status = NULL;
                const char *ids, *last;
                pid_t own;

                if (!g_file_get_contents(status_path, &status, NULL, NULL) || !(ids = strstr(status, "\nNSpid:")))
                        continue;
                for (last = ids + strcspn(ids + 1, "\n"); !g_ascii_isspace(*last);)
                        last--;
                own = (pid_t) strtol(last, NULL, 10);
                for (guint i = 0; i < h->candidates->len; i++) {
                        Candidate *c = &g_array_index(h->candidates, Candidate, i);

                        if (c->lock.holder == own && c->stack == 0)
                                c->stack = stack_of(h->pid, name);
                }
        }
}

static int change_words(const Hand *h, const Candidate *c)
{
        for (size_t i = 0; i < c->lock.n_words; i++) {
                const OwnedWord *w = c->lock.words + i;
                const uint64_t address = c->address + (w->at - c->lock.begin);
                const struct iovec local = {.iov_base = (void *) &w->value, .iov_len = sizeof(w->value)};
                const struct iovec remote = {.iov_base = (void *) (uintptr_t) address, .iov_len = sizeof(w->value)};

                if (process_vm_writev(h->pid, &local, 1, &remote, 1, 0) != sizeof(w->value))
                        return -errno;
        }

        return 0;
}

static bool all_confirmed(const Hand *h)
{
        for (guint i = 0; i < h->candidates->len; i++)
                if (!g_array_index(h->candidates, Candidate, i).confirmed)
                        return false;
        return true;
}

int owners_hand_over(pid_t pid, const OwnerPair *pairs, size_t n_pairs)
{
        g_autofree char *maps_path = g_strdup_printf("/proc/%d/maps", (int) pid);
        _cleanup_close_ int pagemap = memory_open_file(pid, "pagemap", O_RDONLY);
        g_autoptr(GArray) candidates = g_array_new(FALSE, FALSE, sizeof(Candidate));
        g_autofree uint8_t *buffer = g_malloc(WINDOW + PAGE);
        g_autofree char *maps = NULL;
        Hand h = {.pid = pid, .pagemap = pagemap, .pairs = pairs, .n_pairs = n_pairs, .candidates = candidates, .buffer = buffer};
        int found = 0, r;

        for (size_t k = 0; k < n_pairs; k++)
                if (pairs[k].before < OWNER_ID_MIN)
                        return -EDOM;
        if (pagemap < 0)
                return pagemap;
        if (!g_file_get_contents(maps_path, &maps, NULL, NULL))
                return -ESRCH;

        r = look_at_all(&h, maps, look_for_locks);
        if (r >= 0 && candidates->len > 0)
                confirm_variables(&h, maps);
        if (r >= 0 && !all_confirmed(&h)) {
                find_stacks(&h);
                r = look_at_all(&h, maps, look_for_pointers);
        }
        for (guint i = 0; r >= 0 && i < candidates->len; i++) {
                const Candidate *c = &g_array_index(candidates, Candidate, i);

                if (c->confirmed)
                        r = change_words(&h, c);
                found += c->confirmed;
        }

        return r < 0 ? r : found;
}
