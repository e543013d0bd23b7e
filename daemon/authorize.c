/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>

#include "daemon/authorize.h"

#define CAP_BIT(capability) (UINT64_C(1) << (capability))
#define YAMA_SCOPE_MAX 3

static const char *const action_table[_AUTHORIZE_CLASS_MAX] = {
        [AUTHORIZE_SUPERUSER] = NULL,
        [AUTHORIZE_OWN_PROCESS] = "org.remfork.clone.own-process",
        [AUTHORIZE_ANY_PROCESS] = "org.remfork.clone.any-process",
        [AUTHORIZE_MANAGE_REQUESTS] = "org.remfork.clone.manage-requests",
        [AUTHORIZE_MANAGE_UNITS] = "org.remfork.clone.manage-units",
};

const char *authorize_action(AuthorizeClass class)
{
        return action_table[class];
}

int host_read(const char *proc_root, Host *ret)
{
        g_autofree char *namespace = g_build_filename(proc_root, "self/ns/user", NULL),
                        *scope = g_build_filename(proc_root, "sys/kernel/yama/ptrace_scope", NULL), *text = NULL;
        g_autoptr(GError) e = NULL;
        Host host = {};
        guint64 value;
        int r;

        r = file_identity_read(-1, namespace, &host.user_namespace);
        if (r < 0)
                return r;

        if (!g_file_get_contents(scope, &text, NULL, &e))
                host.yama_scope = g_error_matches(e, G_FILE_ERROR, G_FILE_ERROR_NOENT) ? 0 : YAMA_SCOPE_MAX;
        else
                host.yama_scope = g_ascii_string_to_unsigned(g_strstrip(text), 10, 0, YAMA_SCOPE_MAX, &value, NULL)
                                                  ? (int) value
                                                  : YAMA_SCOPE_MAX;

        *ret = host;
        return 0;
}

void requester_fill(uid_t uid, const gid_t *groups, size_t n_groups, const Credentials *c, bool pinned, Requester *ret)
{
        bool member = !groups;

        *ret = (Requester){.uid = uid, .gid = (gid_t) -1};

        if (!c)
                return;

        for (int i = 0; i < _ID_MAX; i++)
                if (c->uid[i] != uid)
                        return;

        for (size_t i = 0; i < n_groups && !member; i++)
                member = groups[i] == c->gid[ID_REAL];
        if (!member)
                return;

        ret->gid = c->gid[ID_REAL];
        /* An exec that gains capabilities is not dumpable, and may have come after the message was sent. */
        ret->permitted = uid == 0 || (pinned && c->dumpable == DUMPABLE_YES) ? c->permitted : 0;
        ret->user_namespace = c->user_namespace;
        ret->known = true;
}

bool authorize_is_superuser(const Requester *r, const Host *host)
{
        return r->known && r->uid == 0 && !r->confined && (r->permitted & CAP_BIT(CAP_SYS_PTRACE)) != 0 &&
               file_identity_equal(r->user_namespace, host->user_namespace);
}

static bool ids_equal(const Requester *r, const Credentials *target)
{
        /* The file system IDs are not looked at by the kernel either. */
        for (int i = ID_REAL; i <= ID_SAVED; i++)
                if (target->uid[i] != r->uid || target->gid[i] != r->gid)
                        return false;
        return true;
}

AuthorizeClass authorize_classify(const Requester *r, const Credentials *target, const Host *host)
{
        if (authorize_is_superuser(r, host))
                return AUTHORIZE_SUPERUSER;

        if (r->known && !r->confined && host->yama_scope == 0 && ids_equal(r, target) &&
            target->dumpable == DUMPABLE_YES && (target->permitted & ~r->permitted) == 0 &&
            file_identity_equal(r->user_namespace, target->user_namespace) &&
            file_identity_equal(target->user_namespace, host->user_namespace))
                return AUTHORIZE_OWN_PROCESS;

        return AUTHORIZE_ANY_PROCESS;
}
