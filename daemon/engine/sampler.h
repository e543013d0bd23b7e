/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Looks at open file descriptions that others have too, in a process of its own. The kernel does that under locks (a pipe's
 * mutex, an epoll set's, a UNIX socket's) for which it waits uninterruptibly, and whoever has the description can keep one
 * for ever, by a read() or write() whose memory is a page that userfaultfd(2) or FUSE does not deliver. The tracer of a
 * stopped process must not wait for that; here it waits with a limit, and goes on without.
 */
typedef struct Sampler Sampler;

/* What is looked at. The descriptors are borrowed until the sampler is freed. */
typedef struct SamplerSource {
        int fd;
        int infofd;    /* fdinfo of it, negative where it is of no interest */
        int tee_write; /* a pipe of this process's own for what is in the pipe @fd, or negative */
        bool stream;   /* a UNIX stream socket: what it has to be read is of interest */
        bool busy;     /* set by the sampler: it could not be looked at in time, and was not any more */
} SamplerSource;

/* Of one source; pointers are valid until the sampler is freed. */
typedef struct SamplerResult {
        const char *info; /* NULL for none; ends with a zero byte */
        const char *waiting;
        size_t n_waiting;
        int unread;       /* bytes that could not be had: they are behind a message with descriptors */
        int pipe_size;
        bool changed;     /* the last two captures found different states */
} SamplerResult;

/*
 * Starts the process and has it look at all @n sources once, for at most @limit_usec for each that takes longer; those are busy from
 * then on. Where no process can be had a negative errno. @sources must outlive it.
 */
int sampler_new(Sampler **ret, SamplerSource *sources, size_t n, uint64_t limit_usec);
Sampler *sampler_free(Sampler *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Sampler, sampler_free)

/* Has it take the state of all, within @limit_usec; what is in pipes and sockets the first time only. Never fails: see sampler_get(). */
void sampler_capture(Sampler *s, uint64_t limit_usec);

/* False where source @k could not be captured in time. */
bool sampler_get(const Sampler *s, size_t k, SamplerResult *ret);

/*
 * Runs @run in a process like that, for @limit_usec at most. Its result; -ETIMEDOUT where it did not end in time, or a negative
 * errno where there is none.
 */
int sampler_run(int (*run)(void *userdata), void *userdata, uint64_t limit_usec);

/* Was @pid, a child of this process that a wait(2) has just told of, one of these? It is then forgotten. */
bool sampler_was(pid_t pid);
