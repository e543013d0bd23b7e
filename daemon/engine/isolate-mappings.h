/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/isolate-internal.h"
#include "daemon/engine/isolate-shared.h"

/* The shared memory of all the held clones, for isolate-memory.c and isolate-memfds.c. */
typedef struct Mappings {
        GArray *list;        /* SharedMapping, by member */
        GArray *rows;        /* Row of each: the mappings of the same object */
        GHashTable *objects; /* "DEVICE:INODE", place + 1 of the first mapping */
} Mappings;

#define MAPPING_AT(t, k) (&g_array_index((t)->list, SharedMapping, (k)))
#define MAPPING_ROW(t, k) (&g_array_index((t)->rows, Row, (k)))
#define FOR_EACH_OF_OBJECT(t, n, k) for (size_t n = MAPPING_ROW(t, k)->first; n != ROW_END; n = MAPPING_ROW(t, n)->next)

int mappings_read(Isolation *i, Mappings *ret);
void mappings_clear(Mappings *t);
#define _cleanup_mappings_ __attribute__((cleanup(mappings_clear)))

/* Of the object behind a descriptor. */
char *mappings_id_of(const OpenFile *f);

/* The place of a mapping of the memfd @f, ROW_END for none. */
size_t mappings_find(const Mappings *t, const OpenFile *f);

/* Notes that the object of mapping @k stays what it is, in all of its mappings. */
void mappings_leave(Isolation *i, const Mappings *t, size_t k, const char *reason);

/* Of mmap(2). */
int mapping_prot(const SharedMapping *m);

/* Could its process make it writable by mprotect(2), or is it already? */
bool mapping_may_write(Isolation *i, const SharedMapping *m);

/*
 * The object that is mapped there in process @pid. It takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (fs/proc/base.c: proc_map_files_get_link());
 * negative errno.
 */
int mapping_open(const SharedMapping *m, pid_t pid, int flags);

/* "DEVICE:INODE" of the object, to be freed. */
char *mapping_id(const SharedMapping *m);

typedef enum Lending {
        LEND_READING,
        LEND_WRITING,
        LEND_MAX,
} Lending;

/*
 * Lends the clones, one after the other, descriptors of an object of memory to map it by. Whoever may trace a clone may take them:
 * so one that may not write to an object is only lent what it can be read by.
 */
typedef struct Lender {
        Isolation *isolation;
        int ours[LEND_MAX]; /* owned; negative where there is none */
        unsigned member;    /* who has them now */
        int there[LEND_MAX];
} Lender;

#define LENDER_INIT(i) {.isolation = (i), .ours = {-EBADF, -EBADF}, .there = {-EBADF, -EBADF}}

/* Maps the object where @m is, in place of what is there. */
int lender_map(Lender *l, const SharedMapping *m, Lending how);

/* Takes back what was lent last. */
int lender_end(Lender *l);

void lender_clear(Lender *l);
#define _cleanup_lender_ __attribute__((cleanup(lender_clear)))

/* isolate-memfds.c: descriptors and mappings of memfds; what is done with is marked in both. */
int isolate_memfds(Isolation *i, Mappings *t);
