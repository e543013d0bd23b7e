/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/authorize.h"
#include "daemon/engine/engine.h"

/* All that a worker goes by. */
typedef struct WorkerJob {
        const Engine *engine;
        Target *target;
        CloneSpec spec;
        bool superuser;                  /* the right does not depend on what the target is: nothing is compared */
        Credentials authorized;          /* what the requester's right was judged by; compared while the target is stopped */
        AuthorizeClass class;            /* of a tree: what the requester may, each other process of it is judged by */
        Requester requester;
        Host host;
        FileIdentity own_user_namespace;
        uint64_t stop_timeout_usec;      /* 0: none */
        bool hold;                       /* the clones stay held until worker_go() */
} WorkerJob;

/*
 * Hands @job to the child at the other end of @fd, a SOCK_SEQPACKET socket pair; never blocks. The child is a fork of this
 * process and has not executed anything, so that what is no descriptor goes as it is, pointers to static data too. @job and
 * its descriptors stay the caller's. -EPIPE where the child is gone, or another negative errno.
 */
int worker_job_send(int fd, const WorkerJob *job);

/*
 * Waits for the job. 0, and what it points to is the caller's, target and spec; -EPIPE where the daemon closed its end; -EBADMSG, or
 * another negative errno.
 */
int worker_job_receive(int fd, WorkerJob *ret);
