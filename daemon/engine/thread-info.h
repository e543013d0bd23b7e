/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/error.h"
#include "daemon/target.h"

/* include/uapi/linux/sched/types.h, which cannot be included beside <sched.h>. */
typedef struct ThreadSchedule {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
} ThreadSchedule;

#define THREAD_NAME_SIZE 16U /* TASK_COMM_LEN */

/* What a thread has of its own beside registers and memory, and what it shares with its process, as /proc and kcmp(2) tell. */
typedef struct ThreadInfo {
        pid_t own_tid;    /* as it sees it itself */
        int seccomp;      /* 0 none, 1 strict, 2 filter */
        bool shadow_stack;
        char *privileges; /* the lines of /proc/PID/task/TID/status that name credentials, capabilities, seccomp; owned */
        char *namespaces; /* the links of its ns folder; owned */
        char name[THREAD_NAME_SIZE];
        ThreadSchedule schedule;
        cpu_set_t affinity;
} ThreadInfo;

/*
 * Reads it of thread @tid of @target, which may run. -ESRCH where there is none or it ended, -EBUSY where a process traces it,
 * or the errno of what failed.
 */
int thread_info_read(ThreadInfo *ret, const Target *target, pid_t tid);
void thread_info_clear(ThreadInfo *i);

/*
 * 0 where a thread @tid with @i can be made by the main thread of a copy of @target, whose own is @main_info: a new thread has its
 * maker's credentials, seccomp filters, namespaces, descriptors and folder. Else -EOPNOTSUPP, with @error naming what differs.
 */
int thread_info_check(const ThreadInfo *i, const ThreadInfo *main_info, const Target *target, pid_t tid, CloneError *error);
