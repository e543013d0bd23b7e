/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>

#include "daemon/pidfd.h"
#include "daemon/util.h"

int pidfd_end(int pidfd)
{
        return syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH ? -errno : 0;
}

void pidfds_await_end(const int *pidfds, size_t n, uint64_t usec)
{
        uint64_t until = monotonic_nsec() + usec * 1000;

        for (size_t i = 0; i < n; i++) {
                struct pollfd p = {.fd = pidfds[i], .events = POLLIN};
                uint64_t now = monotonic_nsec();

                if (RETRY_EINTR(poll(&p, 1, now < until ? (int) ((until - now + 999999) / 1000000) : 0)) == 0)
                        return; /* the time is over */
        }
}
