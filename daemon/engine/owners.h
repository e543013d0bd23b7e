/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Locks that remember the ID of the thread that holds them: recursive, error-checking and priority-inheriting mutexes, and
 * read-write locks that are held for writing. In a copy of a process the threads have new IDs, so that each would wait for a lock
 * that it holds itself, or take it for another's. So what a thread held at the instant is made its copy's.
 *
 * No list has these locks: they are found by their looks. All of what glibc (since 2.25) keeps in such a lock must be as it is in
 * one that is held, down to the zeros, and by a thread of the process; where IDs are small numbers, as in a container that has few
 * processes, nothing is done, as memory may hold those for many reasons.
 *
 * Looks are not enough: a compiler that numbers its nodes has some that look so, and a changed number breaks the clone. So
 * something else must say that it is a lock: it lies among a file's variables, some word of the process points to its begin, or its holder
 * has on its stack a pointer to what it may be a part of.
 */
typedef struct OwnerPair {
        pid_t before, now; /* as the process sees them itself */
} OwnerPair;

/* IDs below are too likely as plain numbers. */
#define OWNER_ID_MIN 300

typedef struct OwnedWord {
        size_t at;      /* offset in what was looked at */
        uint32_t value; /* what it is to be */
} OwnedWord;

/* What looks like a lock that is held. */
typedef struct OwnedLock {
        size_t begin;
        pid_t holder; /* its new ID */
        size_t n_words;
        OwnedWord words[2];
} OwnedLock;

/* Looks at @n bytes, a multiple of 8, and calls @found for each. Returns how many there are. */
typedef void (*owners_found_t)(const OwnedLock *lock, void *userdata);
unsigned owners_scan(const uint8_t *bytes, size_t n, const OwnerPair *pairs, size_t n_pairs, owners_found_t found, void *userdata);

/*
 * Hands over all in the private memory of process @pid, none of whose threads runs. The number of locks, or a negative errno; -E2BIG
 * where it has more memory than is looked at, and -EDOM where an ID is below OWNER_ID_MIN.
 */
int owners_hand_over(pid_t pid, const OwnerPair *pairs, size_t n_pairs);
