/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "client/verb.h"

/* A clone that is alive, as the daemon knows it. */
typedef struct LiveClone {
        uint32_t pid, source, uid; /* @uid: who asked */
        uint64_t start_time;       /* clock ticks since boot */
        uint64_t request;          /* 0: not known to the daemon any more */
        int followed;              /* its exit will be told */
} LiveClone;

/* All of them (LiveClone), the oldest first. The array is the caller's. */
ClientExit clones_get(sd_bus *bus, GArray **ret);

/* Reads a PID of the command line. */
ClientExit clones_parse_pid(const char *text, uint32_t *ret);

/*
 * The clone @pid, and a pidfd of it (the caller's): it was opened before the daemon was asked and compared with what the
 * daemon says, so that no other process is ever meant. CLIENT_NOT_FOUND, without a message, where there is no live clone of that
 * PID; @ret_pidfd is -EBADF after every error.
 */
ClientExit clones_find(sd_bus *bus, uint32_t pid, LiveClone *ret, int *ret_pidfd);

/* The same for a word of the command line, and every error is told. */
ClientExit clones_find_word(sd_bus *bus, const char *text, LiveClone *ret, int *ret_pidfd);

/* The clone @pid as the daemon knows it, wherever that is. CLIENT_NOT_FOUND where there is none; every error is told. */
ClientExit clones_get_one(sd_bus *bus, const char *word, LiveClone *ret);

/* What this machine or the daemon's knows of it. All texts are fit for a terminal; "-" for what is not known. */
typedef struct CloneFacts {
        char *program, *user;
        char *unit; /* of the system or of a user */
        bool known; /* the two that follow: not of another machine or container */
        uint64_t age;    /* seconds since the clone was made */
        uint64_t memory; /* resident, bytes; 0 where it has ended */
        char *age_text, *memory_text; /* as in "2min 30s" and "1.2 MiB" */
} CloneFacts;

void clones_read_facts(sd_bus *bus, const LiveClone *c, CloneFacts *ret);
void clone_facts_clear(CloneFacts *f);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CloneFacts, clone_facts_clear)

/* Adds the object to what is being built. */
void clones_to_json(JsonBuilder *b, const LiveClone *c, const CloneFacts *f);
