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
                if (m->held.pids[i] <= 0)
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
        else
                good = m.type != WORKER_EXITED || m.exited.pid > 0;
        if (!good)
                return -EBADMSG;

        *ret = m;
        return 0;
}

int worker_message_send(int fd, const WorkerMessage *message, const int *fds, size_t n_fds)
{
        struct iovec iov = {(void *) message, worker_message_size(message->type)};
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

int worker_message_receive(int fd, WorkerMessage *ret, int *fds, size_t *ret_n_fds)
{
        WorkerMessage packet;
        struct iovec iov = {&packet, sizeof(packet)};
        Control control = {};
        struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        size_t n_fds = 0;
        ssize_t n;
        int r;

        n = RETRY_EINTR(recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
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

        r = header.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EBADMSG : worker_message_parse(&packet, (size_t) n, n_fds, ret);
        if (r < 0) {
                for (size_t i = 0; i < n_fds; i++)
                        safe_close(fds[i]);
                return r;
        }

        *ret_n_fds = n_fds;
        return 1;
}
