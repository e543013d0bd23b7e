/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

/*
 *     trial-caller
 *
 * A caller that is on the bus already and asks as soon as it is told: reads lines "PID [KEY TYPE VALUE]...", calls CloneFull() for each
 * and says "clones PID..." or "error NAME MESSAGE".
 */

#define TIMEOUT_USEC (UINT64_C(60) * 1000000)

static int append_option(sd_bus_message *m, const char *key, const char *type, const char *value)
{
        switch (type[0]) {
        case 's':
                return sd_bus_message_append(m, "{sv}", key, "s", value);
        case 'b':
                return sd_bus_message_append(m, "{sv}", key, "b", value[0] == '1');
        default:
                return sd_bus_message_append(m, "{sv}", key, "u", (uint32_t) strtoul(value, NULL, 10));
        }
}

static int make_call(sd_bus *bus, char *line, sd_bus_message **ret)
{
        const char *pid = strtok(line, " \n"), *key;
        int r;

        r = sd_bus_message_new_method_call(bus, ret, "org.remfork.Clone", "/org/remfork/Clone", "org.remfork.Clone", "CloneFull");
        if (r < 0)
                return r;
        r = sd_bus_message_append(*ret, "u", (uint32_t) strtoul(pid ? pid : "0", NULL, 10));
        if (r >= 0)
                r = sd_bus_message_open_container(*ret, 'a', "{sv}");
        while (r >= 0 && (key = strtok(NULL, " \n"))) {
                const char *type = strtok(NULL, " \n"), *value = strtok(NULL, " \n");

                if (!type || !value)
                        return -EINVAL;
                r = append_option(*ret, key, type, value);
        }
        return r < 0 ? r : sd_bus_message_close_container(*ret);
}

static int print_clones(sd_bus_message *reply)
{
        uint32_t source, clone;
        int r;

        (void) printf("clones");
        r = sd_bus_message_enter_container(reply, 'a', "(uu)");
        while (r >= 0 && (r = sd_bus_message_read(reply, "(uu)", &source, &clone)) > 0)
                (void) printf(" %u", clone);
        (void) printf("\n");
        return r;
}

int main(void)
{
        static char line[1024];
        sd_bus *bus;
        int r;

        r = sd_bus_open_system(&bus);
        if (r < 0) {
                (void) fprintf(stderr, "trial-caller: the bus cannot be reached: %s\n", strerror(-r));
                return EXIT_FAILURE;
        }
        (void) setvbuf(stdout, NULL, _IOLBF, 0); /* a line, or nothing of it */
        (void) puts("ready");

        while (fgets(line, sizeof(line), stdin)) {
                sd_bus_message *m = NULL, *reply = NULL;
                sd_bus_error error = SD_BUS_ERROR_NULL;

                r = make_call(bus, line, &m);
                if (r >= 0)
                        r = sd_bus_call(bus, m, TIMEOUT_USEC, &error, &reply);
                if (r >= 0)
                        r = print_clones(reply);
                else
                        (void) printf("error %s %s\n", error.name ? error.name : "disconnected", error.message ? error.message : strerror(-r));
                if (r < 0 && !error.name && reply)
                        return EXIT_FAILURE;
                sd_bus_error_free(&error);
                sd_bus_message_unref(m);
                sd_bus_message_unref(reply);
        }

        sd_bus_flush_close_unref(bus);
        return EXIT_SUCCESS;
}
