/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/background.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-job.h"
#include "daemon/engine/ptrace-look.h"
#include "daemon/engine/ptrace-timers.h"
#include "daemon/util.h"

#define GUARD_GRACE_USEC G_USEC_PER_SEC /* from the end of the time that a target may be stopped for, to SIGKILL */

static int vanished(const Job *j, CloneError *error)
{
        return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "Process %d ended while it was being cloned",
                        (int) target_pid(j->target));
}

int job_failed(const Job *j, int r, const char *what, CloneError *error)
{
        if (r == -ESRCH)
                return vanished(j, error);
        return clone_error_set(error, r == -ESTALE ? CLONE_ERROR_CHANGED : CLONE_ERROR_FAILED, -r, "Process %d: %s: %s",
                        (int) target_pid(j->target), what, g_strerror(-r));
}

int job_prepare(Job *j, CloneError *error)
{
        g_autofree char *maps = NULL;
        void *head = NULL;
        size_t size = 0;
        bool all;
        int r;

        r = target_read_status(j->target, &j->status);
        if (r < 0)
                return job_failed(j, r, "its status cannot be read", error);
        all = j->spec->threads == CLONE_THREADS_ALL && j->status.threads > 1;
        r = look_check_status(j->target, &j->status, j->spec, &j->in_vfork, error);
        if (r < 0)
                return r;

        r = tracee_seize(&j->tracee, target_pid(j->target), 0, error);
        if (r < 0)
                return r;
        j->traced = true;

        r = look_find_cave(j->target, all ? &maps : NULL, &j->instant.cave, error);
        if (r < 0)
                return r;

        if (syscall(SYS_get_robust_list, target_pid(j->target), &head, &size) == 0) {
                j->instant.robust_head = (uint64_t) (uintptr_t) head;
                j->instant.robust_size = size;
        }
        if (all) {
                r = threads_seize(&j->threads, maps, error);
                if (r < 0)
                        return r;
        }
        j->instant.tid = j->status.own_pid;
        j->instant.memory = memory_open(target_pid(j->target)); /* negative: word by word */
        return 0;
}

/* Of @n processors; /proc/loadavg has how many tasks run or want to, this one among them. */
static bool has_idle_processor(int n)
{
        char text[128];
        unsigned running;
        int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
        ssize_t k = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

        safe_close(fd);
        text[MAX(k, 0)] = '\0';
        return sscanf(text, "%*s %*s %*s %u/", &running) == 1 && (int) running < n;
}

static bool move_to(Job *j, unsigned processor)
{
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        j->moved = sched_setaffinity(0, sizeof(set), &set) >= 0;
        return j->moved;
}

/*
 * Every stop is a conversation of two processes that never run at once: on one processor it is a switch, between two a wake-up of an
 * idle one each time. This process does nothing else, so it goes where a target that sleeps last ran; where another processor is idle
 * only the background keeps the scheduler from sending the target there, away from this process, which else does best not to fall
 * asleep. A target that computes is on its processor, and would pay for this process's coming and going. Of many clones one is completed
 * while the next is copied: for that two processors are better.
 */
static void choose_processor(Job *j)
{
        const bool alone = j->status.threads == 1 && j->spec->isolate == CLONE_ISOLATE_NONE && !j->spec->tree;
        const bool many = j->spec->count > 1;
        bool idle;

        j->tracee.elsewhere = sched_getcpu() != (int) j->status.processor;
        if (j->status.state == 'R' || sched_getaffinity(0, sizeof(j->processors), &j->processors) < 0)
                return; /* EINVAL: more processors than fit in the set */

        idle = has_idle_processor(CPU_COUNT(&j->processors));
        if (idle && !many && !(alone && background_prepare()))
                j->tracee.elsewhere = true;
        else if (move_to(j, j->status.processor)) {
                j->tracee.elsewhere = false;
                j->background = idle && !many && background_enter();
        }
}

/*
 * The target has that processor for itself until it sleeps again, or for a moment. Where the clone is, this process is now best; to
 * leave at once for another processor takes longer than most targets need.
 */
void job_stay_no_longer(Job *j)
{
        if (j->background)
                background_leave();
        if (j->moved)
                (void) sched_setaffinity(0, sizeof(j->processors), &j->processors); /* they were in force before */
        j->background = j->moved = false;
}

int job_interrupt(Job *j)
{
        int r;

        if (j->pause_begin == 0)
                j->pause_begin = monotonic_nsec();
        r = tracee_interrupt(&j->tracee);
        if (r >= 0 && j->spec->trigger == CLONE_TRIGGER_IMMEDIATE)
                threads_interrupt(&j->threads);
        return r;
}

