/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "daemon/spec-scope.h"

/*
 * Puts processes into a scope of the system's service manager: StartTransientUnit() of org.freedesktop.systemd1, without waiting
 * for it. systemd moves them before it says that its job is done.
 *
 * Nothing has to be undone where it is given up: a scope whose processes have ended ends with them, one whose processes ended before
 * they were moved is not started.
 */
typedef struct Scope Scope;

/* The processes that are to be in it; they must not run before ScopeDone. */
typedef struct ScopeMembers {
        const pid_t *pids;
        const int *pidfds;
        size_t n;
} ScopeMembers;

/* @r: 0 where all are in the scope, else a negative errno with @error filled. The scope is freed when this returns. */
typedef void (*ScopeDone)(int r, const CloneError *error, void *userdata);

/*
 * Starts a scope named @name as @what says; @description is its Description= unless @what has one. What is pointed to is borrowed for
 * the call. 0: @done is called later, never from here. Negative: @error is filled.
 */
int scope_start(Scope **ret, sd_bus *bus, const char *name, const char *description, const CloneScope *what,
                const ScopeMembers *members, ScopeDone done, void *userdata, CloneError *error);

/* Gives it up; @done is not called. NULL is fine. */
Scope *scope_free(Scope *s);
