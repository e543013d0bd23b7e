/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "daemon/engine/fdinfo.h"
#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/util.h"

#define GIVE_AT_ONCE 128U /* descriptors that the clone has for a moment beside its own */

static bool has_same(const Member *parent, const Member *m, int number)
{
        return syscall(SYS_kcmp, target_pid(parent->job.target), target_pid(m->job.target), KCMP_FILE, number, number) == 0;
}

static int read_one(const Member *m, const Member *parent, int number, MemberFd *ret)
{
        g_autofree char *name = g_strdup_printf("fdinfo/%d", number), *info = NULL;
        const char *flags;
        int r;

        r = target_read_file(m->job.target, name, &info, NULL);
        if (r < 0)
                return r;
        flags = fdinfo_get(info, "flags");
        *ret = (MemberFd){.number = number, .fd = -EBADF, .close_on_exec = flags && (strtoull(flags, NULL, 8) & O_CLOEXEC) != 0};
        if (has_same(parent, m, number))
                return 0;
        ret->fd = (int) syscall(SYS_pidfd_getfd, target_pidfd(m->job.target), number, 0);
        return ret->fd < 0 ? -errno : 0;
}

static int compare_numbers(const void *a, const void *b)
{
        return ((const MemberFd *) a)->number - ((const MemberFd *) b)->number;
}

static void clear_file(void *p)
{
        safe_close(((MemberFd *) p)->fd);
}

int member_read_files(const PtraceTree *t, Member *m, CloneError *error)
{
        int fd = openat(target_procfd(m->job.target), "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);

        m->files = g_array_new(FALSE, FALSE, sizeof(MemberFd));
        g_array_set_clear_func(m->files, clear_file);
        if (!directory) {
                r = -errno;
                safe_close(fd);
                return job_failed(&m->job, r, "its descriptors cannot be listed", error);
        }

        for (const struct dirent *d; r >= 0 && (d = readdir(directory));) {
                MemberFd file;

                if (!g_ascii_isdigit(d->d_name[0]))
                        continue;
                r = read_one(m, tree_parent(t, m), atoi(d->d_name), &file);
                if (r >= 0)
                        g_array_append_val(m->files, file);
                else
                        r = clone_error_set(error, r == -EMFILE ? CLONE_ERROR_LIMITS_EXCEEDED : CLONE_ERROR_FAILED, -r,
                                        "Descriptor %s of process %d cannot be passed to its clone: %s", d->d_name, (int) target_pid(m->job.target),
                                        g_strerror(-r));
        }
        (void) closedir(directory); /* it was read only */
        g_array_sort(m->files, compare_numbers);
        return r;
}

static const MemberFd *find(const GArray *files, int number)
{
        for (guint k = 0; k < files->len; k++)
                if (g_array_index(files, MemberFd, k).number == number)
                        return &g_array_index(files, MemberFd, k);
        return NULL;
}

/*
 * All but what the clone has of its parent's and @m has, too. Whatever a fork handed on is closed here; the parent's clone has what its
 * own process had at the instant.
 */
static long close_others(const Member *m, Puppet *p)
{
        g_autofree char *name = g_strdup_printf("/proc/%d/fdinfo", (int) p->tracee->pid);
        DIR *directory = opendir(name);
        long r = 0;

        if (!directory)
                return -errno;
        for (const struct dirent *d; r >= 0 && (d = readdir(directory));) {
                const MemberFd *file = find(m->files, atoi(d->d_name));

                if (g_ascii_isdigit(d->d_name[0]) && (!file || file->fd >= 0))
                        r = puppet_call(p, SYS_close, (uint64_t) atoi(d->d_name));
        }
        (void) closedir(directory); /* it was read only */
        return r;
}

/* To where it belongs, out of the way of which the others of the same parcel are. */
static long place_one(Puppet *p, int *given, size_t n, size_t k, const MemberFd *file)
{
        long r;

        if (given[k] == file->number)
                return file->close_on_exec ? 0 : puppet_call(p, SYS_fcntl, (uint64_t) given[k], F_SETFD, 0);

        for (size_t i = k + 1; i < n; i++)
                if (given[i] == file->number) {
                        r = puppet_call(p, SYS_fcntl, (uint64_t) given[i], F_DUPFD_CLOEXEC, 0);
                        if (r < 0)
                                return r;
                        given[i] = (int) r; /* the original is closed by what takes its place */
                }
        r = puppet_call(p, SYS_dup3, (uint64_t) given[k], (uint64_t) file->number, file->close_on_exec ? O_CLOEXEC : 0);
        return r < 0 ? r : puppet_call(p, SYS_close, (uint64_t) given[k]);
}

static long place_parcel(Puppet *p, const MemberFd *const *files, size_t n)
{
        int fds[GIVE_AT_ONCE], given[GIVE_AT_ONCE];
        long r;

        for (size_t k = 0; k < n; k++)
                fds[k] = files[k]->fd;
        r = puppet_give(p, fds, n, given);
        for (size_t k = 0; r >= 0 && k < n; k++)
                r = place_one(p, given, n, k, files[k]);
        return r;
}

/* The same open file, but perhaps another flag: that belongs to the number. */
static long set_flags(const Member *m, Puppet *p)
{
        long r = 0;

        for (guint k = 0; r >= 0 && k < m->files->len; k++) {
                const MemberFd *file = &g_array_index(m->files, MemberFd, k);

                if (file->fd < 0)
                        r = puppet_call(p, SYS_fcntl, (uint64_t) file->number, F_SETFD, file->close_on_exec ? FD_CLOEXEC : 0);
        }

        return r;
}

int member_place_files(PtraceTree *t, Member *m, Puppet *p, CloneError *error)
{
        const MemberFd *parcel[GIVE_AT_ONCE];
        size_t n = 0;
        long r = close_others(m, p);

        if (r >= 0)
                r = set_flags(m, p);
        /* By number, the lowest first: what a parcel brings comes to the lowest free numbers. */
        for (guint k = 0; r >= 0 && k < m->files->len; k++) {
                const MemberFd *file = &g_array_index(m->files, MemberFd, k);

                if (file->fd >= 0)
                        parcel[n++] = file;
                if (n == GIVE_AT_ONCE || (n > 0 && k + 1 == m->files->len)) {
                        r = place_parcel(p, parcel, n);
                        n = 0;
                }
        }

        return r < 0 ? member_failed(m, r, "its descriptors cannot be placed", error) : 0;
}
