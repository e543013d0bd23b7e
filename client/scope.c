/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "client/bus.h"
#include "client/scope.h"

#define SCALE_MAX 4294967295.0 /* what systemd takes for 100 % */

/* How a value is written, which is as systemd has it in its unit files and systemd-run(1) on its command line. */
typedef enum Kind {
        KIND_BOOLEAN,
        KIND_BYTES,  /* "1G", "40%", "infinity" */
        KIND_COUNT,  /* "40", "40%", "infinity" */
        KIND_QUOTA,  /* "150%" of one processor */
        KIND_SIGNAL,
        KIND_TIME,   /* "2min 30s", "infinity" */
        KIND_TEXT,
        KIND_WEIGHT, /* 1 to 10000 */
        KIND_CPU_WEIGHT, /* the same, or "idle" */
} Kind;

/* What the daemon serves; @bus: the name that the property has there, where it is another one. */
static const struct {
        const char *name;
        Kind kind;
        const char *bus;
} property_table[] = {
        {"CPUAccounting", KIND_BOOLEAN, NULL},
        {"CPUQuota", KIND_QUOTA, "CPUQuotaPerSecUSec"},
        {"CPUQuotaPeriodSec", KIND_TIME, "CPUQuotaPeriodUSec"},
        {"CPUWeight", KIND_CPU_WEIGHT, NULL},
        {"CollectMode", KIND_TEXT, NULL},
        {"Description", KIND_TEXT, NULL},
        {"IOAccounting", KIND_BOOLEAN, NULL},
        {"IOWeight", KIND_WEIGHT, NULL},
        {"KillMode", KIND_TEXT, NULL},
        {"KillSignal", KIND_SIGNAL, NULL},
        {"MemoryAccounting", KIND_BOOLEAN, NULL},
        {"MemoryHigh", KIND_BYTES, NULL},
        {"MemoryLow", KIND_BYTES, NULL},
        {"MemoryMax", KIND_BYTES, NULL},
        {"MemoryMin", KIND_BYTES, NULL},
        {"MemorySwapMax", KIND_BYTES, NULL},
        {"OOMPolicy", KIND_TEXT, NULL},
        {"RuntimeMaxSec", KIND_TIME, "RuntimeMaxUSec"},
        {"SendSIGHUP", KIND_BOOLEAN, NULL},
        {"SendSIGKILL", KIND_BOOLEAN, NULL},
        {"TasksAccounting", KIND_BOOLEAN, NULL},
        {"TasksMax", KIND_COUNT, NULL},
        {"TimeoutStopSec", KIND_TIME, "TimeoutStopUSec"},
};

static const char *const expected[] = {
        [KIND_BOOLEAN] = "yes or no",
        [KIND_BYTES] = "bytes such as 1073741824, 512M or 1G, a percentage of the machine's memory, or infinity",
        [KIND_COUNT] = "a number, a percentage of the machine's limit, or infinity",
        [KIND_QUOTA] = "a percentage of one processor's time such as 150%",
        [KIND_SIGNAL] = "a signal such as TERM or SIGTERM",
        [KIND_TIME] = "a time such as 30s or 2min 30s, or infinity",
        [KIND_TEXT] = "a text",
        [KIND_WEIGHT] = "a number from 1 to 10000",
        [KIND_CPU_WEIGHT] = "a number from 1 to 10000, or idle",
};

/* A value as it goes over the bus. */
typedef struct Value {
        char type;
        bool scale; /* the property's name has "Scale" behind it: a part of 2^32 */
        uint64_t number;
} Value;

void scope_options_prepare(char **argv)
{
        static char without_name[] = "--scope=";

        for (; *argv && strcmp(*argv, "--") != 0; argv++)
                if (strcmp(*argv, "--scope") == 0)
                        *argv = without_name;
}

void scope_options_clear(ScopeOptions *o)
{
        g_free(o->name);
        g_free(o->slice);
        g_strfreev(o->properties);
}

/* A number without a sign or an exponent; what follows it is at @ret_end. */
static bool parse_decimal(const char *text, double *ret, const char **ret_end)
{
        char *end;

        if (!g_ascii_isdigit(*text))
                return false;
        *ret = g_ascii_strtod(text, &end);
        *ret_end = end;
        return strspn(text, "0123456789.") == (size_t) (end - text);
}

