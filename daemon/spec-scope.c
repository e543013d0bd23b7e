/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/spec-scope.h"

#define UNIT_NAME_MAX 255U /* bytes, of systemd.unit(5) */

/*
 * The properties that are served: limits, accounts and how it ends; of systemd.resource-control(5), systemd.scope(5) and
 * systemd.kill(5), under the names and types of org.freedesktop.systemd1(5). None of them runs anything, opens anything or
 * gives away control of the unit (no Delegate, User, PIDs, ...).
 */
static const struct {
        const char *name;
        char type;
} property_table[] = {
        {"CPUAccounting", 'b'},
        {"CPUQuotaPerSecUSec", 't'},
        {"CPUQuotaPeriodUSec", 't'},
        {"CPUWeight", 't'},
        {"CollectMode", 's'},
        {"Description", 's'},
        {"IOAccounting", 'b'},
        {"IOWeight", 't'},
        {"KillMode", 's'},
        {"KillSignal", 'i'},
        {"MemoryAccounting", 'b'},
        {"MemoryHigh", 't'},
        {"MemoryHighScale", 'u'},
        {"MemoryLow", 't'},
        {"MemoryLowScale", 'u'},
        {"MemoryMax", 't'},
        {"MemoryMaxScale", 'u'},
        {"MemoryMin", 't'},
        {"MemoryMinScale", 'u'},
        {"MemorySwapMax", 't'},
        {"MemorySwapMaxScale", 'u'},
        {"OOMPolicy", 's'},
        {"RuntimeMaxUSec", 't'},
        {"SendSIGHUP", 'b'},
        {"SendSIGKILL", 'b'},
        {"TasksAccounting", 'b'},
        {"TasksMax", 't'},
        {"TasksMaxScale", 'u'},
        {"TimeoutStopUSec", 't'},
};

static int bad_message(CloneError *error, int r)
{
        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, -r, "The options cannot be read: %s", g_strerror(-r));
}

static CloneScope *get(CloneScope **scope)
{
        if (!*scope)
                *scope = g_new0(CloneScope, 1);
        return *scope;
}

/* VALID_CHARS of systemd's unit-name.c; no "@", as a scope is no instance of anything. */
static bool is_unit_name(const char *name, const char *suffix)
{
        static const char valid[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\";
        size_t n = strlen(name);

        return n <= UNIT_NAME_MAX && n > strlen(suffix) && g_str_has_suffix(name, suffix) && name[strspn(name, valid)] == '\0';
}

static int read_unit_name(const char *key, sd_bus_message *message, const char *suffix, char **ret, CloneError *error)
{
        g_autofree char *shown = NULL;
        const char *name;
        int r;

        r = sd_bus_message_read_basic(message, 's', &name);
        if (r < 0)
                return bad_message(error, r);
        if (name[0] == '\0') { /* the default */
                g_clear_pointer(ret, g_free);
                return 0;
        }
        if (!is_unit_name(name, suffix)) {
                shown = log_escape(name);
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                "Option %s is \"%s\", the name of a unit that ends in %s was expected", key, shown, suffix);
        }

        g_free(*ret);
        *ret = g_strdup(name);
        return 0;
}

int clone_scope_read_name(CloneScope **scope, const char *key, sd_bus_message *message, CloneError *error)
{
        get(scope)->wanted = true;
        return read_unit_name(key, message, ".scope", &(*scope)->name, error);
}

int clone_scope_read_slice(CloneScope **scope, const char *key, sd_bus_message *message, CloneError *error)
{
        return read_unit_name(key, message, ".slice", &get(scope)->slice, error);
}

static int read_value(sd_bus_message *message, ScopeProperty *p)
{
        union {
                const char *s;
                uint64_t t;
                uint32_t u;
                int32_t i;
                int b; /* sd-bus writes an int for 'b' */
        } value;
        int r;

        r = sd_bus_message_enter_container(message, 'v', (const char[]){p->type, '\0'});
        if (r >= 0)
                r = sd_bus_message_read_basic(message, p->type, &value);
        if (r < 0)
                return r;

        if (p->type == 's')
                p->text = g_strdup(value.s);
        else if (p->type == 't')
                p->number = value.t;
        else if (p->type == 'u')
                p->number = value.u;
        else if (p->type == 'i')
                p->number = (uint64_t) (int64_t) value.i;
        else
                p->number = value.b != 0;
        return sd_bus_message_exit_container(message);
}

static int find_property(const CloneScope *scope, const char *key, const char *name, ScopeProperty *ret, CloneError *error)
{
        g_autofree char *shown = NULL;

        for (size_t i = 0; i < scope->n_properties; i++)
                if (strcmp(scope->properties[i].name, name) == 0)
                        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Option %s has %s twice", key, name);
        for (size_t i = 0; i < G_N_ELEMENTS(property_table); i++)
                if (strcmp(property_table[i].name, name) == 0) {
                        *ret = (ScopeProperty){.name = property_table[i].name, .type = property_table[i].type};
                        return 0;
                }

        shown = log_escape(name);
        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Option %s: there is no property \"%s\" that can be set", key,
                        shown);
}

/* The struct was entered. */
static int read_property(CloneScope *scope, const char *key, sd_bus_message *message, CloneError *error)
{
        const char *name, *type;
        ScopeProperty p = {};
        int r;

        r = sd_bus_message_read_basic(message, 's', &name);
        if (r >= 0)
                r = sd_bus_message_peek_type(message, NULL, &type);
        if (r < 0)
                return bad_message(error, r);

        r = find_property(scope, key, name, &p, error);
        if (r < 0)
                return r;
        if (type[0] != p.type || type[1] != '\0')
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Property %s has the D-Bus type %s, %c was expected", name,
                                type, p.type);
        if (scope->n_properties == SCOPE_PROPERTIES_MAX)
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Option %s has more than %u properties", key,
                                SCOPE_PROPERTIES_MAX);

        r = read_value(message, &p);
        if (r < 0) {
                g_free(p.text);
                return bad_message(error, r);
        }
        scope->properties[scope->n_properties++] = p;
        return 0;
}

int clone_scope_read_properties(CloneScope **scope, const char *key, sd_bus_message *message, CloneError *error)
{
        int r;

        r = sd_bus_message_enter_container(message, 'a', "(sv)");
        while (r >= 0 && (r = sd_bus_message_enter_container(message, 'r', "sv")) > 0) {
                r = read_property(get(scope), key, message, error);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(message);
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(message);
        return r < 0 ? bad_message(error, r) : 0;
}

int clone_scope_check(const CloneScope *scope, CloneError *error)
{
        if (scope && !scope->wanted && (scope->slice || scope->n_properties > 0))
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "Option %s was given without scope, whose it is",
                                scope->slice ? "slice" : "properties");
        return 0;
}

CloneScope *clone_scope_free(CloneScope *scope)
{
        if (!scope)
                return NULL;

        for (size_t i = 0; i < scope->n_properties; i++)
                g_free(scope->properties[i].text);
        g_free(scope->name);
        g_free(scope->slice);
        g_free(scope);
        return NULL;
}
