/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "daemon/engine/cave.h"
#include "daemon/engine/ptrace-threads.h"
#include "daemon/util.h"

#define XSTATE_MAX 16384U /* AMX included it is 11 KiB on the CPUs of today; the kernel says how much it is */
#define CAVES_MAX 64U
#define RETRY_USEC 200U
#define LOOKS_MAX 25U

static void thread_free(void *p)
{
        Thread *th = p;

        thread_info_clear(&th->info);
        g_free(th->xstate);
        g_free(th);
}

void threads_init(Threads *t, Target *target, const EngineHandler *handler)
{
        *t = (Threads){
                .target = target,
                .handler = handler,
                .list = g_ptr_array_new_with_free_func(thread_free),
                .caves = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
                .scratch = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
        };
}

void threads_clear(Threads *t)
{
        thread_info_clear(&t->main_info);
        g_clear_pointer(&t->list, g_ptr_array_unref);
        g_clear_pointer(&t->caves, g_array_unref);
        g_clear_pointer(&t->scratch, g_array_unref);
}

static Thread *nth(const Threads *t, guint i)
{
        return g_ptr_array_index(t->list, i);
}

static int threads_failed(const Threads *t, pid_t tid, int r, const char *what, CloneError *error)
{
        if (r == -ESRCH || r == -ECHILD)
                return clone_error_set(error, CLONE_ERROR_CHANGED, ESRCH, "Thread %d of process %d ended while it was being cloned",
                                (int) tid, (int) target_pid(t->target));
        return clone_error_set(error, CLONE_ERROR_FAILED, -r, "Thread %d of process %d: %s: %s", (int) tid,
                        (int) target_pid(t->target), what, g_strerror(-r));
}

static bool is_known(const Threads *t, pid_t tid)
{
        if (tid == target_pid(t->target))
                return true;
        for (guint i = 0; i < t->list->len; i++)
                if (nth(t, i)->tracee.pid == tid)
                        return true;

        return false;
}

/*
 * What thread @tid is, and whether it can be cloned. -ESRCH where it is gone. One that is ending has lost some of what it had
 * before it is gone, so what looks odd is looked at again.
 */
static int look_at(const Threads *t, pid_t tid, ThreadInfo *ret, CloneError *error)
{
        for (unsigned i = 0;; i++) {
                int r;

                thread_info_clear(ret);
                r = thread_info_read(ret, t->target, tid);
                if (r >= 0)
                        r = thread_info_check(ret, &t->main_info, t->target, tid, error);
                else if (r == -EBUSY)
                        r = clone_error_set(error, CLONE_ERROR_BUSY, 0, "Thread %d of process %d is traced by another process",
                                        (int) tid, (int) target_pid(t->target));
                else if (r != -ESRCH)
                        r = threads_failed(t, tid, r, "it cannot be looked at", error);
                if (r >= 0 || r == -ESRCH || i == LOOKS_MAX) {
                        if (r >= 0 || r == -ESRCH)
                                clone_error_clear(error);
                        return r;
                }
                g_usleep(RETRY_USEC);
        }
}

/* 1 where it was seized, 0 where it is gone. */
static int seize_one(Threads *t, pid_t tid, CloneError *error)
{
        Thread *th = g_new0(Thread, 1);
        int r;

        r = look_at(t, tid, &th->info, error);
        if (r >= 0)
                r = tracee_seize(&th->tracee, tid, 0, error);
        if (r == -EPERM && look_at(t, tid, &th->info, error) == -ESRCH) /* the kernel says so also of one that is ending */
                r = -ESRCH;
        if (r < 0) {
                thread_free(th);
                if (r == -ESRCH)
                        clone_error_clear(error);
                return r == -ESRCH ? 0 : r;
        }

        th->xstate = g_malloc(XSTATE_MAX);
        g_ptr_array_add(t->list, th);
        return 1;
}

/* The main thread is traced by this process already. */
static int look_at_main(Threads *t, CloneError *error)
{
        pid_t pid = target_pid(t->target);
        int r = t->main_info.privileges ? 0 : thread_info_read(&t->main_info, t->target, pid);

        return r < 0 ? threads_failed(t, pid, r, "it cannot be looked at", error) : 0;
}

