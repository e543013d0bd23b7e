/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "daemon/bus-util.h"
#include "daemon/scope.h"

#define SYSTEMD_NAME "org.freedesktop.systemd1"
#define SYSTEMD_PATH "/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER SYSTEMD_NAME ".Manager"

#define TIMEOUT_USEC (UINT64_C(20) * 1000000)
#define PIDFDS_MAX 16U /* dbus-daemon(1): max_message_unix_fds; for one more it would end the connection */

struct Scope {
        sd_bus *bus;
        char *name, *description;
        const CloneScope *what; /* a request's, which lives as long */
        GArray *pids;           /* uint32_t */
        char *job;              /* NULL: systemd has not answered yet */
        sd_bus_slot *call, *removed;
        sd_event_source *timeout;
        ScopeDone done;
        void *userdata;
};

/* No manager on the bus, or one that is started in vain: where systemd is not PID 1 its activation file runs /bin/false. */
static bool is_absent(const sd_bus_error *e)
{
        return sd_bus_error_has_name(e, SD_BUS_ERROR_SERVICE_UNKNOWN) || sd_bus_error_has_name(e, SD_BUS_ERROR_NAME_HAS_NO_OWNER) ||
               g_str_has_prefix(e->name, "org.freedesktop.DBus.Error.Spawn.");
}

static int explain(const Scope *s, const sd_bus_error *e, CloneError *error)
{
        const char *text = e->message ?: e->name;

        if (is_absent(e))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                "Option scope wants systemd as PID 1, " SYSTEMD_NAME " is not on the bus: %s", text);
        if (sd_bus_error_has_name(e, SYSTEMD_NAME ".UnitExists"))
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EEXIST, "There is a unit %s already", s->name);
        if (sd_bus_error_has_name(e, SD_BUS_ERROR_ACCESS_DENIED) || sd_bus_error_has_name(e, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED))
                return clone_error_set(error, CLONE_ERROR_FAILED, EACCES,
                                "systemd does not let remforkd start %s (%s); are its polkit rules installed?", s->name, text);
        if (sd_bus_error_has_name(e, SD_BUS_ERROR_NO_REPLY) || sd_bus_error_has_name(e, SD_BUS_ERROR_TIMEOUT) ||
            sd_bus_error_has_name(e, SD_BUS_ERROR_DISCONNECTED))
                return clone_error_set(error, CLONE_ERROR_FAILED, ETIMEDOUT, "systemd does not answer whether %s was started: %s", s->name,
                                text);
        if (sd_bus_error_has_name(e, SD_BUS_ERROR_INVALID_ARGS) || sd_bus_error_has_name(e, SD_BUS_ERROR_PROPERTY_READ_ONLY) ||
            sd_bus_error_has_name(e, SYSTEMD_NAME ".BadUnitSetting"))
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "systemd does not take what %s is to be: %s", s->name, text);
        return clone_error_set(error, CLONE_ERROR_FAILED, EIO, "systemd cannot start %s: %s", s->name, text);
}

/* @error: NULL where all went well. */
static void finish(Scope *s, const CloneError *error)
{
        ScopeDone done = s->done;
        void *userdata = s->userdata;

        s->done = NULL;
        done(error ? -(error->error_number ?: EIO) : 0, error, userdata);
        scope_free(s);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Scope *s = userdata;

        clone_error_set(&error, CLONE_ERROR_FAILED, ETIMEDOUT, "systemd did not start %s within %u s", s->name,
                        (unsigned) (TIMEOUT_USEC / 1000000));
        finish(s, &error);
        return 0;
}

static int on_job_removed(sd_bus_message *message, void *userdata, sd_bus_error *unused)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        const char *path, *unit, *result;
        Scope *s = userdata;

        /* Of all jobs of the machine. systemd answers the call before its job ends, so that the path is known by then. */
        if (sd_bus_message_read(message, "uoss", NULL, &path, &unit, &result) < 0 || g_strcmp0(path, s->job) != 0)
                return 0;

        if (strcmp(result, "done") != 0) {
                clone_error_set(&error, CLONE_ERROR_FAILED, EIO, "systemd could not put the clones into %s: its job came to \"%s\"", s->name,
                                result);
                finish(s, &error);
        } else
                finish(s, NULL);
        return 0;
}

static int append_property(sd_bus_message *m, const ScopeProperty *p)
{
        const char type[] = {p->type, '\0'};

        if (p->type == 's')
                return sd_bus_message_append(m, "(sv)", p->name, type, p->text);
        if (p->type == 't')
                return sd_bus_message_append(m, "(sv)", p->name, type, p->number);
        return sd_bus_message_append(m, "(sv)", p->name, type, (int32_t) p->number); /* 'u', 'i' and 'b' are of one size */
}

