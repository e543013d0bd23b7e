/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "daemon/refuse.h"
#include "daemon/request.h"

static bool is_worker(Manager *m, pid_t pid)
{
        GHashTableIter i;
        void *r;

        g_hash_table_iter_init(&i, m->requests);
        while (g_hash_table_iter_next(&i, NULL, &r))
                if (((Request *) r)->worker && worker_pid(((Request *) r)->worker) == pid)
                        return true;
        return false;
}

/* The last number of NSpid is the PID in the namespace that the process is in (proc(5)). */
static bool is_namespace_init(const Target *target)
{
        g_autofree char *status = NULL;
        const char *p, *end, *last;

        if (target_read_file(target, "status", &status, NULL) < 0)
                return false; /* the engine finds the reason */

        p = strstr(status, "\nNSpid:");
        if (!p)
                return target_pid(target) == 1;

        end = strchr(p + 1, '\n');
        for (last = end ?: p + strlen(p); last > p && last[-1] != '\t' && last[-1] != ' '; last--)
                ;
        return g_ascii_strtoull(last, NULL, 10) == 1;
}

int refuse_target(Manager *m, const Target *target, const CloneSpec *spec, CloneError *error)
{
        int pid = (int) target_pid(target), r;
        TargetStatus s;

        if (pid == getpid() || is_worker(m, pid))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d belongs to remforkd, which is not cloned",
                                pid);

        r = target_read_status(target, &s);
        if (r == -ESRCH)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, 0, "There is no process %d", pid);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The status of process %d cannot be read: %s", pid,
                                g_strerror(-r));

        if (s.kernel_thread)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d is a kernel thread", pid);
        if (s.state == 'Z' || s.state == 'X')
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has ended, only its parent has not taken notice yet", pid);
        if (s.tracer > 0 && !is_worker(m, s.tracer)) /* a worker's target is free again when its turn comes */
                return clone_error_set(error, CLONE_ERROR_BUSY, 0, "Process %d is traced by process %d", pid, (int) s.tracer);
        if (spec->parent == CLONE_PARENT_SHARED && is_namespace_init(target))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d is the first of its PID namespace and cannot have a sibling", pid);

        return 0;
}
