/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/agent.h"
#include "client/bus.h"

#define PROGRESS_USEC (G_USEC_PER_SEC / 2)

#define INTERACTIVE_REQUIRED "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"

/* What each error means for the exit status, and what to do about it. A name that ends in "." stands for all below it. */
static const struct {
        const char *name;
        ClientExit status;
        const char *advice;
} error_table[] = {
        {INTERACTIVE_REQUIRED, CLIENT_DENIED, "run it in a terminal without --no-ask-password, or as root"},
        {"org.freedesktop.DBus.Error.AccessDenied", CLIENT_DENIED, "run it as root, or ask an administrator"},
        {"org.freedesktop.PolicyKit1.Error.", CLIENT_DENIED, "run it as root, or ask an administrator"},
        {"org.freedesktop.DBus.Error.InvalidArgs", CLIENT_USAGE, "\"remforkctl --help\" shows the usage"},
        {"org.freedesktop.DBus.Error.LimitsExceeded", CLIENT_LIMIT, "try again later; \"remforkctl status\" shows the limits"},
        {"org.remfork.Clone.Error.NoSuchProcess", CLIENT_NOT_FOUND, "look it up again, with pgrep(1)"},
        {"org.remfork.Clone.Error.NoSuchRequest", CLIENT_NOT_FOUND, "\"remforkctl list\" shows the requests"},
        {"org.freedesktop.DBus.Error.UnknownObject", CLIENT_NOT_FOUND, "\"remforkctl list\" shows the requests"},
        {"org.remfork.Clone.Error.Unsupported", CLIENT_UNSUPPORTED, "the process goes on as it was"},
        {"org.remfork.Clone.Error.Busy", CLIENT_UNSUPPORTED, "try again when the debugger or tracer has let it go"},
        {"org.remfork.Clone.Error.Timeout", CLIENT_TIMEOUT, "try again, with a longer --timeout="},
        {"org.remfork.Clone.Error.Canceled", CLIENT_CANCELED, "the process goes on as it was"},
        {"org.freedesktop.DBus.Error.ServiceUnknown", CLIENT_NO_DAEMON, "start it with \"systemctl start remforkd\""},
        {"org.freedesktop.DBus.Error.NameHasNoOwner", CLIENT_NO_DAEMON, "start it with \"systemctl start remforkd\""},
        {"org.freedesktop.DBus.Error.NoReply", CLIENT_NO_DAEMON, "see \"journalctl -u remforkd\""},
        {"org.freedesktop.DBus.Error.Disconnected", CLIENT_NO_DAEMON, "see \"journalctl -u remforkd\""},
        {"org.freedesktop.DBus.Error.Spawn.", CLIENT_NO_DAEMON, "start it with \"systemctl start remforkd\""},
        {"org.freedesktop.systemd1.", CLIENT_NO_DAEMON, "see \"systemctl status remforkd\""},
};

char *bus_host, *bus_machine;

static ClientExit bus_error(const sd_bus_error *error, int r)
{
        const char *text = error->message && *error->message ? error->message : g_strerror(-r);

        for (size_t i = 0; error->name && i < G_N_ELEMENTS(error_table); i++) {
                const char *name = error_table[i].name;
                bool match = g_str_has_suffix(name, ".") ? g_str_has_prefix(error->name, name) : strcmp(error->name, name) == 0;

                if (!match)
                        continue;
                if (error_table[i].status == CLIENT_NO_DAEMON)
                        return client_error(CLIENT_NO_DAEMON, "remforkd cannot be reached (%s); %s", text, error_table[i].advice);
                return client_error(error_table[i].status, "%s; %s", text, error_table[i].advice);
        }

        if (r == -ECONNRESET || r == -ENOTCONN || r == -ETIMEDOUT)
                return client_error(CLIENT_NO_DAEMON, "the system bus was lost (%s); try again", text);
        return client_error(CLIENT_FAILED, "%s; \"journalctl -u remforkd\" may say more", text);
}

ClientExit bus_message_error(int r)
{
        return client_error(CLIENT_FAILED, "a message of the bus could not be made or read: %s; do remforkd and remforkctl have the same version?",
                            g_strerror(-r));
}

bool bus_is_remote(void)
{
        return bus_host || bus_machine;
}

const char *bus_where(void)
{
        return bus_host ?: bus_machine ?: "this machine";
}

static ClientExit open_remote(sd_bus **ret)
{
        int r;

        if (bus_host && bus_machine)
                return client_error(CLIENT_USAGE, "--host= and --machine= contradict each other");

        r = bus_host ? sd_bus_open_system_remote(ret, bus_host) : sd_bus_open_system_machine(ret, bus_machine);
        if (r >= 0) /* what a host or container has to say against it comes only now */
                r = sd_bus_get_unique_name(*ret, &(const char *){NULL});
        if (r < 0) {
                *ret = sd_bus_close_unref(*ret);
                return client_error(r == -EINVAL ? CLIENT_USAGE : CLIENT_NO_DAEMON, "the system bus of %s cannot be reached (%s); %s", bus_where(),
                                    g_strerror(-r), bus_host ? "does \"ssh\" reach it, and is systemd there?" : "\"machinectl list\" shows the containers");
        }
        return CLIENT_OK;
}

