/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

/*
 * Holds what remforkd answers to Introspect against the XML that is installed: the same methods, signals, properties,
 * arguments and annotations, no more and no fewer. Runs in the source directory, under tests/with-daemon.
 */

#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

/* What was read of one interface: a line for each member, with its arguments and annotations in order. */
typedef struct Reader {
        const char *wanted; /* interface */
        bool inside;
        GString *member;
        GPtrArray *members;
} Reader;

static gint compare_lines(const void *a, const void *b)
{
        return strcmp(*(char *const *) a, *(char *const *) b);
}

static void start_element(GMarkupParseContext *c, const char *element, const char **names, const char **values, void *data,
                GError **e)
{
        Reader *r = data;
        g_autoptr(GPtrArray) attributes = g_ptr_array_new_with_free_func(g_free);

        for (size_t i = 0; names[i]; i++) {
                if (strcmp(element, "interface") == 0 && strcmp(names[i], "name") == 0)
                        r->inside = strcmp(values[i], r->wanted) == 0;
                /* Left out it means "in" for a method and is senseless for a signal. */
                if (strcmp(element, "arg") != 0 || strcmp(names[i], "direction") != 0 || strcmp(values[i], "out") == 0)
                        g_ptr_array_add(attributes, g_strdup_printf("%s=%s", names[i], values[i]));
        }
        if (!r->inside || strcmp(element, "interface") == 0)
                return;

        g_ptr_array_sort(attributes, compare_lines);
        if (strcmp(element, "arg") != 0 && strcmp(element, "annotation") != 0)
                g_string_truncate(r->member, 0);
        g_string_append_printf(r->member, " <%s", element);
        for (guint i = 0; i < attributes->len; i++)
                g_string_append_printf(r->member, " %s", (char *) attributes->pdata[i]);
        g_string_append_c(r->member, '>');
}

static void end_element(GMarkupParseContext *c, const char *element, void *data, GError **e)
{
        Reader *r = data;

        if (strcmp(element, "interface") == 0)
                r->inside = false;
        else if (r->inside && strcmp(element, "arg") != 0 && strcmp(element, "annotation") != 0)
                g_ptr_array_add(r->members, g_strdup(r->member->str));
}

static char *read_interface(const char *xml, const char *interface)
{
        static const GMarkupParser parser = {.start_element = start_element, .end_element = end_element};
        Reader r = {.wanted = interface, .member = g_string_new(NULL), .members = g_ptr_array_new_with_free_func(g_free)};
        GMarkupParseContext *context = g_markup_parse_context_new(&parser, 0, &r, NULL);
        GError *e = NULL;
        char *text;

        if (!g_markup_parse_context_parse(context, xml, -1, &e))
                g_error("no XML: %s", e->message);
        g_ptr_array_sort(r.members, compare_lines);
        g_ptr_array_add(r.members, NULL);
        text = g_strjoinv("\n", (char **) r.members->pdata);
        g_markup_parse_context_free(context);
        g_ptr_array_unref(r.members);
        g_string_free(r.member, TRUE);
        return text;
}

static void compare(sd_bus *bus, const char *path, const char *interface)
{
        g_autofree char *file = g_strdup_printf("dbus/%s.xml", interface), *installed = NULL, *expected = NULL, *got = NULL;
        sd_bus_message *reply = NULL;
        const char *xml;
        int r;

        g_assert_true(g_file_get_contents(file, &installed, NULL, NULL));
        r = sd_bus_call_method(bus, "org.remfork.Clone", path, "org.freedesktop.DBus.Introspectable", "Introspect", NULL, &reply,
                        "");
        g_assert_cmpint(r, >=, 0);
        g_assert_cmpint(sd_bus_message_read(reply, "s", &xml), >, 0);
        expected = read_interface(installed, interface);
        got = read_interface(xml, interface);
        g_assert_cmpuint(strlen(expected), >, 100);
        g_assert_cmpstr(got, ==, expected);
        sd_bus_message_unref(reply);
}

static void test_manager(void)
{
        sd_bus *bus = NULL;

        g_assert_cmpint(sd_bus_open_system(&bus), >=, 0);
        compare(bus, "/org/remfork/Clone", "org.remfork.Clone");
        sd_bus_flush_close_unref(bus);
}

static void test_request(void)
{
        sd_bus *bus = NULL;
        sd_bus_message *reply = NULL;
        uint32_t source, clone;
        const char *path;
        pid_t victim;

        victim = fork();
        if (victim == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        pause();
        }

        g_assert_cmpint(sd_bus_open_system(&bus), >=, 0);
        g_assert_cmpint(sd_bus_call_method(bus, "org.remfork.Clone", "/org/remfork/Clone", "org.remfork.Clone", "CloneFull",
                                        NULL, &reply, "ua{sv}", (uint32_t) victim, 0),
                        >=, 0);
        g_assert_cmpint(sd_bus_message_read(reply, "a(uu)o", 1, &source, &clone, &path), >, 0);
        g_assert_cmpuint(source, ==, (uint32_t) victim);
        compare(bus, path, "org.remfork.Clone.Request");

        g_assert_cmpint(kill((pid_t) clone, SIGKILL), ==, 0);
        g_assert_cmpint(kill(victim, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(victim, NULL, 0), ==, victim);
        g_assert_cmpint(waitpid((pid_t) clone, NULL, 0), ==, (pid_t) clone); /* a sibling of its source: a child of ours */
        sd_bus_message_unref(reply);
        sd_bus_flush_close_unref(bus);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/introspect/manager", test_manager);
        g_test_add_func("/introspect/request", test_request);
        return g_test_run();
}
