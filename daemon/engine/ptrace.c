/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "daemon/engine/cave.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/inject.h"
#include "daemon/engine/ptrace-clones.h"
#include "daemon/engine/ptrace-seccomp.h"
#include "daemon/engine/tracee.h"
#include "daemon/util.h"

#define STOP_TIMEOUT_DEFAULT_USEC (2 * G_USEC_PER_SEC)

/* One clone() on its way; the process that runs it does nothing else. */
typedef struct Job {
        Target *target;
        const CloneSpec *spec;
        const EngineHandler *handler;
        Tracee tracee;
        bool traced;
        bool altered; /* mask and registers are to be given back */
        bool written; /* the code is in the target's memory */
        TargetStatus status;
        Instant instant;
        Clones clones;
} Job;

static uint64_t now_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

static int ptrace_probe(CloneError *error)
{
        cap_t caps = cap_get_proc();
        cap_flag_value_t value = CAP_CLEAR;

        if (caps) {
                (void) cap_get_flag(caps, CAP_SYS_PTRACE, CAP_EFFECTIVE, &value); /* on failure value stays clear */
                (void) cap_free(caps);
        }
        if (value != CAP_SET)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EPERM, "The ptrace engine needs CAP_SYS_PTRACE");
        return 0;
}

static int vanished(const Job *j, CloneError *error)
{
        return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "Process %d ended while it was being cloned",
                        (int) target_pid(j->target));
}

static int failed(const Job *j, int r, const char *what, CloneError *error)
{
        if (r == -ESRCH)
                return vanished(j, error);
        return clone_error_set(error, r == -ESTALE ? CLONE_ERROR_CHANGED : CLONE_ERROR_FAILED, -r, "Process %d: %s: %s",
                        (int) target_pid(j->target), what, g_strerror(-r));
}

/* kcmp(2): a child of vfork(2) runs in its parent's memory while the parent waits for it. */
static bool same_memory(pid_t a, pid_t b)
{
        return a > 0 && b > 0 && syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0;
}

/* The child that the target waits for in vfork(2), which no signal but SIGKILL ends (kernel/fork.c); 0 where there is none. */
static pid_t vfork_child(const Job *j)
{
        g_autofree char *name = NULL, *children = NULL;
        g_auto(GStrv) pids = NULL;

        if (j->status.state != 'D')
                return 0;

        name = g_strdup_printf("task/%d/children", (int) target_pid(j->target));
        if (target_read_file(j->target, name, &children, NULL) < 0)
                return 0;

        pids = g_strsplit(children, " ", -1);
        for (char **p = pids; *p; p++) {
                pid_t child = (pid_t) strtol(*p, NULL, 10);

                if (same_memory(target_pid(j->target), child))
                        return child;
        }

        return 0;
}

/* execve() ends with code of the other kind, so this is only the usual case; the registers say what runs at the stop. */
static bool is_32bit(const Job *j)
{
        _cleanup_close_ int fd = openat(target_procfd(j->target), "exe", O_RDONLY | O_CLOEXEC);
        char ident[EI_NIDENT];

        return fd >= 0 && read(fd, ident, sizeof(ident)) == sizeof(ident) && memcmp(ident, ELFMAG, SELFMAG) == 0 &&
               ident[EI_CLASS] == ELFCLASS32;
}

static int check_status(const Job *j, CloneError *error)
{
        pid_t child = vfork_child(j);
        const TargetStatus *s = &j->status;
        int pid = (int) target_pid(j->target);

        if (s->kernel_thread)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "%d is a kernel thread, a process was expected", pid);
        if (s->state == 'Z' || s->state == 'X')
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d has ended, it is a zombie", pid);
        if (s->tracer != 0)
                return clone_error_set(error, CLONE_ERROR_BUSY, 0, "Process %d is traced by process %d", pid, (int) s->tracer);
        if (s->threads != 1)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has %u threads, and only one of them could be cloned: processes with one thread are supported so far",
                                pid, s->threads);
        if (pid == 1 && j->spec->parent == CLONE_PARENT_SHARED)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process 1 has no parent that a clone could share");
        if (is_32bit(j))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d runs 32-bit code, 64-bit code was expected", pid);
        if (child > 0)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d waits in vfork() for its child %d, which uses its memory", pid, (int) child);
        if (same_memory(pid, s->parent))
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d is inside vfork(), its memory is that of its parent %d", pid, (int) s->parent);
        return 0;
}

