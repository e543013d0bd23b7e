/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/engine/forkmarks.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-marks.h"
#include "daemon/util.h"

#define PAGE 4096U
#define ANNEX_SIZE_MAX (16U * PAGE)

/* mm/mmap.c: what is merged while the marks are off is split again, which takes places for mappings that must not be the last. */
#define MAPPINGS_SPARE 64U

static void take(Marks *m, const char *smaps)
{
        g_clear_pointer(&m->list, g_array_unref);
        g_clear_pointer(&m->maps, g_free);
        m->list = forkmarks_parse(smaps, &m->maps);
}

void marks_look(Marks *m, Target *target)
{
        g_autofree char *smaps = NULL;

        m->looked = true;
        if (target_read_file(target, "smaps", &smaps, NULL) >= 0)
                take(m, smaps);
}

void marks_clear(Marks *m)
{
        g_clear_pointer(&m->list, g_array_unref);
        g_clear_pointer(&m->maps, g_free);
}

/*
 * The list must be that of now: a stretch may hold something else since it was read. To read it again takes several times as long
 * as a clone (all page tables are walked), the map alone does not; where that is the same to the letter the marks are.
 */
static int refresh(Marks *m, Target *target)
{
        g_autofree char *maps = NULL, *smaps = NULL;
        int r;

        r = target_read_file(target, "maps", &maps, NULL);
        if (r < 0 || strcmp(maps, m->maps) == 0)
                return r;
        r = target_read_file(target, "smaps", &smaps, NULL);
        if (r >= 0)
                take(m, smaps);
        return r;
}

static bool has_room_for_mappings(const Marks *m)
{
        g_autofree char *text = NULL;
        uint64_t n = 0, limit;

        for (const char *p = m->maps; (p = strchr(p, '\n')); p++)
                n++;
        if (n < 1000)
                return true; /* far from any limit that a machine was given */
        limit = g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL, NULL) ? strtoull(text, NULL, 10) : 0;
        return n + m->list->len + MAPPINGS_SPARE < limit;
}

static uint64_t advice_of(const ForkMark *f, bool in_force)
{
        if (f->wipe)
                return in_force ? MADV_WIPEONFORK : MADV_KEEPONFORK;
        return in_force ? MADV_DONTFORK : MADV_DOFORK;
}

/* Runs call @nr by the syscall instruction at @at, as instant_clone() does it. */
static int run(const Instant *i, Tracee *t, uint64_t at, long nr, const uint64_t args[static 6], long *ret)
{
        struct user_regs_struct regs = arch_call_regs(&i->regs, at, nr, args);
        const bool entered = tracee_at_native_entry(t);
        int r;

        arch_set_sixth_argument(&regs, args[5]);
        if (entered)
                arch_become_call(&regs, nr);
        r = tracee_set_regs(t, &regs);
        if (r >= 0)
                r = tracee_set_mask(t, UINT64_MAX);
        return r < 0 ? r : instant_run_call(t, entered, ret);
}

/* A filter could end the target for a call that it does not know. */
static bool pass_seccomp(Tracee *t)
{
        return (t->options & PTRACE_O_SUSPEND_SECCOMP) != 0 || ptrace(PTRACE_SECCOMP_GET_FILTER, t->pid, 0UL, NULL) < 0 ||
               tracee_set_options(t, t->options | PTRACE_O_SUSPEND_SECCOMP) >= 0;
}

static int write_annex(const Marks *m, const Instant *i, const Tracee *t)
{
        const size_t n = ARCH_ANNEX_TABLE + m->list->len * sizeof(ArchAdvice);
        g_autofree uint8_t *bytes = g_malloc0(n);
        ArchAdvice *table = (ArchAdvice *) (void *) (bytes + ARCH_ANNEX_TABLE);

        arch_build_annex(bytes, i->cave, m->list->len);
        for (guint k = 0; k < m->list->len; k++) {
                const ForkMark *f = &g_array_index(m->list, ForkMark, k);

                table[k] = (ArchAdvice){f->start, f->end - f->start, advice_of(f, true)};
        }
        return memory_write(i->memory, t->pid, m->annex, bytes, n);
}

