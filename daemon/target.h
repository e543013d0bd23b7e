/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/error.h"

/*
 * A process held by pidfd. Everything that is read about it goes through here: the pidfd is checked after each read, so
 * that what was read is never that of another process which got the PID later.
 */
typedef struct Target Target;

typedef struct TargetStatus {
        char state;          /* R S D T t Z X I, as in proc(5) */
        pid_t parent;        /* PPid */
        pid_t group, session; /* process group and session, fields 5 and 6 of /proc/PID/stat */
        pid_t tracer;        /* TracerPid, 0 where nobody traces it */
        unsigned threads;    /* Threads */
        pid_t own_pid;       /* the last of NSpid: its PID in the innermost PID namespace that it is in */
        int seccomp;         /* Seccomp: 0 none, 1 strict, 2 filter */
        uint64_t locked;     /* VmLck: KiB of memory that is locked */
        uint64_t signals;    /* SigBlk, SigIgn and SigCgt together: signals about which something is done */
        uint64_t start_time; /* clock ticks since boot, field 22 of /proc/PID/stat */
        uint64_t mapped_pages; /* vsize, field 23 */
        unsigned processor;  /* the CPU it ran on last, field 39 */
        bool kernel_thread;  /* PF_KTHREAD in field 9 of /proc/PID/stat */
} TargetStatus;

/* Opens @pid. -ESRCH (NoSuchProcess) where there is none, -EINVAL where it is no PID or a thread that leads no process. */
int target_new(Target **ret, pid_t pid, CloneError *error);

/* What another process opened and passed on: takes over both descriptors. Never fails, looks at nothing. */
Target *target_new_received(pid_t pid, int pidfd, int procfd);

/* The same for a pidfd, which is duplicated. -EBADF where @pidfd is none, -EINVAL where it is a thread's, -ESRCH where its process is gone. */
int target_new_from_pidfd(Target **ret, int pidfd, CloneError *error);

Target *target_free(Target *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Target, target_free)

pid_t target_pid(const Target *t);
int target_pidfd(const Target *t);  /* borrowed */
int target_procfd(const Target *t); /* a descriptor of the directory /proc/PID, borrowed */

/* 0 while the process is there (a zombie is), else -ESRCH. */
int target_check_alive(const Target *t);

/* Reads /proc/PID/@name whole into memory that the caller frees; a NUL is put behind it. -ESRCH or the errno of open/read. */
int target_read_file(const Target *t, const char *name, char **ret, size_t *ret_size);

/* The same of its first lines, as many as one read gives: for whoever finds what is looked for there, mostly. */
int target_read_lines(const Target *t, const char *name, char **ret);

/* -ESRCH, -EBADMSG where /proc's text is not as proc(5) has it. */
int target_read_status(const Target *t, TargetStatus *ret);

/* TargetStatus.start_time alone. */
int target_read_start_time(const Target *t, uint64_t *ret);
