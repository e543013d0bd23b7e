/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/choose.h"
#include "client/output.h"
#include "client/redirect.h"
#include "client/scope.h"
#include "client/terminal.h"

typedef struct CloneArguments {
        char *trigger, *parent, *threads, *engine, *timeout, *count, *isolate;
        gboolean stopped, tree, same_pids, no_ask_password, quiet, log, pty, new_session;
        Choice choice;
        RedirectOptions redirect;
        ScopeOptions scope;
        GArray *redirections; /* what redirect came to */
        int master;           /* of --pty, else -EBADF */
} CloneArguments;

#define CLONE_ARGUMENTS_INIT ((CloneArguments){.master = -EBADF})

static void clone_arguments_clear(CloneArguments *a)
{
        g_free(a->trigger);
        g_free(a->parent);
        g_free(a->threads);
        g_free(a->engine);
        g_free(a->timeout);
        g_free(a->count);
        g_free(a->isolate);
        choice_clear(&a->choice);
        scope_options_clear(&a->scope);
        for (size_t i = 0; i < G_N_ELEMENTS(a->redirect.standard); i++)
                g_free(a->redirect.standard[i]);
        g_strfreev(a->redirect.fds);
        g_clear_pointer(&a->redirections, g_array_unref);
        if (a->master >= 0)
                (void) close(a->master);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CloneArguments, clone_arguments_clear)

static ClientExit parse_number(const char *what, const char *text, guint64 from, guint64 to, guint64 *ret)
{
        if (!g_ascii_string_to_unsigned(text, 10, from, to, ret, NULL))
                return client_error(CLIENT_USAGE, "%s \"%s\": a number from %" PRIu64 " to %" PRIu64 " was expected", what, text,
                                    from, to);
        return CLIENT_OK;
}

/* "2", "0.5s", "500ms", "1min" in microseconds. */
static ClientExit parse_timeout(const char *text, uint64_t *ret)
{
        static const struct {
                const char *name;
                double usec;
        } units[] = {{"", 1e6}, {"us", 1}, {"ms", 1e3}, {"s", 1e6}, {"min", 60e6}, {"h", 3600e6}};
        char *end;
        double number = g_ascii_strtod(text, &end);

        /* strtod would take a sign, a blank, "inf", and hexadecimal numbers */
        if (g_ascii_isdigit(*text) && strspn(text, "0123456789.") == (size_t) (end - text))
                for (size_t i = 0; i < G_N_ELEMENTS(units); i++) {
                        double usec = number * units[i].usec;

                        if (strcmp(end, units[i].name) == 0 && usec >= 1 && usec < 1e18) {
                                *ret = (uint64_t) (usec + 0.5);
                                return CLIENT_OK;
                        }
                }

        return client_error(CLIENT_USAGE, "--timeout=%s: a time above 0 like 2, 500ms, 10s or 1min was expected", text);
}

static int append_option(sd_bus_message *m, const char *key, const char *type, const void *value)
{
        int r = sd_bus_message_open_container(m, 'e', "sv");

        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', key);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', type);
        if (r >= 0)
                r = sd_bus_message_append_basic(m, *type, value);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* Only what was asked for is sent: the daemon has the defaults, and is the one to judge the values. */
