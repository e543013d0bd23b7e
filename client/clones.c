/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <systemd/sd-login.h>
#include <time.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/clones.h"
#include "client/output.h"

/* Field 22 of /proc/PID/stat; 0 where there is no such process. The name before it may have blanks and parentheses. */
static uint64_t read_start_time(uint32_t pid)
{
        g_autofree char *path = g_strdup_printf("/proc/%u/stat", pid), *text = NULL;
        const char *p;
        uint64_t start = 0;

        if (!g_file_get_contents(path, &text, NULL, NULL))
                return 0;
        p = strrchr(text, ')');
        if (p)
                (void) sscanf(p, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64, &start);
        return start;
}

ClientExit clones_get(sd_bus *bus, GArray **ret)
{
        g_autoptr(GArray) clones = g_array_new(FALSE, FALSE, sizeof(LiveClone));
        g_autoptr(sd_bus_message) m = bus_new_call(bus, "ListClones"), reply = NULL;
        LiveClone c;
        ClientExit status;
        int r;

        if (!m)
                return CLIENT_FAILED;
        status = bus_call(bus, m, false, &reply);
        if (status != CLIENT_OK)
                return status;

        r = sd_bus_message_enter_container(reply, 'a', "(utuutb)");
        while (r >= 0 && (r = sd_bus_message_read(reply, "(utuutb)", &c.pid, &c.start_time, &c.source, &c.uid, &c.request,
                                                  &c.followed)) > 0)
                g_array_append_val(clones, c);
        if (r < 0)
                return bus_message_error(r);

        *ret = g_steal_pointer(&clones);
        return CLIENT_OK;
}

ClientExit clones_parse_pid(const char *text, uint32_t *ret)
{
        guint64 pid;

        if (!g_ascii_string_to_unsigned(text, 10, 1, PID_LIMIT, &pid, NULL))
                return client_error(CLIENT_USAGE, "PID \"%s\": a number from 1 to %d was expected", text, PID_LIMIT);
        *ret = (uint32_t) pid;
        return CLIENT_OK;
}

ClientExit clones_find(sd_bus *bus, uint32_t pid, LiveClone *ret, int *ret_pidfd)
{
        g_autoptr(GArray) clones = NULL;
        ClientExit status;
        int fd;

        *ret_pidfd = -EBADF;
        fd = (int) syscall(SYS_pidfd_open, (pid_t) pid, 0);
        if (fd < 0 && errno != ESRCH && errno != EINVAL) /* EINVAL: a thread */
                return client_error(CLIENT_FAILED, "process %u cannot be opened: %s", pid, g_strerror(errno));
        status = clones_get(bus, &clones);
        for (guint i = 0; status == CLIENT_OK && fd >= 0 && i < clones->len; i++) {
                const LiveClone *c = &g_array_index(clones, LiveClone, i);

                if (c->pid == pid && c->start_time == read_start_time(pid)) {
                        *ret = *c;
                        *ret_pidfd = fd;
                        return CLIENT_OK;
                }
        }

        if (fd >= 0)
                (void) close(fd);
        return status == CLIENT_OK ? CLIENT_NOT_FOUND : status;
}

ClientExit clones_find_word(sd_bus *bus, const char *text, LiveClone *ret, int *ret_pidfd)
{
        uint32_t pid = 0;
        ClientExit status = clones_parse_pid(text, &pid);

        if (status == CLIENT_OK)
                status = clones_find(bus, pid, ret, ret_pidfd);
        if (status == CLIENT_NOT_FOUND)
                client_error(status, "process %u is no live clone; \"remforkctl list\" shows those that there are", pid);
        return status;
}

ClientExit clones_get_one(sd_bus *bus, const char *word, LiveClone *ret)
{
        g_autoptr(GArray) clones = NULL;
        uint32_t pid = 0;
        ClientExit status;
        int pidfd;

        if (!bus_is_remote()) { /* here it can be told for certain that it is the clone still */
                status = clones_find_word(bus, word, ret, &pidfd);
                if (pidfd >= 0)
                        (void) close(pidfd);
                return status;
        }

        status = clones_parse_pid(word, &pid);
        if (status == CLIENT_OK)
                status = clones_get(bus, &clones);
        for (guint i = 0; status == CLIENT_OK && i < clones->len; i++)
                if (g_array_index(clones, LiveClone, i).pid == pid) {
                        *ret = g_array_index(clones, LiveClone, i);
                        return CLIENT_OK;
                }
        return status == CLIENT_OK ? client_error(CLIENT_NOT_FOUND, "process %u of %s is no live clone", pid, bus_where()) : status;
}

