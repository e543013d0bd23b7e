/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "daemon/engine/tracee.h"

/*
 * A held clone that is made to run system calls, with its own rights and in its own namespaces, before its first instruction.
 * It is traced and dies with this process, so nothing here needs to survive a kill: registers, signal mask and seccomp
 * filters are whoever holds it to give back.
 *
 * Every call returns a negative errno for what goes wrong in the clone as well as on the way to it; -ESRCH where it was killed.
 */
typedef struct Puppet {
        Tracee *tracee; /* borrowed; stopped whenever no call is on its way */
        int pidfd;      /* borrowed */
        struct user_regs_struct base;
        uint64_t syscall_at; /* address of a syscall instruction in the clone */
        uint64_t page;       /* PUPPET_PAGE bytes in the clone for what calls read and write, 0 for none yet */
} Puppet;

#define PUPPET_PAGE 8192U

/* Descriptors that puppet_give() can pass at once: SCM_MAX_FD of include/net/scm.h. */
#define PUPPET_GIVE_MAX 253U

/* Maps the page. All signals must be blocked in the clone. */
int puppet_open(Puppet *p, Tracee *tracee, int pidfd, const struct user_regs_struct *base, uint64_t syscall_at);

/* Unmaps it. */
int puppet_close(Puppet *p);

/* Runs call @nr; its result, which is negative for an error. Arguments that are not given are 0. */
long puppet_call6(Puppet *p, long nr, const uint64_t args[static 6]);
#define puppet_call(p, nr, ...) puppet_call6((p), (nr), (const uint64_t[6]){__VA_ARGS__})

/* Memory of the clone that its own rights allow to be read or written. All of it, or -EFAULT. */
int puppet_read(const Puppet *p, uint64_t address, void *buffer, size_t n);
int puppet_write(const Puppet *p, uint64_t address, const void *buffer, size_t n);

/*
 * Gives the clone duplicates of the @n descriptors @fds of this process; their numbers there, close-on-exec, in @ret. -EMFILE
 * where the clone's limit is reached. On an error the clone may have some of them.
 */
int puppet_give(Puppet *p, const int *fds, size_t n, int *ret);

/* A duplicate, in this process, of the clone's descriptor @fd; pidfd_getfd(2). */
int puppet_take(const Puppet *p, int fd);