static ClientExit append_options(sd_bus_message *m, const CloneArguments *a)
{
        const struct {
                const char *key, *value;
        } strings[] = {{"trigger", a->trigger}, {"parent", a->parent}, {"threads", a->threads}, {"engine", a->engine},
                       {"isolate", a->isolate}};
        uint64_t usec = 0, count = 0;
        ClientExit status = CLIENT_OK;
        int r, yes = true;

        if (a->timeout)
                status = parse_timeout(a->timeout, &usec);
        if (status == CLIENT_OK && a->count)
                status = parse_number("--count", a->count, 1, UINT32_MAX, &count);
        if (status != CLIENT_OK)
                return status;

        r = sd_bus_message_open_container(m, 'a', "{sv}");
        for (size_t i = 0; r >= 0 && i < G_N_ELEMENTS(strings); i++)
                if (strings[i].value)
                        r = append_option(m, strings[i].key, "s", strings[i].value);
        if (r >= 0 && a->stopped)
                r = append_option(m, "stopped", "b", &yes);
        if (r >= 0 && a->tree)
                r = append_option(m, "tree", "b", &yes);
        if (r >= 0 && a->same_pids)
                r = append_option(m, "same-pids", "b", &yes);
        if (r >= 0 && a->new_session)
                r = append_option(m, "session", "b", &yes);
        if (r >= 0 && a->redirections)
                r = redirect_append(m, a->redirections);
        if (r >= 0 && a->count)
                r = append_option(m, "count", "u", &(uint32_t){(uint32_t) count});
        if (r >= 0 && a->timeout)
                r = append_option(m, "timeout-usec", "t", &usec);
        if (r >= 0)
                status = scope_append(m, &a->scope);
        if (r >= 0 && status == CLIENT_OK)
                r = sd_bus_message_close_container(m);
        return r < 0 ? bus_message_error(r) : status;
}

/* What the clone could not be given. Empty where the request is no longer there to be asked. */
static char **get_notes(sd_bus *bus, const char *request)
{
        char **notes = NULL;

        if (sd_bus_get_property_strv(bus, REMFORK_NAME, request, REMFORK_REQUEST_INTERFACE, "Notes", NULL, &notes) < 0)
                return NULL;
        return notes;
}

static JsonNode *to_json(GArray *pairs, const char *request, char **notes)
{
        g_autoptr(JsonBuilder) b = json_builder_new();

        json_builder_begin_object(b);
        json_builder_set_member_name(b, "request");
        json_builder_add_string_value(b, request);
        json_builder_set_member_name(b, "clones");
        json_builder_begin_array(b);
        for (guint i = 0; i < pairs->len; i += 2) {
                json_builder_begin_object(b);
                json_builder_set_member_name(b, "source");
                json_builder_add_int_value(b, g_array_index(pairs, uint32_t, i));
                json_builder_set_member_name(b, "clone");
                json_builder_add_int_value(b, g_array_index(pairs, uint32_t, i + 1));
                json_builder_end_object(b);
        }
        json_builder_end_array(b);
        json_builder_set_member_name(b, "notes");
        json_builder_begin_array(b);
        for (char **n = notes; n && *n; n++)
                json_builder_add_string_value(b, *n);
        json_builder_end_array(b);
        json_builder_end_object(b);
        return json_builder_get_root(b);
}

/* Reads a(uu)o: the pairs, flattened, and the request's path, which belongs to the message. */
static int read_reply(sd_bus_message *reply, GArray *pairs, const char **ret_request)
{
        uint32_t pair[2];
        int r = sd_bus_message_enter_container(reply, 'a', "(uu)");

        while (r >= 0 && (r = sd_bus_message_read(reply, "(uu)", &pair[0], &pair[1])) > 0)
                g_array_append_vals(pairs, pair, 2);
        if (r >= 0)
                r = sd_bus_message_exit_container(reply);
        return r < 0 ? r : sd_bus_message_read(reply, "o", ret_request);
}

/* The clone's output goes to the journal, under the name of its program. */
static ClientExit open_journal(guint64 pid, GArray *redirections)
{
        g_autofree char *name = bus_is_remote() ? g_strdup("remfork") : output_program((pid_t) pid);
        int fd = sd_journal_stream_fd(name, LOG_INFO, false);

        if (fd < 0)
                return client_error(CLIENT_FAILED, "--log: the journal cannot be reached (%s); is systemd-journald running?", g_strerror(-fd));

        redirect_add(redirections, STDOUT_FILENO, fd);
        g_array_index(redirections, Redirection, redirections->len - 1).owned = true;
        redirect_add(redirections, STDERR_FILENO, fd);
        return CLIENT_OK;
}