static bool parse_percent(const char *text, double max, double *ret)
{
        const char *end;

        return parse_decimal(text, ret, &end) && strcmp(end, "%") == 0 && *ret <= max;
}

/* Whole numbers exactly, for those beyond 2^53 are bytes, too; a fraction as "1.5G". */
static bool parse_bytes(const char *text, uint64_t *ret)
{
        static const char units[] = "KMGTPE";
        const char *end, *unit;
        unsigned shift = 0;
        double fraction;
        char *whole_end;
        guint64 whole;

        if (!parse_decimal(text, &fraction, &end))
                return false;
        if (*end && *end != 'B') {
                unit = strchr(units, *end);
                if (!unit)
                        return false;
                shift = (unsigned) (unit - units + 1) * 10;
                end++;
        }
        if (*end == 'B')
                end++;
        if (*end)
                return false;

        errno = 0;
        whole = g_ascii_strtoull(text, &whole_end, 10);
        if (errno != 0 || whole > UINT64_MAX >> shift)
                return false;
        if (*whole_end != '.') {
                *ret = whole << shift;
                return *ret != UINT64_MAX; /* which is infinity */
        }
        fraction *= (double) (UINT64_C(1) << shift);
        *ret = (uint64_t) fraction;
        return fraction < 18e18;
}

static bool parse_time(const char *text, uint64_t *ret)
{
        static const struct {
                const char *name;
                double usec;
        } units[] = {{"us", 1}, {"usec", 1}, {"ms", 1e3}, {"msec", 1e3}, {"", 1e6}, {"s", 1e6}, {"sec", 1e6}, {"m", 60e6}, {"min", 60e6},
                     {"h", 3600e6}, {"hr", 3600e6}, {"d", 86400e6}, {"day", 86400e6}, {"days", 86400e6}, {"w", 604800e6}};
        double sum = 0, part;
        bool any = false;

        while (*(text += strspn(text, " "))) {
                size_t length, i;

                if (!parse_decimal(text, &part, &text))
                        return false;
                text += strspn(text, " ");
                length = strspn(text, "abcdefghijklmnopqrstuvwxyz");
                for (i = 0; i < G_N_ELEMENTS(units); i++)
                        if (strlen(units[i].name) == length && strncmp(text, units[i].name, length) == 0)
                                break;
                if (i == G_N_ELEMENTS(units))
                        return false;
                sum += part * units[i].usec;
                text += length;
                any = true;
        }

        *ret = (uint64_t) (sum + 0.5);
        return any && sum < 1e18;
}

static bool parse_boolean(const char *text, uint64_t *ret)
{
        static const char *const yes[] = {"1", "yes", "y", "true", "t", "on", NULL}, *const no[] = {"0", "no", "n", "false", "f", "off", NULL};

        *ret = g_strv_contains(yes, text);
        return *ret || g_strv_contains(no, text);
}

static bool parse_signal(const char *text, uint64_t *ret)
{
        guint64 number;

        if (g_ascii_string_to_unsigned(text, 10, 1, (guint64) SIGRTMAX, &number, NULL)) {
                *ret = number;
                return true;
        }
        if (g_str_has_prefix(text, "SIG"))
                text += 3;
        for (int i = 1; i < SIGRTMIN; i++)
                if (sigabbrev_np(i) && strcmp(sigabbrev_np(i), text) == 0) {
                        *ret = (uint64_t) i;
                        return true;
                }
        return false;
}

/* A part of all there is, or an absolute number. */
static bool parse_limit(Kind kind, const char *text, Value *ret)
{
        guint64 number;
        double percent;

        *ret = (Value){.type = 't', .number = UINT64_MAX};
        if (strcmp(text, "infinity") == 0)
                return true;
        if (parse_percent(text, 100, &percent)) {
                *ret = (Value){.type = 'u', .scale = true, .number = (uint64_t) (percent / 100 * SCALE_MAX + 0.5)};
                return true;
        }
        if (kind == KIND_BYTES)
                return parse_bytes(text, &ret->number);
        if (!g_ascii_string_to_unsigned(text, 10, 1, UINT64_MAX - 1, &number, NULL))
                return false;
        ret->number = number;
        return true;
}

