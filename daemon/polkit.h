/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-bus.h>

#include "daemon/peer.h"

/*
 * The part of the authorisation that is polkit's. It is asked without being waited for; what it grants for a while is
 * remembered for the connection. Absent, erring, slow and silent polkit is a denial.
 */
typedef struct Polkit Polkit;

/* A question under way. */
typedef struct PolkitCheck PolkitCheck;

/* @r: 0 where polkit allows it, else a negative errno with @error filled. The check is freed when this returns. */
typedef void (*PolkitDone)(int r, const CloneError *error, void *userdata);

typedef struct PolkitQuestion {
        AuthorizeClass class;    /* not AUTHORIZE_SUPERUSER */
        const Target *target;    /* borrowed for the call; NULL for AUTHORIZE_MANAGE_REQUESTS */
        const Credentials *credentials; /* of @target; may be NULL where that is */
        bool interactive;        /* the caller allows that its user is asked for a password */
} PolkitQuestion;

int polkit_new(Polkit **ret, sd_bus *bus, Peers *peers);
Polkit *polkit_free(Polkit *p); /* no check may be under way */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Polkit, polkit_free)

/*
 * 1: it is known that polkit allows it. 0: it is being asked, and @done is called later, never from here; *@ret is the
 * check, @peer must live as long as it. Negative: it cannot be asked, @error is filled.
 */
int polkit_ask(Polkit *p, Peer *peer, const PolkitQuestion *question, PolkitDone done, void *userdata, PolkitCheck **ret,
                CloneError *error);

/* Takes the question back, also from a user who is being asked for a password; @done is not called. NULL is fine. */
PolkitCheck *polkit_check_free(PolkitCheck *c);
