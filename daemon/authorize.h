/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/credentials.h"

/*
 * Who may clone what. First the kernel's own ptrace rule is applied to what is known of both processes; from it comes the
 * class of the request, from the class the polkit action. Whatever cannot be told is judged as if it spoke against the
 * requester, and any failure on the way is a denial.
 */

/* The requester, as far as it can be relied upon. */
typedef struct Requester {
        pid_t pid;                   /* its process, 0 where unknown; for who means itself, not for rights: it may be another's by now */
        uid_t uid;                   /* from the bus: the effective user when it connected */
        gid_t gid;                   /* real group */
        uint64_t permitted;          /* capabilities; see requester_fill() */
        FileIdentity user_namespace;
        bool known;                  /* false: all but uid is to be taken for unknown */
        bool confined;               /* an LSM profile holds it, whose ptrace rules cannot be asked for */
} Requester;

typedef struct Host {
        FileIdentity user_namespace; /* the daemon's own */
        int yama_scope;              /* kernel.yama.ptrace_scope, 0 where there is no Yama */
} Host;

typedef enum AuthorizeClass {
        AUTHORIZE_SUPERUSER, /* polkit is not asked */
        AUTHORIZE_OWN_PROCESS,
        AUTHORIZE_ANY_PROCESS,
        AUTHORIZE_MANAGE_REQUESTS,
        AUTHORIZE_MANAGE_UNITS, /* asked in addition, where the clones are to be in a scope */
        _AUTHORIZE_CLASS_MAX,
} AuthorizeClass;

/* The polkit action of @class, NULL for AUTHORIZE_SUPERUSER; static storage. */
const char *authorize_action(AuthorizeClass class);

/* The host's @ret, with /proc as it is at @proc_root. A negative errno; an unreadable Yama scope counts as the strictest. */
int host_read(const char *proc_root, Host *ret);

/*
 * Fills @ret from what the bus says (@uid, and, where @groups is not NULL, all @n_groups groups) and from @c, the credentials
 * of the process that the bus names. That number may have been given to another process since, by the requester's own
 * doing. So @c is believed only where its user is the bus's and its group is one of the bus's; and capabilities of
 * somebody else than the superuser only where the bus handed out a pidfd (@pinned). @c may be NULL.
 */
void requester_fill(uid_t uid, const gid_t *groups, size_t n_groups, const Credentials *c, bool pinned, Requester *ret);

/* Whether @r is the superuser, to whom the kernel would allow to trace everything. */
bool authorize_is_superuser(const Requester *r, const Host *host);

/*
 * The class of a request of @r to clone @target.
 *
 * AUTHORIZE_OWN_PROCESS exactly where PTRACE_MODE_ATTACH_REALCREDS would let @r trace @target (__ptrace_may_access() of
 * kernel/ptrace.c, cap_ptrace_access_check() of security/commoncap.c), short of what cannot be told:
 *  - Yama: from ptrace_scope 1 on the kernel asks whose child the target is or whom it named, at this instant; that is the
 *    caller's relation to it, not to be told for certain of a process on the bus. So every scope but 0 makes it ANY_PROCESS.
 *  - A requester confined by an LSM profile: ANY_PROCESS.
 *  - A target of another user namespace, one that is not dumpable or of which that is unknown: ANY_PROCESS.
 */
AuthorizeClass authorize_classify(const Requester *r, const Credentials *target, const Host *host);
