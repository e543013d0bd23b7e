/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/choose.h"
#include "client/output.h"

typedef struct Found {
        uint32_t pid;
        uint64_t start_time;
} Found;

/* linux/sched.h; field 9 of /proc/PID/stat */
#define PF_KTHREAD 0x00200000U

void choice_clear(Choice *c)
{
        g_free(c->unit);
        g_free(c->name);
}

/*
 * The last part of the first argument is looked at, too, because the kernel cuts the name after 15 bytes and a script's is that of its
 * interpreter. A login shell has a "-" before it.
 */
static bool is_named(const char *pid, const char *comm, size_t comm_length, const char *name)
{
        g_autofree char *path = NULL, *command = NULL;
        const char *base;

        if (strlen(name) == comm_length && memcmp(comm, name, comm_length) == 0)
                return true;
        path = g_build_filename("/proc", pid, "cmdline", NULL);
        if (!g_file_get_contents(path, &command, NULL, NULL) || !*command)
                return false;
        base = strrchr(command, '/');
        base = base ? base + 1 : command;
        return strcmp(*base == '-' ? base + 1 : base, name) == 0;
}

/* Reads /proc/PID/stat: true where it is a process of that name, no kernel thread, and has not ended. */
static bool match(const char *pid, const char *name, Found *ret)
{
        g_autofree char *path = g_build_filename("/proc", pid, "stat", NULL), *text = NULL;
        const char *open, *close;
        unsigned flags;
        char state;

        if (!g_file_get_contents(path, &text, NULL, NULL))
                return false; /* it has ended meanwhile */
        open = strchr(text, '(');
        close = strrchr(text, ')'); /* the name may have parentheses of its own */
        if (!open || !close ||
            sscanf(close, ") %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64, &state, &flags,
                   &ret->start_time) != 3)
                return false;
        ret->pid = (uint32_t) g_ascii_strtoull(pid, NULL, 10);
        return state != 'Z' && state != 'X' && (flags & PF_KTHREAD) == 0 && ret->pid != (uint32_t) getpid() &&
               is_named(pid, open + 1, (size_t) (close - open - 1), name);
}

static ClientExit find_all(const char *name, GArray *found)
{
        g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
        const char *entry;
        Found f;

        if (!dir)
                return client_error(CLIENT_FAILED, "/proc cannot be read: %s", g_strerror(errno));
        while ((entry = g_dir_read_name(dir)))
                if (g_ascii_isdigit(*entry) && match(entry, name, &f))
                        g_array_append_val(found, f);
        return CLIENT_OK;
}

static gint compare_start(gconstpointer a, gconstpointer b)
{
        const Found *x = a, *y = b;

        if (x->start_time != y->start_time)
                return x->start_time < y->start_time ? -1 : 1;
        return x->pid < y->pid ? -1 : x->pid > y->pid; /* the same tick: PIDs mostly go up */
}

static ClientExit resolve_name(const Choice *c, uint32_t *ret)
{
        g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(Found));
        g_autoptr(GString) pids = g_string_new(NULL);
        ClientExit status = find_all(c->name, found);

        if (status != CLIENT_OK)
                return status;
        if (found->len == 0)
                return client_error(CLIENT_NOT_FOUND, "there is no process named \"%s\"; look it up again, with pgrep(1)", c->name);

        g_array_sort(found, compare_start);
        if (found->len > 1 && !c->newest && !c->oldest) {
                for (guint i = 0; i < found->len && i < 10; i++)
                        g_string_append_printf(pids, "%s%u", i > 0 ? ", " : "", g_array_index(found, Found, i).pid);
                return client_error(CLIENT_USAGE, "%u processes are named \"%s\" (%s%s); name one by its PID, or add --newest or --oldest",
                                    found->len, c->name, pids->str, found->len > 10 ? ", ..." : "");
        }

        *ret = g_array_index(found, Found, c->newest ? found->len - 1 : 0).pid;
        return CLIENT_OK;
}

static ClientExit resolve_unit(const char *word, uint32_t *ret)
{
        g_autofree char *unit = strchr(word, '.') ? g_strdup(word) : g_strdup_printf("%s.service", word);
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(sd_bus_message) reply = NULL;
        sd_bus_error error = SD_BUS_ERROR_NULL;
        const char *path;
        ClientExit status;
        int r;

        if (!g_str_has_suffix(unit, ".service"))
                return client_error(CLIENT_USAGE, "--unit=%s: a service was expected, other units have no main process", word);
        status = bus_open(&bus);
        if (status != CLIENT_OK)
                return status;

        r = sd_bus_call_method(bus, SYSTEMD_NAME, SYSTEMD_PATH, SYSTEMD_NAME ".Manager", "GetUnit", &error, &reply, "s", unit);
        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &path);
        if (r >= 0)
                r = sd_bus_get_property_trivial(bus, SYSTEMD_NAME, path, SYSTEMD_NAME ".Service", "MainPID", &error, 'u', ret);
        if (r < 0)
                status = client_error(sd_bus_error_has_name(&error, SYSTEMD_NAME ".NoSuchUnit") ? CLIENT_NOT_FOUND : CLIENT_FAILED,
                                      "the main process of %s cannot be had: %s; \"systemctl list-units\" shows those that run", unit,
                                      error.message ?: g_strerror(-r));
        else if (*ret == 0)
                status = client_error(CLIENT_NOT_FOUND, "%s has no main process now; see \"systemctl status %s\"", unit, unit);
        sd_bus_error_free(&error);
        return status;
}

ClientExit choice_resolve(const Choice *c, const char *word, uint32_t *ret)
{
        guint64 pid;

        if ((word != NULL) + (c->unit != NULL) + (c->name != NULL) != 1)
                return client_error(CLIENT_USAGE, "one of PID, --unit= and --name= was expected, there are %d",
                                    (word != NULL) + (c->unit != NULL) + (c->name != NULL));
        if ((c->newest || c->oldest) && (!c->name || c->newest == c->oldest))
                return client_error(CLIENT_USAGE, c->name ? "--newest and --oldest contradict each other"
                                                          : "--newest and --oldest choose among processes of one --name=, which is missing");

        if (c->name && bus_is_remote())
                return client_error(CLIENT_USAGE, "--name= looks for a process of this machine, not of %s; name it by its PID or --unit=", bus_where());
        if (c->unit)
                return resolve_unit(c->unit, ret);
        if (c->name)
                return resolve_name(c, ret);
        if (!g_ascii_string_to_unsigned(word, 10, 1, PID_LIMIT, &pid, NULL))
                return client_error(CLIENT_USAGE, "PID \"%s\": a number from 1 to %d was expected", word, PID_LIMIT);
        *ret = (uint32_t) pid;
        return CLIENT_OK;
}
