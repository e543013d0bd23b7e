/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Memory that is mapped shared, as /proc/PID/maps has it. */

typedef enum SharedKind {
        SHARED_ANONYMOUS,
        SHARED_SYSV,
        SHARED_MEMFD,
        SHARED_DELETED, /* a file without a name, as sem_open(3) and shm_open(3) leave it: whoever has it inherited it, or was given it */
        SHARED_FILE, /* also of devices and other things with a mapping */
} SharedKind;

typedef struct SharedMapping {
        uint64_t start, end, offset;
        char permissions[5];
        char device[16];
        unsigned long inode;
        SharedKind kind;
        char name[256]; /* cut to fit */
        unsigned member; /* whose it is, for isolate-memory.c */
        bool done;
} SharedMapping;

/* One line of maps; false for one that is not as proc(5) has it, or is not of shared memory. */
bool shared_mapping_parse(const char *line, SharedMapping *ret);

/* All of a process; 0 and an array of SharedMapping, or a negative errno. */
int shared_mappings_read(pid_t pid, GArray **ret);
