/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "daemon/error.h"

#define SCOPE_PROPERTIES_MAX 32U

/* A property of a scope unit, as systemd has it on the bus. */
typedef struct ScopeProperty {
        const char *name; /* static: of the table of those that are served */
        char type;        /* of D-Bus: 's', 't', 'u', 'i' or 'b' */
        uint64_t number;  /* all but 's' */
        char *text;       /* 's', owned */
} ScopeProperty;

/* The systemd scope that the clones of a request are to be in before they run. */
typedef struct CloneScope {
        bool wanted;  /* option scope was given; else the others are a mistake */
        char *name;   /* with ".scope"; NULL: one of the daemon's making */
        char *slice;  /* with ".slice"; NULL: systemd's default, system.slice */
        ScopeProperty properties[SCOPE_PROPERTIES_MAX];
        size_t n_properties;
} CloneScope;

/*
 * Each reads the value of one option, which is next in @message, into *@scope, which is made where it is NULL; @key is its name.
 * -EINVAL, with @error filled: what is no name of such a unit, a property that is unknown, of another type or given twice, too many.
 * Values are systemd's to judge, when the scope is started. -EBADMSG where @message is not as its signature says.
 */
int clone_scope_read_name(CloneScope **scope, const char *key, sd_bus_message *message, CloneError *error);
int clone_scope_read_slice(CloneScope **scope, const char *key, sd_bus_message *message, CloneError *error);
int clone_scope_read_properties(CloneScope **scope, const char *key, sd_bus_message *message, CloneError *error);

/* When all options are read: -EINVAL, with @error filled, where slice or properties are there and no scope is asked for. */
int clone_scope_check(const CloneScope *scope, CloneError *error);

/* NULL is fine; returns NULL. */
CloneScope *clone_scope_free(CloneScope *scope);
