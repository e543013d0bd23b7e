/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/*
 *     timers-target many|alarm DIRECTORY
 *
 * many: arms timers of all kinds, far in the future, and at each SIGUSR1 writes what is left of them, in seconds, to
 * DIRECTORY/report.PID. alarm: has one fire in 700 ms and then every 300 ms, and writes when they came, in seconds of the clock, to
 * DIRECTORY/alarms.PID.
 */

#define IDS 8

static const char *directory;
static volatile sig_atomic_t asked;

static void on_signal(int signal_number)
{
        asked = 1;
}

static void check(long r, const char *what)
{
        if (r < 0) {
                (void) fprintf(stderr, "timers-target: %s: %s\n", what, strerror(errno));
                exit(EXIT_FAILURE);
        }
}

static void handle(int signal_number, void (*handler)(int))
{
        const struct sigaction action = {.sa_handler = handler};

        check(sigaction(signal_number, &action, NULL), "sigaction");
}

static void interval(int which, time_t value, time_t again)
{
        const struct itimerval t = {.it_value = {.tv_sec = value}, .it_interval = {.tv_sec = again}};

        check(setitimer((__itimer_which_t) which, &t, NULL), "setitimer");
}

/* By the call itself: the C library's numbers are not the kernel's. */
static void make(clockid_t clock, int notify, int signal_number, time_t value, time_t again)
{
        struct sigevent e = {.sigev_notify = notify, .sigev_signo = signal_number, .sigev_value = {.sival_ptr = (void *) 0x123456789abc}};
        const struct itimerspec t = {.it_value = {.tv_sec = value}, .it_interval = {.tv_sec = again}};
        int id;

        if (notify == SIGEV_THREAD_ID)
                e._sigev_un._tid = (int) syscall(SYS_gettid);
        check(syscall(SYS_timer_create, clock, &e, &id), "timer_create");
        if (value > 0)
                check(syscall(SYS_timer_settime, id, 0, &t, NULL), "timer_settime");
        if (value < 0)
                check(syscall(SYS_timer_delete, id), "timer_delete");
}

static void arm_many(void)
{
        interval(ITIMER_REAL, 1000, 7);
        interval(ITIMER_VIRTUAL, 2000, 0);
        interval(ITIMER_PROF, 3000, 9);
        make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, -1, 0); /* deleted: the numbers have gaps */
        make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 4000, 3);
        make(CLOCK_REALTIME, SIGEV_NONE, 0, 5000, 0);
        make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, -1, 0);
        make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 2, 6000, 0);
        make(CLOCK_BOOTTIME, SIGEV_THREAD_ID, SIGRTMIN + 3, 0, 0); /* not running */
}

static void report(void)
{
        char path[512], part[512];
        FILE *f;

        (void) snprintf(path, sizeof(path), "%s/report.%d", directory, (int) getpid());
        (void) snprintf(part, sizeof(part), "%s/part.%d", directory, (int) getpid());
        f = fopen(part, "we");
        check(f ? 0 : -1, part);
        for (int which = 0; which < 3; which++) {
                struct itimerval t;

                check(getitimer((__itimer_which_t) which, &t), "getitimer");
                (void) fprintf(f, "interval-%d %.3f %.3f\n", which, (double) t.it_value.tv_sec + (double) t.it_value.tv_usec / 1e6,
                                (double) t.it_interval.tv_sec);
        }
        for (int id = 0; id < IDS; id++) {
                struct itimerspec t;

                if (syscall(SYS_timer_gettime, id, &t) == 0)
                        (void) fprintf(f, "posix-%d %.3f %.3f\n", id, (double) t.it_value.tv_sec + (double) t.it_value.tv_nsec / 1e9,
                                        (double) t.it_interval.tv_sec);
        }
        (void) fclose(f);
        (void) rename(part, path);
}

static void on_alarm(int signal_number)
{
        char path[512];
        struct timespec ts;
        FILE *f;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        (void) snprintf(path, sizeof(path), "%s/alarms.%d", directory, (int) syscall(SYS_getpid));
        f = fopen(path, "ae"); /* only poll() can be interrupted by this */
        if (f) {
                (void) fprintf(f, "%.4f\n", (double) ts.tv_sec + (double) ts.tv_nsec / 1e9);
                (void) fclose(f);
        }
}

int main(int argc, char **argv)
{
        const struct itimerval soon = {.it_value = {.tv_usec = 700000}, .it_interval = {.tv_usec = 300000}};

        if (argc != 3) {
                (void) fprintf(stderr, "Usage: timers-target many|alarm DIRECTORY\n");
                return EXIT_FAILURE;
        }
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left if the test is killed */
        directory = argv[2];

        handle(SIGUSR1, on_signal);
        handle(SIGALRM, on_alarm);
        handle(SIGVTALRM, on_signal);
        handle(SIGPROF, on_signal);
        if (strcmp(argv[1], "many") == 0)
                arm_many();
        else
                check(setitimer(ITIMER_REAL, &soon, NULL), "setitimer");

        check(write(STDOUT_FILENO, "ready\n", 6), "write");
        for (;;) {
                if (!asked)
                        (void) poll(NULL, 0, 20); /* woken or not, it looks again */
                if (asked)
                        report();
                asked = 0;
        }
}