/* Seizes what is not known yet; @interrupt: and has it stop. Returns how many there were. */
static int seize_unknown(Threads *t, bool interrupt, CloneError *error)
{
        int fd = openat(target_procfd(t->target), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n;
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);

        if (!directory) {
                int r = -errno;

                safe_close(fd);
                return threads_failed(t, target_pid(t->target), r, "its threads cannot be listed", error);
        }
        n = look_at_main(t, error);

        for (const struct dirent *d; n >= 0 && (d = readdir(directory));) {
                pid_t tid = (pid_t) strtol(d->d_name, NULL, 10);
                int r;

                if (tid <= 0 || is_known(t, tid))
                        continue;
                r = seize_one(t, tid, error);
                if (r > 0 && interrupt)
                        (void) tracee_interrupt(&nth(t, t->list->len - 1)->tracee); /* ESRCH: it ends, the wait tells */
                n = r < 0 ? r : n + r;
        }

        (void) closedir(directory);
        return n;
}

static bool is_gadget(const uint8_t *bytes)
{
        return arch_is_gadget(bytes);
}

int threads_seize(Threads *t, const char *maps, CloneError *error)
{
        pid_t pid = target_pid(t->target);
        uint64_t found[CAVES_MAX];
        int r, n;

        do
                r = seize_unknown(t, false, error);
        while (r > 0);
        if (r < 0)
                return r;

        n = cave_find_many(maps, pid, ARCH_GADGET_SIZE, is_gadget, found, CAVES_MAX);
        if (n > 0)
                g_array_append_vals(t->caves, found, (guint) n);
        n = cave_find_variables(maps, pid, THREADS_ANSWER_SIZE, found, CAVES_MAX);
        if (n > 0)
                g_array_append_vals(t->scratch, found, (guint) n);
        return 0; /* where there is no room, the main thread's place and the stacks do, one thread after the other */
}

void threads_interrupt(const Threads *t)
{
        for (guint i = 0; i < t->list->len; i++)
                (void) tracee_interrupt(&nth(t, i)->tracee); /* ESRCH: it ends, the wait tells */
}

/* 1 where it stands, 0 where it is gone. */
static int stop_one(const Threads *t, Thread *th, uint64_t timeout_usec, CloneError *error)
{
        StopKind kind;
        int r;

        r = tracee_wait(&th->tracee, PTRACE_CONT, false, timeout_usec, &kind, NULL);
        if (r == -ECHILD || r == -ESRCH || (r >= 0 && kind == STOP_EXITED))
                return 0;
        if (r == -ETIMEDOUT)
                return clone_error_set(error, CLONE_ERROR_TIMEOUT, 0,
                                "Thread %d of process %d did not stop in time: it waits in vfork(), is in uninterruptible sleep, or frozen",
                                (int) th->tracee.pid, (int) target_pid(t->target));
        if (r < 0)
                return threads_failed(t, th->tracee.pid, r, "it cannot be stopped", error);
        if (th->tracee.executed)
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Process %d called execve() while it was about to be cloned",
                                (int) target_pid(t->target));
        th->stopped = true;
        return 1;
}

/* /proc/PID/task has a link for each thread (fs/proc/base.c: proc_task_getattr()): one call, while the target waits. */
static int count_threads(const Threads *t, CloneError *error)
{
        struct stat st;

        if (fstatat(target_procfd(t->target), "task", &st, 0) < 0 || st.st_nlink < 3)
                return clone_error_set(error, CLONE_ERROR_NO_SUCH_PROCESS, ESRCH, "Process %d ended while it was being cloned",
                                (int) target_pid(t->target));
        return (int) st.st_nlink - 2;
}

