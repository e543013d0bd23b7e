/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-bus.h>

#include "daemon/authorize.h"

/*
 * The connections to the bus that asked for something: who they are, and when they leave. Credentials of a connection
 * never change on the bus, so it is asked once for each connection, and never waited for.
 */
typedef struct Peers Peers;

/* What polkit granted to a connection for a while; see polkit.c. */
typedef struct Grant {
        AuthorizeClass class;
        uid_t target_uid;
        FileIdentity target_user_namespace;
        pid_t target; /* a rule may decide on it, or on its program: the answer is for this process alone */
        uint64_t target_start_time;
        FileIdentity target_program;
        uint64_t until; /* CLOCK_MONOTONIC, microseconds */
} Grant;

#define PEER_GRANTS_MAX 8

typedef struct Peer {
        Peers *peers;
        char *name; /* unique name on the bus */
        bool ready;
        Requester requester;
        unsigned n_uses; /* requests that point here; it is not evicted meanwhile */
        Grant grants[PEER_GRANTS_MAX];
        unsigned n_grants;

        sd_bus_slot *match, *call;
        GQueue calls; /* method calls that wait for it to be ready */
} Peer;

/* Tells that @peer left the bus; it is freed after this returns, so what points to it must be gone by then. */
typedef void (*PeerLost)(Peer *peer, void *userdata);

int peers_new(Peers **ret, sd_bus *bus, const Host *host, PeerLost lost, void *userdata);
Peers *peers_free(Peers *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Peers, peers_free)

/*
 * The sender of @message. 1: @ret is ready. 0: the bus is being asked; @handler runs again with @message and @userdata when
 * the answer is there, or @message is answered with AccessDenied. Negative: -ENOBUFS (LimitsExceeded) where too many
 * wait, -EACCES for a message that no bus brought; @error is filled.
 */
int peers_get(Peers *p, sd_bus_message *message, sd_bus_message_handler_t handler, void *userdata, Peer **ret,
                CloneError *error);

/* Whether a call waits for the bus's answer. */
bool peers_are_busy(const Peers *p);

/* Forgets all grants. */
void peers_drop_grants(Peers *p);
