/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine/background.h"
#include "daemon/engine/engine.h"
#include "daemon/tree.h"
#include "daemon/util.h"

/*
 * Clones a process by an engine alone: no bus, no queue, no authorisation. For the tests of the engines and for
 * measuring them. Prints the PIDs on stdout; an error is its D-Bus name and its sentence on stderr, exit status 1.
 */

static char *arg_engine, *arg_trigger, *arg_parent, *arg_threads, *arg_refuse, *arg_isolate;
static char **arg_fds;
static gboolean arg_notes, arg_session, arg_stopped, arg_verbose, arg_held, arg_watch, arg_tree, arg_same_pids;
static int arg_count = 1, arg_repeat = 1;

static const GOptionEntry entries[] = {
        {"engine", 0, 0, G_OPTION_ARG_STRING, &arg_engine, "auto, kernel or ptrace", "ENGINE"},
        {"trigger", 0, 0, G_OPTION_ARG_STRING, &arg_trigger, "immediate or syscall", "TRIGGER"},
        {"parent", 0, 0, G_OPTION_ARG_STRING, &arg_parent, "shared or daemon", "PARENT"},
        {"threads", 0, 0, G_OPTION_ARG_STRING, &arg_threads, "all or caller", "THREADS"},
        {"stopped", 0, 0, G_OPTION_ARG_NONE, &arg_stopped, "leave the clones stopped", NULL},
        {"notes", 0, 0, G_OPTION_ARG_NONE, &arg_notes, "look for what the clones will not have", NULL},
        {"tree", 0, 0, G_OPTION_ARG_NONE, &arg_tree, "with all descendants; prints \"PID SOURCE\" for each", NULL},
        {"same-pids", 0, 0, G_OPTION_ARG_NONE, &arg_same_pids, "in a new PID namespace, with the PIDs of what is cloned", NULL},
        {"session", 0, 0, G_OPTION_ARG_NONE, &arg_session, "the clones lead sessions", NULL},
        {"isolate", 0, 0, G_OPTION_ARG_STRING, &arg_isolate, "none, files or all", "WHAT"},
        {"fd", 0, 0, G_OPTION_ARG_STRING_ARRAY, &arg_fds, "N:PATH, opened for reading and writing, or N:close", "WHICH"},
        {"count", 0, 0, G_OPTION_ARG_INT, &arg_count, "clones of one instant", "N"},
        {"repeat", 0, 0, G_OPTION_ARG_INT, &arg_repeat, "clone N times, killing each clone but the last", "N"},
        {"refuse", 0, 0, G_OPTION_ARG_STRING, &arg_refuse, "have the callback (judge, member or held) refuse", "CALLBACK"},
        {"held", 0, 0, G_OPTION_ARG_NONE, &arg_held, "print \"held PID...\" as soon as the clones are handed over", NULL},
        {"watch", 0, 0, G_OPTION_ARG_NONE, &arg_watch, "with --parent=daemon: wait, print \"exited PID CODE STATUS\"", NULL},
        {"verbose", 'v', 0, G_OPTION_ARG_NONE, &arg_verbose, "print the target's pause in ns on stderr", NULL},
        {}
};

typedef struct Result {
        pid_t *pids, *sources; /* sources: of a tree */
        size_t n;
} Result;

static int on_judge(Target *target, void *userdata, CloneError *error)
{
        if (g_strcmp0(arg_refuse, "judge") == 0)
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, EACCES, "The judge of the test refused");

        return 0;
}

static int on_judge_member(Target *member, void *userdata, CloneError *error)
{
        if (g_strcmp0(arg_refuse, "member") == 0)
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, EACCES, "The judge of the test refused process %d", (int) target_pid(member));

        return 0;
}

static int on_held(const pid_t *pids, const int *pidfds, const pid_t *sources, size_t n, void *userdata, CloneError *error)
{
        Result *result = userdata;

        if (arg_held) {
                g_autoptr(GString) line = g_string_new("held");

                for (size_t i = 0; i < n; i++)
                        g_string_append_printf(line, " %d", (int) pids[i]);
                g_string_append_c(line, '\n');
                /* One write, so that whoever kills this process sees the whole line or nothing. */
                if (write(STDOUT_FILENO, line->str, line->len) != (ssize_t) line->len)
                        return clone_error_set(error, CLONE_ERROR_FAILED, errno, "The clones cannot be reported");
        }

        if (g_strcmp0(arg_refuse, "held") == 0)
                return clone_error_set(error, CLONE_ERROR_CANCELED, ECANCELED, "The holder of the test refused");

        g_free(result->pids);
        g_free(result->sources);
        result->pids = g_memdup2(pids, n * sizeof(*pids));
        result->sources = sources ? g_memdup2(sources, n * sizeof(*sources)) : NULL;
        result->n = n;
        return 0;
}

static void on_note(const char *text, void *userdata)
{
        (void) fprintf(stderr, "note: %s\n", text);
}

static void on_exited(pid_t pid, int code, int status, void *userdata)
{
        (void) printf("exited %d %d %d\n", (int) pid, code, status);
        (void) fflush(stdout);
}

