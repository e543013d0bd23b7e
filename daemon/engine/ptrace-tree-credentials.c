/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/keyctl.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "daemon/engine/fdinfo.h"
#include "daemon/engine/ptrace-tree-internal.h"

#define GROUPS_MAX (PUPPET_PAGE / sizeof(uint32_t))
#define UNKNOWN_ID UINT32_MAX

/*
 * IDs and capabilities of a process that has others than its parent. Its clone sets them by its own right, which it has from its
 * parent's clone: none is ever given a right that neither had. What was set is compared with what the process has; nothing is taken for granted.
 */

static int read_numbers(const char *status, const char *key, uint32_t *ret, size_t max)
{
        const char *p = fdinfo_get(status, key);
        size_t n = 0;

        while (p && *p && *p != '\n' && n < max) {
                char *end;
                uint32_t id = (uint32_t) strtoul(p, &end, 10);

                if (end == p)
                        break;
                ret[n++] = id;
                p = end + strspn(end, " \t");
        }

        return (int) n;
}

static uint64_t read_set(const char *status, const char *key)
{
        const char *p = fdinfo_get(status, key);

        return p ? strtoull(p, NULL, 16) : 0;
}

static long set_ids(Puppet *p, const char *status)
{
        uint32_t uids[4] = {}, gids[4] = {}, *groups = g_newa(uint32_t, GROUPS_MAX);
        int n = read_numbers(status, "Groups", groups, GROUPS_MAX);
        long r;

        if (read_numbers(status, "Uid", uids, 4) != 4 || read_numbers(status, "Gid", gids, 4) != 4)
                return -EBADMSG;
        r = puppet_write(p, p->page, groups, (size_t) n * sizeof(*groups));
        if (r >= 0)
                r = puppet_call(p, SYS_setgroups, (uint64_t) n, p->page);
        if (r >= 0)
                r = puppet_call(p, SYS_setresgid, gids[0], gids[1], gids[2]);
        if (r >= 0 && gids[3] != gids[1])
                r = puppet_call(p, SYS_setfsgid, gids[3]);
        if (r >= 0)
                r = puppet_call(p, SYS_setresuid, uids[0], uids[1], uids[2]);
        if (r >= 0 && uids[3] != uids[1])
                r = puppet_call(p, SYS_setfsuid, uids[3]);
        return r;
}

static long set_capabilities(Puppet *p, const char *status)
{
        const uint64_t effective = read_set(status, "CapEff"), permitted = read_set(status, "CapPrm"), inheritable = read_set(status, "CapInh");
        const struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        const struct __user_cap_data_struct data[2] = {
                {(uint32_t) effective, (uint32_t) permitted, (uint32_t) inheritable},
                {(uint32_t) (effective >> 32), (uint32_t) (permitted >> 32), (uint32_t) (inheritable >> 32)},
        };
        long r = puppet_write(p, p->page, &header, sizeof(header));

        if (r >= 0)
                r = puppet_write(p, p->page + sizeof(header), data, sizeof(data));
        return r < 0 ? r : puppet_call(p, SYS_capset, p->page, p->page + sizeof(header));
}

/* The bounding set is left first: that takes CAP_SETPCAP. */
static long leave_bounds(Puppet *p, const char *status, const char *of_parent)
{
        uint64_t wanted = read_set(status, "CapBnd"), has = read_set(of_parent, "CapBnd");
        long r = 0;

        for (uint64_t k = 0; r >= 0 && k < 64; k++)
                if ((has & ~wanted) >> k & 1)
                        r = puppet_call(p, SYS_prctl, PR_CAPBSET_DROP, k);
        return r;
}

static long set_ambient(Puppet *p, const char *status)
{
        uint64_t wanted = read_set(status, "CapAmb");
        long r = puppet_call(p, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0);

        if (r == -EINVAL && wanted == 0) /* securebits that forbid it: then there are none */
                r = 0;
        for (uint64_t k = 0; r >= 0 && k < 64; k++)
                if (wanted >> k & 1)
                        r = puppet_call(p, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, k, 0);
        return r;
}

