/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

#include "daemon/util.h"

/*
 *     bench-client
 *
 * A client with one connection to the system bus, which does what it reads on stdin, and answers with a line:
 *
 *     echo             the nanoseconds of a call that remforkd answers without doing anything
 *     clone PID        the nanoseconds of a Clone() call, and the clone
 *     sustain PID N    the nanoseconds of N Clone() calls, each clone ended as soon as it is known
 */

static sd_bus *bus;

static uint64_t call(const char *interface, const char *method, uint32_t pid, uint32_t *ret_clone)
{
        sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        uint64_t begin = monotonic_nsec(), end;
        int r;

        r = sd_bus_call_method(bus, "org.remfork.Clone", "/org/remfork/Clone", interface, method, &error, &reply, ret_clone ? "u" : NULL, pid);
        end = monotonic_nsec();
        if (r >= 0 && ret_clone)
                r = sd_bus_message_read(reply, "u", ret_clone);
        if (r < 0) {
                (void) fprintf(stderr, "bench-client: %s: %s\n", method, error.message ?: g_strerror(-r));
                exit(EXIT_FAILURE);
        }

        sd_bus_message_unref(reply);
        return end - begin;
}

static void sustain(uint32_t pid, unsigned n)
{
        uint64_t begin = monotonic_nsec();
        uint32_t clone;

        for (unsigned i = 0; i < n; i++) {
                (void) call("org.remfork.Clone", "Clone", pid, &clone);
                (void) kill((pid_t) clone, SIGKILL);
        }
        (void) printf("%" PRIu64 "\n", monotonic_nsec() - begin);
}

int main(void)
{
        char line[64];
        int r;

        r = sd_bus_open_system(&bus);
        if (r < 0) {
                (void) fprintf(stderr, "bench-client: the bus cannot be reached: %s\n", g_strerror(-r));
                return EXIT_FAILURE;
        }

        while (fgets(line, sizeof(line), stdin)) {
                uint32_t pid, clone;
                unsigned n;

                if (strcmp(line, "echo\n") == 0)
                        (void) printf("%" PRIu64 "\n", call("org.freedesktop.DBus.Peer", "Ping", 0, NULL));
                else if (sscanf(line, "clone %" SCNu32, &pid) == 1) {
                        uint64_t took = call("org.remfork.Clone", "Clone", pid, &clone);

                        (void) printf("%" PRIu64 " %" PRIu32 "\n", took, clone);
                } else if (sscanf(line, "sustain %" SCNu32 " %u", &pid, &n) == 2)
                        sustain(pid, n);
                else
                        return 2;
                (void) fflush(stdout);
        }

        sd_bus_flush_close_unref(bus);
        return EXIT_SUCCESS;
}
