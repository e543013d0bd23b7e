/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/output.h"
#include "client/program.h"

#define TICK_NSEC (100 * 1000 * 1000)

ClientExit program_require(const char *name, const char *package)
{
        g_autofree char *path = g_find_program_in_path(name);

        return path ? CLIENT_OK
                    : client_error(CLIENT_FAILED, "the program %s is needed and not there; install it with \"apt install %s\"", name, package);
}

/* In the child. Async-signal-safe, but for execvp(), which is so with one thread. */
static void become(const char *const *argv, bool interactive, int output)
{
        sigset_t none;

        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        if (!interactive) {
                int null = open("/dev/null", O_RDWR | O_CLOEXEC);

                if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0)
                        _exit(127);
                (void) setpgid(0, 0); /* what is typed is for the parent, which ends it */
        }
        execvp(argv[0], (char *const *) argv);
        _exit(127);
}

static void show_output(int fd)
{
        char text[4096];
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        g_auto(GStrv) lines = NULL;

        if (n <= 0)
                return;
        text[n] = '\0';
        lines = g_strsplit(text, "\n", -1);
        for (char **l = lines; *l; l++)
                if (**l) {
                        g_autofree char *safe = output_escape(*l);

                        fprintf(stderr, "  %s\n", safe);
                }
}

/* Until it ends, or this process is told to end. The signals of @set are blocked. */
static ClientExit await(pid_t pid, const sigset_t *set, bool interactive, ProgramTick tick, void *userdata, int *ret_status)
{
        ClientExit status = CLIENT_OK;

        for (;;) {
                siginfo_t info;
                int sig, r = waitpid(pid, ret_status, WNOHANG);

                if (r == pid)
                        return status;
                if (r < 0 && errno != EINTR)
                        return client_error(CLIENT_FAILED, "the end of a program cannot be awaited: %s", g_strerror(errno));
                sig = sigtimedwait(set, &info, &(struct timespec){.tv_nsec = TICK_NSEC});
                if (sig > 0 && sig != SIGCHLD && !(interactive && sig == SIGINT)) {
                        (void) kill(pid, SIGTERM); /* ours to wait for, so the PID is its */
                        status = CLIENT_CANCELED;
                }
                if (tick)
                        tick(userdata);
        }
}

ClientExit program_run(const char *const *argv, ProgramFlags flags, ProgramTick tick, void *userdata, int *ret_code)
{
        bool interactive = flags & PROGRAM_INTERACTIVE;
        int output = interactive ? -EBADF : memfd_create("output", MFD_CLOEXEC), state = 0;
        pid_t pid;
        ClientExit status;
        sigset_t set, old;

        if (!interactive && output < 0)
                return client_error(CLIENT_FAILED, "the output of %s cannot be kept: %s", argv[0], g_strerror(errno));
        (void) sigemptyset(&set);
        for (size_t i = 0; i < 4; i++)
                (void) sigaddset(&set, (const int[]){SIGCHLD, SIGINT, SIGTERM, SIGHUP}[i]);
        (void) sigprocmask(SIG_BLOCK, &set, &old);

        pid = fork();
        if (pid == 0)
                become(argv, interactive, output);
        if (pid < 0)
                status = client_error(CLIENT_FAILED, "%s cannot be run: %s", argv[0], g_strerror(errno));
        else
                status = await(pid, &set, interactive, tick, userdata, &state);

        *ret_code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
        if (status == CLIENT_OK && *ret_code != 0 && !interactive)
                show_output(output);
        if (output >= 0)
                (void) close(output);
        (void) sigprocmask(SIG_SETMASK, &old, NULL);
        return status;
}
