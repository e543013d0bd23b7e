/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/fitout.h"
#include "daemon/engine/inject.h"
#include "daemon/engine/ptrace-threads.h"
#include "daemon/engine/tracee.h"

/*
 * The clones of one request, held before their first instruction. Until clones_release() they die with this process
 * (PTRACE_O_EXITKILL); one that was born and is not held yet ends itself (arch_build_gadget()).
 *
 * The first is made in the target; the others are copies of the first, so that the target's pause is that of one clone.
 */
typedef struct Clones {
        const Instant *instant; /* borrowed */
        const EngineHandler *handler;
        pid_t target;
        Tracee *tracees;
        pid_t *pids;
        int *pidfds;
        size_t n;
        bool bare;               /* no call is run in them once they are complete */
        const Threads *threads;  /* those of the target beside the main one; borrowed, NULL for none */
        GPtrArray *family;       /* of Clones, with these: all that are held at the same time; borrowed, NULL for these alone */
        GArray *strangers;       /* of pid_t: what else this process may be told the end of; borrowed, NULL for none */
        GArray *thread_tracees;  /* of Tracee: those of clone 0 in the order of @threads, of clone 1, ... */
} Clones;

void clones_init(Clones *c, const Instant *instant, const EngineHandler *handler, pid_t target);

/* Takes hold of the clone that the target, traced as @parent before, has made. */
int clones_adopt_first(Clones *c, const Tracee *parent, CloneError *error);

/* Gives the first what a fork leaves out, and makes the other spec->count - 1. */
int clones_complete(Clones *c, const CloneSpec *spec, CloneError *error);

/*
 * Waits for a new task, made by a call that one of the clones or the target ran: its PID in *@ret. -ESRCH where one that is held
 * was killed.
 */
int clones_wait_for_new(const Clones *c, pid_t *ret);

/* Completes each as @fitout says. */
int clones_fit(Clones *c, Fitout *fitout, CloneError *error);

/* Lets all go, or stops them as SIGSTOP does; with @watch they stay traced, for clones_watch(). */
int clones_release(Clones *c, bool watch, bool stopped, CloneError *error);

/* Kills all that are held and waits for their end. */
void clones_kill(Clones *c);

/* Frees what @c owns; the clones live on. */
void clones_clear(Clones *c);

/* Engine.watch. */
int clones_watch(const EngineHandler *handler, CloneError *error);
