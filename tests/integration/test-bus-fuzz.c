/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

/*
 * Calls every method that remforkd's Introspect tells of, with arguments of the right and of wrong types, on objects that
 * are there and that are not. Each call must be answered once, by the daemon itself, which must be there at the end and
 * must not have grown.
 *
 * test-bus-fuzz [CALLS [SEED]]; the daemon's PID is in REMFORK_DAEMON_PID.
 */

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#define IN_FLIGHT_MAX 32
#ifdef __SANITIZE_ADDRESS__
#define GROWTH_MAX 1000000 /* AddressSanitizer keeps what was freed for a while */
#else
#define GROWTH_MAX 512
#endif
#define CALL_TIMEOUT_USEC (60 * G_USEC_PER_SEC)

typedef struct Method {
        char *interface, *name, *signature;
} Method;

static sd_bus *bus;
static GArray *methods;
static pid_t daemon_pid, victim;
static int victim_fd;
static unsigned calls, answered, in_flight, errors, silent;
static Method current; /* while the XML is parsed */
static GString *signature;

static void start_element(GMarkupParseContext *c, const char *element, const char **names, const char **values, void *data,
                GError **e)
{
        const char *name = NULL, *type = NULL, *direction = "in";

        for (size_t i = 0; names[i]; i++)
                if (strcmp(names[i], "name") == 0)
                        name = values[i];
                else if (strcmp(names[i], "type") == 0)
                        type = values[i];
                else if (strcmp(names[i], "direction") == 0)
                        direction = values[i];

        if (strcmp(element, "interface") == 0) {
                g_free(current.interface);
                current.interface = g_strdup(name);
        } else if (strcmp(element, "method") == 0) {
                current.name = g_strdup(name);
                g_string_truncate(signature, 0);
        } else if (strcmp(element, "arg") == 0 && current.name && strcmp(direction, "in") == 0)
                g_string_append(signature, type);
}

static void end_element(GMarkupParseContext *c, const char *element, void *data, GError **e)
{
        if (strcmp(element, "method") == 0) {
                Method m = {g_strdup(current.interface), current.name, g_strdup(signature->str)};

                g_array_append_val(methods, m);
                current.name = NULL;
        }
}

static void introspect(const char *path)
{
        static const GMarkupParser parser = {.start_element = start_element, .end_element = end_element};
        GMarkupParseContext *context = g_markup_parse_context_new(&parser, 0, NULL, NULL);
        sd_bus_message *reply = NULL;
        const char *xml;
        int r;

        r = sd_bus_call_method(bus, "org.remfork.Clone", path, "org.freedesktop.DBus.Introspectable", "Introspect", NULL, &reply,
                        "");
        if (r < 0 || sd_bus_message_read(reply, "s", &xml) < 0)
                g_error("%s cannot be introspected: %s", path, g_strerror(-r));
        if (!g_markup_parse_context_parse(context, xml, -1, NULL))
                g_error("what Introspect of %s says is no XML", path);
        g_markup_parse_context_free(context);
        sd_bus_message_unref(reply);
}

/* Not 1 and not this process itself: both can be cloned, and the twin would answer in its place. */
static uint32_t random_pid(void)
{
        const uint32_t pids[] = {0, 2, (1U << 22) + 1, UINT32_MAX, (uint32_t) daemon_pid,
                        (uint32_t) victim, (uint32_t) victim, (uint32_t) victim};

        return pids[(uint32_t) random() % G_N_ELEMENTS(pids)];
}

static uint64_t random_number(void)
{
        const uint64_t numbers[] = {0, 1, 2, 3, 253, 254, 1000, 1001, UINT32_MAX, UINT64_MAX, (uint64_t) random() % 2000};

        return numbers[(uint32_t) random() % G_N_ELEMENTS(numbers)];
}

static const char *random_string(void)
{
        static const char *const strings[] = {"", "none", "all", "immediate", "syscall", "shared", "daemon", "auto", "ptrace",
                        "kernel", "files", "x.slice", "\xc3\xbc", "a b\n", "%s%n", "org.remfork.Clone", "org.remfork.Clone.Request",
                        "State", "Version", "Clones"};

        return strings[(uint32_t) random() % G_N_ELEMENTS(strings)];
}