static ClientExit open_terminal(CloneArguments *a)
{
        int slave;
        ClientExit status = terminal_new(&a->master, &slave);

        for (uint32_t i = 0; status == CLIENT_OK && i < 3; i++)
                redirect_add(a->redirections, i, slave);
        if (status == CLIENT_OK) /* closed with the list: as long as it is open here, the terminal does not hang up */
                g_array_index(a->redirections, Redirection, a->redirections->len - 1).owned = true;
        return status;
}

/* Nothing is opened before all words are understood and there is a process of that number. */
static ClientExit open_redirections(sd_bus *bus, guint64 pid, CloneArguments *a)
{
        bool standard = a->redirect.standard[0] || a->redirect.standard[1] || a->redirect.standard[2];
        g_autofree char *directory = g_strdup_printf("/proc/%" PRIu64, pid);
        ClientExit status;

        if (a->log + a->pty > 1 || ((a->log || a->pty) && (a->redirect.standard[1] || a->redirect.standard[2])) ||
            (a->pty && standard))
                return client_error(CLIENT_USAGE, "%s and another option both name an output of the clone", a->pty ? "--pty" : "--log");
        if (!standard && !a->redirect.fds && !a->log && !a->pty)
                return CLIENT_OK;
        /* ssh passes none, though systemd's bridge at its other end may take itself for able to. */
        if (bus_host || sd_bus_can_send(bus, SD_BUS_TYPE_UNIX_FD) <= 0)
                return client_error(CLIENT_USAGE, "%s: descriptors cannot be passed to %s; have a file opened there by a command of its own",
                                    a->pty ? "--pty" : a->log ? "--log" : "--stdin=, --stdout=, --stderr= and --fd=", bus_where());
        if (!bus_is_remote() && access(directory, F_OK) < 0 && errno == ENOENT)
                return client_error(CLIENT_NOT_FOUND, "there is no process %" PRIu64 "; look it up again, with pgrep(1)", pid);

        a->redirect.more = a->log ? 2 : a->pty ? 3 : 0;
        status = redirect_open(&a->redirect, &a->redirections);
        if (status == CLIENT_OK && a->log)
                status = open_journal(pid, a->redirections);
        if (status == CLIENT_OK && a->pty)
                status = open_terminal(a);
        return status;
}

/* Asks, and waits for the answer. The message goes first: it holds duplicates of the descriptors. */
static ClientExit call_clone(sd_bus *bus, guint64 pid, const CloneArguments *a, sd_bus_message **ret)
{
        g_autoptr(sd_bus_message) m = bus_new_call(bus, "CloneFull");
        ClientExit status;
        int r;

        if (!m)
                return CLIENT_FAILED;
        r = sd_bus_message_append(m, "u", (uint32_t) pid);
        if (r < 0)
                return bus_message_error(r);
        status = append_options(m, a);
        return status == CLIENT_OK ? bus_call(bus, m, !a->no_ask_password, ret) : status;
}

static ClientExit clone_and_print(guint64 pid, CloneArguments *a, JsonMode json)
{
        g_autoptr(sd_bus) bus = NULL;
        g_autoptr(sd_bus_message) reply = NULL;
        g_autoptr(GArray) pairs = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        g_auto(GStrv) notes = NULL;
        const char *request;
        ClientExit status;
        int r;

        status = bus_open(&bus);
        if (status == CLIENT_OK)
                status = open_redirections(bus, pid, a);
        if (status == CLIENT_OK)
                status = call_clone(bus, pid, a, &reply);
        if (status != CLIENT_OK)
                return status;
        r = read_reply(reply, pairs, &request);
        if (r < 0)
                return bus_message_error(r);

        if (!a->quiet || json != JSON_OFF)
                notes = get_notes(bus, request);
        if (json != JSON_OFF)
                output_json(to_json(pairs, request, notes), json);
        else
                for (guint i = 1; i < pairs->len; i += 2)
                        printf("%u\n", g_array_index(pairs, uint32_t, i));
        for (char **n = notes; n && *n && !a->quiet; n++)
                client_error(CLIENT_OK, "note: %s", *n);

        g_clear_pointer(&a->redirections, g_array_unref);
        if (a->master < 0)
                return CLIENT_OK;
        (void) fflush(stdout); /* the PIDs before what the clone writes; output_finish() tells of an error */
        return terminal_attach(a->master);
}

