/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

#include "daemon/spec-fds.h"
#include "daemon/util.h"

static int check_number(const CloneFds *fds, const char *key, uint32_t number, CloneError *error)
{
        if (number > INT32_MAX)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s names descriptor %" PRIu32 ", a number from 0 to %" PRId32 " was expected", key, number,
                                INT32_MAX);

        for (size_t i = 0; fds && i < fds->n; i++)
                if (fds->items[i].number == (int) number)
                        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                        "Option %s names descriptor %" PRIu32 ", which another option or entry names already", key,
                                        number);

        if (fds && fds->n >= CLONE_FDS_MAX)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s names descriptor %" PRIu32 ", which is one more than the %u that one request may replace or close",
                                key, number, CLONE_FDS_MAX);
        return 0;
}

static int check_mode(const char *key, uint32_t number, int fd, CloneFdMode mode, CloneError *error)
{
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Option %s: the descriptor passed for %" PRIu32 " is not open: %s",
                                key, number, g_strerror(errno));
        if (flags & O_PATH)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s: the descriptor passed for %" PRIu32 " is O_PATH, one that is open for reading or writing was expected",
                                key, number);
        if (mode == CLONE_FD_READ && (flags & O_ACCMODE) == O_WRONLY)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s: the descriptor passed is open for writing only, one that can be read was expected", key);
        if (mode == CLONE_FD_WRITE && (flags & O_ACCMODE) == O_RDONLY)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s: the descriptor passed is open for reading only, one that can be written was expected", key);
        return 0;
}

static void append(CloneFds **fds, uint32_t number, int fd)
{
        if (!*fds)
                *fds = g_new0(CloneFds, 1);
        (*fds)->items[(*fds)->n++] = (CloneFd){.number = (int) number, .fd = fd};
}

int clone_fds_add(CloneFds **fds, const char *key, uint32_t number, int fd, CloneFdMode mode, CloneError *error)
{
        int r, copy;

        r = check_number(*fds, key, number, error);
        if (r >= 0)
                r = check_mode(key, number, fd, mode, error);
        if (r < 0)
                return r;

        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (copy < 0)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, errno, "Option %s: the descriptor passed for %" PRIu32 " cannot be kept: %s",
                                key, number, g_strerror(errno));

        append(fds, number, copy);
        return 0;
}

int clone_fds_add_closed(CloneFds **fds, const char *key, uint32_t number, CloneError *error)
{
        int r = check_number(*fds, key, number, error);

        if (r < 0)
                return r;
        append(fds, number, -EBADF);
        return 0;
}

CloneFds *clone_fds_free(CloneFds *fds)
{
        for (size_t i = 0; fds && i < fds->n; i++)
                safe_close(fds->items[i].fd);
        g_free(fds);
        return NULL;
}