static const char *random_key(void)
{
        static const char *const keys[] = {"trigger", "threads", "parent", "stopped", "count", "stdin", "stdout", "stderr", "fds",
                        "isolate", "tree", "scope", "slice", "timeout-usec", "engine", "", "counts", "\n"};

        return keys[(uint32_t) random() % G_N_ELEMENTS(keys)];
}

/* The type that a key has, or, one time in four, another. */
static const char *type_of(const char *key)
{
        static const char *const any[] = {"s", "u", "t", "b", "h", "i", "as"};

        if (random() % 4 == 0)
                return any[(uint32_t) random() % G_N_ELEMENTS(any)];
        if (strcmp(key, "count") == 0)
                return "u";
        if (strcmp(key, "timeout-usec") == 0)
                return "t";
        if (strcmp(key, "stopped") == 0 || strcmp(key, "tree") == 0)
                return "b";
        return g_str_has_prefix(key, "std") ? "h" : "s";
}

static int append_basic(sd_bus_message *m, char type)
{
        switch (type) {
        case 'u':
                return sd_bus_message_append(m, "u", random_pid());
        case 'i':
                return sd_bus_message_append(m, "i", (int32_t) random());
        case 't':
                return sd_bus_message_append(m, "t", random_number());
        case 'b':
                return sd_bus_message_append(m, "b", (int) (random() % 2));
        case 'h':
                return sd_bus_message_append(m, "h", random() % 2 ? victim_fd : STDERR_FILENO);
        default:
                return sd_bus_message_append(m, "s", random_string());
        }
}

