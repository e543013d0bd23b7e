/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * What a worker tells the daemon over a SOCK_SEQPACKET socket pair: one message a packet, a fixed struct each. The worker
 * handles memory of processes of any user, so the daemon takes nothing from it on trust.
 *
 * The order: NOTE any time before RELEASED; HELD, as many as @total needs, each with its pidfds in SCM_RIGHTS; then RELEASED
 * or ERROR, one of them and once; after RELEASED, where remforkd is the parent, EXITED.
 */
typedef enum WorkerMessageType {
        WORKER_NOTE = 1,
        WORKER_HELD,
        WORKER_RELEASED,
        WORKER_ERROR,
        WORKER_EXITED,
} WorkerMessageType;

#define WORKER_HELD_MAX 253 /* SCM_MAX_FD of include/net/scm.h */
#define WORKER_TEXT_MAX 1024

typedef struct WorkerMessage {
        uint32_t type;
        uint32_t reserved; /* 0 */
        union {
                struct {
                        uint32_t total; /* clones of the request */
                        uint32_t n;     /* clones in this message */
                        int32_t pids[WORKER_HELD_MAX];
                } held;
                struct {
                        uint64_t pause_nsec;
                } released;
                struct {
                        int32_t code;
                        int32_t error_number;
                        char text[WORKER_TEXT_MAX]; /* ends with a NUL */
                } error;
                struct {
                        char text[WORKER_TEXT_MAX];
                } note;
                struct {
                        int32_t pid;
                        int32_t code;
                        int32_t status;
                } exited;
        };
} WorkerMessage;

/* The size that a message of @type has, 0 where there is no such type. */
size_t worker_message_size(uint32_t type);

/*
 * Checks a packet of @size bytes that came with @n_fds descriptors, and copies it to @ret. -EBADMSG where it is not as
 * above; texts then in @ret are printable UTF-8 (what is not came out as '?').
 */
int worker_message_parse(const void *packet, size_t size, size_t n_fds, WorkerMessage *ret);

/* Sends @message with @n_fds descriptors, which stay the caller's; blocks. 0 or a negative errno. */
int worker_message_send(int fd, const WorkerMessage *message, const int *fds, size_t n_fds);

/*
 * Takes one packet without blocking. 1 and the message (with its descriptors in @fds, close-on-exec, the caller's now,
 * WORKER_HELD_MAX places), 0 where the worker closed its end, -EAGAIN where nothing is there yet, -EBADMSG, or another errno.
 */
int worker_message_receive(int fd, WorkerMessage *ret, int *fds, size_t *ret_n_fds);
