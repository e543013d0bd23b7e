/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "daemon/engine/isolate-internal.h"
#include "daemon/util.h"

static int option(const OpenFile *f, int name)
{
        int value = 0;
        socklen_t n = sizeof(value);

        return getsockopt(f->copy, SOL_SOCKET, name, &value, &n) < 0 ? -errno : value;
}

/* Neither connected nor bound: nobody can know of it. */
static bool is_fresh(const OpenFile *f, int domain)
{
        struct sockaddr_storage address = {};
        socklen_t n = sizeof(address);

        if (domain == AF_NETLINK || domain == AF_PACKET || getpeername(f->copy, (struct sockaddr *) &address, &n) == 0)
                return false;

        n = sizeof(address);
        address = (struct sockaddr_storage){};
        if (getsockname(f->copy, (struct sockaddr *) &address, &n) < 0)
                return false;
        if (domain == AF_UNIX)
                return n <= sizeof(sa_family_t);
        for (size_t k = sizeof(sa_family_t); k < n; k++) /* port and address are 0 where it is not bound */
                if (((const char *) &address)[k] != 0)
                        return false;
        return true;
}

/* Reads find the end, writes give EPIPE: a stream's peer that has closed. SEQPACKET does the same where records are expected. */
static long make_dead(Puppet *p, int type, int flags)
{
        int pair[2];
        long r;

        r = puppet_call(p, SYS_socketpair, AF_UNIX, (uint64_t) ((type == SOCK_STREAM ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC | flags), 0,
                        p->page);
        if (r >= 0)
                r = puppet_read(p, p->page, pair, sizeof(pair));
        if (r >= 0)
                r = puppet_call(p, SYS_close, (uint64_t) pair[1]);
        return r < 0 ? r : pair[0];
}

static int replace_socket(Isolation *i, size_t k)
{
        const OpenFile *f = FILE_AT(i, k), *first = isolation_first(i, f);
        Puppet *p = isolation_puppet(i, f->member);
        int domain = option(first, SO_DOMAIN), type = option(first, SO_TYPE), flags = f->flags & O_NONBLOCK;
        long fd = -EINVAL;

        if (is_fresh(first, domain))
                fd = puppet_call(p, SYS_socket, (uint64_t) domain, (uint64_t) (type | SOCK_CLOEXEC | flags), (uint64_t) option(first, SO_PROTOCOL));
        if (fd < 0 && fd != -ESRCH) /* also where its own rights would not make such a socket any more */
                fd = make_dead(p, type, flags);
        return fd < 0 ? (int) fd : isolation_install(i, f->member, k, (int) fd);
}

/*
 * A socket of the clone's network namespace to ask the kernel for the ends of its UNIX sockets by; -EPROTONOSUPPORT and the like
 * where the kernel has no unix_diag.
 */
static int open_diag(Isolation *i, unsigned member)
{
        Puppet *p = isolation_puppet(i, member);
        long fd, r;
        int ours;

        if (MEMBER_AT(i, member)->diag != -EAGAIN)
                return MEMBER_AT(i, member)->diag;

        fd = puppet_call(p, SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
        if (fd < 0)
                return MEMBER_AT(i, member)->diag = (int) fd;
        ours = puppet_take(p, (int) fd);
        r = puppet_call(p, SYS_close, (uint64_t) fd);
        if (r < 0) {
                safe_close(ours);
                return (int) r;
        }
        return MEMBER_AT(i, member)->diag = ours;
}

/* The inode of the other end, 0 where there is none or it is not told: sock_diag(7). */
static uint32_t peer_of(int diag, ino_t inode)
{
        struct {
                struct nlmsghdr header;
                struct unix_diag_req request;
        } ask = {
                .header = {.nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
                .request = {.sdiag_family = AF_UNIX,
                                .udiag_states = UINT32_MAX,
                                .udiag_ino = (uint32_t) inode,
                                .udiag_show = UDIAG_SHOW_PEER,
                                .udiag_cookie = {UINT32_MAX, UINT32_MAX}},
        };
        struct nlmsghdr answer[256];
        ssize_t n;

        if (send(diag, &ask, sizeof(ask), 0) < 0)
                return 0;
        n = recv(diag, answer, sizeof(answer), MSG_DONTWAIT); /* the kernel has answered when send() returns */
        if (n < (ssize_t) NLMSG_LENGTH(sizeof(struct unix_diag_msg)) || answer->nlmsg_type != SOCK_DIAG_BY_FAMILY)
                return 0;

        n = (ssize_t) answer->nlmsg_len - (ssize_t) NLMSG_LENGTH(sizeof(struct unix_diag_msg));
        for (struct rtattr *a = (struct rtattr *) ((struct unix_diag_msg *) NLMSG_DATA(answer) + 1); RTA_OK(a, n); a = RTA_NEXT(a, n))
                if (a->rta_type == UNIX_DIAG_PEER)
                        return *(uint32_t *) RTA_DATA(a);
        return 0;
}

/* What was on its way to file @k at the instant, written into the other end, @other in the clone. */
static void fill(Isolation *i, Puppet *p, size_t k, int other, int type)
{
        const OpenFile *f = FILE_AT(i, k), *first = isolation_first(i, f);
        _cleanup_close_ int to = puppet_take(p, other);
        gsize size = 0;
        const char *data = first->waiting ? g_bytes_get_data(first->waiting, &size) : NULL;
        gsize missing = size + (gsize) first->unread;
        int waiting = 0;
        ssize_t n;

        if (data) {
                n = send(to, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
                missing -= (gsize) MAX(n, 0);
        }
        if (missing > 0)
                isolation_note_file(i, f, "%zu bytes in flight%s are missing in the clone's own socket", missing,
                                first->unread > 0 ? ", and descriptors that are passed with them," : "");
        if ((type != SOCK_STREAM || first->unpeekable || !first->sampled) && ioctl(first->copy, FIONREAD, &waiting) == 0 && waiting > 0)
                isolation_note_file(i, f, "messages in flight are missing in the clone's own socket%s",
                                first->unpeekable ? ", as SO_PEEK_OFF is set, so that looking at them would be noticed" : "");
}

/* Both ends, of which the clones have descriptors, become the ends of a new pair. */
static int replace_pair(Isolation *i, size_t a, size_t b)
{
        const size_t which[2] = {a, b};
        const unsigned maker = FILE_AT(i, a)->member;
        Puppet *p = isolation_puppet(i, maker);
        int type = option(isolation_first(i, FILE_AT(i, a)), SO_TYPE), pair[2];
        long r;

        r = puppet_call(p, SYS_socketpair, AF_UNIX, (uint64_t) (type | SOCK_CLOEXEC), 0, p->page);
        if (r >= 0)
                r = puppet_read(p, p->page, pair, sizeof(pair));
        for (unsigned k = 0; r >= 0 && k < 2; k++)
                fill(i, p, which[k], pair[1 - k], type);
        for (unsigned k = 0; r >= 0 && k < 2; k++) {
                r = puppet_call(p, SYS_fcntl, (uint64_t) pair[k], F_SETFL, (uint64_t) (FILE_AT(i, which[k])->flags & O_NONBLOCK));
                if (r >= 0)
                        r = isolation_install(i, maker, which[k], pair[k]);
        }
        return r < 0 ? (int) r : 0;
}

/* Of the UNIX sockets that are to be replaced, by inode: place + 1 of a descriptor. */
static GHashTable *list_unix(Isolation *i)
{
        GHashTable *sockets = g_hash_table_new(NULL, NULL);

        for (guint k = 0; k < i->files->len; k++) {
                const OpenFile *f = FILE_AT(i, k);

                if (!f->done && f->kind == OPEN_SOCKET && option(isolation_first(i, f), SO_DOMAIN) == AF_UNIX)
                        g_hash_table_insert(sockets, GUINT_TO_POINTER((guint) f->st.st_ino), GUINT_TO_POINTER(k + 1));
        }

        return sockets;
}

/* Place + 1 of the other end of file @k, whose other end that is in turn, which a datagram socket's need not be; 0 for none. */
static guint find_peer(Isolation *i, GHashTable *sockets, size_t k)
{
        const OpenFile *f = FILE_AT(i, k), *other;
        guint b = GPOINTER_TO_UINT(g_hash_table_lookup(sockets, GUINT_TO_POINTER(peer_of(MEMBER_AT(i, f->member)->diag, f->st.st_ino))));

        if (b == 0)
                return 0;
        other = FILE_AT(i, b - 1);
        if (other->done || other->same.first == f->same.first || open_diag(i, other->member) < 0 ||
            peer_of(MEMBER_AT(i, other->member)->diag, other->st.st_ino) != (uint32_t) f->st.st_ino)
                return 0;
        return b;
}

/* UNIX sockets of which the clones have both ends. */
static int isolate_pairs(Isolation *i)
{
        g_autoptr(GHashTable) sockets = list_unix(i);

        for (guint a = 0; a < i->files->len; a++) {
                const OpenFile *f = FILE_AT(i, a);
                guint b;
                int diag, r;

                if (f->done || f->kind != OPEN_SOCKET || !g_hash_table_contains(sockets, GUINT_TO_POINTER((guint) f->st.st_ino)))
                        continue;
                diag = open_diag(i, f->member);
                if (diag == -ESRCH || diag == -EMFILE)
                        return diag;
                if (diag < 0) /* each end is then one whose other end is outside */
                        continue;

                b = find_peer(i, sockets, a);
                if (b == 0)
                        continue;
                r = replace_pair(i, a, b - 1);
                if (r < 0)
                        return r;
        }

        return 0;
}

int isolate_sockets(Isolation *i)
{
        int r = isolate_pairs(i);

        for (guint k = 0; r >= 0 && k < i->files->len; k++) {
                const OpenFile *f = FILE_AT(i, k);

                if (f->done || f->kind != OPEN_SOCKET || option(isolation_first(i, f), SO_ACCEPTCONN) > 0) /* listening: the kernel balances */
                        continue;
                r = replace_socket(i, k);
        }

        return r;
}
