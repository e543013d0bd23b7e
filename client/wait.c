/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/clones.h"
#include "client/output.h"

/* After a clone has ended: how long its worker may take to tell. */
#define TELL_MSEC 5000

typedef struct Wait {
        uint32_t pid;
        bool told;
        int code, status; /* si_code and si_status */
} Wait;

static ClientExit conclude(const Wait *w)
{
        g_autofree char *core = NULL;

        if (w->code == CLD_EXITED)
                return (ClientExit) w->status;

        core = g_strdup_printf("clone %u was ended by signal %d (%s)%s", w->pid, w->status, sigabbrev_np(w->status) ?: "?",
                               w->code == CLD_DUMPED ? ", its core was dumped" : "");
        return client_error((ClientExit) (128 + w->status), "%s", core);
}

static int on_exited(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        Wait *w = userdata;
        uint32_t pid;
        int code, status;

        if (sd_bus_message_read(m, "uii", &pid, &code, &status) > 0 && pid == w->pid)
                *w = (Wait){pid, true, code, status};
        return 0;
}

/* Looks into the property Exits of the request @path. One that is gone tells nothing. */
static void look(sd_bus *bus, const char *path, Wait *w)
{
        g_autoptr(sd_bus_message) reply = NULL;
        uint32_t pid;
        int code, status;

        if (sd_bus_get_property(bus, REMFORK_NAME, path, REMFORK_REQUEST_INTERFACE, "Exits", NULL, &reply, "a(uii)") < 0 ||
            sd_bus_message_enter_container(reply, 'a', "(uii)") < 0)
                return;
        while (sd_bus_message_read(reply, "(uii)", &pid, &code, &status) > 0)
                if (pid == w->pid)
                        *w = (Wait){pid, true, code, status};
}

/* It is not alive any more: the newest of the requests that are still known may tell how it ended. */
static ClientExit look_back(sd_bus *bus, Wait *w)
{
        g_autoptr(sd_bus_message) m = bus_new_call(bus, "ListRequests"), reply = NULL;
        const char *path;
        ClientExit status;

        if (!m)
                return CLIENT_FAILED;
        status = bus_call(bus, m, false, &reply);
        if (status != CLIENT_OK)
                return status;

        if (sd_bus_message_enter_container(reply, 'a', "(tuusso)") >= 0)
                while (sd_bus_message_read(reply, "(tuusso)", NULL, NULL, NULL, NULL, NULL, &path) > 0)
                        look(bus, path, w);
        if (!w->told)
                return client_error(CLIENT_NOT_FOUND,
                                    "process %u is no clone, or one that ended more than a minute ago; \"remforkctl list\" shows those that there are",
                                    w->pid);
        return conclude(w);
}

/* Until the signal comes, or the process ends and nothing comes. */
static ClientExit wait_for(sd_bus *bus, int pidfd, const char *request, Wait *w)
{
        struct pollfd fds[] = {{.fd = sd_bus_get_fd(bus), .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
        gint64 ended = 0;

        for (;;) {
                int r = sd_bus_process(bus, NULL);

                if (r < 0)
                        return client_error(CLIENT_NO_DAEMON, "the system bus was lost (%s); run it again", g_strerror(-r));
                if (w->told)
                        return conclude(w);
                if (r > 0)
                        continue;
                if (ended && request)
                        look(bus, request, w);
                if (w->told)
                        return conclude(w);
                if (ended && (!request || g_get_monotonic_time() - ended > TELL_MSEC * 1000))
                        return client_error(CLIENT_FAILED,
                                            "clone %u has ended, only its parent was told how; with --parent=daemon remforkd would know", w->pid);

                if (poll(fds, ended ? 1 : 2, ended ? 100 : -1) < 0 && errno != EINTR)
                        return client_error(CLIENT_FAILED, "clone %u cannot be waited for: %s", w->pid, g_strerror(errno));
                if (!ended && fds[1].revents)
                        ended = g_get_monotonic_time();
        }
}

ClientExit verb_wait(int argc, char **argv)
{
        g_autoptr(sd_bus) bus = NULL;
        g_autofree char *path = NULL;
        Wait w = {};
        ClientExit status;
        LiveClone clone;
        int r, pidfd;

        status = verb_parse(argc, argv, NULL, "PID",
                            "Waits until the clone PID ends. Its exit status, or 128 and the number of the signal that ended it, becomes that\n"
                            "of this command; where remforkd was not its parent it cannot be known, and is 1.", 1, NULL);
        if (status != CLIENT_OK)
                return status;
        status = clones_parse_pid(argv[1], &w.pid);
        if (status == CLIENT_OK)
                status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;
        /* Before anything is asked, so that no exit is told in between. */
        r = sd_bus_match_signal(bus, NULL, REMFORK_NAME, NULL, REMFORK_REQUEST_INTERFACE, "CloneExited", on_exited, &w);
        if (r < 0)
                return client_error(CLIENT_FAILED, "the daemon's signals cannot be followed: %s", g_strerror(-r));

        status = clones_find(bus, w.pid, &clone, &pidfd);
        if (status == CLIENT_NOT_FOUND)
                return look_back(bus, &w);
        if (status != CLIENT_OK)
                return status;
        if (clone.request && clone.followed) {
                path = g_strdup_printf(REMFORK_PATH "/request/%" PRIu64, clone.request);
                look(bus, path, &w);
        }
        status = w.told ? conclude(&w) : wait_for(bus, pidfd, path, &w);
        (void) close(pidfd);
        return status;
}
