/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "daemon/refuse.h"
#include "daemon/request.h"
#include "daemon/tree.h"

static bool is_worker(Manager *m, pid_t pid)
{
        GHashTableIter i;
        void *r;

        if (pid <= 0) /* the number of one that ended */
                return false;
        if ((m->spare && worker_pid(m->spare) == pid) || (m->kept && worker_pid(m->kept) == pid))
                return true;

        g_hash_table_iter_init(&i, m->requests);
        while (g_hash_table_iter_next(&i, NULL, &r))
                if (((Request *) r)->worker && worker_pid(((Request *) r)->worker) == pid)
                        return true;
        return false;
}

int refuse_own(Manager *m, const Target *target, CloneError *error)
{
        int pid = (int) target_pid(target);

        if (pid == getpid() || is_worker(m, pid))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d belongs to remforkd, which is not cloned",
                                pid);
        return 0;
}

int refuse_target(Manager *m, const Target *target, const CloneSpec *spec, CloneError *error)
{
        int pid = (int) target_pid(target), r;
        TargetStatus s;

        r = target_read_status(target, &s);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, 0, "There is no process %d", pid);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The status of process %d cannot be read: %s", pid,
                                g_strerror(-r));

        if (is_worker(m, s.tracer)) /* a worker's target is free again when its turn comes */
                s.tracer = 0;
        return engine_check_status(target, &s, spec, error);
}

int refuse_tree(Manager *m, Target *target, const Peer *peer, size_t max, CloneSpec *spec, CloneError *error)
{
        g_autoptr(Tree) tree = NULL;
        int r;

        r = tree_read(&tree, target, max, error);
        if (r < 0)
                return r;

        for (guint k = 1; k < tree->members->len; k++) {
                r = tree_refuse_member(TREE_MEMBER(tree, k)->target, getpid(), peer->requester.pid, error);
                if (r < 0)
                        return r;
        }

        /* One who has no limits may see it grow meanwhile. */
        spec->tree_max = authorize_is_superuser(&peer->requester, &m->host) ? (uint32_t) max : tree->members->len;
        return 0;
}

int classify_tree(const Manager *m, Target *target, const Requester *requester, AuthorizeClass *class, CloneError *error)
{
        g_autoptr(Tree) tree = NULL;
        int r;

        r = tree_read(&tree, target, TREE_MAX, error);
        for (guint k = 1; r >= 0 && k < tree->members->len; k++) {
                Credentials credentials;

                r = target_read_credentials(TREE_MEMBER(tree, k)->target, m->host.user_namespace, &credentials);
                if (r == -ESRCH) { /* whose its children are now is found when all stand still */
                        r = 0;
                        continue;
                }
                if (r < 0)
                        return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, -r, "The credentials of process %d cannot be read: %s",
                                        (int) target_pid(TREE_MEMBER(tree, k)->target), g_strerror(-r));
                *class = MAX(*class, authorize_classify(requester, &credentials, &m->host));
        }

        return r < 0 ? r : 0;
}