static int append_value(sd_bus_message *m, const char *key, const char *type)
{
        int r;

        r = sd_bus_message_open_container(m, 'v', type);
        if (r < 0)
                return r;
        if (strcmp(type, "as") == 0)
                r = sd_bus_message_append(m, "as", 1, "x");
        else if (strcmp(key, "count") == 0 && type[0] == 'u')
                r = sd_bus_message_append(m, "u", random() % 4 ? 1 + (uint32_t) random() % 3 : (uint32_t) random_number() | 1024);
        else
                r = append_basic(m, type[0]);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_options(sd_bus_message *m)
{
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (long n = random() % 4; n > 0 && r >= 0; n--) {
                const char *key = random_key();

                r = sd_bus_message_open_container(m, 'e', "sv");
                if (r >= 0)
                        r = sd_bus_message_append(m, "s", key);
                if (r >= 0)
                        r = append_value(m, key, type_of(key));
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_arguments(sd_bus_message *m, const char *s)
{
        int r = 0;

        while (*s && r >= 0)
                if (g_str_has_prefix(s, "a{sv}")) {
                        r = append_options(m);
                        s += strlen("a{sv}");
                } else if (*s == 'v') {
                        r = append_value(m, "", "s");
                        s++;
                } else
                        r = append_basic(m, *s++);
        return r;
}

/* Clones must not pile up: each is ended as soon as it is known. */
static void end_clones(sd_bus_message *reply)
{
        uint32_t source, clone;

        if (sd_bus_message_has_signature(reply, "u") > 0 && sd_bus_message_read(reply, "u", &clone) > 0)
                (void) kill((pid_t) clone, SIGKILL);
        if (!g_str_has_prefix(sd_bus_message_get_signature(reply, true), "a(uu)"))
                return;
        if (sd_bus_message_enter_container(reply, 'a', "(uu)") > 0)
                while (sd_bus_message_read(reply, "(uu)", &source, &clone) > 0)
                        (void) kill((pid_t) clone, SIGKILL);
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *unused)
{
        unsigned *count = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(reply);

        answered++;
        in_flight--;
        if (++*count != 1)
                g_error("a call was answered %u times", *count);
        if (e) {
                errors++;
                /* These come from this end or from the bus, not from the daemon. */
                if (strcmp(e->name, SD_BUS_ERROR_NO_REPLY) == 0 || strcmp(e->name, SD_BUS_ERROR_SERVICE_UNKNOWN) == 0 ||
                    strcmp(e->name, SD_BUS_ERROR_DISCONNECTED) == 0 || strcmp(e->name, SD_BUS_ERROR_TIMEOUT) == 0)
                        silent++;
        } else
                end_clones(reply);
        g_free(count);
        return 0;
}

static void call_one(void)
{
        const Method *m = &g_array_index(methods, Method, (guint) random() % methods->len);
        static const char *const wrong[] = {"", "s", "u", "ua{sv}", "t", "ss", "h", "ussb"};
        g_autofree char *request = g_strdup_printf("/org/remfork/Clone/request/%u", (unsigned) (random() % (answered + 2)));
        const char *path = random() % 3 ? "/org/remfork/Clone" : request;
        sd_bus_message *message = NULL;
        int r;

        if (g_str_has_suffix(m->interface, ".Request"))
                path = request;
        r = sd_bus_message_new_method_call(bus, &message, "org.remfork.Clone", path, m->interface, m->name);
        if (r >= 0)
                r = append_arguments(message, random() % 8 ? m->signature : wrong[(uint32_t) random() % G_N_ELEMENTS(wrong)]);
        if (r >= 0)
                r = sd_bus_call_async(bus, NULL, message, on_reply, g_new0(unsigned, 1), CALL_TIMEOUT_USEC);
        if (r < 0)
                g_error("a call of %s cannot be made: %s", m->name, g_strerror(-r));
        sd_bus_message_unref(message);
        calls++;
        in_flight++;
}

static void process(void)
{
        int r = sd_bus_process(bus, NULL);

        if (r == 0)
                r = sd_bus_wait(bus, 1000000);
        if (r < 0)
                g_error("the bus is gone: %s", g_strerror(-r));
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
}

static void run_calls(unsigned n)
{
        for (unsigned end = calls + n; calls < end || in_flight > 0;)
                if (calls < end && in_flight < IN_FLIGHT_MAX)
                        call_one();
                else
                        process();
}

static unsigned long daemon_status(const char *key)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/status", (int) daemon_pid), *text = NULL;
        const char *p;

        if (!g_file_get_contents(path, &text, NULL, NULL) || !(p = strstr(text, key)))
                g_error("the daemon, process %d, is not there any more", (int) daemon_pid);
        return strtoul(p + strlen(key), NULL, 10);
}

static pid_t start_victim(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        pause();
        }
        return pid;
}

int main(int argc, char *argv[])
{
        unsigned n = argc > 1 ? (unsigned) atoi(argv[1]) : 10000, seed = argc > 2 ? (unsigned) atoi(argv[2]) : (unsigned) getpid();
        const char *pid = g_getenv("REMFORK_DAEMON_PID");
        unsigned long before, after;

        if (!pid)
                g_error("REMFORK_DAEMON_PID is not set: this runs under tests/with-daemon");
        daemon_pid = (pid_t) atoi(pid);
        srandom(seed);
        g_print("# %u calls, seed %u\n1..3\n", n, seed);

        victim = start_victim();
        victim_fd = (int) syscall(SYS_pidfd_open, victim, 0);
        methods = g_array_new(FALSE, FALSE, sizeof(Method));
        signature = g_string_new(NULL);
        (void) prctl(PR_SET_CHILD_SUBREAPER, 1); /* clones become children of this process, which reaps them */
        if (sd_bus_open_system(&bus) < 0)
                g_error("the bus cannot be reached");
        introspect("/org/remfork/Clone");
        introspect("/org/remfork/Clone/request");

        run_calls(n / 2);
        before = daemon_status("VmRSS:");
        run_calls(n - n / 2);
        after = daemon_status("VmRSS:");

        g_print("%s 1 - %u calls, %u answers, %u of them errors\n", calls == answered ? "ok" : "not ok", calls, answered, errors);
        g_print("%s 2 - every answer is the daemon's own\n", silent == 0 ? "ok" : "not ok");
        g_print("%s 3 - the daemon needs %lu KiB, half way it was %lu\n", after <= before + GROWTH_MAX ? "ok" : "not ok", after, before);
        (void) kill(victim, SIGKILL);
        return calls == answered && silent == 0 && after <= before + GROWTH_MAX ? EXIT_SUCCESS : EXIT_FAILURE;
}
