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
