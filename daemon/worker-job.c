/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>

#include "daemon/util.h"
#include "daemon/worker-job.h"
#include "daemon/worker-protocol.h"

/* The descriptors that go with a job, in this order; then those of Packet.fds that are there. */
enum { FD_PIDFD, FD_PROCFD, _FD_MAX };

G_STATIC_ASSERT(_FD_MAX + CLONE_FDS_MAX <= WORKER_HELD_MAX);

typedef struct Packet {
        WorkerJob job; /* without what it points to */
        pid_t pid;
        CloneFds fds; /* with the numbers that the descriptors have in the daemon */
} Packet;

int worker_job_send(int fd, const WorkerJob *job)
{
        int fds[_FD_MAX + CLONE_FDS_MAX] = {[FD_PIDFD] = target_pidfd(job->target), [FD_PROCFD] = target_procfd(job->target)};
        Packet packet = {.job = *job, .pid = target_pid(job->target)};
        size_t n = _FD_MAX;

        packet.job.target = NULL;
        packet.job.spec.fds = NULL;
        packet.job.spec.scope = NULL; /* none of the worker's business */
        if (job->spec.fds)
                packet.fds = *job->spec.fds;
        for (size_t i = 0; i < packet.fds.n; i++)
                if (packet.fds.items[i].fd >= 0)
                        fds[n++] = packet.fds.items[i].fd;

        return worker_packet_send(fd, &packet, sizeof(packet), fds, n);
}

/* Puts what came in @fds in the places of what was sent. The number that should have come. */
static size_t take_fds(Packet *packet, const int *fds)
{
        size_t n = _FD_MAX;

        for (size_t i = 0; i < packet->fds.n; i++)
                if (packet->fds.items[i].fd >= 0)
                        packet->fds.items[i].fd = fds[n++];
        return n;
}

int worker_job_receive(int fd, WorkerJob *ret)
{
        int fds[WORKER_HELD_MAX] = {}, r;
        size_t size, n_fds;
        Packet packet;

        r = worker_packet_receive(fd, &packet, sizeof(packet), false, &size, fds, &n_fds);
        if (r < 0)
                return r;
        if (r == 0)
                return -EPIPE;
        if (size != sizeof(packet) || take_fds(&packet, fds) != n_fds) { /* not all fitted into this process */
                for (size_t i = 0; i < n_fds; i++)
                        safe_close(fds[i]);
                return -EBADMSG;
        }

        packet.job.target = target_new_received(packet.pid, fds[FD_PIDFD], fds[FD_PROCFD]);
        if (packet.fds.n > 0)
                packet.job.spec.fds = g_memdup2(&packet.fds, sizeof(packet.fds));
        *ret = packet.job;
        return 0;
}