/* The steps in which they can be set; an error is of no interest where in the end all is as it should be. */
static long change(Puppet *p, const Member *m, const Member *parent)
{
        const char *status = m->state.info.privileges;
        long r;

        r = leave_bounds(p, status, parent->state.info.privileges);
        if (r != -ESRCH)
                r = puppet_call(p, SYS_prctl, PR_SET_KEEPCAPS, 1);
        if (r != -ESRCH)
                r = set_ids(p, status);
        if (r != -ESRCH)
                r = set_capabilities(p, status);
        if (r != -ESRCH)
                r = set_ambient(p, status);
        if (r != -ESRCH)
                r = puppet_call(p, SYS_prctl, PR_SET_KEEPCAPS, m->state.securebits >= 0 && (m->state.securebits & SECBIT_KEEP_CAPS) ? 1 : 0);
        return r;
}

static int verify(Member *m, Puppet *p, CloneError *error)
{
        g_autoptr(Target) clone = NULL;
        ThreadInfo info = {};
        int r = target_new(&clone, p->tracee->pid, NULL);
        bool same;
        long bits;

        if (r >= 0)
                r = thread_info_read(&info, clone, p->tracee->pid);
        same = r >= 0 && strcmp(info.privileges, m->state.info.privileges) == 0;
        bits = puppet_call(p, SYS_prctl, PR_GET_SECUREBITS);
        thread_info_clear(&info);
        if (r < 0)
                return member_failed(m, r, "its credentials cannot be read", error);
        if (same && (m->state.securebits < 0 || bits == m->state.securebits))
                return 0;
        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                        "Process %d has other credentials, capabilities or securebits than its parent, which its clone has no right to take on",
                        (int) target_pid(m->job.target));
}

/*
 * A Landlock domain is shown nowhere, but who has one of its own may not look at its parent. A clone that may do what its process might
 * not has none.
 */
static int check_domain(const Member *m, Puppet *p, CloneError *error)
{
        long pid, parent, r;

        if (m->state.access_to_parent >= 0 || m->state.access_to_parent == -ENOSYS)
                return 0;
        pid = puppet_call(p, SYS_getpid);
        parent = puppet_call(p, SYS_getppid);
        r = puppet_call(p, SYS_kcmp, (uint64_t) pid, (uint64_t) parent, KCMP_VM);
        if (r == -ESRCH)
                return member_failed(m, r, "it cannot be looked at", error);
        return r < 0 ? 0
                     : clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                       "Process %d is confined, as by Landlock, in a way that its parent is not and its clone cannot be",
                                       (int) target_pid(m->job.target));
}

int member_set_credentials(const PtraceTree *t, Member *m, Puppet *p, CloneError *error)
{
        const Member *parent = tree_parent(t, m);
        const char *own = m->state.info.privileges, *theirs = parent->state.info.privileges;
        long r = 0;
        int k;

        if (strcmp(own, theirs) != 0) {
                bool restrain = fdinfo_differs(own, theirs, "NoNewPrivs");

                r = change(p, m, parent);
                if (r != -ESRCH) /* who has the keys of its parent's session may use them, whatever its IDs */
                        r = puppet_call(p, SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
                if (r < 0 && r != -ESRCH && r != -ENOSYS)
                        return member_failed(m, r, "it cannot be given a session keyring of its own", error);
                if (r != -ESRCH && restrain && fdinfo_get(own, "NoNewPrivs")[0] == '1')
                        r = puppet_call(p, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        if (r != -ESRCH && m->state.securebits >= 0) {
                r = puppet_call(p, SYS_prctl, PR_GET_SECUREBITS);
                if (r >= 0 && r != m->state.securebits)
                        r = puppet_call(p, SYS_prctl, PR_SET_SECUREBITS, (uint64_t) m->state.securebits);
        }
        if (r == -ESRCH)
                return member_failed(m, r, "its credentials cannot be set", error);
        k = verify(m, p, error);
        return k < 0 ? k : check_domain(m, p, error);
}
