/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/target.h"

typedef enum Dumpable {
        DUMPABLE_UNKNOWN, /* must be taken for "no" */
        DUMPABLE_NO,
        DUMPABLE_YES,
} Dumpable;

/* Which file it is, whatever it is called. */
typedef struct FileIdentity {
        dev_t device;
        ino_t inode;
} FileIdentity;

/* The places in uid and gid, in the order of /proc/PID/status. */
enum { ID_REAL, ID_EFFECTIVE, ID_SAVED, ID_FILESYSTEM, _ID_MAX };

/* What the kernel's ptrace rule looks at, and what changes when a process executes another program. */
typedef struct Credentials {
        uid_t uid[_ID_MAX];
        gid_t gid[_ID_MAX];
        uint64_t permitted, effective, inheritable, ambient; /* capability sets, bit n is capability n */
        Dumpable dumpable;
        FileIdentity user_namespace;
        FileIdentity program; /* /proc/PID/exe; 0, 0 for a process without one */
        uint64_t start_time;  /* clock ticks since boot */
} Credentials;

/*
 * Reads the credentials of the process whose directory of /proc is @procfd. @own_user_namespace is that of this daemon.
 * -ESRCH where the process is gone, -EBADMSG where /proc's text is not as proc(5) has it, -EACCES where this daemon lacks
 * CAP_SYS_PTRACE. The caller makes sure that @procfd is still the process's.
 *
 * Dumpability is not in /proc; it is told from who owns the files there (proc(5), task_dump_owner() of fs/proc/base.c): root
 * of the user namespace where the process is not dumpable, its effective user where it is. Where these are the same user
 * nothing can be told, and for a process of another user namespace neither.
 */
int credentials_read(int procfd, FileIdentity own_user_namespace, Credentials *ret);

/* credentials_read() of a pinned process: what comes back is never another's. */
int target_read_credentials(const Target *t, FileIdentity own_user_namespace, Credentials *ret);

/* Whether the label of a security module (AppArmor, SELinux), NULs and a newline behind it not counted, holds whoever has it. */
bool label_is_confined(const char *label, size_t size);

/*
 * Whether a security module holds the process whose directory of /proc is @procfd. Where that cannot be told it counts as held,
 * but for a kernel without such a module.
 */
bool confinement_read(int procfd);

/* confinement_read() of a pinned process; one that is gone counts as held. */
bool target_is_confined(const Target *t);

/* Whether nothing changed that a right to clone was judged by. */
bool credentials_equal(const Credentials *a, const Credentials *b);

/* The file that @name of the directory @dirfd is, symbolic links followed. A negative errno. */
int file_identity_read(int dirfd, const char *name, FileIdentity *ret);
bool file_identity_equal(FileIdentity a, FileIdentity b);
