/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>

#include "daemon/engine/engine.h"

/* In the order in which "auto" takes them. */
static const struct {
        CloneEngine choice;
        const Engine *engine;
} engine_table[] = {
        {CLONE_ENGINE_KERNEL, &engine_kernel},
        {CLONE_ENGINE_PTRACE, &engine_ptrace},
        {CLONE_ENGINE_AUTO, NULL}, /* the end */
};

uint64_t engine_stop_timeout_usec(const CloneSpec *spec)
{
        return spec->stop_timeout_usec > 0 ? spec->stop_timeout_usec : 2 * G_USEC_PER_SEC;
}

int engine_choose(CloneEngine choice, const Engine **ret, CloneError *error)
{
        int r = 0;

        for (size_t i = 0; engine_table[i].engine; i++) {
                if (choice != CLONE_ENGINE_AUTO && choice != engine_table[i].choice)
                        continue;

                r = engine_table[i].engine->probe(error);
                if (r >= 0) {
                        clone_error_clear(error); /* of an engine that was tried before */
                        *ret = engine_table[i].engine;
                        return 0;
                }
        }

        if (r < 0)
                return r;
        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP, "%s is not part of this remforkd",
                        choice == CLONE_ENGINE_AUTO ? "An engine" : choice == CLONE_ENGINE_KERNEL ? "The kernel engine"
                                                                                                : "The ptrace engine");
}

int engine_check_status(const Target *target, const TargetStatus *status, const CloneSpec *spec, CloneError *error)
{
        int pid = (int) target_pid(target);

        if (status->kernel_thread)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d is a kernel thread", pid);
        if (status->state == 'Z' && status->threads > 1)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "The main thread of process %d has ended, and only others go on: such a process cannot be cloned", pid);
        if (status->state == 'Z' || status->state == 'X')
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has ended, only its parent has not taken notice yet", pid);
        if (status->tracer != 0)
                return clone_error_set(error, CLONE_ERROR_BUSY, 0, "Process %d is traced by process %d", pid,
                                (int) status->tracer);
        if (status->own_pid == 1 && spec->parent == CLONE_PARENT_SHARED)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d is the first of its PID namespace and cannot have a sibling", pid);
        return 0;
}

int engine_check_tree(const CloneSpec *spec, CloneError *error)
{
        if (spec->count != 1)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "A tree can be cloned once, not %u times, by one request", spec->count);
        return 0;
}
