/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/cave.h"
#include "daemon/engine/fitout.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-clones.h"
#include "daemon/util.h"

/*
 * Clones several processes at one instant by parts of the ptrace engine, and completes the clones as one set: for the tests of
 * isolation without a tree. Each clone is a sibling of its target. Programs of one thread, without seccomp. Prints the PIDs in the
 * order of the targets; an error is on stderr, exit status 1.
 */

#define STOP_USEC (10U * G_USEC_PER_SEC)
#define SLOW_USEC 20000U

static char *arg_isolate, **arg_fds;
static gboolean arg_slow, arg_twice;

static const GOptionEntry entries[] = {
        {"isolate", 0, 0, G_OPTION_ARG_STRING, &arg_isolate, "none, files or all", "WHAT"},
        {"slow", 0, 0, G_OPTION_ARG_NONE, &arg_slow, "let the targets run on for a while before and after the instant", NULL},
        {"twice", 0, 0, G_OPTION_ARG_NONE, &arg_twice, "capture again when the targets run, as the kernel engine does", NULL},
        {"fd", 0, 0, G_OPTION_ARG_STRING_ARRAY, &arg_fds, "N:PATH for the first, made anew for writing", "WHICH"},
        {}
};

typedef struct One {
        Target *target;
        TargetStatus status;
        Tracee tracee;
        Instant instant;
        pid_t pid; /* of the clone */
        Clones clones;
} One;

static void fail(const char *what, int r, const CloneError *error) G_GNUC_NORETURN;
static void fail(const char *what, int r, const CloneError *error)
{
        (void) fprintf(stderr, "%s: %s\n", what, error && error->message ? error->message : g_strerror(-r));
        exit(EXIT_FAILURE);
}

static void check(const char *what, int r, const CloneError *error)
{
        if (r < 0)
                fail(what, r, error);
}

static bool is_gadget(const uint8_t *bytes)
{
        return arch_is_gadget(bytes);
}

static void prepare(One *o, const char *pid)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autofree char *maps = NULL;
        void *head = NULL;
        size_t size = 0;

        check(pid, target_new(&o->target, (pid_t) atoi(pid), &error), &error);
        check(pid, target_read_status(o->target, &o->status), NULL);
        check(pid, tracee_seize(&o->tracee, target_pid(o->target), 0, &error), &error);
        check(pid, target_read_file(o->target, "maps", &maps, NULL), NULL);
        check(pid, cave_find(maps, target_pid(o->target), ARCH_GADGET_SIZE, is_gadget, &o->instant.cave), NULL);
        if (syscall(SYS_get_robust_list, target_pid(o->target), &head, &size) == 0) {
                o->instant.robust_head = (uint64_t) (uintptr_t) head;
                o->instant.robust_size = size;
        }
        o->instant.tid = o->status.own_pid;
        o->instant.memory = memory_open(target_pid(o->target));
}

static void stop(One *o)
{
        StopKind kind;

        check("stop", tracee_wait(&o->tracee, PTRACE_CONT, false, STOP_USEC, &kind, NULL), NULL);
        if (kind == STOP_EXITED)
                fail("stop", -ESRCH, NULL);
}

/* All stand still: now each makes its clone, none of which runs, and goes on. */
static void clone_stopped(One *o)
{
        long pid;

        check("registers", instant_take(&o->instant, &o->tracee), NULL);
        check("code", instant_write(&o->instant, &o->tracee), NULL);
        pid = instant_clone(&o->instant, &o->tracee);
        check("clone", (int) MIN(pid, 0), NULL);
        o->pid = (pid_t) pid;
}

static void release(One *o)
{
        check("registers", instant_restore(&o->instant, &o->tracee), NULL);
        check("code", instant_erase(&o->instant, &o->tracee, o->instant.memory), NULL);
        check("release", tracee_detach(&o->tracee, 0), NULL);
}

/* Clones of several targets wait at once, so each is awaited by its PID. */
static void adopt(One *o, const EngineHandler *handler, const CloneSpec *spec)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Clones *c = &o->clones;
        StopKind kind;

        clones_init(c, &o->instant, handler, target_pid(o->target));
        c->tracees = g_new0(Tracee, 1);
        c->pids = g_memdup2(&o->pid, sizeof(o->pid));
        c->pidfds = g_new(int, 1);
        c->tracees[0] = (Tracee){.pid = o->pid, .options = o->tracee.options};
        check("hold", tracee_wait(c->tracees, PTRACE_CONT, false, STOP_USEC, &kind, NULL), NULL);
        check("hold", tracee_set_options(c->tracees, c->tracees[0].options | PTRACE_O_EXITKILL), NULL);
        c->pidfds[0] = (int) syscall(SYS_pidfd_open, o->pid, 0);
        c->n = 1;
        check("complete", clones_complete(c, spec, &error), &error);
}