/* The last number behind "NSpid:" of /proc/PID/status: the ID in the innermost PID namespace. */
static pid_t own_tid(const Job *j)
{
        g_autofree char *status = NULL;
        char *p, *end;

        if (target_read_file(j->target, "status", &status, NULL) < 0)
                return 0;
        p = strstr(status, "\nNSpid:");
        if (!p)
                return target_pid(j->target);
        p += strlen("\nNSpid:");
        end = strchrnul(p, '\n');
        *end = '\0';
        p = strrchr(p, '\t');
        return p ? (pid_t) strtol(p + 1, NULL, 10) : 0;
}

static bool is_gadget(const uint8_t *bytes)
{
        return arch_is_gadget(bytes);
}

/*
 * All that can be known before the target is stopped. From its seizing on an execve() would be told, so what is found in its
 * memory is still true at the stop.
 */
static int prepare(Job *j, CloneError *error)
{
        g_autofree char *maps = NULL;
        void *head = NULL;
        size_t size = 0;
        int r;

        r = target_read_status(j->target, &j->status);
        if (r < 0)
                return failed(j, r, "its status cannot be read", error);
        r = check_status(j, error);
        if (r < 0)
                return r;

        r = tracee_seize(&j->tracee, target_pid(j->target), error);
        if (r < 0)
                return r;
        j->traced = true;

        r = target_read_file(j->target, "maps", &maps, NULL);
        if (r >= 0)
                r = cave_find(maps, target_pid(j->target), ARCH_GADGET_SIZE, is_gadget, &j->instant.cave);
        if (r == -ENOENT)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d has no %u unused bytes of 64-bit ELF code mapped, which the clone call needs",
                                (int) target_pid(j->target), ARCH_GADGET_SIZE);
        if (r < 0)
                return failed(j, r, "its memory map cannot be read", error);

        if (syscall(SYS_get_robust_list, target_pid(j->target), &head, &size) == 0) {
                j->instant.robust_head = (uint64_t) (uintptr_t) head;
                j->instant.robust_size = size;
        }
        j->instant.tid = own_tid(j);
        return 0;
}

/*
 * Every stop is a conversation of two processes that never run at once: on one CPU it is a switch, on two a wake-up of an
 * idle one each time. This process does nothing else, so it goes where the target is; where it may not, it is only slower.
 */
static void move_to(unsigned processor)
{
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        (void) sched_setaffinity(0, sizeof(set), &set);
}

static int stop(Job *j, CloneError *error)
{
        uint64_t timeout = j->spec->stop_timeout_usec > 0 ? j->spec->stop_timeout_usec : STOP_TIMEOUT_DEFAULT_USEC;
        StopKind kind;
        int r;

        move_to(j->status.processor);
        r = tracee_interrupt(&j->tracee);
        if (r >= 0)
                r = tracee_wait(&j->tracee, PTRACE_CONT, false, timeout, &kind, NULL);
        if (r == -ETIMEDOUT)
                return clone_error_set(error, CLONE_ERROR_TIMEOUT, 0,
                                "Process %d did not stop within %" G_GUINT64_FORMAT " ms: it is in uninterruptible sleep or frozen",
                                (int) target_pid(j->target), timeout / 1000);
        if (r < 0)
                return failed(j, r, "it cannot be stopped", error);
        return kind == STOP_EXITED ? vanished(j, error) : 0;
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
static int run_to_entry(Job *j, CloneError *error)
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

        return failed(j, r, "its next system call cannot be awaited", error);
}