ClientExit verb_clone(int argc, char **argv)
{
        g_auto(CloneArguments) a = CLONE_ARGUMENTS_INIT;
        const GOptionEntry entries[] = {
                REMOTE_OPTIONS,
                CHOICE_OPTIONS(a.choice),
                {"trigger", 0, 0, G_OPTION_ARG_STRING, &a.trigger, "When: immediate (default), or syscall: at its next call", "WHEN"},
                {"parent", 0, 0, G_OPTION_ARG_STRING, &a.parent, "The clone's parent: shared (the target's, default) or daemon", "WHOSE"},
                {"threads", 0, 0, G_OPTION_ARG_STRING, &a.threads, "Its threads: all (default), or caller: the main one alone, as after fork()", "WHICH"},
                {"tree", 0, 0, G_OPTION_ARG_NONE, &a.tree, "Clone its descendants, too; prints all PIDs, that of its own clone first", NULL},
                {"same-pids", 0, 0, G_OPTION_ARG_NONE, &a.same_pids, "In a new PID namespace, where each clone has the PID of its source", NULL},
                {"stopped", 0, 0, G_OPTION_ARG_NONE, &a.stopped, "Leave the clone stopped; SIGCONT lets it go", NULL},
                {"count", 0, 0, G_OPTION_ARG_STRING, &a.count, "Make N clones of the same instant", "N"},
                {"stdin", 0, 0, G_OPTION_ARG_FILENAME, &a.redirect.standard[0], "The clone's stdin: a file, or inherit (-) for remforkctl's own", "PATH"},
                {"stdout", 0, 0, G_OPTION_ARG_FILENAME, &a.redirect.standard[1], "The clone's stdout: a file, which is emptied first, or inherit (-)", "PATH"},
                {"stderr", 0, 0, G_OPTION_ARG_FILENAME, &a.redirect.standard[2], "The clone's stderr: a file, which is emptied first, or inherit (-)", "PATH"},
                {"fd", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &a.redirect.fds, "The clone's descriptor N: a file, remforkctl's descriptor FD, or closed", "N:PATH|N:FD|N:close"},
                {"pty", 0, 0, G_OPTION_ARG_NONE, &a.pty, "Give the clone a new terminal and attach to it", NULL},
                {"new-session", 0, 0, G_OPTION_ARG_NONE, &a.new_session, "The clone leads a new session, of which its terminal becomes the controlling one", NULL},
                {"log", 0, 0, G_OPTION_ARG_NONE, &a.log, "The clone's stdout and stderr go to the journal", NULL},
                {"isolate", 0, 0, G_OPTION_ARG_STRING, &a.isolate, "What the clone has for itself: none (default), files or all", "WHAT"},
                SCOPE_OPTIONS(a.scope),
                {"timeout", 0, 0, G_OPTION_ARG_STRING, &a.timeout, "Give up after TIME, as in 500ms or 10s", "TIME"},
                {"engine", 0, 0, G_OPTION_ARG_STRING, &a.engine, "auto (default), kernel or ptrace", "NAME"},
                {"no-ask-password", 0, 0, G_OPTION_ARG_NONE, &a.no_ask_password, "Do not ask for a password", NULL},
                {"quiet", 'q', 0, G_OPTION_ARG_NONE, &a.quiet, "Do not print notes on what the clone could not be given", NULL},
                {},
        };
        ClientExit status;
        JsonMode json;
        uint32_t pid = 0;

        scope_options_prepare(argv);
        status = verb_parse(argc, argv, entries, "PID|--unit=UNIT|--name=NAME",
                            "Clones the process PID and prints the PID of the clone, each on a line, and nothing else on stdout.",
                            VERB_UP_TO(1), &json);
        if (status == CLIENT_OK)
                status = choice_resolve(&a.choice, argv[1], &pid);
        return status == CLIENT_OK ? clone_and_print(pid, &a, json) : status;
}
