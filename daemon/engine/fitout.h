/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/engine.h"
#include "daemon/engine/puppet.h"

/*
 * What held clones are given or relieved of before they run: the descriptors that the request passes, and their own open files
 * where the request isolates them. What needs the targets' state at the instant of the clone is prepared before and taken at
 * it; the work itself is done in the clones, while the targets run again.
 *
 * There is one target, or several that are cloned at one instant and belong together, the members. The request's session is the
 * first member's.
 */
typedef struct Fitout Fitout;

struct Timers;

/* What the engine does by itself, and what it can. */
typedef enum FitoutFlags {
        FITOUT_PASSES_FDS = 1 << 0,  /* it replaces the descriptors of spec->fds */
        FITOUT_ASKS_TIMERS = 1 << 1, /* it can have the target tell what is left of its timers */
        FITOUT_TELLS_TIMERS = 1 << 2, /* it knows them all, once there is a clone */
} FitoutFlags;

/*
 * Looks at the @n @targets, whose @statuses were read, and of which each gets the descriptors that one of @fds says (NULL: none); they
 * run, or stand still already. Targets, descriptors, @spec and @handler must outlive the fitout. NULL in
 * @ret where the clones are complete as the engine makes them; never with FITOUT_TELLS_TIMERS.
 */
int fitout_new(Fitout **ret, Target *const *targets, const TargetStatus *const *statuses, const CloneFds *const *fds, size_t n,
                const CloneSpec *spec, const EngineHandler *handler, FitoutFlags flags, CloneError *error);
Fitout *fitout_free(Fitout *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fitout, fitout_free)

/*
 * A target's timers, for the engine to ask for what is left of them at the instant; NULL where there is nothing to ask. With
 * FITOUT_TELLS_TIMERS: for it to fill, with timers that are known.
 */
struct Timers *fitout_timers(Fitout *f, size_t member);

/* Is there something to be done in one of the clones? With FITOUT_TELLS_TIMERS not known before they are told. */
bool fitout_is_needed(const Fitout *f);

/* Is there in the clone of this member, beside arming its timers, which may be missing? */
bool fitout_has_work(const Fitout *f, size_t member);

/* At the instant, the targets being stopped; an engine that does not stop it calls this right before and right after. */
void fitout_capture(Fitout *f);

/* A held clone, in which all signals are blocked; as in Puppet. */
typedef struct FitoutMember {
        Tracee *tracee;
        int pidfd;
        struct user_regs_struct base;
        uint64_t syscall_at;
        const char *obstacle; /* why nothing can be done in it, where nothing but its timers is to be: it goes without; NULL for none */
} FitoutMember;

/*
 * Completes held clones, one of each target and in the same order, once for each such set. They are left stopped at the end of a
 * call, with registers and mask not restored. On an error they are of no use.
 */
int fitout_apply(Fitout *f, const FitoutMember *clones, size_t n, CloneError *error);
