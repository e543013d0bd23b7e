/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "daemon/engine/timers.h"
#include "daemon/util.h"

#define NSEC_PER_SEC INT64_C(1000000000)

/* IDs count up from 0 in every process: so many are made to get at one. */
#define ID_MAX 10000

void timers_clear(Timers *t)
{
        g_clear_pointer(&t->posix, g_array_unref);
}

bool timers_are_to_be_asked(const Timers *t)
{
        return t->may_have_interval || (t->posix && t->posix->len > 0);
}

static bool is_zero(struct timeval t)
{
        return t.tv_sec == 0 && t.tv_usec == 0;
}

bool timers_are_to_be_armed(const Timers *t)
{
        if (!t->known)
                return false;

        for (int which = 0; which < INTERVAL_TIMERS; which++)
                if (!is_zero(t->interval[which].it_value) || !is_zero(t->interval[which].it_interval))
                        return true;
        return t->posix->len > 0;
}

static int compare_ids(const void *a, const void *b)
{
        return ((const PosixTimer *) a)->id - ((const PosixTimer *) b)->id;
}

void timers_sort(Timers *t)
{
        g_array_sort(t->posix, compare_ids);
}

int timers_parse(const char *text, GArray *ret)
{
        while (*text) {
                PosixTimer t = {};
                char notify[16], whom[8];
                int n = 0;

                /* fs/proc/base.c: show_timer() */
                if (sscanf(text, "ID: %d\nsignal: %d/%" SCNx64 "\nnotify: %15[a-z]/%3[a-z].%d\nClockID: %d\n%n", &t.id, &t.signal, &t.value, notify, whom,
                                &t.tid, &t.clock, &n) != 7 ||
                    n == 0)
                        return -EBADMSG;

                t.notify = strcmp(notify, "none") == 0 ? SIGEV_NONE : strcmp(whom, "tid") == 0 ? SIGEV_THREAD_ID : SIGEV_SIGNAL;
                g_array_append_val(ret, t);
                text += n;
        }

        g_array_sort(ret, compare_ids);
        return 0;
}

/* Whoever sets an interval timer does something about its signal, unless the timer is there to end the process. */
static bool does_timer_signals(uint64_t signals)
{
        return (signals & (1ULL << (SIGALRM - 1) | 1ULL << (SIGVTALRM - 1) | 1ULL << (SIGPROF - 1))) != 0;
}

int timers_read(Timers *ret, Target *target, const TargetStatus *status)
{
        g_autofree char *text = NULL;
        g_autoptr(GArray) posix = g_array_new(FALSE, FALSE, sizeof(PosixTimer));
        int r;

        *ret = (Timers){};
        r = target_read_file(target, "timers", &text, NULL); /* not there without CONFIG_CHECKPOINT_RESTORE */
        if (r >= 0)
                r = timers_parse(text, posix);
        if (r < 0 && r != -ENOENT)
                return r;

        ret->may_have_interval = does_timer_signals(status->signals);
        ret->posix = g_steal_pointer(&posix);
        return 0;
}

/* Less by @elapsed, but never 0, which would disarm it. */
static struct timespec subtract(struct timespec left, uint64_t elapsed)
{
        int64_t nsec = left.tv_sec * NSEC_PER_SEC + left.tv_nsec;

        if (nsec == 0)
                return left;
        nsec = MAX(nsec - (int64_t) elapsed, 1);
        return (struct timespec){.tv_sec = nsec / NSEC_PER_SEC, .tv_nsec = nsec % NSEC_PER_SEC};
}

/* Clocks of processor time stand still while the clone is held. */
static bool is_cpu_clock(int clock)
{
        return clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID;
}

static void note(const EngineHandler *handler, const PosixTimer *t, pid_t target, const char *reason)
{
        g_autofree char *text = g_strdup_printf("POSIX timer %d of process %d is missing in the clone: %s", t->id, (int) target, reason);

        if (handler->note)
                handler->note(text, handler->userdata);
}

/* The kernel's struct sigevent: value, signal, kind, thread (include/uapi/asm-generic/siginfo.h). */
typedef struct KernelSigevent {
        uint64_t value;
        int32_t signal, notify, tid;
        int32_t pad[11];
} KernelSigevent;
G_STATIC_ASSERT(sizeof(KernelSigevent) == 64);

