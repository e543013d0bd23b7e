/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/spec.h"

static const char *const trigger_names[_CLONE_TRIGGER_MAX] = {"immediate", "syscall"};
static const char *const parent_names[_CLONE_PARENT_MAX] = {"shared", "daemon"};
static const char *const threads_names[_CLONE_THREADS_MAX] = {"all", "caller"};
static const char *const isolate_names[_CLONE_ISOLATE_MAX] = {"none", "files", "all"};
static const char *const engine_names[_CLONE_ENGINE_MAX] = {"auto", "kernel", "ptrace"};

/* One option; the D-Bus type is checked before set() reads the value. */
typedef struct Option {
        const char *key;
        const char *type;
        int (*set)(const struct Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error);
} Option;

static int bad_message(CloneError *error, int r)
{
        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, -r, "The options cannot be read: %s", g_strerror(-r));
}

/* Reads a string that is one of @n @names; its place among them, or a negative errno. */
static int read_name(const Option *o, sd_bus_message *message, const char *const *names, int n, CloneError *error)
{
        g_autofree char *shown = NULL;
        g_autoptr(GString) expected = g_string_new(NULL);
        const char *value;
        int r;

        r = sd_bus_message_read_basic(message, 's', &value);
        if (r < 0)
                return bad_message(error, r);

        for (int i = 0; i < n; i++) {
                if (strcmp(names[i], value) == 0)
                        return i;
                g_string_append_printf(expected, "%s%s", i == 0 ? "" : i == n - 1 ? " or " : ", ", names[i]);
        }

        shown = log_escape(value);
        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Option %s is \"%s\", %s was expected", o->key,
                        shown, expected->str);
}

static int set_trigger(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        int r = read_name(o, message, trigger_names, _CLONE_TRIGGER_MAX, error);

        if (r < 0)
                return r;
        spec->trigger = (CloneTrigger) r;
        return 0;
}

static int set_parent(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        int r = read_name(o, message, parent_names, _CLONE_PARENT_MAX, error);

        if (r < 0)
                return r;
        spec->parent = (CloneParent) r;
        return 0;
}

static int set_threads(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        int r = read_name(o, message, threads_names, _CLONE_THREADS_MAX, error);

        if (r < 0)
                return r;
        spec->threads = (CloneThreads) r;
        return 0;
}

static int set_isolate(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        int r = read_name(o, message, isolate_names, _CLONE_ISOLATE_MAX, error);

        if (r < 0)
                return r;
        spec->isolate = (CloneIsolate) r;
        return 0;
}

static int set_engine(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        int r = read_name(o, message, engine_names, _CLONE_ENGINE_MAX, error);

        if (r < 0)
                return r;
        spec->engine = (CloneEngine) r;
        return 0;
}

static int read_boolean(sd_bus_message *message, bool *ret, CloneError *error)
{
        int value, r; /* sd-bus writes an int for 'b' */

        r = sd_bus_message_read_basic(message, 'b', &value);
        if (r < 0)
                return bad_message(error, r);
        *ret = value != 0;
        return 0;
}

static int set_stopped(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        return read_boolean(message, &spec->stopped, error);
}

static int set_session(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        return read_boolean(message, &spec->session, error);
}

static int set_tree(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        return read_boolean(message, &spec->tree, error);
}

static int set_same_pids(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        return read_boolean(message, &spec->same_pids, error);
}

static int set_count(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        uint32_t value;
        int r;

        r = sd_bus_message_read_basic(message, 'u', &value);
        if (r < 0)
                return bad_message(error, r);
        if (value < 1 || value > CLONE_COUNT_MAX)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s is %" PRIu32 ", a number from 1 to %u was expected", o->key, value,
                                CLONE_COUNT_MAX);
        spec->count = value;
        return 0;
}

static int set_timeout(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        uint64_t value;
        int r;

        r = sd_bus_message_read_basic(message, 't', &value);
        if (r < 0)
                return bad_message(error, r);
        if (value > CLONE_TIMEOUT_MAX_USEC)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s is %" PRIu64 ", a number of microseconds up to %" PRIu64
                                " was expected, or 0 for the daemon's own",
                                o->key, value, CLONE_TIMEOUT_MAX_USEC);
        spec->timeout_usec = value;
        return 0;
}

/* stdin, stdout and stderr, by the option's name. */
static int set_standard_fd(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        uint32_t number = strcmp(o->key, "stdin") == 0 ? 0 : strcmp(o->key, "stdout") == 0 ? 1 : 2;
        int fd, r;

        r = sd_bus_message_read_basic(message, 'h', &fd);
        if (r < 0)
                return bad_message(error, r);
        return clone_fds_add(&spec->fds, o->key, number, fd, number == 0 ? CLONE_FD_READ : CLONE_FD_WRITE, error);
}