/* The last part of the closing's work, done while this process watches: it unmaps the annex. */
static int close_annex(const Marks *m, const Instant *i, Tracee *t)
{
        static const uint64_t none[5];
        struct user_regs_struct regs = arch_call_regs(&i->regs, i->cave + ARCH_SYSCALL_SIZE, (long) m->annex, none);
        long result;
        int r = tracee_set_regs(t, &regs);

        return r < 0 ? r : instant_run_call(t, false, &result);
}

static int map_annex(Marks *m, Instant *i, Tracee *t, bool *altered, const char **ret_reason)
{
        const struct user_regs_struct back = arch_settle(&i->regs);
        const uint64_t args[6] = {0, m->size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t) -1, 0};
        uint8_t code[ARCH_GADGET_SIZE];
        long result;
        int r;

        i->written = arch_build_closing(code, &back, i->mask, (uint32_t) m->size);
        r = memory_write(i->memory, t->pid, i->cave, code, i->written);
        if (r < 0)
                return r;

        *altered = true;
        r = run(i, t, i->cave, SYS_mmap, args, &result);
        if (r < 0)
                return r;
        if (result < 0) {
                *ret_reason = g_strerror((int) -result);
                return 0;
        }

        m->annex = (uint64_t) result;
        r = write_annex(m, i, t);
        if (r < 0) { /* no page was to be had */
                *ret_reason = g_strerror(-r);
                return close_annex(m, i, t);
        }
        return 1;
}

int marks_begin(Marks *m, Target *target, Instant *i, Tracee *t, bool *altered, const char **ret_reason)
{
        int r;

        *ret_reason = NULL;
        m->annex = 0;
        if (!marks_any(m))
                return 0;

        r = refresh(m, target);
        if (r < 0 || !marks_any(m))
                return r;
        m->size = (ARCH_ANNEX_TABLE + m->list->len * sizeof(ArchAdvice) + PAGE - 1) / PAGE * PAGE;
        if (!i->cave_free) /* instant_write() says so */
                return 0;
        if (m->size > ANNEX_SIZE_MAX || !has_room_for_mappings(m))
                *ret_reason = "it is in too many pieces";
        else if (!pass_seccomp(t))
                *ret_reason = "seccomp forbids it";
        else {
                r = map_annex(m, i, t, altered, ret_reason);
                if (r > 0)
                        return r;
        }
        m->annex = 0;
        g_array_set_size(m->list, 0);
        return r;
}

static int advise(const Marks *m, const Instant *i, Tracee *t, uint64_t at, bool in_force)
{
        for (guint k = 0; k < m->list->len; k++) {
                const ForkMark *f = &g_array_index(m->list, ForkMark, k);
                long result; /* ENOMEM where there is a hole */
                int r = run(i, t, at, SYS_madvise, (uint64_t[6]){f->start, f->end - f->start, advice_of(f, in_force)}, &result);

                if (r < 0)
                        return r;
        }

        return 0;
}

long marks_clone(Marks *m, const Instant *i, Tracee *t)
{
        Instant annexed = *i;
        long pid;
        int r;

        annexed.cave = m->annex + ARCH_ANNEX_CLONE;
        annexed.at_entry = false; /* it is at the exit of a call by now */
        r = advise(m, i, t, m->annex + ARCH_ANNEX_CALL, false);
        if (r < 0)
                return r;
        pid = instant_clone(&annexed, t);
        if (pid == -ESRCH)
                return pid;
        r = advise(m, i, t, m->annex + ARCH_ANNEX_CALL, true);
        if (r >= 0)
                r = close_annex(m, i, t);
        return r < 0 ? r : pid;
}

int marks_settle(Marks *m, const Instant *i, Tracee *t)
{
        long result = 0;
        int r = m->annex != 0 ? instant_call(i, t, SYS_munmap, (uint64_t[5]){m->annex, m->size}, &result) : 0;

        return r < 0 ? r : (int) result;
}

int marks_restore(const Marks *m, const Instant *i, Tracee *t)
{
        return m->annex != 0 ? advise(m, i, t, i->cave, true) : 0;
}
