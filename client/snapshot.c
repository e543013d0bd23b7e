/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/snapshot.h"

static int append_options(sd_bus_message *m, bool followed)
{
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        if (r >= 0)
                r = sd_bus_message_append(m, "{sv}", "stopped", "b", (int) true);
        if (r >= 0 && followed)
                r = sd_bus_message_append(m, "{sv}", "parent", "s", "daemon");
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/*
 * A child of the daemon is no surprise to the target's parent, which would otherwise be told of the end of a child that it never had.
 * But the ptrace engine follows such a clone as its tracer, and there can be but one.
 */
static bool daemon_can_be_parent(sd_bus *bus)
{
        char *engine = NULL;
        bool can = sd_bus_get_property_string(bus, REMFORK_NAME, REMFORK_PATH, REMFORK_INTERFACE, "Engine", NULL, &engine) >= 0 &&
                   strcmp(engine, "kernel") == 0;

        g_free(engine);
        return can;
}

/* Reads a(uu)aho; the descriptor is duplicated, because the message closes its own. */
static int read_reply(sd_bus_message *reply, Snapshot *ret, const char **ret_request)
{
        uint32_t source, clone;
        int r, fd;

        r = sd_bus_message_read(reply, "a(uu)", 1, &source, &clone);
        if (r >= 0)
                r = sd_bus_message_read(reply, "ah", 1, &fd);
        if (r >= 0)
                r = sd_bus_message_read(reply, "o", ret_request);
        if (r < 0)
                return r;

        fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return -errno;
        *ret = (Snapshot){source, (pid_t) clone, fd};
        return 0;
}

ClientExit snapshot_make(uint32_t pid, bool ask_password, bool quiet, Snapshot *ret)
{
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(sd_bus_message) m = NULL, reply = NULL;
        g_auto(GStrv) notes = NULL;
        const char *request;
        ClientExit status;
        int r, pidfd;

        status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;
        m = bus_new_call(bus, "ClonePIDFD");
        if (!m)
                return CLIENT_FAILED;

        pidfd = (int) syscall(SYS_pidfd_open, (pid_t) pid, 0);
        if (pidfd < 0)
                return client_error(errno == ESRCH ? CLIENT_NOT_FOUND : CLIENT_FAILED, "process %u cannot be opened: %s", pid, g_strerror(errno));
        r = sd_bus_message_append(m, "h", pidfd); /* duplicates it */
        (void) close(pidfd);
        if (r >= 0)
                r = append_options(m, daemon_can_be_parent(bus));
        if (r < 0)
                return bus_message_error(r);

        status = bus_call(bus, m, ask_password, &reply);
        if (status != CLIENT_OK)
                return status;
        r = read_reply(reply, ret, &request);
        if (r < 0)
                return bus_message_error(r);
        if (!quiet && sd_bus_get_property_strv(bus, REMFORK_NAME, request, REMFORK_REQUEST_INTERFACE, "Notes", NULL, &notes) >= 0)
                for (char **n = notes; n && *n; n++)
                        client_error(CLIENT_OK, "note: %s", *n);
        return CLIENT_OK;
}

void snapshot_clear(Snapshot *s)
{
        if (s->pidfd < 0)
                return;
        (void) syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0); /* ESRCH: the debugger has ended it */
        (void) close(s->pidfd);
        *s = SNAPSHOT_INIT;
}
