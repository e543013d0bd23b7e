/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "daemon/error.h"
#include "daemon/spec.h"
#include "daemon/target.h"

/*
 * The one door between the daemon and both engines. An engine runs in a worker: a process of its own, used for one request,
 * that may block and may be killed with SIGKILL at any instruction. Whatever is killed, the target goes on as if nothing
 * had happened and no clone is left that was not reported.
 *
 * All clones of a request are made and held before the first instruction of any of them, then handed over with
 * held(), then let go together: all or none.
 */
typedef struct EngineHandler {
        /* The target does not run from now on until clone() lets it go: the time to set a limit. NULL where there is none. */
        void (*stopped)(void *userdata);

        /* The target, of which stopped() told, runs again. NULL where nobody needs to know. */
        void (*resumed)(void *userdata);

        /*
         * Called once with a process that can neither exec nor change its IDs and is what is cloned: the stopped target,
         * or a held clone of it that has not run yet. 0: go on; a negative errno, with @error filled: give up, the target
         * goes on untouched and no clone is left. Must not block. NULL where the right does not depend on the target.
         */
        int (*judge)(Target *target, void *userdata, CloneError *error);

        /*
         * The same for each other process of a tree, called with the process itself, which is stopped; not NULL where spec->tree
         * is set.
         */
        int (*judge_member)(Target *member, void *userdata, CloneError *error);

        /*
         * All @n clones exist and are held; @pids are as this process sees them, @pidfds are borrowed. @sources are what each is a
         * clone of, the target's first; NULL where all are the target's. A negative errno: they are destroyed. Whoever is told must destroy them itself if the worker ends before clone() returned 0.
         */
        int (*held)(const pid_t *pids, const int *pidfds, const pid_t *sources, size_t n, void *userdata, CloneError *error);

        /* Something that the clone could not be given; one sentence. */
        void (*note)(const char *text, void *userdata);

        /* A clone of parent "daemon" ended; @code and @status as si_code and si_status of sigaction(2). */
        void (*exited)(pid_t pid, int code, int status, void *userdata);

        void *userdata;
} EngineHandler;

typedef struct EngineResult {
        uint64_t pause_nsec; /* how long the target did not run, as the engine saw it (CLOCK_MONOTONIC) */
} EngineResult;

typedef struct Engine {
        const char *name; /* "kernel", "ptrace" */

        /* 0 where the running kernel and this process's capabilities allow it; else a negative errno, with @error filled. */
        int (*probe)(CloneError *error);

        /*
         * Clones @target as @spec says. 0, or a negative errno with @error filled. On 0 the clones run (or are stopped, where
         * @spec asks for it).
         */
        int (*clone)(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error);

        /*
         * Only after a clone() with CLONE_PARENT_DAEMON: blocks until all clones have ended and tells each by
         * handler->exited(). If this process is killed meanwhile, the clones go on unwatched.
         */
        int (*watch)(const EngineHandler *handler, CloneError *error);
} Engine;

extern const Engine engine_kernel;

/* The size in bytes of the largest struct remfork_args that the running kernel takes, 0 where it has no remfork(2). */
uint32_t engine_kernel_interface(void);
extern const Engine engine_ptrace;

/*
 * What no engine clones: kernel threads, what has ended, what another process traces, and the init of a PID namespace where
 * its parent is to be shared. 0, or a negative errno with @error filled.
 */
int engine_check_status(const Target *target, const TargetStatus *status, const CloneSpec *spec, CloneError *error);

/* What no engine does for spec->tree. The daemon has refused it before. 0, or a negative errno with @error filled. */
int engine_check_tree(const CloneSpec *spec, CloneError *error);

/* How long a target may be stopped, or take to stop, in microseconds: what is asked for, or 2 s. */
uint64_t engine_stop_timeout_usec(const CloneSpec *spec);

/* The engine that serves @choice on this machine; -EOPNOTSUPP, with @error filled, where there is none. */
int engine_choose(CloneEngine choice, const Engine **ret, CloneError *error);
