/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "client/verb.h"

#define REMFORK_NAME "org.remfork.Clone"
#define REMFORK_PATH "/org/remfork/Clone"
#define REMFORK_INTERFACE "org.remfork.Clone"
#define REMFORK_REQUEST_INTERFACE "org.remfork.Clone.Request"

#define SYSTEMD_NAME "org.freedesktop.systemd1"
#define SYSTEMD_PATH "/org/freedesktop/systemd1"

extern char *bus_host, *bus_machine;

/* Whose remforkd is spoken with, as for systemctl(1); to be put into a verb's table of options. */
#define REMOTE_OPTIONS \
        {"host", 'H', 0, G_OPTION_ARG_STRING, &bus_host, "Speak with remforkd of another machine, over ssh", "[USER@]HOST"}, \
        {"machine", 'M', 0, G_OPTION_ARG_STRING, &bus_machine, "Speak with remforkd of a local container", "CONTAINER"}

/* Whether one of these was given: PIDs, users and units are not those of here then. */
bool bus_is_remote(void);

/* Where remforkd is: "host x", "container x" or "this machine". Static storage, as it is on the command line. */
const char *bus_where(void);

/*
 * Connects to the system bus, or to DBUS_SYSTEM_BUS_ADDRESS, or to that of the host or container that was named. On CLIENT_OK @ret
 * is the caller's.
 */
ClientExit bus_open(sd_bus **ret);

/*
 * Sends @message and waits for the answer for as long as it takes: the daemon has a deadline for each request, and a daemon
 * that dies is an answer. What takes longer than half a second is told on a terminal. Where a password is needed and @ask, the call is made once more with polkit allowed to ask.
 * On CLIENT_OK @ret (which may be NULL) is the caller's; every error was told on stderr.
 */
ClientExit bus_call(sd_bus *bus, sd_bus_message *message, bool ask, sd_bus_message **ret);

/* Tells that building or reading a message failed with the negative errno @r. */
ClientExit bus_message_error(int r);

/* A new call of the daemon's main object. NULL after an error, which was told. */
sd_bus_message *bus_new_call(sd_bus *bus, const char *member);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(sd_bus, sd_bus_flush_close_unref)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(sd_bus_message, sd_bus_message_unref)
