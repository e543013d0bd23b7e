/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/engine/arch.h"
#include "daemon/engine/kernel-call.h"
#include "daemon/engine/kernel-tids.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/owners.h"
#include "daemon/engine/ptrace-rebuild.h"
#include "daemon/engine/thread-info.h"

/* For how many threads and timers a request has room at first; it is made again where there are more. */
#define TIDS 64U
#define TIMERS 16U
G_STATIC_ASSERT(TIMERS <= TIDS && REMFORK_TIMERS_MAX >= REMFORK_TIDS_MAX);

void kernel_lists_clear(KernelLists *lists)
{
        g_clear_pointer(&lists->tids, g_free);
        g_clear_pointer(&lists->timers, g_free);
}

long kernel_remfork_with_lists(int pidfd, struct remfork_args *args, KernelLists *ret)
{
        long r;

        for (size_t n = 1; n * TIDS <= REMFORK_TIDS_MAX; n *= 4) {
                kernel_lists_clear(ret);
                ret->tids = g_new0(struct remfork_tid, n * TIDS + 1);
                args->tids = (uint64_t) (uintptr_t) ret->tids;
                args->nr_tids = n * TIDS;
                if (args->flags & REMFORK_TIMERS) {
                        ret->timers = g_new0(struct remfork_timer, n * TIMERS + 1);
                        args->timers = (uint64_t) (uintptr_t) ret->timers;
                        args->nr_timers = n * TIMERS;
                }
                r = kernel_remfork(pidfd, args);
                if (r != -E2BIG)
                        break;
        }

        return r;
}

static size_t count_tids(const struct remfork_tid *tids)
{
        size_t n = 0;

        while (tids[n].clone != 0)
                n++;
        return n;
}

static int read_word(uint64_t address, uint64_t *ret, void *userdata)
{
        return memory_read(*(const pid_t *) userdata, address, ret, sizeof(*ret));
}

static int write_tid(pid_t pid, uint64_t address, int32_t tid)
{
        const struct iovec local = {.iov_base = &tid, .iov_len = sizeof(tid)};
        const struct iovec remote = {.iov_base = (void *) (uintptr_t) address, .iov_len = sizeof(tid)};

        return process_vm_writev(pid, &local, 1, &remote, 1, 0) == sizeof(tid) ? 0 : -errno;
}

/* The kernel has set the ID where it is also told of its end, as with glibc; not where it is told of another place. */
static int set_cached_tid(const struct remfork_tid *t)
{
        const struct user_regs_struct regs = {.fs_base = t->tls};
        pid_t clone = t->clone;
        ArchTid cache;

        if (arch_find_tid(&regs, t->clone_self, read_word, &clone).clear)
                return 0;
        cache = arch_find_tid(&regs, t->target_self, read_word, &clone);
        return cache.address != 0 ? write_tid(clone, cache.address, t->clone_self) : 0;
}

static int adopt_robust(const struct remfork_tid *t)
{
        void *head = NULL;
        size_t size;

        if (syscall(SYS_get_robust_list, t->clone, &head, &size) < 0)
                return -errno;
        return head ? rebuild_robust_owner(t->clone, (uint64_t) (uintptr_t) head, t->target_self, t->clone_self) : 0;
}

/* As the ptrace engine does; there is no more to be said of what is not found than of what no engine looks for. */
static int hand_over_locks(const struct remfork_tid *tids, size_t n)
{
        g_autofree OwnerPair *pairs = g_new(OwnerPair, n);
        int r;

        if (n == 1)
                return 0;
        for (size_t i = 0; i < n; i++)
                pairs[i] = (OwnerPair){tids[i].target_self, tids[i].clone_self};
        r = owners_hand_over(tids[0].clone, pairs, n);
        return r == -ESRCH ? r : 0;
}

static bool are_same(const struct remfork_tid *tids, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (tids[i].clone_self != tids[i].target_self)
                        return false;
        return true;
}

int kernel_adopt_tids(const struct remfork_tid *tids, CloneError *error)
{
        const size_t n = count_tids(tids);
        int r = 0;

        if (are_same(tids, n))
                return 0;
        for (size_t i = 0; i < n && r >= 0; i++) {
                r = set_cached_tid(tids + i);
                if (r >= 0)
                        r = adopt_robust(tids + i);
        }
        if (r >= 0)
                r = hand_over_locks(tids, n);
        return r < 0 ? clone_error_set(error, CLONE_ERROR_FAILED, -r, "The threads of the clone of process %d cannot be given IDs of their own: %s",
                                       (int) tids[0].target, g_strerror(-r))
                     : 0;
}

void kernel_name_odd_thread(Target *target, CloneError *error)
{
        int fd = openat(target_procfd(target), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);
        ThreadInfo main_info = {};

        if (!directory) {
                if (fd >= 0)
                        (void) close(fd);
                return;
        }
        if (thread_info_read(&main_info, target, target_pid(target)) >= 0)
                for (const struct dirent *d; (d = readdir(directory));) {
                        pid_t tid = (pid_t) strtol(d->d_name, NULL, 10);
                        ThreadInfo info = {};
                        int r;

                        if (tid <= 0 || tid == target_pid(target))
                                continue;
                        r = thread_info_read(&info, target, tid);
                        if (r >= 0)
                                r = thread_info_check(&info, &main_info, target, tid, error);
                        thread_info_clear(&info);
                        if (r == -EOPNOTSUPP)
                                break;
                }
        thread_info_clear(&main_info);
        (void) closedir(directory);
}