static int set_fds(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        uint32_t number;
        int fd, r;

        r = sd_bus_message_enter_container(message, 'a', "(uh)");
        while (r >= 0 && (r = sd_bus_message_read(message, "(uh)", &number, &fd)) > 0) {
                r = clone_fds_add(&spec->fds, o->key, number, fd, CLONE_FD_ANY, error);
                if (r < 0)
                        return r;
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(message);
        return r < 0 ? bad_message(error, r) : 0;
}

static int set_close(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        uint32_t number;
        int r;

        r = sd_bus_message_enter_container(message, 'a', "u");
        while (r >= 0 && (r = sd_bus_message_read_basic(message, 'u', &number)) > 0) {
                r = clone_fds_add_closed(&spec->fds, o->key, number, error);
                if (r < 0)
                        return r;
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(message);
        return r < 0 ? bad_message(error, r) : 0;
}

static int set_scope(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        return clone_scope_read_name(&spec->scope, o->key, message, error);
}

static int set_slice(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        return clone_scope_read_slice(&spec->scope, o->key, message, error);
}

static int set_properties(const Option *o, sd_bus_message *message, CloneSpec *spec, CloneError *error)
{
        return clone_scope_read_properties(&spec->scope, o->key, message, error);
}

int spec_engine_from_string(const char *name)
{
        for (int i = 0; i < _CLONE_ENGINE_MAX; i++)
                if (strcmp(engine_names[i], name) == 0)
                        return i;
        return -EINVAL;
}

static const Option option_table[] = {
        {"trigger", "s", set_trigger},
        {"parent", "s", set_parent},
        {"threads", "s", set_threads},
        {"engine", "s", set_engine},
        {"stopped", "b", set_stopped},
        {"session", "b", set_session},
        {"count", "u", set_count},
        {"timeout-usec", "t", set_timeout},
        {"isolate", "s", set_isolate},
        {"tree", "b", set_tree},
        {"same-pids", "b", set_same_pids},
        {"scope", "s", set_scope},
        {"slice", "s", set_slice},
        {"properties", "a(sv)", set_properties},
        {"stdin", "h", set_standard_fd},
        {"stdout", "h", set_standard_fd},
        {"stderr", "h", set_standard_fd},
        {"fds", "a(uh)", set_fds},
        {"close", "au", set_close},
};
G_STATIC_ASSERT(G_N_ELEMENTS(option_table) <= 32); /* bits of "seen" below */

/* The dict entry was entered: reads key and value. Bit i of @seen: option i was given. */
static int read_option(sd_bus_message *message, CloneSpec *spec, uint32_t *seen, CloneError *error)
{
        const char *key, *type;
        const Option *o;
        size_t i;
        int r;

        r = sd_bus_message_read_basic(message, 's', &key);
        if (r < 0)
                return bad_message(error, r);

        for (i = 0; i < G_N_ELEMENTS(option_table); i++)
                if (strcmp(option_table[i].key, key) == 0)
                        break;
        if (i == G_N_ELEMENTS(option_table)) {
                g_autofree char *shown = log_escape(key);

                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "There is no option \"%s\"", shown);
        }

        o = &option_table[i];
        if (*seen & (1U << i))
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Option %s is given twice", key);
        *seen |= 1U << i;

        r = sd_bus_message_peek_type(message, NULL, &type);
        if (r < 0)
                return bad_message(error, r);
        if (strcmp(type, o->type) != 0)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s has the D-Bus type %s, %s was expected", key, type, o->type);

        r = sd_bus_message_enter_container(message, 'v', o->type);
        if (r < 0)
                return bad_message(error, r);

        r = o->set(o, message, spec, error);
        if (r < 0)
                return r;

        r = sd_bus_message_exit_container(message);
        return r < 0 ? bad_message(error, r) : 0;
}

/* What makes no sense together. */
static int check_combination(const CloneSpec *spec, CloneError *error)
{
        if (spec->tree && spec->count != 1)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option count is %" PRIu32 ", with tree only 1 was expected: ask once for each tree", spec->count);
        if (spec->same_pids && spec->count != 1)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option count is %" PRIu32 ", with same-pids only 1 was expected: ask once for each clone, which has a PID namespace to itself",
                                spec->count);
        if (spec->tree && spec->trigger == CLONE_TRIGGER_SYSCALL)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option trigger is \"syscall\", with tree \"immediate\" was expected: the processes of a tree make no call at one instant");
        return 0;
}

void spec_clear(CloneSpec *spec)
{
        clone_fds_free(spec->fds);
        clone_scope_free(spec->scope);
        *spec = CLONE_SPEC_DEFAULT;
}

int spec_read(sd_bus_message *message, CloneSpec *ret, CloneError *error)
{
        _cleanup_spec_ CloneSpec spec = CLONE_SPEC_DEFAULT;
        uint32_t seen = 0;
        int r;

        r = sd_bus_message_enter_container(message, 'a', "{sv}");
        if (r < 0)
                return bad_message(error, r);

        while ((r = sd_bus_message_enter_container(message, 'e', "sv")) > 0) {
                r = read_option(message, &spec, &seen, error);
                if (r < 0)
                        return r;

                r = sd_bus_message_exit_container(message);
                if (r < 0)
                        return bad_message(error, r);
        }
        if (r < 0)
                return bad_message(error, r);

        r = sd_bus_message_exit_container(message);
        if (r < 0)
                return bad_message(error, r);

        r = check_combination(&spec, error);
        if (r < 0)
                return r;
        r = clone_scope_check(spec.scope, error);
        if (r < 0)
                return r;
        if (spec.scope && !spec.scope->wanted) /* an empty slice, no properties: nothing was asked for */
                spec.scope = clone_scope_free(spec.scope);

        *ret = spec;
        spec.fds = NULL; /* the caller's now, both */
        spec.scope = NULL;
        return 0;
}
