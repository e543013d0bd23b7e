/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/bus-util.h"
#include "daemon/log.h"
#include "daemon/peer.h"
#include "daemon/util.h"

/*
 * Whose connection it is, is not known before the bus answers, so that nothing can be counted by user until then. But the bus
 * lets one user have 256 connections (max_connections_per_user), which leaves room for others; and it takes 512
 * match rules of this daemon (max_match_rules_per_connection), of which each peer needs one.
 */
#define PEERS_MAX 448U
#define CALLS_MAX 64U /* of one peer, waiting for the bus's answer */
#define BUS_TIMEOUT_USEC (UINT64_C(5) * 1000000)

struct Peers {
        sd_bus *bus;
        const Host *host;
        PeerLost lost;
        void *userdata;
        GHashTable *by_name; /* name -> Peer */
        unsigned n_calls;
};

/* A method call to be run again. */
typedef struct Call {
        sd_bus_message *message;
        sd_bus_message_handler_t handler;
        void *userdata;
} Call;

/* What the bus says of a connection. */
typedef struct BusCredentials {
        bool has_uid, has_label, confined;
        uint32_t uid, pid;
        int pidfd; /* borrowed from the message, -EBADF where there is none */
        const gid_t *groups;
        size_t n_groups;
} BusCredentials;

static void call_free(Call *c)
{
        sd_bus_message_unref(c->message);
        g_free(c);
}

static void peer_free(void *p)
{
        Peer *peer = p;
        Call *c;

        while ((c = g_queue_pop_head(&peer->calls))) {
                peer->peers->n_calls--;
                call_free(c);
        }

        sd_bus_slot_unref(peer->match);
        sd_bus_slot_unref(peer->call);
        g_free(peer->name);
        g_free(peer);
}

int peers_new(Peers **ret, sd_bus *bus, const Host *host, PeerLost lost, void *userdata)
{
        Peers *p = g_new0(Peers, 1);

        p->bus = sd_bus_ref(bus);
        p->host = host;
        p->lost = lost;
        p->userdata = userdata;
        p->by_name = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, peer_free);

        *ret = p;
        return 0;
}

Peers *peers_free(Peers *p)
{
        if (!p)
                return NULL;

        g_hash_table_unref(p->by_name);
        sd_bus_unref(p->bus);
        g_free(p);
        return NULL;
}

static int on_name_owner_changed(sd_bus_message *message, void *userdata, sd_bus_error *unused)
{
        Peer *peer = userdata;
        Peers *p = peer->peers;
        const char *name, *old, *new;

        if (sd_bus_message_read(message, "sss", &name, &old, &new) < 0 || strcmp(name, peer->name) != 0 || new[0])
                return 0;

        p->lost(peer, p->userdata);
        g_hash_table_remove(p->by_name, name);
        return 0;
}

static int read_groups(sd_bus_message *message, BusCredentials *ret)
{
        const void *groups;
        size_t size;
        int r;

        r = sd_bus_message_read_array(message, 'u', &groups, &size);
        if (r < 0)
                return r;

        ret->groups = groups;
        ret->n_groups = size / sizeof(uint32_t);
        return 0;
}

/* An AppArmor or SELinux label, with or without a NUL behind it. */
static int read_label(sd_bus_message *message, BusCredentials *ret)
{
        const void *label;
        size_t size;
        int r;

        r = sd_bus_message_read_array(message, 'y', &label, &size);
        if (r < 0)
                return r;

        ret->has_label = true;
        ret->confined = label_is_confined(label, size);
        return 0;
}

static int read_credential(sd_bus_message *message, const char *key, BusCredentials *ret)
{
        int r;

        if (strcmp(key, "UnixUserID") == 0) {
                ret->has_uid = true;
                return sd_bus_message_read(message, "v", "u", &ret->uid);
        }
        if (strcmp(key, "ProcessID") == 0)
                return sd_bus_message_read(message, "v", "u", &ret->pid);
        if (strcmp(key, "ProcessFD") == 0)
                return sd_bus_message_read(message, "v", "h", &ret->pidfd);

        if (strcmp(key, "UnixGroupIDs") != 0 && strcmp(key, "LinuxSecurityLabel") != 0)
                return sd_bus_message_skip(message, "v");

        r = sd_bus_message_enter_container(message, 'v', key[0] == 'U' ? "au" : "ay");
        if (r < 0)
                return r;
        r = key[0] == 'U' ? read_groups(message, ret) : read_label(message, ret);
        if (r < 0)
                return r;
        return sd_bus_message_exit_container(message);
}

