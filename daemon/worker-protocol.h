/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What a worker tells the daemon over a SOCK_SEQPACKET socket pair: one message a packet, a fixed struct each. The worker
 * handles memory of processes of any user, so the daemon takes nothing from it on trust.
 *
 * The order, for each job: NOTE any time before RELEASED; HELD, as many as @total needs, each with its pidfds in SCM_RIGHTS; then RELEASED
 * or ERROR, one of them and once; after RELEASED, where remforkd is the parent, EXITED. Where the job says so, the worker waits after
 * the last HELD for a packet that comes the other way: "go". Where it does not, HELD comes by a socket pair of its own, for
 * which the daemon is not woken up.
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
                        int32_t sources[WORKER_HELD_MAX]; /* what each is a clone of */
                } held;
                struct {
                        uint64_t pause_nsec;
                        uint32_t again; /* 1: nothing is left of the job, and the worker waits for another one; else 0 */
                        uint32_t zero;  /* 0 */
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

/* The daemon's "go". 0 or a negative errno, -EPIPE where nobody is at the other end. */
int worker_go_send(int fd);

/* Waits for it. 0, -EPIPE where the daemon closed its end, or another negative errno. */
int worker_go_receive(int fd);

/*
 * Packets of any kind with descriptors, at most WORKER_HELD_MAX of them, on a SOCK_SEQPACKET socket. Sending borrows @fds and
 * blocks while the socket is full: 0 or a negative errno, -EPIPE where nobody is at the other end.
 */
int worker_packet_send(int fd, const void *data, size_t size, const int *fds, size_t n_fds);

/*
 * 1 and a packet of *@ret_size bytes with descriptors (close-on-exec, the caller's now), 0 where the other end is closed,
 * -EAGAIN where @nonblocking and nothing is there, -EBADMSG for a packet that is larger than @size, -EMFILE where there is no room for its
 * descriptors, which are lost with it, or another negative errno.
 */
int worker_packet_receive(int fd, void *data, size_t size, bool nonblocking, size_t *ret_size, int *fds, size_t *ret_n_fds);
