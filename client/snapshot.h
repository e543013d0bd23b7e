/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <sys/types.h>

#include "client/choose.h"
#include "client/verb.h"

/* A stopped clone that is there to be looked at, and ends with this. */
typedef struct Snapshot {
        uint32_t source;
        pid_t pid; /* 0: none */
        int pidfd;
} Snapshot;

#define SNAPSHOT_INIT ((Snapshot){.pidfd = -EBADF})

/* Makes a stopped clone of @pid; notes go to stderr unless @quiet. Every error is told. */
ClientExit snapshot_make(uint32_t pid, bool ask_password, bool quiet, Snapshot *ret);

/* Ends the clone. */
void snapshot_clear(Snapshot *s);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Snapshot, snapshot_clear)