static int read_bus_credentials(sd_bus_message *message, BusCredentials *ret)
{
        BusCredentials c = {.pidfd = -EBADF};
        const char *key;
        int r;

        r = sd_bus_message_enter_container(message, 'a', "{sv}");
        if (r < 0)
                return r;

        while ((r = sd_bus_message_enter_container(message, 'e', "sv")) > 0) {
                r = sd_bus_message_read_basic(message, 's', &key);
                if (r < 0)
                        return r;
                r = read_credential(message, key, &c);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(message);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;
        if (!c.has_uid)
                return -ENODATA;

        *ret = c;
        return 0;
}

/* A requester of which only the user is known may still ask polkit, so that a failure here is none. */
static void fill_requester(Peer *peer, const BusCredentials *c)
{
        g_autoptr(Target) process = NULL;
        Credentials credentials;
        int r;

        if (c->pidfd >= 0)
                r = target_new_from_pidfd(&process, c->pidfd, NULL);
        else
                r = c->pid > 0 && c->pid <= INT32_MAX ? target_new(&process, (pid_t) c->pid, NULL) : -ESRCH;

        if (r >= 0)
                r = target_read_credentials(process, peer->peers->host->user_namespace, &credentials);

        requester_fill(c->uid, c->groups, c->n_groups, r < 0 ? NULL : &credentials, c->pidfd >= 0, &peer->requester);
        peer->requester.pid = process ? target_pid(process) : 0;
        /*
         * The bus has a label where the socket has one (SO_PEERSEC), which AppArmor gives none up to Linux 6.12 at least
         * (sk_peer_label() of security/apparmor/lsm.c). So its absence says nothing, and the process is looked at.
         */
        peer->requester.confined = c->has_label ? c->confined : r < 0 || target_is_confined(process);
        log_debug("%s is user %" PRIu32 ", process %" PRIu32 "%s%s", peer->name, c->uid, c->pid,
                        peer->requester.known ? "" : ", of which nothing is certain",
                        peer->requester.confined ? ", confined" : "");
        if (r < 0)
                log_debug("The credentials of %s cannot be read: %s", peer->name, g_strerror(-r));
}

static void refuse_calls(Peer *peer, const char *reason)
{
        Call *c;

        while ((c = g_queue_pop_head(&peer->calls))) {
                _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;

                peer->peers->n_calls--;
                clone_error_set(&error, CLONE_ERROR_ACCESS_DENIED, 0, "Who asks cannot be found out: %s", reason);
                bus_reply_error(c->message, &error);
                call_free(c);
        }
}

static int on_credentials(sd_bus_message *reply, void *userdata, sd_bus_error *unused)
{
        Peer *peer = userdata;
        Peers *p = peer->peers;
        BusCredentials credentials;
        Call *c;
        int r;

        peer->call = sd_bus_slot_unref(peer->call);

        if (sd_bus_message_is_method_error(reply, NULL)) {
                refuse_calls(peer, sd_bus_message_get_error(reply)->message);
                g_hash_table_remove(p->by_name, peer->name);
                return 0;
        }

        r = read_bus_credentials(reply, &credentials);
        if (r < 0) {
                refuse_calls(peer, g_strerror(-r));
                g_hash_table_remove(p->by_name, peer->name);
                return 0;
        }

        fill_requester(peer, &credentials);
        peer->ready = true;

        peer->n_uses++; /* a handler may ask for another peer, which may evict one */
        while ((c = g_queue_pop_head(&peer->calls))) {
                p->n_calls--;
                (void) c->handler(c->message, c->userdata, NULL); /* handlers reply themselves */
                call_free(c);
        }
        peer->n_uses--;
        return 0;
}

static int peer_new(Peers *p, const char *name, Peer **ret)
{
        g_autofree char *match = NULL;
        Peer *peer = g_new0(Peer, 1);
        int r;

        peer->peers = p;
        peer->name = g_strdup(name);
        g_queue_init(&peer->calls);

        match = g_strdup_printf("type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                                "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='%s'",
                        name);

        /* First the match: a connection that is gone before the second call arrives is an error of that call. */
        r = sd_bus_add_match_async(p->bus, &peer->match, match, on_name_owner_changed, NULL, peer);
        if (r >= 0) {
                _cleanup_bus_message_ sd_bus_message *m = NULL;

                r = sd_bus_message_new_method_call(p->bus, &m, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                "org.freedesktop.DBus", "GetConnectionCredentials");
                if (r >= 0)
                        r = sd_bus_message_append(m, "s", name);
                if (r >= 0)
                        r = sd_bus_call_async(p->bus, &peer->call, m, on_credentials, peer, BUS_TIMEOUT_USEC);
        }
        if (r < 0) {
                peer_free(peer);
                return r;
        }

        g_hash_table_insert(p->by_name, peer->name, peer);
        *ret = peer;
        return 0;
}

/* Makes room for one more; false where all are in use. */
static bool evict_one(Peers *p)
{
        GHashTableIter i;
        void *value;

        g_hash_table_iter_init(&i, p->by_name);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                Peer *peer = value;

                if (peer->ready && peer->n_uses == 0) {
                        g_hash_table_iter_remove(&i);
                        return true;
                }
        }

        return false;
}

int peers_get(Peers *p, sd_bus_message *message, sd_bus_message_handler_t handler, void *userdata, Peer **ret,
                CloneError *error)
{
        const char *name = sd_bus_message_get_sender(message);
        Peer *peer;
        Call *c;
        int r;

        if (!name)
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, 0, "The request has no sender");

        peer = g_hash_table_lookup(p->by_name, name);
        if (peer && peer->ready) {
                *ret = peer;
                return 1;
        }

        if (peer && peer->calls.length >= CALLS_MAX)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0,
                                "%u calls of this connection wait to be looked at already", peer->calls.length);

        if (!peer) {
                if (g_hash_table_size(p->by_name) >= PEERS_MAX && !evict_one(p))
                        return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0,
                                        "%u connections have requests under way already", PEERS_MAX);

                r = peer_new(p, name, &peer);
                if (r < 0)
                        return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, -r, "Who asks cannot be found out: %s",
                                        g_strerror(-r));
        }

        c = g_new(Call, 1);
        *c = (Call){sd_bus_message_ref(message), handler, userdata};
        g_queue_push_tail(&peer->calls, c);
        p->n_calls++;
        return 0;
}

bool peers_are_busy(const Peers *p)
{
        return p->n_calls > 0;
}

void peers_drop_grants(Peers *p)
{
        GHashTableIter i;
        void *peer;

        g_hash_table_iter_init(&i, p->by_name);
        while (g_hash_table_iter_next(&i, NULL, &peer))
                ((Peer *) peer)->n_grants = 0;
}