ClientExit bus_open(sd_bus **ret)
{
        int r;

        *ret = NULL;
        if (bus_is_remote())
                return open_remote(ret);
        r = sd_bus_open_system(ret);
        if (r < 0)
                return client_error(CLIENT_NO_DAEMON, "the system bus cannot be reached (%s); is dbus running?", g_strerror(-r));
        return CLIENT_OK;
}

sd_bus_message *bus_new_call(sd_bus *bus, const char *member)
{
        sd_bus_message *m = NULL;
        int r = sd_bus_message_new_method_call(bus, &m, REMFORK_NAME, REMFORK_PATH, REMFORK_INTERFACE, member);

        if (r < 0)
                bus_message_error(r);
        return m;
}

/* A call that has been sent is sealed: the same once more, as a new message. */
static int copy_call(sd_bus *bus, sd_bus_message *message, sd_bus_message **ret)
{
        g_autoptr(sd_bus_message) m = NULL;
        int r;

        r = sd_bus_message_new_method_call(bus, &m, sd_bus_message_get_destination(message), sd_bus_message_get_path(message),
                                           sd_bus_message_get_interface(message), sd_bus_message_get_member(message));
        if (r < 0)
                return r;
        r = sd_bus_message_rewind(message, true);
        if (r < 0)
                return r;
        r = sd_bus_message_copy(m, message, true);
        if (r < 0)
                return r;
        r = sd_bus_message_set_allow_interactive_authorization(m, true);
        if (r < 0)
                return r;

        *ret = g_steal_pointer(&m);
        return 0;
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
        *(sd_bus_message **) userdata = sd_bus_message_ref(m);
        return 0;
}

/* Until *@reply is there. */
static int wait_for_reply(sd_bus *bus, sd_bus_message *const *reply)
{
        gint64 begun = g_get_monotonic_time();
        bool shown = false;
        int r = 0;

        while (!*reply && r >= 0) {
                gint64 passed = g_get_monotonic_time() - begun;

                if (passed >= PROGRESS_USEC) {
                        fprintf(stderr, "\r\033[Kremforkd is at it, %" G_GINT64_FORMAT " s; ^C gives up", passed / G_USEC_PER_SEC);
                        shown = true;
                }
                r = sd_bus_process(bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(bus, PROGRESS_USEC);
                if (r == -EINTR)
                        r = 0;
        }
        if (shown)
                fputs("\r\033[K", stderr);
        return r;
}

/* As sd_bus_call(), for as long as it takes; on a terminal it says that it takes long. */
static int call_and_wait(sd_bus *bus, sd_bus_message *message, sd_bus_error *error, sd_bus_message **ret)
{
        g_autoptr(sd_bus_message) reply = NULL;
        sd_bus_slot *slot = NULL;
        int r;

        if (!isatty(STDERR_FILENO))
                return sd_bus_call(bus, message, UINT64_MAX, error, ret);

        r = sd_bus_call_async(bus, &slot, message, on_reply, &reply, UINT64_MAX);
        if (r >= 0)
                r = wait_for_reply(bus, &reply);
        sd_bus_slot_unref(slot);
        if (r < 0)
                return r;
        if (sd_bus_message_is_method_error(reply, NULL)) {
                (void) sd_bus_error_copy(error, sd_bus_message_get_error(reply)); /* returns what it means, as the next line does */
                return -sd_bus_message_get_errno(reply);
        }
        if (ret)
                *ret = g_steal_pointer(&reply);
        return 0;
}

ClientExit bus_call(sd_bus *bus, sd_bus_message *message, bool ask, sd_bus_message **ret)
{
        g_autoptr(sd_bus_message) again = NULL;
        sd_bus_error error = SD_BUS_ERROR_NULL;
        ClientExit status = CLIENT_OK;
        int r;

        /*
         * First without polkit being allowed to ask, because mostly it need not, and an agent takes longer to start than
         * the clone takes to be made.
         */
        r = call_and_wait(bus, message, &error, ret);
        if (r < 0 && ask && !bus_is_remote() && geteuid() != 0 && sd_bus_error_has_name(&error, INTERACTIVE_REQUIRED)) {
                r = copy_call(bus, message, &again);
                if (r < 0)
                        status = bus_message_error(r);
                else {
                        sd_bus_error_free(&error);
                        agent_open();
                        r = sd_bus_call(bus, again, UINT64_MAX, &error, ret);
                        agent_close();
                }
        }

        if (r < 0 && status == CLIENT_OK)
                status = bus_error(&error, r);
        sd_bus_error_free(&error);
        return status;
}