int job_wait(Job *j, uint64_t timeout_usec, CloneError *error)
{
        StopKind kind;
        int r = tracee_wait(&j->tracee, PTRACE_CONT, false, timeout_usec, &kind, NULL);

        if (r == -ETIMEDOUT)
                return clone_error_set(error, CLONE_ERROR_TIMEOUT, 0,
                                "Process %d did not stop within %" G_GUINT64_FORMAT " ms: it is in uninterruptible sleep or frozen",
                                (int) target_pid(j->target), timeout_usec / 1000);
        if (r < 0)
                return job_failed(j, r, "it cannot be stopped", error);
        return kind == STOP_EXITED ? vanished(j, error) : 0;
}

int job_stop(Job *j, CloneError *error)
{
        int r;

        choose_processor(j);
        r = job_interrupt(j);
        return r < 0 ? job_failed(j, r, "it cannot be stopped", error) : job_wait(j, engine_stop_timeout_usec(j->spec), error);
}

/* True where @regs, at the entry of a call, are those of the call that @blocked was interrupted in. */
static bool same_call(const struct user_regs_struct *regs, const struct user_regs_struct *blocked)
{
        return regs->rip == blocked->rip && (regs->orig_rax == blocked->orig_rax || regs->orig_rax == SYS_restart_syscall);
}

/*
 * To the entry of the target's next system call. One that sleeps in a call finishes that call first: its restart after the
 * stop is not a new call. No time limit of its own: whoever waits for this process ends it, and the target goes on.
 */
int job_run_to_entry(Job *j, CloneError *error)
{
        struct user_regs_struct blocked = {}, regs;
        bool in_call;
        int r;

        r = tracee_get_regs(&j->tracee, &blocked);
        if (r >= 0 && arch_hide_spurious_eintr(&blocked))
                r = tracee_set_regs(&j->tracee, &blocked);
        in_call = r >= 0 && arch_in_interrupted_call(&blocked);

        while (r >= 0) {
                StopKind kind;

                r = j->tracee.group_stop != 0 ? tracee_listen(&j->tracee) : tracee_resume(&j->tracee, PTRACE_SYSCALL, 0);
                if (r >= 0)
                        r = tracee_wait(&j->tracee, PTRACE_SYSCALL, true, 0, &kind, NULL);
                if (r < 0)
                        break;
                if (kind == STOP_EXITED)
                        return vanished(j, error);
                if (kind != STOP_SYSCALL) {
                        tracee_hide_eintr(&j->tracee);
                        continue;
                }

                r = tracee_get_regs(&j->tracee, &regs);
                if (r < 0)
                        break;
                if (!tracee_at_entry(&j->tracee)) {
                        in_call = arch_in_interrupted_call(&regs);
                        blocked = regs;
                } else if (tracee_at_native_entry(&j->tracee) && !(in_call && same_call(&regs, &blocked)))
                        return 0;
        }

        return job_failed(j, r, "its next system call cannot be awaited", error);
}

static int check_stopped(Job *j, CloneError *error)
{
        if (j->tracee.executed)
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Process %d called execve() while it was about to be cloned",
                                (int) target_pid(j->target));
        if (j->instant.regs.rip - j->instant.cave < ARCH_GADGET_SIZE || j->instant.in_annex) /* a worker before was killed just now */
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Process %d is still on its way back from an earlier clone",
                                (int) target_pid(j->target));
        if (arch_is_compat(&j->instant.regs))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d runs 32-bit code, 64-bit code was expected",
                                (int) target_pid(j->target));

        if (tracee_has_dispatch(&j->tracee))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d dispatches its system calls to itself (PR_SET_SYSCALL_USER_DISPATCH), which a clone cannot inherit",
                                (int) target_pid(j->target));
        if (tracee_has_tiles(&j->tracee))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has AMX tile data, which a clone would lose; ask again when it has released its tiles",
                                (int) target_pid(j->target));

        return j->handler->judge ? j->handler->judge(j->target, j->handler->userdata, error) : 0;
}

static int clone_failed(const Job *j, long result, CloneError *error)
{
        int pid = (int) target_pid(j->target);

        switch (result) {
        case -ESRCH:
                return vanished(j, error);
        case -EAGAIN:
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EAGAIN,
                                "Process %d may have no more processes: its RLIMIT_NPROC or its control group's pids.max is reached", pid);
        case -ENOMEM:
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, ENOMEM, "There is not enough memory for a clone of process %d", pid);
        default:
                return clone_error_set(error, CLONE_ERROR_FAILED, (int) -result, "clone() of process %d failed: %s", pid,
                                g_strerror((int) -result));
        }
}

