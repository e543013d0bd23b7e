/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/output.h"
#include "client/verb.h"

static const struct {
        const char *name;
        const char *arguments;
        const char *summary;
        ClientExit (*run)(int argc, char **argv);
} verb_table[] = {
        {"clone", "PID", "Clone a running process and print the PID of the clone", verb_clone},
        {"core", "PID", "Write a core file of a running process, which goes on", verb_core},
        {"debug", "PID", "Open gdb on a stopped clone of a running process", verb_debug},
        {"status", "", "Show the daemon's engine, version, queue and limits", verb_status},
        {"list", "", "List the requests that wait and run, and the clones that are alive", verb_list},
        {"show", "PID", "Show what is known of a clone", verb_show},
        {"kill", "PID", "Send a signal to a clone", verb_kill},
        {"wait", "PID", "Wait until a clone ends, and pass its exit status on", verb_wait},
        {"cancel", "ID", "Cancel a request", verb_cancel},
        {"monitor", "", "Print each request and each clone as it happens", verb_monitor},
};

static const char exit_table[] =
        "Exit status:\n"
        "  0  done\n"
        "  1  failed for a reason that the message names\n"
        "  2  wrong usage: an option, an argument or a combination of them\n"
        "  3  denied\n"
        "  4  no such process, or no such request\n"
        "  5  the process cannot be cloned, or another process traces it\n"
        "  6  timed out\n"
        "  7  canceled\n"
        "  8  a limit of remforkd.conf is reached\n"
        "  9  the system bus or remforkd cannot be reached\n";

static void print_help(FILE *f)
{
        fputs("Usage: remforkctl VERB [OPTION...] [ARGUMENT]\n\n"
              "Clones a running process, from outside, at the instruction where it is.\n\n", f);
        for (size_t i = 0; i < G_N_ELEMENTS(verb_table); i++)
                fprintf(f, "  %-8s%-5s%s\n", verb_table[i].name, verb_table[i].arguments, verb_table[i].summary);
        fprintf(f, "\n  -h, --help   Show this text; behind a verb, its options\n"
                   "  --version    Show the version\n\n%s", exit_table);
}

ClientExit client_error(ClientExit status, const char *format, ...)
{
        g_autofree char *text = NULL, *safe = NULL;
        va_list ap;

        va_start(ap, format);
        text = g_strdup_vprintf(format, ap);
        va_end(ap);
        safe = output_escape(text);
        fprintf(stderr, "remforkctl: %s\n", safe);
        return status;
}

static ClientExit parse_json(const char *text, JsonMode *ret)
{
        if (!text || strcmp(text, "off") == 0)
                *ret = JSON_OFF;
        else if (strcmp(text, "short") == 0)
                *ret = JSON_SHORT;
        else if (strcmp(text, "pretty") == 0)
                *ret = JSON_PRETTY;
        else
                return client_error(CLIENT_USAGE, "--json=%s: \"short\", \"pretty\" or \"off\" was expected", text);

        return CLIENT_OK;
}

ClientExit verb_parse(int argc, char **argv, const GOptionEntry *entries, const char *usage, const char *summary,
                      int n_arguments, JsonMode *ret_json)
{
        g_autoptr(GOptionContext) context = g_option_context_new(usage);
        g_autoptr(GError) error = NULL;
        g_autofree char *json = NULL, *name = g_strdup_printf("remforkctl %s", argv[0]);
        const GOptionEntry json_entries[] = {
                {"json", 0, 0, G_OPTION_ARG_STRING, &json, "Print JSON: short, pretty or off", "MODE"},
                {},
        };
        int left = argc;

        g_set_prgname(name); /* what the usage line shows */
        g_option_context_set_summary(context, summary);
        g_option_context_set_description(context, exit_table);
        if (entries)
                g_option_context_add_main_entries(context, entries, NULL);
        if (ret_json)
                g_option_context_add_main_entries(context, json_entries, NULL);
        if (!g_option_context_parse(context, &left, &argv, &error))
                return client_error(CLIENT_USAGE, "%s; \"%s --help\" shows the options", error->message, name);

        if (left > 1 && strcmp(argv[1], "--") == 0) { /* GOption leaves the separator where it stands */
                memmove(argv + 1, argv + 2, (size_t) (left - 1) * sizeof(char *));
                left--;
        }
        argv[left] = NULL; /* what was there before the options were taken out is no argument */
        if (n_arguments < 0 ? left - 1 > -n_arguments : left - 1 != n_arguments)
                return client_error(CLIENT_USAGE, "%d argument%s expected, there %s %d; \"%s --help\" shows the usage",
                                    abs(n_arguments), abs(n_arguments) == 1 ? " is" : "s are", left - 1 == 1 ? "is" : "are", left - 1, name);

        return ret_json ? parse_json(json, ret_json) : CLIENT_OK;
}

int main(int argc, char **argv)
{
        setlocale(LC_ALL, "");

        if (argc < 2) {
                print_help(stderr);
                return CLIENT_USAGE;
        }
        if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
                print_help(stdout);
                return output_finish(CLIENT_OK);
        }
        if (strcmp(argv[1], "--version") == 0) {
                puts(PACKAGE_STRING);
                return output_finish(CLIENT_OK);
        }

        for (size_t i = 0; i < G_N_ELEMENTS(verb_table); i++)
                if (strcmp(argv[1], verb_table[i].name) == 0)
                        return output_finish(verb_table[i].run(argc - 1, argv + 1));

        return client_error(CLIENT_USAGE, "there is no verb \"%s\"; \"remforkctl --help\" lists them", argv[1]);
}
