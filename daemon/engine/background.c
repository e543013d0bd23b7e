/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine/background.h"
#include "daemon/util.h"

#define STACK_SIZE 65536U

static struct {
        enum { UNKNOWN, NO, YES } possible;
        pid_t process; /* that this is true of: a child has none of it */
        pid_t caller;
        timer_t timer;
        sem_t tried;
} background;

static int set_policy(pid_t tid, int policy)
{
        return sched_setscheduler(tid, policy, &(struct sched_param){}) < 0 ? -errno : 0;
}

/* Whether there is a way back is tried by this thread, which ends if there is none. */
static bool try_way_back(void)
{
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};

        event._sigev_un._tid = gettid();
        return set_policy(0, SCHED_IDLE) >= 0 && set_policy(0, SCHED_OTHER) >= 0 &&
               timer_create(CLOCK_MONOTONIC, &event, &background.timer) == 0;
}

static void *put_back(void *unused)
{
        sigset_t set;

        background.possible = try_way_back() ? YES : NO;
        (void) sem_post(&background.tried);

        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGRTMIN);
        while (background.possible == YES)
                if (sigwaitinfo(&set, NULL) == SIGRTMIN)
                        (void) set_policy(background.caller, SCHED_OTHER); /* as was tried; else the caller is only slower */

        return NULL;
}

static bool start(void)
{
        pthread_attr_t attributes;
        sigset_t all, before;
        pthread_t thread;
        int r;

        if (sem_init(&background.tried, 0, 0) < 0 || pthread_attr_init(&attributes) != 0)
                return false;
        (void) pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        (void) pthread_attr_setstacksize(&attributes, MAX(STACK_SIZE, (unsigned) PTHREAD_STACK_MIN));

        /* It has all blocked: what comes to this process is for the caller, or ends both. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&thread, &attributes, put_back, NULL);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void) pthread_attr_destroy(&attributes);
        if (r != 0)
                return false;

        while (sem_wait(&background.tried) < 0)
                ; /* EINTR */
        return background.possible == YES;
}

bool background_prepare(void)
{
        if (background.possible == UNKNOWN || background.process != getpid()) {
                background.process = getpid();
                background.caller = gettid();
                background.possible = sched_getscheduler(0) == SCHED_OTHER && start() ? YES : NO;
        }
        return background.possible == YES;
}

/* Again and again until it is set to 0: whoever sets it may be kept waiting for so long that it is over before the background begins. */
static void set_timer(long usec)
{
        const struct timespec each = {.tv_nsec = usec * 1000};

        (void) timer_settime(background.timer, 0, &(struct itimerspec){each, each}, NULL); /* cannot fail for a valid time */
}

bool background_enter(void)
{
        if (!background_prepare())
                return false;

        set_timer(BACKGROUND_USEC);
        if (set_policy(0, SCHED_IDLE) >= 0)
                return true;
        set_timer(0);
        return false;
}

void background_leave(void)
{
        (void) set_policy(0, SCHED_OTHER); /* as was tried */
        set_timer(0);
}
