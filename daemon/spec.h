/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "daemon/error.h"

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

typedef enum CloneEngine {
        CLONE_ENGINE_AUTO, /* the kernel engine where the running kernel has remfork(2), else ptrace */
        CLONE_ENGINE_KERNEL,
        CLONE_ENGINE_PTRACE,
        _CLONE_ENGINE_MAX,
} CloneEngine;

#define CLONE_COUNT_MAX 1000U
#define CLONE_TIMEOUT_MAX_USEC (UINT64_C(3600) * 1000000)

typedef struct CloneSpec {
        CloneTrigger trigger;
        CloneParent parent;
        CloneEngine engine;
        bool stopped;          /* the clones are left stopped, as by SIGSTOP, before their first instruction */
        uint32_t count;        /* 1..CLONE_COUNT_MAX clones of one instant */
        uint64_t timeout_usec; /* from the request's admission to its end; 0: the daemon's default */
        uint64_t stop_timeout_usec; /* how long the target may take to stop; 0: 2 s */
} CloneSpec;

#define CLONE_SPEC_DEFAULT ((CloneSpec){.count = 1})

/* -EINVAL for what is no engine's name. */
int spec_engine_from_string(const char *name);

/*
 * Reads the options (an a{sv} that is next in @message) over the defaults. On an error @ret is as it was: -EINVAL for a key
 * that is unknown, given twice, of another type or out of range, -EOPNOTSUPP for one that this version does not serve yet;
 * @error names key, value and what was expected. -EBADMSG where @message is not as its signature says.
 */
int spec_read(sd_bus_message *message, CloneSpec *ret, CloneError *error);