/* /proc/PID/task has a link for each thread (fs/proc/base.c: proc_task_getattr()): one call, while the target waits. */
static int check_stopped(Job *j, CloneError *error)
{
        struct stat st;

        if (j->tracee.executed)
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Process %d called execve() while it was about to be cloned",
                                (int) target_pid(j->target));
        if (j->instant.regs.rip - j->instant.cave < ARCH_GADGET_SIZE) /* a worker before was killed just now */
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

        if (fstatat(target_procfd(j->target), "task", &st, 0) < 0 || st.st_nlink != 3)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d started a thread while it was about to be cloned: processes with one thread are supported so far",
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

/* Target stopped: from here to release() is its pause. */
static int clone_stopped(Job *j, CloneError *error)
{
        long pid;
        int r;

        if (j->handler->stopped)
                j->handler->stopped(j->handler->userdata);

        j->instant.at_entry = j->spec->trigger == CLONE_TRIGGER_SYSCALL;
        r = instant_take(&j->instant, &j->tracee);
        if (r < 0)
                return failed(j, r, "its registers cannot be read", error);
        r = check_stopped(j, error);
        if (r < 0)
                return r;
        r = ptrace_pass_seccomp(&j->instant, &j->tracee, j->status.seccomp, error);
        if (r < 0)
                return r;

        r = instant_write(&j->instant, &j->tracee);
        if (r < 0)
                return failed(j, r, "its memory cannot be written", error);
        j->written = j->altered = true;

        pid = instant_clone(&j->instant, &j->tracee);
        return pid < 0 ? clone_failed(j, pid, error) : 0;
}

/*
 * The target goes on as it was. At an interrupt's stop that nothing altered its own registers are still there, but for the
 * -EINTR that the stop made.
 */
static void release(Job *j)
{
        if (!j->traced)
                return;

        j->traced = false;
        if (j->altered)
                (void) instant_restore(&j->instant, &j->tracee); /* where it fails the target is gone, or restores itself */
        else if (!tracee_at_entry(&j->tracee))
                tracee_hide_eintr(&j->tracee);
        if (j->written)
                (void) instant_erase(&j->instant, &j->tracee);
        (void) tracee_detach(&j->tracee, 0); /* ESRCH: not stopped yet; the kernel does it when this process ends */
}

static int make_clones(Job *j, EngineResult *ret, CloneError *error)
{
        uint64_t begin;
        int r;

        r = prepare(j, error);
        begin = now_nsec();
        if (r >= 0)
                r = stop(j, error);
        if (r >= 0 && j->spec->trigger == CLONE_TRIGGER_SYSCALL) {
                r = run_to_entry(j, error);
                begin = now_nsec();
        }
        if (r >= 0)
                r = clone_stopped(j, error);
        release(j);
        ret->pause_nsec = now_nsec() - begin;
        if (r < 0)
                return r;

        r = clones_adopt_first(&j->clones, &j->tracee, error);
        if (r < 0)
                return r;
        return clones_complete(&j->clones, j->spec, error);
}

static int ptrace_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error)
{
        Job j = {.target = target, .spec = spec, .handler = handler};
        bool end_stopped;
        int r;

        *ret = (EngineResult){};
        clones_init(&j.clones, &j.instant, handler, target_pid(target));

        r = make_clones(&j, ret, error);
        if (r >= 0 && handler->held)
                r = handler->held(j.clones.pids, j.clones.pidfds, j.clones.n, handler->userdata, error);
        /* A target that was stopped has clones that are. */
        end_stopped = spec->stopped || j.tracee.group_stop != 0;
        if (r >= 0)
                r = clones_release(&j.clones, spec->parent == CLONE_PARENT_DAEMON, end_stopped, error);
        if (r < 0)
                clones_kill(&j.clones);

        clones_clear(&j.clones);
        return r < 0 ? r : 0;
}

const Engine engine_ptrace = {
        .name = "ptrace",
        .probe = ptrace_probe,
        .clone = ptrace_clone,
        .watch = clones_watch,
};
