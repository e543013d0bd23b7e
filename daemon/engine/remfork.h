/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

/*
 * remfork(2) as kernel-patch/ defines it in include/uapi/linux/remfork.h; stated again because the C library and the
 * distribution's kernel headers do not have it. Sizes and values are the system's ABI.
 */
#define SYS_REMFORK 600

#define REMFORK_SYSCALL (1U << 0)
#define REMFORK_PARENT_REQUESTER (1U << 1)
#define REMFORK_STOPPED (1U << 2)
#define REMFORK_PIDFD (1U << 3)
#define REMFORK_TIMES (1U << 4)

struct remfork_times {
        uint64_t request, trigger, copied, woken; /* ns of CLOCK_MONOTONIC */
};

struct remfork_args {
        uint64_t flags;
        uint64_t timeout; /* ns to wait for the trigger, 0: no limit */
        uint64_t fds;
        uint64_t nr_fds;
        uint64_t pidfd; /* int * */
        uint64_t times; /* struct remfork_times * */
};
