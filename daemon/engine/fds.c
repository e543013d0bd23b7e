/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "daemon/engine/fds.h"

G_STATIC_ASSERT(CLONE_FDS_MAX <= PUPPET_GIVE_MAX);

static int place_error(int r, pid_t target, int number, CloneError *error)
{
        if (r == -EMFILE)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EMFILE,
                                "Process %d has no descriptor left under its RLIMIT_NOFILE, which replacing some in the clone needs",
                                (int) target);
        if (r == -EBADF && number >= 0)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Descriptor %d cannot be in a clone of process %d: it is beyond its RLIMIT_NOFILE", number, (int) target);
        return clone_error_set(error, r == -ESRCH ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                        "The descriptors of the clone of process %d cannot be replaced: %s", (int) target, g_strerror(-r));
}

/* What was received has the lowest numbers that were free: one of them may be where another is to go. */
static long make_way(Puppet *p, int number, int *given, size_t from, size_t n)
{
        for (size_t i = from; i < n; i++) {
                long moved;

                if (given[i] != number)
                        continue;
                moved = puppet_call(p, SYS_fcntl, (uint64_t) number, F_DUPFD_CLOEXEC, 0);
                if (moved >= 0)
                        given[i] = (int) moved; /* the original is closed by what takes its place */
                return moved;
        }

        return 0;
}

static int place_all(Puppet *p, const int *numbers, int *given, size_t n, pid_t target, CloneError *error)
{
        for (size_t i = 0; i < n; i++) {
                long r;

                if (given[i] == numbers[i])
                        r = puppet_call(p, SYS_fcntl, (uint64_t) given[i], F_SETFD, 0);
                else {
                        r = make_way(p, numbers[i], given, i + 1, n);
                        if (r >= 0)
                                r = puppet_call(p, SYS_dup2, (uint64_t) given[i], (uint64_t) numbers[i]);
                        if (r >= 0)
                                r = puppet_call(p, SYS_close, (uint64_t) given[i]);
                }
                if (r < 0)
                        return place_error((int) r, target, numbers[i], error);
        }

        return 0;
}

int fds_place(Puppet *p, const CloneFds *fds, pid_t target, CloneError *error)
{
        int sources[CLONE_FDS_MAX], numbers[CLONE_FDS_MAX], given[CLONE_FDS_MAX], r;
        size_t n = 0;

        /* First those that are to be closed: later one of the numbers may be that of a descriptor on its way. */
        for (size_t i = 0; fds && i < fds->n; i++) {
                long k = 0;

                if (fds->items[i].fd >= 0) {
                        sources[n] = fds->items[i].fd;
                        numbers[n++] = fds->items[i].number;
                } else
                        k = puppet_call(p, SYS_close, (uint64_t) fds->items[i].number);
                if (k < 0 && k != -EBADF) /* it is closed, as is wanted */
                        return place_error((int) k, target, -1, error);
        }

        if (n == 0)
                return 0;
        r = puppet_give(p, sources, n, given);
        return r < 0 ? place_error(r, target, -1, error) : place_all(p, numbers, given, n, target, error);
}

size_t fds_to_remfork(const CloneFds *fds, struct remfork_fd *ret)
{
        for (size_t i = 0; fds && i < fds->n; i++)
                ret[i] = (struct remfork_fd){
                        .target = fds->items[i].number,
                        .source = fds->items[i].fd >= 0 ? fds->items[i].fd : -1,
                        .flags = fds->items[i].fd >= 0 ? 0 : REMFORK_FD_CLOSE,
                };

        return fds ? fds->n : 0;
}
