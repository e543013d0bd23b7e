/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "daemon/engine/forkmarks.h"
#include "daemon/engine/memlocks.h"

static void add(GArray *list, uint64_t start, uint64_t end)
{
        MemoryLock *last = list->len > 0 ? &g_array_index(list, MemoryLock, list->len - 1) : NULL;

        if (last && last->end == start)
                last->end = end;
        else
                g_array_append_vals(list, &(MemoryLock){start, end}, 1);
}

void memory_locks_parse(MemoryLocks *l, const char *smaps)
{
        bool stack = false;
        uint64_t start = 0, end = 0;

        *l = (MemoryLocks){.list = g_array_new(FALSE, FALSE, sizeof(MemoryLock))};
        for (const char *line = smaps; *line;) {
                size_t length = strcspn(line, "\n");
                uint64_t a, b;

                if (g_str_has_prefix(line, "VmFlags:")) {
                        g_autofree char *flags = g_strndup(line, length);

                        if (forkmarks_has_flag(flags, "lo")) {
                                add(l->list, start, end);
                                l->all |= stack;
                        }
                } else if (!g_ascii_isupper(*line) && sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &a, &b) == 2) {
                        static const char name[] = " [stack]";

                        start = a;
                        end = b;
                        stack = length > strlen(name) && memcmp(line + length - strlen(name), name, strlen(name)) == 0;
                }
                line += length + (line[length] == '\n');
        }
}

void memory_locks_read(MemoryLocks *l, Target *target, const TargetStatus *status)
{
        g_autofree char *smaps = NULL;

        if (status->locked > 0 && target_read_file(target, "smaps", &smaps, NULL) >= 0)
                memory_locks_parse(l, smaps);
}

void memory_locks_clear(MemoryLocks *l)
{
        g_clear_pointer(&l->list, g_array_unref);
}

static void note(const EngineHandler *handler, char *text)
{
        if (handler->note)
                handler->note(text, handler->userdata);
        g_free(text);
}

int memory_locks_apply(const MemoryLocks *l, Puppet *p, pid_t target, const EngineHandler *handler)
{
        uint64_t missing = 0, first = 0;
        int reason = 0;

        for (guint k = 0; l->list && k < l->list->len; k++) {
                const MemoryLock *m = &g_array_index(l->list, MemoryLock, k);
                long r = puppet_call(p, SYS_mlock, m->start, m->end - m->start);

                if (r == -ESRCH || r == -ECHILD)
                        return -ESRCH;
                if (r >= 0)
                        continue;
                first = missing == 0 ? m->start : first;
                missing += m->end - m->start;
                reason = (int) -r;
        }

        if (missing > 0)
                note(handler, g_strdup_printf("Memory of process %d (%" PRIu64 " KiB, the first at %" PRIx64 ") is locked, which is not locked in the clone: %s",
                                              (int) target, missing / 1024, first, g_strerror(reason)));
        if (l->all)
                note(handler, g_strdup_printf("Process %d has locked all of its memory: what the clone maps from now on is not locked, should that have been asked for (MCL_FUTURE)",
                                              (int) target));
        return 0;
}
