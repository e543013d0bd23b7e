/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

typedef struct Context {
        pid_t pid;             /* the target's, not its clones' */
        long timeout_msec;     /* negative: none */
        struct timespec timeout;
        int fd, other_fd;      /* what the call waits on, and what ends the waiting */
        unsigned *word;        /* shared memory, for futexes */
        unsigned long aio;     /* an aio_context_t */
        int ipc_id;
} Context;

typedef struct Call {
        const char *name;
        const char *end;  /* what ends it: "time", "helper", "signal" */
        const char *rest; /* what a clone must see: "exact" time, "again" (the whole timeout anew), "same", or an errno's name */
        long (*call)(Context *c);
        void (*setup)(Context *c);
        void (*release)(Context *c);   /* in the helper, again and again */
        const sigset_t *(*mask)(void); /* blocked besides, before the call */
} Call;

extern const Call calls[];
extern const size_t n_calls;