int threads_stop(Threads *t, uint64_t timeout_usec, CloneError *error)
{
        gint64 deadline = g_get_monotonic_time() + (gint64) timeout_usec;

        for (bool again = false;; again = true) {
                int r;

                for (guint i = t->list->len; i-- > 0;) {
                        gint64 left = deadline - g_get_monotonic_time();
                        Thread *th = nth(t, i);

                        if (th->stopped)
                                continue;
                        r = stop_one(t, th, (uint64_t) MAX(left, 1), error);
                        if (r < 0)
                                return r;
                        if (r == 0)
                                g_ptr_array_remove_index_fast(t->list, i);
                }

                r = count_threads(t, error);
                if (r < 0)
                        return r;
                if (r == (int) t->list->len + 1)
                        return 0;
                if (g_get_monotonic_time() > deadline)
                        return clone_error_set(error, CLONE_ERROR_TIMEOUT, 0,
                                        "Process %d has threads that end or begin faster than they can be stopped",
                                        (int) target_pid(t->target));
                if (again) /* one that ends is counted until it is gone */
                        g_usleep(RETRY_USEC);
                r = seize_unknown(t, true, error);
                if (r < 0)
                        return r;
        }
}

/* A worker before was killed just now, and this thread is still on its way back. */
static bool in_cave(const Threads *t, const Thread *th, uint64_t cave)
{
        bool in = th->instant.regs.rip - cave < ARCH_GADGET_SIZE;

        for (guint i = 0; i < t->caves->len && !in; i++)
                in = th->instant.regs.rip - g_array_index(t->caves, uint64_t, i) < ARCH_GADGET_SIZE;
        return in;
}

static int check_taken(const Threads *t, const Thread *th, uint64_t cave, CloneError *error)
{
        const char *what = NULL;

        if (in_cave(t, th, cave))
                return clone_error_set(error, CLONE_ERROR_CHANGED, 0, "Thread %d of process %d is still on its way back from an earlier clone",
                                (int) th->tracee.pid, (int) target_pid(t->target));
        if (arch_is_compat(&th->instant.regs))
                what = "runs 32-bit code, 64-bit code was expected";
        else if (tracee_has_dispatch(&th->tracee))
                what = "dispatches its system calls to itself (PR_SET_SYSCALL_USER_DISPATCH), which a clone cannot inherit";
        else if (tracee_xstate_has_tiles(th->xstate, th->xstate_size))
                what = "has AMX tile data, which a clone would lose; ask again when it has released its tiles";
        return what ? clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Thread %d of process %d %s", (int) th->tracee.pid,
                                      (int) target_pid(t->target), what)
                    : 0;
}

int threads_take(Threads *t, uint64_t cave, CloneError *error)
{
        for (guint k = 0; k < t->list->len; k++) {
                Thread *th = nth(t, k);
                void *head = NULL;
                size_t size = 0;
                int r;

                th->instant.cave = cave;
                th->instant.tid = th->info.own_tid;
                r = instant_take(&th->instant, &th->tracee);
                if (r >= 0)
                        r = tracee_get_xstate(&th->tracee, th->xstate, XSTATE_MAX, &th->xstate_size);
                if (r < 0)
                        return threads_failed(t, th->tracee.pid, r, "its registers cannot be read", error);
                th->taken = true;

                r = check_taken(t, th, cave, error);
                if (r < 0)
                        return r;

                if (syscall(SYS_get_robust_list, th->tracee.pid, &head, &size) == 0) {
                        th->instant.robust_head = (uint64_t) (uintptr_t) head;
                        th->instant.robust_size = size;
                }
                if (th->instant.tid_cache.clear)
                        th->clear_tid = th->instant.tid_cache.address;
        }

        return 0;
}

bool threads_under_seccomp(const Threads *t)
{
        for (guint i = 0; i < t->list->len; i++)
                if (((const Thread *) t->list->pdata[i])->info.seccomp != 0)
                        return true;
        return false;
}

void threads_release(Threads *t)
{
        for (guint k = 0; k < t->list->len; k++) {
                Thread *th = nth(t, k);

                if (th->altered)
                        (void) instant_restore(&th->instant, &th->tracee); /* where it fails it is gone, or restores itself */
                else if (th->stopped && !th->asked)
                        tracee_hide_eintr(&th->tracee);
                if (th->stopped)
                        (void) tracee_detach(&th->tracee, 0); /* ESRCH: killed */
                else
                        tracee_leave(&th->tracee);
                th->stopped = th->altered = false;
        }
}