static bool parse_value(Kind kind, const char *text, Value *ret)
{
        guint64 number;
        double percent;

        *ret = (Value){.type = 't'};
        switch (kind) {
        case KIND_BYTES:
        case KIND_COUNT:
                return parse_limit(kind, text, ret);
        case KIND_BOOLEAN:
                ret->type = 'b';
                return parse_boolean(text, &ret->number);
        case KIND_SIGNAL:
                ret->type = 'i';
                return parse_signal(text, &ret->number);
        case KIND_TEXT:
                ret->type = 's';
                return g_utf8_validate(text, -1, NULL);
        case KIND_TIME:
                ret->number = UINT64_MAX;
                return strcmp(text, "infinity") == 0 || parse_time(text, &ret->number);
        case KIND_QUOTA:
                if (!parse_percent(text, 1e9, &percent))
                        return false;
                ret->number = (uint64_t) (percent * 1e4 + 0.5); /* microseconds of each second */
                return ret->number > 0;
        case KIND_CPU_WEIGHT:
        case KIND_WEIGHT:
                if (kind == KIND_CPU_WEIGHT && strcmp(text, "idle") == 0)
                        return true; /* which is 0 */
                if (!g_ascii_string_to_unsigned(text, 10, 1, 10000, &number, NULL))
                        return false;
                ret->number = number;
                return true;
        }
        return false;
}

static int append_value(sd_bus_message *m, const char *name, const Value *v, const char *text)
{
        const char type[] = {v->type, '\0'};

        if (v->type == 's')
                return sd_bus_message_append(m, "(sv)", name, type, text);
        if (v->type == 't')
                return sd_bus_message_append(m, "(sv)", name, type, v->number);
        return sd_bus_message_append(m, "(sv)", name, type, (int32_t) v->number); /* 'u', 'i' and 'b' are of one size */
}

static ClientExit append_property(sd_bus_message *m, const char *word)
{
        const char *text = strchr(word, '=');
        g_autofree char *name = text ? g_strndup(word, (gsize) (text - word)) : NULL, *bus_name = NULL;
        Value value;
        size_t i;
        int r;

        if (!text)
                return client_error(CLIENT_USAGE, "--property=%s: NAME=VALUE was expected", word);
        for (i = 0; i < G_N_ELEMENTS(property_table); i++)
                if (strcmp(property_table[i].name, name) == 0)
                        break;
        if (i == G_N_ELEMENTS(property_table))
                return client_error(CLIENT_USAGE, "--property=%s: there is no property %s that can be set; remforkctl(1) lists them", word, name);
        if (!parse_value(property_table[i].kind, ++text, &value))
                return client_error(CLIENT_USAGE, "--property=%s: %s was expected", word, expected[property_table[i].kind]);

        bus_name = g_strconcat(property_table[i].bus ?: name, value.scale ? "Scale" : "", NULL);
        r = append_value(m, bus_name, &value, text);
        return r < 0 ? bus_message_error(r) : CLIENT_OK;
}

static ClientExit append_properties(sd_bus_message *m, char **properties)
{
        ClientExit status = CLIENT_OK;
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', "properties");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a(sv)");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sv)");
        for (char **p = properties; r >= 0 && *p && status == CLIENT_OK; p++)
                status = append_property(m, *p);
        if (r < 0 || status != CLIENT_OK)
                return r < 0 ? bus_message_error(r) : status;

        for (unsigned i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(m);
        return r < 0 ? bus_message_error(r) : CLIENT_OK;
}

/* As systemd-run(1) takes names: the suffix may be left out. */
static int append_name(sd_bus_message *m, const char *key, const char *name, const char *suffix)
{
        g_autofree char *whole = !*name || g_str_has_suffix(name, suffix) ? g_strdup(name) : g_strconcat(name, suffix, NULL);

        return sd_bus_message_append(m, "{sv}", key, "s", whole);
}

ClientExit scope_append(sd_bus_message *m, const ScopeOptions *o)
{
        int r = 0;

        if (!o->name && (o->slice || o->properties))
                return client_error(CLIENT_USAGE, "%s is about the scope of the clone; --scope is missing", o->slice ? "--slice=" : "--property=");
        if (o->name)
                r = append_name(m, "scope", o->name, ".scope");
        if (r >= 0 && o->slice)
                r = append_name(m, "slice", o->slice, ".slice");
        if (r < 0)
                return bus_message_error(r);
        return o->properties ? append_properties(m, o->properties) : CLIENT_OK;
}