static int choose(const char *value, const char *const *names, const char *what)
{
        for (int i = 0; names[i]; i++)
                if (g_strcmp0(value, names[i]) == 0)
                        return i;

        (void) fprintf(stderr, "\"%s\" is no %s\n", value, what);
        exit(2);
}

/* False where @text is not as the option has it. */
static bool read_fd(const char *text, CloneFds **ret)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        _cleanup_close_ int fd = -EBADF;
        char *end;
        uint32_t number = (uint32_t) strtoul(text, &end, 10);
        int r;

        if (end == text || *end != ':')
                return false;
        if (strcmp(end, ":close") == 0)
                r = clone_fds_add_closed(ret, "fd", number, &error);
        else {
                fd = open(end + 1, O_RDWR | O_CLOEXEC);
                r = clone_fds_add(ret, "fd", number, fd, CLONE_FD_ANY, &error);
        }
        if (r < 0)
                (void) fprintf(stderr, "%s\n", error.message);
        return r >= 0;
}

/* Returns the PID. */
static pid_t parse_options(int argc, char **argv, CloneSpec *ret)
{
        static const char *const triggers[] = {"immediate", "syscall", NULL}, *const parents[] = {"shared", "daemon", NULL},
                                 *const threads[] = {"all", "caller", NULL}, *const names[] = {"auto", "kernel", "ptrace", NULL},
                                 *const isolates[] = {"none", "files", "all", NULL};
        g_autoptr(GOptionContext) context = g_option_context_new("PID");
        g_autoptr(GError) e = NULL;

        g_option_context_add_main_entries(context, entries, NULL);
        if (!g_option_context_parse(context, &argc, &argv, &e) || argc != 2) {
                (void) fprintf(stderr, "%s\n", e ? e->message : "One PID was expected");
                exit(2);
        }

        *ret = CLONE_SPEC_DEFAULT;
        ret->trigger = (CloneTrigger) choose(arg_trigger ?: "immediate", triggers, "trigger");
        ret->parent = (CloneParent) choose(arg_parent ?: "shared", parents, "parent");
        ret->threads = (CloneThreads) choose(arg_threads ?: "all", threads, "threads");
        ret->engine = (CloneEngine) choose(arg_engine ?: "auto", names, "engine");
        ret->isolate = (CloneIsolate) choose(arg_isolate ?: "none", isolates, "isolation");
        ret->session = arg_session;
        ret->notes = arg_notes;
        ret->tree = arg_tree;
        ret->same_pids = arg_same_pids;
        ret->tree_max = TREE_MAX;
        for (char **f = arg_fds; f && *f; f++)
                if (!read_fd(*f, &ret->fds)) {
                        (void) fprintf(stderr, "\"%s\" is no N:PATH\n", *f);
                        exit(2);
                }
        ret->stopped = arg_stopped;
        ret->count = (uint32_t) arg_count;
        return (pid_t) strtol(argv[1], NULL, 10);
}

static int fail(const CloneError *error, int r)
{
        (void) fprintf(stderr, "%s: %s\n", clone_error_name(error->code), error->message ?: g_strerror(-r));
        return EXIT_FAILURE;
}

static int clone_once(const Engine *engine, Target *target, const CloneSpec *spec, bool last)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Result result = {};
        const EngineHandler handler = {
                .judge = on_judge, .judge_member = on_judge_member, .held = on_held, .note = on_note, .exited = on_exited, .userdata = &result};
        EngineResult engine_result = {};
        int r;

        r = engine->clone(target, spec, &handler, &engine_result, &error);
        if (r < 0)
                return fail(&error, r);

        if (arg_verbose)
                (void) fprintf(stderr, "pause %" PRIu64 "\n", engine_result.pause_nsec);
        for (size_t i = 0; i < result.n; i++)
                if (last && result.sources)
                        (void) printf("%d %d\n", (int) result.pids[i], (int) result.sources[i]);
                else if (last)
                        (void) printf("%d\n", (int) result.pids[i]);
                else
                        (void) kill(result.pids[i], SIGKILL);
        (void) fflush(stdout);
        g_free(result.pids);
        g_free(result.sources);

        if (last && arg_watch) {
                r = engine->watch(&handler, &error);
                if (r < 0)
                        return fail(&error, r);
        }

        return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autoptr(Target) target = NULL;
        const Engine *engine;
        CloneSpec spec;
        pid_t pid;
        int r;

        pid = parse_options(argc, argv, &spec);

        r = engine_choose(spec.engine, &engine, &error);
        if (r < 0)
                return fail(&error, r);

        (void) background_prepare(); /* as a worker does before there is a job */
        r = target_new(&target, pid, &error);
        if (r < 0)
                return fail(&error, r);

        for (int i = 1; i <= arg_repeat; i++) {
                r = clone_once(engine, target, &spec, i == arg_repeat);
                if (r != EXIT_SUCCESS)
                        return r;
        }

        return EXIT_SUCCESS;
}
