/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "daemon/error.h"
#include "daemon/spec-fds.h"
#include "daemon/spec-scope.h"

/*
 * What is asked: the options of CloneFull(), ClonePIDFD() and Submit(), decoded and validated, with no side effect.
 */

typedef enum CloneTrigger {
        CLONE_TRIGGER_IMMEDIATE, /* "immediate": at once, also in the middle of a call or of a computation */
        CLONE_TRIGGER_SYSCALL,   /* "syscall": at the target's next system call, before its service routine runs */
        _CLONE_TRIGGER_MAX,
} CloneTrigger;

typedef enum CloneParent {
        CLONE_PARENT_SHARED, /* "shared": the target's parent, the clone becomes a sibling */
        CLONE_PARENT_DAEMON, /* "daemon": remforkd follows the clone and reports its exit status */
        _CLONE_PARENT_MAX,
} CloneParent;

typedef enum CloneThreads {
        CLONE_THREADS_ALL,    /* "all": each thread of the target is in the clone, as it was at one instant */
        CLONE_THREADS_CALLER, /* "caller": as after fork(2): the clone has the main thread alone, the others are not stopped */
        _CLONE_THREADS_MAX,
} CloneThreads;

typedef enum CloneEngine {
        CLONE_ENGINE_AUTO, /* the kernel engine where the running kernel has remfork(2), else ptrace */
        CLONE_ENGINE_KERNEL,
        CLONE_ENGINE_PTRACE,
        _CLONE_ENGINE_MAX,
} CloneEngine;

/* Which open file descriptions the clone has for itself instead of sharing them with the target. */
typedef enum CloneIsolate {
        CLONE_ISOLATE_NONE,  /* "none": as after a fork */
        CLONE_ISOLATE_FILES, /* "files": regular files and directories are opened again */
        CLONE_ISOLATE_ALL,   /* "all": and whatever else the target could notice the clone by */
        _CLONE_ISOLATE_MAX,
} CloneIsolate;

#define CLONE_COUNT_MAX 1000U
#define CLONE_TIMEOUT_MAX_USEC (UINT64_C(3600) * 1000000)

typedef struct CloneSpec {
        CloneTrigger trigger;
        CloneParent parent;
        CloneEngine engine;
        CloneThreads threads;
        bool session;          /* each clone leads a session of its own */
        bool stopped;          /* the clones are left stopped, as by SIGSTOP, before their first instruction */
        uint32_t count;        /* 1..CLONE_COUNT_MAX clones of one instant */
        uint64_t timeout_usec; /* from the request's admission to its end; 0: the daemon's default */
        CloneIsolate isolate;
        bool tree;             /* the target with all its descendants; count is 1 then */
        bool same_pids;        /* in a new PID namespace, with the numbers of the sources; count is 1 then */
        uint32_t tree_max;     /* with tree: how many processes it may have; set by the daemon, no option */
        bool notes;            /* somebody can read what the clones could not be given */
        CloneFds *fds;         /* descriptors to be replaced or closed in the clones; NULL: none */
        CloneScope *scope;     /* the unit that the clones are put into before they run; NULL: none, they stay in the target's */
        uint64_t stop_timeout_usec; /* how long the target may take to stop; 0: 2 s */
} CloneSpec;

#define CLONE_SPEC_DEFAULT ((CloneSpec){.count = 1})

/* Frees what @spec holds and makes it the default. */
void spec_clear(CloneSpec *spec);

#define _cleanup_spec_ __attribute__((cleanup(spec_clear)))

/* -EINVAL for what is no engine's name. */
int spec_engine_from_string(const char *name);

/*
 * Reads the options (an a{sv} that is next in @message) over the defaults. On an error @ret is as it was, else it
 * is to be cleared with spec_clear(): -EINVAL for a key that is unknown, given twice, of another type or out of range, -EOPNOTSUPP for one that this version does not serve yet;
 * @error names key, value and what was expected. -EBADMSG where @message is not as its signature says.
 */
int spec_read(sd_bus_message *message, CloneSpec *ret, CloneError *error);