/* The main thread stands where it is to be cloned: now the others. */
static int stop_threads(Job *j, CloneError *error)
{
        int r;

        if (j->spec->threads != CLONE_THREADS_ALL)
                return 0;

        if (j->spec->trigger != CLONE_TRIGGER_IMMEDIATE)
                threads_interrupt(&j->threads);
        r = threads_stop(&j->threads, engine_stop_timeout_usec(j->spec), error);
        return r < 0 ? r : threads_take(&j->threads, j->instant.cave, error);
}

int job_take(Job *j, CloneError *error)
{
        int r;

        if (j->handler->stopped)
                j->handler->stopped(j->handler->userdata);

        j->instant.at_entry = j->spec->trigger == CLONE_TRIGGER_SYSCALL;
        r = instant_take(&j->instant, &j->tracee);
        if (r < 0)
                return job_failed(j, r, "its registers cannot be read", error);
        r = stop_threads(j, error);
        return r < 0 ? r : check_stopped(j, error);
}

bool job_under_seccomp(const Job *j)
{
        return j->status.seccomp != 0 || threads_under_seccomp(&j->threads);
}

void job_guard(Job *j)
{
        if (!j->guard.timed)
                seccomp_guard_begin(&j->guard, engine_stop_timeout_usec(j->spec) + GUARD_GRACE_USEC);
}

int job_ask(Job *j, CloneError *error)
{
        int r;

        r = ptrace_pass_seccomp(&j->instant, &j->tracee, j->status.seccomp, error);
        if (r < 0)
                return r;

        r = threads_ask(&j->threads, j->instant.cave, j->instant.memory, error);
        if (r < 0)
                return r;
        if (j->fitout && fitout_timers(j->fitout, j->fitout_member)) {
                r = ptrace_ask_timers(fitout_timers(j->fitout, j->fitout_member), &j->instant, &j->tracee, &j->altered);
                if (r < 0)
                        return job_failed(j, r, "it cannot be asked for its timers", error);
        }

        return 0;
}

static int write_code(Job *j, CloneError *error)
{
        int r = j->marks ? marks_begin(j->marks, j->target, &j->instant, &j->tracee, &j->altered, &j->marks_reason) : 0;

        if (r == 0)
                r = instant_write(&j->instant, &j->tracee);
        j->written = j->instant.written > 0;
        if (r == -EIO || r == -EFAULT) /* it was read just now: there is no page for the copy of it (mem_rw() of fs/proc/base.c) */
                return clone_failed(j, -ENOMEM, error);
        if (r < 0)
                return job_failed(j, r, "its memory cannot be written", error);
        j->altered = true;
        return 0;
}

static bool has_annex(const Job *j)
{
        return j->marks && j->marks->annex != 0;
}

int job_clone(Job *j, CloneError *error)
{
        long pid;
        int r;

        if (job_under_seccomp(j))
                job_guard(j);

        /* Before the clone: none of it is in the memory that is copied, and no page is copied for it. */
        r = job_ask(j, error);
        if (r < 0)
                return r;

        r = write_code(j, error);
        if (r < 0)
                return r;
        if (j->fitout)
                fitout_capture(j->fitout);
        pid = has_annex(j) ? marks_clone(j->marks, &j->instant, &j->tracee) : instant_clone(&j->instant, &j->tracee);
        return pid < 0 ? clone_failed(j, pid, error) : 0;
}

void job_release(Job *j)
{
        if (!j->traced)
                return;

        j->traced = false;
        if (j->altered)
                (void) instant_restore(&j->instant, &j->tracee); /* where it fails the target is gone, or restores itself */
        else if (!tracee_at_entry(&j->tracee))
                tracee_hide_eintr(&j->tracee);
        if (j->written)
                (void) instant_erase(&j->instant, &j->tracee, j->instant.memory);
        threads_release(&j->threads);
        seccomp_guard_end(&j->guard);
        if (j->altered)
                (void) tracee_detach(&j->tracee, 0); /* ESRCH: killed */
        else
                tracee_leave(&j->tracee); /* not stopped yet, perhaps */
}

void job_init(Job *j, Target *target, const CloneSpec *spec, const EngineHandler *handler)
{
        *j = (Job){.target = target, .spec = spec, .handler = handler, .instant.memory = -EBADF};
        threads_init(&j->threads, target, handler);
        clones_init(&j->clones, &j->instant, handler, target_pid(target));
        j->clones.threads = &j->threads;
}

void job_clear(Job *j)
{
        clones_clear(&j->clones);
        threads_clear(&j->threads);
        j->instant.memory = safe_close(j->instant.memory);
}
