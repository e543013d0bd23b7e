/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/inject.h"
#include "daemon/engine/thread-info.h"
#include "daemon/engine/tracee.h"

/*
 * The threads of a target beside the main one. They are seized while they run, stopped together with it, read, asked for what
 * only they can tell, and let go. If this process is killed at any point each of them goes on by itself.
 */
typedef struct Thread {
        Tracee tracee;
        ThreadInfo info;
        Instant instant; /* its cave has room for a call from threads_ask() on */
        uint8_t *xstate; /* NT_X86_XSTATE */
        size_t xstate_size;
        stack_t altstack;
        uint64_t clear_tid; /* the address of set_tid_address(2), 0 for none */
        uint64_t answer;    /* where in its memory it writes what it is asked */
        uint8_t spare[32];  /* what was there */
        bool stopped;
        bool taken;   /* registers and all that a stop shows are here */
        bool altered; /* mask and registers are to be given back */
        bool asked;   /* they were, after a call */
} Thread;

typedef struct Threads {
        Target *target;
        const EngineHandler *handler;
        ThreadInfo main_info;
        GPtrArray *list; /* of Thread, owned */
        GArray *caves;   /* of uint64_t: places for code, ARCH_GADGET_SIZE bytes each */
        GArray *scratch; /* of uint64_t: places for answers, THREADS_ANSWER_SIZE bytes each */
} Threads;

#define THREADS_ANSWER_SIZE 32U

void threads_init(Threads *t, Target *target, const EngineHandler *handler);

/* Frees what @t owns; a thread that is still traced goes on when this process ends. */
void threads_clear(Threads *t);

/*
 * Takes hold of all threads there are now but the main one, and looks for room in the memory of which @maps is the map.
 * -EOPNOTSUPP or -EBUSY, with @error naming the thread, where one cannot be cloned.
 */
int threads_seize(Threads *t, const char *maps, CloneError *error);

/* Asks all to stop, without waiting for it. */
void threads_interrupt(const Threads *t);

/*
 * Waits until all threads stand still, also those that were started meanwhile; the main one must be stopped already.
 * -ETIMEDOUT (Timeout) after @timeout_usec; -EAGAIN (Changed) where one called execve().
 */
int threads_stop(Threads *t, uint64_t timeout_usec, CloneError *error);

/* Reads registers, vector registers, mask, restartable sequence, robust list and thread ID of all; @cave is the main thread's. */
int threads_take(Threads *t, uint64_t cave, CloneError *error);

/*
 * Has each thread tell its alternate signal stack and, where the C library does not show it, its clear_child_tid address. The
 * main thread's place at @cave must be free again. Not what is under seccomp and cannot be freed of it: that is noted.
 */
int threads_ask(Threads *t, uint64_t cave, int memory, CloneError *error);

/* Whether one of those that are held was under seccomp when it was last looked at. */
bool threads_under_seccomp(const Threads *t);

/* Lets all go on as they were. */
void threads_release(Threads *t);
