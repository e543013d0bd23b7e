/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "daemon/conf.h"

#define USEC_PER_SEC G_GUINT64_CONSTANT(1000000)
#define CONF_SECTION "Limits"

const Conf conf_default = {
        .queued_per_user_max = 8,
        .running_per_user_max = 1,
        .queued_max = 64,
        .clones_per_user_max = 32,
        .rate_limit_burst = 25,
        .rate_limit_interval_usec = 20 * USEC_PER_SEC,
        .request_timeout_usec = 10 * USEC_PER_SEC,
        .target_stop_timeout_usec = 2 * USEC_PER_SEC,
        .idle_timeout_usec = 30 * USEC_PER_SEC,
};

static const struct {
        const char *key;
        size_t offset;
        bool time; /* uint64_t of microseconds; else uint32_t */
} conf_table[] = {
        {"QueuedPerUserMax", offsetof(Conf, queued_per_user_max), false},
        {"RunningPerUserMax", offsetof(Conf, running_per_user_max), false},
        {"QueuedMax", offsetof(Conf, queued_max), false},
        {"ClonesPerUserMax", offsetof(Conf, clones_per_user_max), false},
        {"RateLimitBurst", offsetof(Conf, rate_limit_burst), false},
        {"RateLimitIntervalSec", offsetof(Conf, rate_limit_interval_usec), true},
        {"RequestTimeoutSec", offsetof(Conf, request_timeout_usec), true},
        {"TargetStopTimeoutSec", offsetof(Conf, target_stop_timeout_usec), true},
        {"IdleTimeoutSec", offsetof(Conf, idle_timeout_usec), true},
};

static const struct {
        const char *name;
        uint64_t usec;
} unit_table[] = {
        {"us", 1},
        {"ms", 1000},
        {"s", USEC_PER_SEC},
        {"sec", USEC_PER_SEC},
        {"min", 60 * USEC_PER_SEC},
        {"h", 3600 * USEC_PER_SEC},
};

/* One "10 min" of a time; moves *@p behind it. */
static int parse_part(const char **p, uint64_t *total)
{
        uint64_t number, factor = USEC_PER_SEC, product;
        size_t length;
        char *end;

        if (!g_ascii_isdigit(**p)) /* strtoull would take a sign */
                return -EINVAL;

        errno = 0;
        number = g_ascii_strtoull(*p, &end, 10);
        if (errno == ERANGE)
                return -ERANGE;

        end += strspn(end, " ");
        length = strspn(end, "abcdefghijklmnopqrstuvwxyz");
        if (length > 0) {
                size_t i;

                for (i = 0; i < G_N_ELEMENTS(unit_table); i++)
                        if (strlen(unit_table[i].name) == length && memcmp(unit_table[i].name, end, length) == 0)
                                break;
                if (i == G_N_ELEMENTS(unit_table))
                        return -EINVAL;
                factor = unit_table[i].usec;
                end += length;
        }

        if (!g_uint64_checked_mul(&product, number, factor) || !g_uint64_checked_add(total, *total, product))
                return -ERANGE;

        *p = end + strspn(end, " ");
        return 0;
}

int conf_parse_usec(const char *text, uint64_t *ret)
{
        uint64_t total = 0;
        int r;

        if (strcmp(text, "infinity") == 0) {
                *ret = 0;
                return 0;
        }

        do {
                r = parse_part(&text, &total);
                if (r < 0)
                        return r;
        } while (*text);

        *ret = total;
        return 0;
}

static int set_key(GKeyFile *file, const char *path, const char *key, Conf *conf, CloneError *error)
{
        g_autofree char *value = g_key_file_get_value(file, CONF_SECTION, key, NULL);
        uint64_t number;
        size_t i;

        for (i = 0; i < G_N_ELEMENTS(conf_table); i++)
                if (strcmp(conf_table[i].key, key) == 0)
                        break;
        if (i == G_N_ELEMENTS(conf_table))
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "%s: there is no setting %s", path, key);

        g_strstrip(value);
        if (conf_table[i].time) {
                if (conf_parse_usec(value, &number) < 0)
                        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                        "%s: %s is \"%s\", a time like 10s, 500ms or 2min was expected", path, key, value);
                memcpy((char *) conf + conf_table[i].offset, &number, sizeof(uint64_t));
        } else {
                uint32_t small;

                if (!g_ascii_string_to_unsigned(value, 10, 0, UINT32_MAX, &number, NULL))
                        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                        "%s: %s is \"%s\", a number from 0 (no limit) to %u was expected", path, key, value,
                                        UINT32_MAX);
                small = (uint32_t) number;
                memcpy((char *) conf + conf_table[i].offset, &small, sizeof(uint32_t));
        }

        return 0;
}

int conf_load(const char *path, Conf *ret, CloneError *error)
{
        g_autoptr(GKeyFile) file = g_key_file_new();
        g_autoptr(GError) e = NULL;
        g_auto(GStrv) groups = NULL, keys = NULL;
        Conf conf = conf_default;
        int r;

        if (!g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, &e)) {
                if (g_error_matches(e, G_FILE_ERROR, G_FILE_ERROR_NOENT))
                        return -ENOENT;
                return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL, "%s: %s", path, e->message);
        }

        groups = g_key_file_get_groups(file, NULL);
        for (char **g = groups; *g; g++)
                if (strcmp(*g, CONF_SECTION) != 0)
                        return clone_error_set(error, CLONE_ERROR_INVALID_ARGS, EINVAL,
                                        "%s: there is no section [%s], only [" CONF_SECTION "]", path, *g);

        keys = g_key_file_get_keys(file, CONF_SECTION, NULL, NULL); /* NULL where all is commented out */
        for (char **k = keys; k && *k; k++) {
                r = set_key(file, path, *k, &conf, error);
                if (r < 0)
                        return r;
        }

        *ret = conf;
        return 0;
}
