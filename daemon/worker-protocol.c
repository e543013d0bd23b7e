/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/error.h"
#include "daemon/spec.h"
#include "daemon/util.h"
#include "daemon/worker-protocol.h"

#define SIZE_UP_TO(member) (offsetof(WorkerMessage, member) + sizeof(((WorkerMessage *) NULL)->member))

typedef union Control {
        struct cmsghdr header;
        char buffer[CMSG_SPACE(sizeof(int) * WORKER_HELD_MAX)];
} Control;

size_t worker_message_size(uint32_t type)
{
        switch (type) {
        case WORKER_NOTE:
                return SIZE_UP_TO(note);
        case WORKER_HELD:
                return SIZE_UP_TO(held);
        case WORKER_RELEASED:
                return SIZE_UP_TO(released);
        case WORKER_ERROR:
                return SIZE_UP_TO(error);
        case WORKER_EXITED:
                return SIZE_UP_TO(exited);
        default:
                return 0;
        }
}

/* Makes @text, which must end within WORKER_TEXT_MAX, fit for D-Bus and for one line. */
static bool clean_text(char text[static WORKER_TEXT_MAX])
{
        const char *end;

        if (!memchr(text, '\0', WORKER_TEXT_MAX) || text[0] == '\0')
                return false;

        while (!g_utf8_validate(text, -1, &end))
                text[end - text] = '?';
        for (char *p = text; *p; p++)
                if (g_ascii_iscntrl(*p))
                        *p = '?';
        return true;
}

static bool check_held(const WorkerMessage *m, size_t n_fds)
{
        if (m->held.total < 1 || m->held.total > CLONE_COUNT_MAX || m->held.n < 1 || m->held.n > WORKER_HELD_MAX ||
            m->held.n > m->held.total || m->held.n != n_fds)
                return false;

        for (uint32_t i = 0; i < m->held.n; i++)
                if (m->held.pids[i] <= 0 || m->held.sources[i] <= 0)
                        return false;
        return true;
}

int worker_message_parse(const void *packet, size_t size, size_t n_fds, WorkerMessage *ret)
{
        WorkerMessage m = {};
        uint32_t type;
        bool good;

        if (size < sizeof(type))
                return -EBADMSG;
        memcpy(&type, packet, sizeof(type));
        if (size != worker_message_size(type)) /* no packet is empty, so an unknown type fails here */
                return -EBADMSG;
        memcpy(&m, packet, size);
        if (m.reserved != 0)
                return -EBADMSG;

        if (m.type == WORKER_HELD)
                good = check_held(&m, n_fds);
        else if (n_fds > 0)
                good = false;
        else if (m.type == WORKER_NOTE)
                good = clean_text(m.note.text);
        else if (m.type == WORKER_ERROR)
                good = m.error.code > CLONE_ERROR_NONE && m.error.code < _CLONE_ERROR_MAX && m.error.error_number > 0 &&
                       m.error.error_number < 4096 && clean_text(m.error.text);
        else if (m.type == WORKER_RELEASED)
                good = m.released.again <= 1 && m.released.zero == 0;
        else
                good = m.type != WORKER_EXITED || m.exited.pid > 0;
        if (!good)
                return -EBADMSG;

        *ret = m;
        return 0;
}

int worker_packet_send(int fd, const void *data, size_t size, const int *fds, size_t n_fds)
{
        struct iovec iov = {(void *) data, size};
        struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
        Control control = {};

        if (n_fds > 0) {
                struct cmsghdr *c = &control.header;

                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
                header.msg_control = &control;
                header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        }

        return RETRY_EINTR(sendmsg(fd, &header, MSG_NOSIGNAL)) < 0 ? -errno : 0;
}

int worker_packet_receive(int fd, void *data, size_t size, bool nonblocking, size_t *ret_size, int *fds, size_t *ret_n_fds)
{
        struct iovec iov = {data, size};
        Control control = {};
        struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        size_t n_fds = 0;
        ssize_t n;

        n = RETRY_EINTR(recvmsg(fd, &header, (nonblocking ? MSG_DONTWAIT : 0) | MSG_CMSG_CLOEXEC));
        if (n < 0)
                return -errno;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
                        size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

                        memcpy(fds + n_fds, CMSG_DATA(c), k * sizeof(int));
                        n_fds += k; /* one header is all that fits into the buffer */
                }

        if (n == 0 && n_fds == 0)
                return 0;

        if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
                for (size_t i = 0; i < n_fds; i++)
                        safe_close(fds[i]);
                /* All that can be sent fits into the buffer: descriptors are dropped where there is no room for them here. */
                return header.msg_flags & MSG_TRUNC ? -EBADMSG : -EMFILE;
        }

        *ret_size = (size_t) n;
        *ret_n_fds = n_fds;
        return 1;
}

int worker_message_send(int fd, const WorkerMessage *message, const int *fds, size_t n_fds)
{
        return worker_packet_send(fd, message, worker_message_size(message->type), fds, n_fds);
}

int worker_message_receive(int fd, WorkerMessage *ret, int *fds, size_t *ret_n_fds)
{
        WorkerMessage packet;
        size_t size, n_fds;
        int r;

        r = worker_packet_receive(fd, &packet, sizeof(packet), true, &size, fds, &n_fds);
        if (r <= 0)
                return r;

        r = worker_message_parse(&packet, size, n_fds, ret);
        if (r < 0) {
                for (size_t i = 0; i < n_fds; i++)
                        safe_close(fds[i]);
                return r;
        }

        *ret_n_fds = n_fds;
        return 1;
}

int worker_go_send(int fd)
{
        return worker_packet_send(fd, &(char){'g'}, 1, NULL, 0);
}

int worker_go_receive(int fd)
{
        char go;
        ssize_t n = RETRY_EINTR(recv(fd, &go, sizeof(go), 0));

        return n < 0 ? -errno : n == 0 ? -EPIPE : 0;
}