/* Makes timers until one has the ID; the others go again. */
static long create(Puppet *p, const PosixTimer *t)
{
        KernelSigevent event = {.value = t->value, .signal = t->signal, .notify = t->notify};
        uint64_t id_at = p->page + sizeof(event);

        if (t->notify == SIGEV_THREAD_ID) {
                long tid = puppet_call(p, SYS_gettid);

                if (tid < 0)
                        return tid;
                event.tid = (int32_t) tid;
        }

        for (;;) {
                int32_t id;
                long r;

                r = puppet_write(p, p->page, &event, sizeof(event));
                if (r >= 0)
                        r = puppet_call(p, SYS_timer_create, (uint64_t) t->clock, p->page, id_at);
                if (r >= 0)
                        r = puppet_read(p, id_at, &id, sizeof(id));
                if (r < 0 || id == t->id)
                        return r;
                r = puppet_call(p, SYS_timer_delete, (uint64_t) id);
                if (r < 0 || id > t->id)
                        return r < 0 ? r : -EEXIST;
        }
}

static int arm_posix(const PosixTimer *t, Puppet *p, uint64_t elapsed, pid_t target, const EngineHandler *handler)
{
        struct itimerspec spec = t->left;
        long r;

        if (t->notify == SIGEV_THREAD_ID && t->tid != target) {
                note(handler, t, target, "its signal goes to a thread");
                return 0;
        }
        if (t->id > ID_MAX) {
                note(handler, t, target, "its number is too high");
                return 0;
        }

        r = create(p, t);
        if (r >= 0 && (spec.it_value.tv_sec != 0 || spec.it_value.tv_nsec != 0)) {
                if (!is_cpu_clock(t->clock))
                        spec.it_value = subtract(spec.it_value, elapsed);
                r = puppet_write(p, p->page, &spec, sizeof(spec));
                if (r >= 0)
                        r = puppet_call(p, SYS_timer_settime, (uint64_t) t->id, 0, p->page, 0);
        }
        if (r == -ESRCH || r == -EFAULT)
                return (int) r;
        if (r < 0)
                note(handler, t, target, g_strerror((int) -r));
        return 0;
}

static int arm_interval(const Timers *t, int which, Puppet *p, uint64_t elapsed)
{
        struct itimerval value = t->interval[which];
        struct timespec left = {.tv_sec = value.it_value.tv_sec, .tv_nsec = value.it_value.tv_usec * 1000};
        int r;

        if (is_zero(value.it_value)) {
                if (which != ITIMER_REAL || is_zero(value.it_interval))
                        return 0;
                /* Nothing is left of one that recurs while its signal is pending: the kernel arms it anew when the target takes the
                 * signal (kernel/signal.c, dequeue_signal()), which the clone does not have. */
                left = (struct timespec){.tv_sec = value.it_interval.tv_sec, .tv_nsec = value.it_interval.tv_usec * 1000};
        } else if (which == ITIMER_REAL)
                left = subtract(left, elapsed);
        value.it_value = (struct timeval){.tv_sec = left.tv_sec, .tv_usec = MAX(left.tv_nsec / 1000, left.tv_sec == 0 ? 1 : 0)};
        r = puppet_write(p, p->page, &value, sizeof(value));
        return r < 0 ? r : (int) puppet_call(p, SYS_setitimer, (uint64_t) which, p->page, 0);
}

/* As for a POSIX timer: what a filter of the target's forbids is missing, and no reason for a clone to be. */
static int judge_interval(int r, int which, pid_t target, const EngineHandler *handler)
{
        static const char *const names[INTERVAL_TIMERS] = {[ITIMER_REAL] = "ITIMER_REAL", [ITIMER_VIRTUAL] = "ITIMER_VIRTUAL", [ITIMER_PROF] = "ITIMER_PROF"};
        g_autofree char *text = NULL;

        if (r >= 0 || r == -ESRCH || r == -EFAULT)
                return r;
        text = g_strdup_printf("The interval timer %s of process %d is missing in the clone: %s", names[which], (int) target, g_strerror(-r));
        if (handler->note)
                handler->note(text, handler->userdata);
        return 0;
}

int timers_arm(const Timers *t, Puppet *p, pid_t target, const EngineHandler *handler)
{
        uint64_t elapsed = monotonic_nsec() - t->asked_nsec;
        int r = 0;

        for (int which = 0; r >= 0 && which < INTERVAL_TIMERS; which++)
                r = judge_interval(arm_interval(t, which, p, elapsed), which, target, handler);
        for (guint k = 0; r >= 0 && k < t->posix->len; k++)
                r = arm_posix(&g_array_index(t->posix, PosixTimer, k), p, elapsed, target, handler);
        return r;
}