static int append_pids(sd_bus_message *m, const GArray *pids)
{
        int r;

        r = sd_bus_message_open_container(m, 'r', "sv");
        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', "PIDs");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "au");
        if (r >= 0)
                r = sd_bus_message_append_array(m, 'u', pids->data, pids->len * sizeof(uint32_t));
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_pidfds(sd_bus_message *m, const int *pidfds, size_t n)
{
        int r;

        r = sd_bus_message_open_container(m, 'r', "sv");
        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', "PIDFDs");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "ah");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "h");
        for (size_t i = 0; r >= 0 && i < n; i++)
                r = sd_bus_message_append_basic(m, 'h', &pidfds[i]); /* duplicates it */
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_properties(sd_bus_message *m, const Scope *s)
{
        bool described = false;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->what->n_properties; i++) {
                described = described || strcmp(s->what->properties[i].name, "Description") == 0;
                r = append_property(m, &s->what->properties[i]);
        }
        if (r >= 0 && !described)
                r = sd_bus_message_append(m, "(sv)", "Description", "s", s->description);
        if (r >= 0 && s->what->slice)
                r = sd_bus_message_append(m, "(sv)", "Slice", "s", s->what->slice);
        return r;
}

static int on_started(sd_bus_message *reply, void *userdata, sd_bus_error *unused);

/* By @pidfds, or by PID where that is NULL. */
static int send_call(Scope *s, const int *pidfds)
{
        _cleanup_bus_message_ sd_bus_message *m = NULL;
        int r;

        r = sd_bus_message_new_method_call(s->bus, &m, SYSTEMD_NAME, SYSTEMD_PATH, SYSTEMD_MANAGER, "StartTransientUnit");
        if (r >= 0)
                r = sd_bus_message_append(m, "ss", s->name, "fail");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sv)");
        if (r >= 0)
                r = append_properties(m, s);
        if (r >= 0)
                r = pidfds ? append_pidfds(m, pidfds, s->pids->len) : append_pids(m, s->pids);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r >= 0)
                r = sd_bus_message_append(m, "a(sa(sv))", 0);
        if (r < 0)
                return r;

        s->call = sd_bus_slot_unref(s->call);
        return sd_bus_call_async(s->bus, &s->call, m, on_started, s, TIMEOUT_USEC);
}

/* systemd before 254 takes PIDs alone. They stay the clones' own: what is held is killed, and not reaped, by whoever gives it up. */
static bool knows_no_pidfds(const sd_bus_error *e)
{
        return sd_bus_error_has_name(e, SD_BUS_ERROR_PROPERTY_READ_ONLY) && e->message && strstr(e->message, "PIDFDs");
}

static int on_started(sd_bus_message *reply, void *userdata, sd_bus_error *unused)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        const sd_bus_error *e = sd_bus_message_get_error(reply);
        Scope *s = userdata;
        const char *job;
        int r;

        if (!e) {
                r = sd_bus_message_read(reply, "o", &job);
                if (r >= 0)
                        s->job = g_strdup(job);
        } else if (knows_no_pidfds(e))
                r = send_call(s, NULL);
        else
                r = explain(s, e, &error);

        if (r < 0) {
                if (error.code == CLONE_ERROR_NONE)
                        clone_error_set(&error, CLONE_ERROR_FAILED, -r, "What systemd says of %s cannot be dealt with: %s", s->name,
                                        g_strerror(-r));
                finish(s, &error);
        }
        return 0;
}

int scope_start(Scope **ret, sd_bus *bus, const char *name, const char *description, const CloneScope *what,
                const ScopeMembers *members, ScopeDone done, void *userdata, CloneError *error)
{
        Scope *s = g_new0(Scope, 1);
        int r;

        s->bus = sd_bus_ref(bus);
        s->name = g_strdup(name);
        s->description = g_strdup(description);
        s->what = what;
        s->done = done;
        s->userdata = userdata;
        s->pids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        for (size_t i = 0; i < members->n; i++)
                g_array_append_val(s->pids, (uint32_t){(uint32_t) members->pids[i]});

        /* Before the call: the bus takes them in this order, so that no signal is missed. */
        r = sd_bus_match_signal_async(bus, &s->removed, SYSTEMD_NAME, SYSTEMD_PATH, SYSTEMD_MANAGER, "JobRemoved", on_job_removed, NULL, s);
        if (r >= 0)
                r = sd_event_add_time_relative(sd_bus_get_event(bus), &s->timeout, CLOCK_MONOTONIC, TIMEOUT_USEC, 0, on_timeout, s);
        if (r >= 0)
                r = send_call(s, members->n <= PIDFDS_MAX ? members->pidfds : NULL);
        if (r < 0) {
                scope_free(s);
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "systemd cannot be asked to start %s: %s", name, g_strerror(-r));
        }

        *ret = s;
        return 0;
}

Scope *scope_free(Scope *s)
{
        if (!s)
                return NULL;

        sd_bus_slot_unref(s->call);
        sd_bus_slot_unref(s->removed);
        sd_event_source_disable_unref(s->timeout);
        g_array_unref(s->pids);
        g_free(s->job);
        g_free(s->name);
        g_free(s->description);
        sd_bus_unref(s->bus);
        g_free(s);
        return NULL;
}