static uint64_t read_age(const LiveClone *c)
{
        uint64_t start = c->start_time / (uint64_t) sysconf(_SC_CLK_TCK);
        struct timespec now;

        (void) clock_gettime(CLOCK_BOOTTIME, &now); /* cannot fail; start times are by this clock */
        return (uint64_t) now.tv_sec > start ? (uint64_t) now.tv_sec - start : 0;
}

static uint64_t read_memory(const LiveClone *c)
{
        g_autofree char *path = g_strdup_printf("/proc/%u/statm", c->pid), *text = NULL;
        uint64_t pages = 0;

        if (g_file_get_contents(path, &text, NULL, NULL))
                (void) sscanf(text, "%*u %" SCNu64, &pages);
        return pages * (uint64_t) sysconf(_SC_PAGESIZE);
}

static char *read_unit(const LiveClone *c)
{
        g_autofree char *unit = NULL; /* of malloc(), which GLib's allocator is since 2.46 */

        if (sd_pid_get_user_unit((pid_t) c->pid, &unit) < 0 && sd_pid_get_unit((pid_t) c->pid, &unit) < 0)
                return g_strdup("-");
        return output_escape(unit);
}

/* systemd of where the daemon is knows it. */
static char *ask_unit(sd_bus *bus, const LiveClone *c)
{
        g_autoptr(sd_bus_message) reply = NULL;
        g_autofree char *unit = NULL;
        const char *path;

        if (sd_bus_call_method(bus, SYSTEMD_NAME, SYSTEMD_PATH, SYSTEMD_NAME ".Manager", "GetUnitByPID", NULL, &reply, "u", c->pid) < 0 ||
            sd_bus_message_read(reply, "o", &path) < 0 ||
            sd_bus_get_property_string(bus, SYSTEMD_NAME, path, SYSTEMD_NAME ".Unit", "Id", NULL, &unit) < 0)
                return g_strdup("-");
        return output_escape(unit);
}

void clones_read_facts(sd_bus *bus, const LiveClone *c, CloneFacts *ret)
{
        if (bus_is_remote()) {
                *ret = (CloneFacts){
                        .program = g_strdup("-"),
                        .user = g_strdup_printf("%u", c->uid),
                        .unit = ask_unit(bus, c),
                        .age_text = g_strdup("-"),
                        .memory_text = g_strdup("-"),
                };
                return;
        }

        *ret = (CloneFacts){
                .program = output_program((pid_t) c->pid),
                .user = output_user(c->uid),
                .unit = read_unit(c),
                .known = true,
                .age = read_age(c),
                .memory = read_memory(c),
        };
        ret->age_text = ret->age > 0 ? output_usec(ret->age * 1000000) : g_strdup("0s");
        ret->memory_text = g_format_size_full(ret->memory, G_FORMAT_SIZE_IEC_UNITS);
}

void clone_facts_clear(CloneFacts *f)
{
        g_free(f->program);
        g_free(f->user);
        g_free(f->unit);
        g_free(f->age_text);
        g_free(f->memory_text);
}

static void add_number(JsonBuilder *b, const char *key, uint64_t value, bool known)
{
        json_builder_set_member_name(b, key);
        if (known)
                json_builder_add_int_value(b, (gint64) value);
        else
                json_builder_add_null_value(b);
}

static void add_text(JsonBuilder *b, const char *key, const char *value)
{
        json_builder_set_member_name(b, key);
        json_builder_add_string_value(b, value);
}

void clones_to_json(JsonBuilder *b, const LiveClone *c, const CloneFacts *f)
{
        json_builder_begin_object(b);
        add_number(b, "pid", c->pid, true);
        add_number(b, "source", c->source, true);
        add_number(b, "uid", c->uid, true);
        add_number(b, "request", c->request, true);
        add_number(b, "age", f->age, f->known);
        add_number(b, "memory", f->memory, f->known);
        add_text(b, "program", f->program);
        add_text(b, "unit", f->unit);
        add_text(b, "parent", c->followed ? "daemon" : "shared");
        json_builder_end_object(b);
}
