/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "daemon/engine/inject.h"
#include "daemon/target.h"

/*
 * Has a clone get the memory that its target marked MADV_DONTFORK or MADV_WIPEONFORK, with the content of the instant: the marks
 * are taken away before the clone and given back after it, in the target by itself where this process is killed meanwhile. V8 marks
 * all of its heap so.
 */
typedef struct Marks {
        bool looked;
        GArray *list;   /* ForkMark; NULL or empty where there are none */
        char *maps;     /* as the list was read */
        uint64_t annex; /* in the clone that was made, 0 for none */
        uint64_t size;  /* of the annex */
} Marks;

/* Reads the marks of @target, which may run. What cannot be read is none. */
void marks_look(Marks *m, Target *target);
void marks_clear(Marks *m);

static inline bool marks_any(const Marks *m)
{
        return m->list && m->list->len > 0;
}

/*
 * In the pause: maps the annex into the stopped @t, of which @i was taken, with all its threads stopped. 1: marks_clone() is
 * next. 0: there is nothing to be done, or no way, which @ret_reason says then; the plain clone is next. A negative errno of ptrace(2).
 * *@altered is set as soon as @t's registers are not its own, i->written where code is in its memory.
 */
int marks_begin(Marks *m, Target *target, Instant *i, Tracee *t, bool *altered, const char **ret_reason);

/* As instant_clone(); the marks are in force again and the annex is gone when it returns. */
long marks_clone(Marks *m, const Instant *i, Tracee *t);

/* Takes the annex out of the first clone. Negative errno. */
int marks_settle(Marks *m, const Instant *i, Tracee *t);

/* Marks the memory of a held clone as the target's is. Negative errno. */
int marks_restore(const Marks *m, const Instant *i, Tracee *t);
