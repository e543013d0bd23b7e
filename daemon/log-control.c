/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "daemon/log-control.h"
#include "daemon/log.h"

/* org.freedesktop.LogControl1(5). What is written is checked by the bus's policy and by sd-bus: only the superuser may. */

static const char *const level_names[] = {"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}; /* as in syslog.h */
static const char *const target_names[_LOG_TARGET_MAX] = {[LOG_TARGET_JOURNAL] = "journal", [LOG_TARGET_CONSOLE] = "console"};

static int find(const char *const *names, size_t n, sd_bus_message *value, const char *what, sd_bus_error *e)
{
        const char *text;
        int r = sd_bus_message_read(value, "s", &text);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++)
                if (strcmp(names[i], text) == 0)
                        return (int) i;
        return sd_bus_error_setf(e, SD_BUS_ERROR_INVALID_ARGS, "There is no log %s of that name, \"%s\" or \"%s\" is one", what, names[0], names[n - 1]);
}

static int get_level(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                void *userdata, sd_bus_error *e)
{
        return sd_bus_message_append(reply, "s", level_names[log_get_level()]);
}

static int set_level(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *value,
                void *userdata, sd_bus_error *e)
{
        int r = find(level_names, G_N_ELEMENTS(level_names), value, "level", e);

        if (r >= 0)
                log_set_level(r);
        return r < 0 ? r : 0;
}

static int get_target(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                void *userdata, sd_bus_error *e)
{
        return sd_bus_message_append(reply, "s", target_names[log_get_target()]);
}

static int set_target(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *value,
                void *userdata, sd_bus_error *e)
{
        int r = find(target_names, G_N_ELEMENTS(target_names), value, "target", e);

        if (r >= 0)
                log_set_target((LogTarget) r);
        return r < 0 ? r : 0;
}

static int get_identifier(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                void *userdata, sd_bus_error *e)
{
        return sd_bus_message_append(reply, "s", "remforkd");
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_WRITABLE_PROPERTY("LogLevel", "s", get_level, set_level, 0, 0),
        SD_BUS_WRITABLE_PROPERTY("LogTarget", "s", get_target, set_target, 0, 0),
        SD_BUS_PROPERTY("SyslogIdentifier", "s", get_identifier, 0, 0),
        SD_BUS_VTABLE_END,
};

int log_control_add(sd_bus *bus)
{
        return sd_bus_add_object_vtable(bus, NULL, "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1", vtable, NULL);
}
