/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-event.h>

#include "daemon/queue.h"

/*
 * The clones that are alive. Those that count against their user's limit are known until their pidfd says that they ended; of the
 * others (the superuser may make any number, and must not use up the daemon's descriptors) only PID and start time are kept, and
 * they are looked at when somebody asks. They are written to a file, so that a daemon that ended, in whatever way, and comes
 * again knows them (but for clones of the very instant at which it was killed: they are written down when they run). Nothing
 * else of a request outlives the daemon.
 */
typedef struct Live Live;

/* What is known of a clone, and of how it came to be. */
typedef struct LiveClone {
        pid_t pid;
        uint64_t start_time; /* clock ticks since boot, field 22 of /proc/PID/stat: with the PID it names the process for ever */
        pid_t source;
        uid_t uid;        /* of whoever asked */
        uint64_t request; /* 0: of a daemon before this one, whose requests are gone */
        bool followed;    /* parent "daemon": its exit will be told */
} LiveClone;

/* A clone ended. */
typedef void (*LiveEnded)(void *userdata);

/*
 * @directory: where the file is, NULL for none; what another daemon left there is read, and counted in @queue, which is
 * borrowed. Allocates only, 0: what cannot be read or written is logged, and the daemon serves without it.
 */
int live_new(Live **ret, sd_event *event, Queue *queue, const char *directory, LiveEnded ended, void *userdata);
Live *live_free(Live *l); /* the file stays */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Live, live_free)

/* @n clones of @sources were made; @pidfds are borrowed. Of @what all is taken but the PIDs and the start time. */
void live_add(Live *l, const LiveClone *what, const pid_t *sources, const int *pidfds, size_t n);

/* How many there are that count against a limit. */
unsigned live_count(const Live *l);

/* All that are alive, the oldest first: LiveClone, in an array that the caller frees. */
GArray *live_list(Live *l);
