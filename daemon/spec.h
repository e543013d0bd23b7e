/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

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
