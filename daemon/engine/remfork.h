/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <errno.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

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
#define REMFORK_HOLD (1U << 5)
#define REMFORK_THREADS (1U << 6)
#define REMFORK_PARK (1U << 7)
#define REMFORK_TIDS (1U << 12)
#define REMFORK_TIMERS (1U << 13)
#define REMFORK_MARKED (1U << 14)
#define REMFORK_SAME_PIDS (1U << 15)

#define REMFORK_PARENT_PIDFD (1U << 8)
#define REMFORK_PGRP_PIDFD (1U << 9)
#define REMFORK_NEW_PGRP (1U << 10)
#define REMFORK_NEW_SESSION (1U << 11)

#define REMFORK_IOC_RELEASE _IO(0xF5, 1) /* on the descriptor that holds a clone, or a parked process */
#define REMFORK_IOC_RELEASE_MAIN _IO(0xF5, 2) /* the main thread alone; the others wait for REMFORK_IOC_RELEASE */

struct remfork_times {
        uint64_t request, trigger, copied, woken; /* ns of CLOCK_MONOTONIC */
};

#define REMFORK_FD_CLOSE (1U << 0)

struct remfork_fd {
        int32_t target; /* number in the clone */
        int32_t source; /* descriptor of the caller, -1 with REMFORK_FD_CLOSE */
        uint32_t flags;
        uint32_t reserved;
};

/* A thread of the target and its copy: as this process sees them, and as they see themselves. */
struct remfork_tid {
        int32_t target, clone;
        int32_t target_self, clone_self;
        uint64_t tls; /* thread pointer */
};

#define REMFORK_TIDS_MAX (1U << 16)

#define REMFORK_TIMER_NONE 0U /* the end of an array */
#define REMFORK_TIMER_INTERVAL 1U
#define REMFORK_TIMER_POSIX 2U

struct remfork_timer {
        uint32_t kind;
        int32_t id; /* as timer_create(2) gave it, or ITIMER_* */
        int32_t clock;
        int32_t notify, signal, tid; /* sigevent(7); tid as this process sees it */
        uint64_t value;
        uint64_t left, interval; /* ns; 0: not armed, does not recur */
};

#define REMFORK_TIMERS_MAX (1U << 16)

struct remfork_args {
        uint64_t flags;
        uint64_t timeout; /* ns to wait for the trigger, 0: no limit */
        uint64_t fds; /* struct remfork_fd * */
        uint64_t nr_fds;
        uint64_t pidfd; /* int * */
        uint64_t times; /* struct remfork_times * */
        uint64_t hold;  /* int * */
        uint64_t pause; /* ns that threads may wait for each other, 0: no limit */
        uint64_t tids;  /* struct remfork_tid * */
        uint64_t nr_tids;
        uint64_t parent; /* pidfd */
        uint64_t pgrp;   /* pidfd */
        uint64_t timers; /* struct remfork_timer * */
        uint64_t nr_timers;
        uint64_t pidns; /* pidfd */
};

/*
 * 0 where the kernel has a remfork(2) that can do all that remforkd asks of it; else a negative errno. The arguments are looked at
 * before the descriptor, which is none.
 */
static inline int remfork_probe(void)
{
        struct remfork_timer timer;
        struct remfork_args args = {.flags = REMFORK_THREADS | REMFORK_TIMERS | REMFORK_MARKED | REMFORK_SAME_PIDS, .timers = (uint64_t) (uintptr_t) &timer, .nr_timers = 1};

        return syscall(SYS_REMFORK, -1, &args, sizeof(args)) >= 0 ? -EIO : errno == EBADF ? 0 : -errno;
}
