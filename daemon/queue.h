/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/conf.h"
#include "daemon/error.h"

/*
 * Who may ask how much, and whose turn it is. Knows nothing of the bus, of processes or of time (the caller passes it in).
 *
 * Users are served in turn, the requests of one user in the order in which they came, except that one whose target is
 * being cloned already is passed over. The superuser is exempt from the limits that are per user: a script of the
 * administrator's that clones in a loop is no attack, and who is root needs no daemon to fill the machine. The limit on
 * all waiting requests, and QUEUE_RUNNING_MAX, hold for everyone.
 */
typedef struct Queue Queue;

#define QUEUE_RUNNING_MAX 32 /* requests that run at one time, each a worker process */

typedef enum QueueState {
        QUEUE_STATE_NONE,     /* not in a queue */
        QUEUE_STATE_ADMITTED, /* holds its place, is not ready: authorisation is under way */
        QUEUE_STATE_WAITING,
        QUEUE_STATE_RUNNING,
} QueueState;

/* Embedded in what is queued; the first three are set by the owner and stay as they are while it is in a queue. */
typedef struct QueueItem {
        uid_t uid;
        pid_t target;   /* of a process that is pinned, so that the number is its own */
        uint32_t count; /* clones asked for */

        QueueState state;
        uint64_t order; /* of arrival */
        GList link;
} QueueItem;

/* @conf is borrowed and may change under the queue; what is in already stays in. */
int queue_new(Queue **ret, const Conf *conf);
Queue *queue_free(Queue *q); /* must be empty */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Queue, queue_free)

/*
 * NONE -> ADMITTED, where the limits allow it at @now (microseconds of CLOCK_MONOTONIC); else -ENOBUFS (LimitsExceeded) with
 * @error naming the limit, and nothing is counted.
 */
int queue_admit(Queue *q, QueueItem *item, uint64_t now, CloneError *error);

void queue_ready(Queue *q, QueueItem *item);   /* ADMITTED -> WAITING */
void queue_unready(Queue *q, QueueItem *item); /* RUNNING -> ADMITTED: it must be authorised anew */
QueueItem *queue_next(Queue *q);               /* WAITING -> RUNNING of whose turn it is; NULL where none may run now */
void queue_remove(Queue *q, QueueItem *item);  /* any -> NONE */

/* A clone made for @uid began, ended. */
void queue_live_add(Queue *q, uid_t uid);
void queue_live_remove(Queue *q, uid_t uid);

/* Whether the live clones of @uid are counted at all. */
bool queue_counts_live(const Queue *q, uid_t uid);

unsigned queue_length(const Queue *q);  /* admitted, waiting and running */
unsigned queue_running(const Queue *q);
