/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <errno.h>
#include <glib.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define _cleanup_close_ __attribute__((cleanup(closep)))
#define _cleanup_fclose_ __attribute__((cleanup(fclosep)))

/* Closes @fd where it is one; keeps errno, so that an error path can close before it returns -errno. Returns -EBADF. */
static inline int safe_close(int fd)
{
        if (fd >= 0) {
                int saved = errno;

                (void) close(fd); /* Linux releases the descriptor whatever close(2) says */
                errno = saved;
        }

        return -EBADF;
}

static inline void closep(int *fd)
{
        safe_close(*fd);
}

static inline void fclosep(FILE **f)
{
        if (*f)
                (void) fclose(*f); /* only used for files that are read */
}

/* The descriptor, which the variable then no longer owns. */
#define TAKE_FD(fd)                     \
        ({                              \
                int _taken_fd = (fd);   \
                (fd) = -EBADF;          \
                _taken_fd;              \
        })

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t monotonic_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

/* Repeats a call that a signal interrupted. */
#define RETRY_EINTR(call)                                       \
        ({                                                      \
                __typeof__(call) _ret_eintr;                    \
                do                                              \
                        _ret_eintr = (call);                    \
                while (_ret_eintr < 0 && errno == EINTR);       \
                _ret_eintr;                                     \
        })
