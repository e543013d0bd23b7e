/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/engine.h"

/* What the engine cannot give the clone. */
typedef enum NotesLack {
        NOTES_MARKS = 1 << 0, /* memory marked MADV_DONTFORK or MADV_WIPEONFORK */
} NotesLack;

/*
 * Tells by handler->note() what a clone of the running @target will not have, or will share with it, though nothing says so:
 * what the kernel leaves out of a copy or keeps as one, and what the engine @lacks. Does nothing where spec->notes is not set. What
 * cannot be read is passed over: the engine says why a target cannot be cloned.
 */
void notes_tell(Target *target, const CloneSpec *spec, const EngineHandler *handler, NotesLack lacks);

/* For the tests: the sentences on the memory that @smaps (proc(5)) describes, ending with NULL. */
char **notes_on_memory(const char *smaps, pid_t pid, CloneIsolate isolate, bool lacks_marks);
