/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "call-target.h"

/*
 * Sits in one system call, and says what became of it: "ready PID HELPER" before, "PID RETURN ERRNO NANOSECONDS HANDLED
 * MASK" after, where HANDLED counts SIGUSR1's handler and MASK says whether the signal mask is what it was. All of it by
 * one write() each on stdout, so that clones can share a pipe.
 *
 *     call-target CALL MILLISECONDS [restart|norestart]
 *
 * MILLISECONDS is the call's timeout, negative for none. The helper is a child that brings about again and again what
 * the call waits for, from the moment it gets SIGUSR1 until the target goes; it has no part in calls that wait for time
 * or for a signal.
 */

static volatile sig_atomic_t handled;

static void on_usr1(int sig)
{
        handled = handled + 1;
}

static void die(const char *what)
{
        (void) fprintf(stderr, "call-target: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static uint64_t now_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

static void say(const char *text, int n)
{
        if (write(STDOUT_FILENO, text, (size_t) n) != n)
                _exit(EXIT_FAILURE);
}

/*
 * The child that ends the call. It outlives the target, whose clones may wait still: the test ends it; it ends by itself
 * when the test is gone.
 */
static pid_t start_helper(const Call *call, Context *c)
{
        const struct timespec second = {.tv_sec = 1};
        sigset_t set;
        pid_t test = getppid(), pid;

        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGUSR1);
        (void) sigprocmask(SIG_BLOCK, &set, NULL); /* before the fork: the signal may come at once */
        pid = fork();
        if (pid < 0)
                die("fork");
        if (pid > 0)
                return pid; /* set_mask() opens it again */

        while (sigtimedwait(&set, NULL, &second) < 0)
                if (kill(test, 0) < 0)
                        _exit(EXIT_SUCCESS);

        while (call->release && kill(test, 0) == 0) {
                call->release(c);
                (void) usleep(2000);
        }
        _exit(EXIT_SUCCESS);
}

/* A mask that a leaked temporary mask or an emptied one would differ from. */
static void set_mask(sigset_t *ret)
{
        (void) sigemptyset(ret);
        (void) sigaddset(ret, SIGUSR2);
        (void) sigaddset(ret, SIGWINCH);
        if (sigprocmask(SIG_SETMASK, ret, NULL) < 0)
                die("sigprocmask");
}

static bool mask_is(const sigset_t *expected)
{
        sigset_t mask;

        (void) sigprocmask(SIG_SETMASK, NULL, &mask);
        for (int sig = 1; sig < 65; sig++)
                if (sigismember(&mask, sig) != sigismember(expected, sig) && sig != 32 && sig != 33)
                        return false;

        return true;
}

int main(int argc, char **argv)
{
        struct sigaction action = {.sa_handler = on_usr1};
        Context c = {.pid = getpid()};
        const Call *call = NULL;
        pid_t helper = 0;
        sigset_t mask;
        uint64_t start;
        char line[160];
        long r;
        int e;

        if (argc < 3) {
                for (size_t i = 0; i < n_calls; i++)
                        (void) printf("%s %s %s\n", calls[i].name, calls[i].end, calls[i].rest);
                return argc == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
        }
        for (size_t i = 0; i < n_calls; i++)
                if (strcmp(calls[i].name, argv[1]) == 0)
                        call = &calls[i];
        if (!call) {
                (void) fprintf(stderr, "call-target: \"%s\" is no call that it knows\n", argv[1]);
                return EXIT_FAILURE;
        }

        /* If the test is killed, nothing may stay: the target goes with its parent, its helper with the target. */
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        c.timeout_msec = strtol(argv[2], NULL, 10);
        c.timeout = (struct timespec){.tv_sec = c.timeout_msec / 1000, .tv_nsec = c.timeout_msec % 1000 * 1000000};
        if (argc > 3 && strcmp(argv[3], "restart") == 0)
                action.sa_flags = SA_RESTART;
        if (call->setup)
                call->setup(&c);
        if (strcmp(call->end, "helper") == 0)
                helper = start_helper(call, &c);
        if (sigaction(SIGUSR1, &action, NULL) < 0)
                die("sigaction");
        set_mask(&mask);
        if (call->mask) {
                (void) sigprocmask(SIG_BLOCK, call->mask(), NULL);
                (void) sigprocmask(SIG_SETMASK, NULL, &mask);
        }

        say(line, snprintf(line, sizeof(line), "ready %d %d\n", (int) c.pid, (int) helper));

        start = now_nsec();
        errno = 0;
        r = call->call(&c);
        e = r < 0 ? errno : 0;
        say(line, snprintf(line, sizeof(line), "%d %ld %d %" PRIu64 " %d %s\n", (int) getpid(), r, e, now_nsec() - start,
                           (int) handled, mask_is(&mask) ? "kept" : "changed"));
        for (;;) /* a clone may be on its way: the test ends us */
                (void) pause();
}