static void on_note(const char *text, void *userdata)
{
        (void) fprintf(stderr, "note: %s\n", text);
}

static void read_fds(CloneFds **ret)
{
        for (char **text = arg_fds; text && *text; text++) {
                _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
                char *path;
                uint32_t number = (uint32_t) strtoul(*text, &path, 10);
                int fd;

                if (*path != ':')
                        fail(*text, -EINVAL, NULL);
                if (strcmp(path, ":close") == 0) {
                        check(*text, clone_fds_add_closed(ret, "fd", number, &error), &error);
                        continue;
                }
                fd = open(path + 1, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
                check(path, fd < 0 ? -errno : clone_fds_add(ret, "fd", number, fd, CLONE_FD_ANY, &error), &error);
        }
}

static void fit(Fitout *fitout, One *all, size_t n)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autofree FitoutMember *members = g_new0(FitoutMember, n);

        if (!fitout)
                return;
        for (size_t k = 0; k < n; k++)
                members[k] = (FitoutMember){.tracee = all[k].clones.tracees, .pidfd = all[k].clones.pidfds[0], .base = all[k].instant.regs,
                        .syscall_at = all[k].instant.cave};
        check("fit", fitout_apply(fitout, members, n, &error), &error);
}

static void clone_all(One *all, size_t n, const CloneSpec *spec)
{
        const EngineHandler handler = {.note = on_note};
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        g_autofree Target **targets = g_new(Target *, n);
        g_autofree const TargetStatus **statuses = g_new(const TargetStatus *, n);
        g_autofree const CloneFds **fds = g_new0(const CloneFds *, n);
        g_autoptr(Fitout) fitout = NULL;

        fds[0] = spec->fds;
        for (size_t k = 0; k < n; k++) {
                targets[k] = all[k].target;
                statuses[k] = &all[k].status;
        }
        check("fitout", fitout_new(&fitout, targets, statuses, fds, n, spec, &handler, 0, &error), &error);

        if (arg_slow)
                g_usleep(SLOW_USEC);
        for (size_t k = 0; k < n; k++)
                check("interrupt", tracee_interrupt(&all[k].tracee), NULL);
        for (size_t k = 0; k < n; k++)
                stop(&all[k]);
        if (fitout)
                fitout_capture(fitout);
        for (size_t k = 0; k < n; k++)
                clone_stopped(&all[k]);
        for (size_t k = 0; k < n; k++)
                release(&all[k]);

        if (arg_slow)
                g_usleep(SLOW_USEC);
        if (arg_twice && fitout)
                fitout_capture(fitout);

        for (size_t k = 0; k < n; k++)
                adopt(&all[k], &handler, spec);
        fit(fitout, all, n);
        for (size_t k = 0; k < n; k++)
                check("release", clones_release(&all[k].clones, false, false, &error), &error);
        for (size_t k = 0; k < n; k++)
                (void) printf("%d\n", (int) all[k].pid);
}

int main(int argc, char **argv)
{
        static const char *const isolates[] = {"none", "files", "all"};
        g_autoptr(GOptionContext) context = g_option_context_new("PID...");
        g_autoptr(GError) e = NULL;
        g_autofree One *all = NULL;
        CloneSpec spec = CLONE_SPEC_DEFAULT;
        size_t n;

        g_option_context_add_main_entries(context, entries, NULL);
        if (!g_option_context_parse(context, &argc, &argv, &e) || argc < 2)
                fail("options", -EINVAL, NULL);
        for (int k = 0; k < 3; k++)
                if (g_strcmp0(arg_isolate, isolates[k]) == 0)
                        spec.isolate = (CloneIsolate) k;
        read_fds(&spec.fds);

        n = (size_t) argc - 1;
        all = g_new0(One, n);
        for (size_t k = 0; k < n; k++)
                prepare(&all[k], argv[k + 1]);
        clone_all(all, n, &spec);
        return EXIT_SUCCESS;
}
