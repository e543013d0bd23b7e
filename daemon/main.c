/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>

#include "daemon/log.h"
#include "daemon/manager.h"
#include "daemon/privilege.h"

static int parse_arguments(int argc, char *argv[], ManagerOptions *ret)
{
        static char *conf_path = NULL, *bus_address = NULL, *engine = NULL;
        static gboolean no_idle_exit = FALSE, debug = FALSE, version = FALSE;
        static const GOptionEntry entries[] = {
                {"config", 0, 0, G_OPTION_ARG_FILENAME, &conf_path, "Read FILE, not " REMFORK_SYSCONFDIR "/remforkd.conf", "FILE"},
                {"bus-address", 0, 0, G_OPTION_ARG_STRING, &bus_address, "Serve on this bus, not on the system bus", "ADDRESS"},
                {"engine", 0, 0, G_OPTION_ARG_STRING, &engine, "Take ENGINE (auto, kernel, ptrace) where none is asked for", "ENGINE"},
                {"no-idle-exit", 0, 0, G_OPTION_ARG_NONE, &no_idle_exit, "Stay when there is nothing to do", NULL},
                {"debug", 0, 0, G_OPTION_ARG_NONE, &debug, "Log more", NULL},
                {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Show the version", NULL},
                {},
        };
        g_autoptr(GOptionContext) context = g_option_context_new(NULL);
        g_autoptr(GError) e = NULL;

        g_option_context_set_summary(context, "Clones running processes on request, over D-Bus.");
        g_option_context_add_main_entries(context, entries, NULL);
        if (!g_option_context_parse(context, &argc, &argv, &e)) {
                log_error("%s; remforkd --help shows what there is", e->message);
                return -EINVAL;
        }
        if (argc > 1) {
                log_error("There is no argument \"%s\"; remforkd --help shows what there is", argv[1]);
                return -EINVAL;
        }

        if (version) {
                g_print("remforkd " PACKAGE_VERSION "\n");
                return 0;
        }

        log_set_level(debug ? LOG_DEBUG : LOG_INFO);
        *ret = (ManagerOptions){conf_path, bus_address, CLONE_ENGINE_AUTO, no_idle_exit};
        if (engine) {
                int r = spec_engine_from_string(engine);

                if (r < 0) {
                        log_error("There is no engine \"%s\", auto, kernel or ptrace was expected", engine);
                        return r;
                }
                ret->engine = (CloneEngine) r;
        }
        return 1;
}

static int on_terminate(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata)
{
        manager_stop(userdata);
        return 0;
}

static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata)
{
        manager_reload(userdata);
        return 0;
}

static int add_signals(Manager *m)
{
        int r;

        r = sd_event_add_signal(m->event, NULL, SIGTERM, on_terminate, m);
        if (r >= 0)
                r = sd_event_add_signal(m->event, NULL, SIGINT, on_terminate, m);
        if (r >= 0)
                r = sd_event_add_signal(m->event, NULL, SIGHUP, on_hangup, m);
        if (r < 0)
                log_error("Signals cannot be caught: %s", g_strerror(-r));
        return r;
}

/* sd-event wants them blocked before it is told of them; SIGCHLD is how the workers' ends are seen. */
static void block_signals(void)
{
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP);
        sigaddset(&set, SIGCHLD);
        (void) sigprocmask(SIG_BLOCK, &set, NULL); /* cannot fail with these arguments */
        (void) signal(SIGPIPE, SIG_IGN);
}

static int run(int argc, char *argv[])
{
        g_autoptr(Manager) m = NULL;
        ManagerOptions options;
        int r;

        log_init();

        r = parse_arguments(argc, argv, &options);
        if (r <= 0)
                return r;

        block_signals();

        r = privilege_drop();
        if (r < 0)
                return r;

        r = manager_new(&m, &options);
        if (r < 0)
                return r;

        r = add_signals(m);
        if (r < 0)
                return r;

        r = manager_startup(m, options.bus_address);
        if (r < 0)
                return r;

        log_event(LOG_INFO, LOG_EVENT_STARTED, 0, "remforkd " PACKAGE_VERSION " serves, engine %s",
                        m->engine ? m->engine->name : "none");
        (void) sd_notifyf(false, "READY=1\nSTATUS=Engine %s, nothing asked for yet", m->engine ? m->engine->name : "none");

        r = sd_event_loop(m->event);
        if (r != 0) {
                /* sd-bus ends the loop with EXIT_FAILURE when the bus goes away. */
                log_error("remforkd ends: %s", r < 0 ? g_strerror(-r) : "the connection to the bus broke");
                return r < 0 ? r : -EPIPE;
        }

        log_event(LOG_INFO, LOG_EVENT_STOPPED, 0, "remforkd ends, %" G_GUINT64_FORMAT " requests were done, %" G_GUINT64_FORMAT
                        " not", m->completed, m->failed);
        return 0;
}

int main(int argc, char *argv[])
{
        return run(argc, argv) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
