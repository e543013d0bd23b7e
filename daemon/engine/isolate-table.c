/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "daemon/engine/isolate-internal.h"
#include "daemon/util.h"

/* The table of all that the held clones have open, and how a description gets into it. */

static int compare_numbers(const void *a, const void *b)
{
        return *(const int *) a - *(const int *) b;
}

/* The names in /proc/PID/fdinfo, which ptrace's right opens; /proc/PID/fd has a file mode besides, which is not for the daemon. */
int isolation_list_numbers(const Target *target, GArray **ret)
{
        g_autoptr(GArray) numbers = g_array_new(FALSE, FALSE, sizeof(int));
        int fd = openat(target_procfd(target), "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);

        if (!d) {
                int r = -errno;

                safe_close(fd);
                return r;
        }

        for (struct dirent *e; (e = readdir(d));)
                if (g_ascii_isdigit(e->d_name[0])) {
                        int number = atoi(e->d_name);

                        g_array_append_val(numbers, number);
                }
        (void) closedir(d); /* it was read only */
        g_array_sort(numbers, compare_numbers);
        *ret = g_steal_pointer(&numbers);
        return 0;
}

static OpenKind kind_of(const OpenFile *f)
{
        static const struct {
                const char *name;
                OpenKind kind;
        } anonymous[] = {
                {"anon_inode:[eventpoll]", OPEN_EPOLL}, {"anon_inode:[eventfd]", OPEN_EVENTFD}, {"anon_inode:[timerfd]", OPEN_TIMERFD},
                {"anon_inode:[signalfd]", OPEN_SIGNALFD}, {"anon_inode:inotify", OPEN_INOTIFY},
        };
        struct termios t;

        if (f->flags & O_PATH)
                return OPEN_HARMLESS;
        for (size_t k = 0; k < G_N_ELEMENTS(anonymous); k++)
                if (strcmp(f->name, anonymous[k].name) == 0)
                        return anonymous[k].kind;
        if (S_ISREG(f->st.st_mode))
                return g_str_has_prefix(f->name, "/memfd:") && f->st.st_nlink == 0 ? OPEN_MEMFD : OPEN_REGULAR;
        if (S_ISDIR(f->st.st_mode))
                return OPEN_DIRECTORY;
        if (S_ISFIFO(f->st.st_mode))
                return OPEN_PIPE;
        if (S_ISSOCK(f->st.st_mode))
                return OPEN_SOCKET;
        if (S_ISCHR(f->st.st_mode) && major(f->st.st_rdev) == 1) /* Documentation/admin-guide/devices.txt: null, zero, random … */
                return OPEN_HARMLESS;
        return S_ISCHR(f->st.st_mode) && tcgetattr(f->copy, &t) == 0 ? OPEN_TERMINAL : OPEN_OTHER;
}

/* O_CLOEXEC belongs to the descriptor, and of that the copy has its own. */
static bool is_cloexec(const Target *clone, int number)
{
        g_autofree char *path = g_strdup_printf("fdinfo/%d", number), *text = NULL;
        const char *flags;

        if (target_read_file(clone, path, &text, NULL) < 0)
                return false;
        flags = fdinfo_get(text, "flags");
        return flags && (strtoul(flags, NULL, 8) & O_CLOEXEC) != 0;
}

static bool is_in_request(const Isolation *i, unsigned member, int number)
{
        const CloneFds *fds = MEMBER_AT(i, member)->fds;

        for (size_t k = 0; fds && k < fds->n; k++)
                if (fds->items[k].number == number)
                        return true;
        return false;
}

bool description_find(const GArray *order, int copy, guint *ret)
{
        guint low = 0, high = order->len;
        pid_t self = getpid();

        while (low < high) {
                guint middle = low + (high - low) / 2;
                long r = syscall(SYS_kcmp, self, self, KCMP_FILE, copy, g_array_index(order, Description, middle).copy);

                if (r == 0) {
                        *ret = middle;
                        return true;
                }
                if (r == 1) /* less */
                        high = middle;
                else
                        low = middle + 1;
        }

        *ret = low;
        return false;
}

void row_append(Row *row, size_t place, Row *first, Row *last)
{
        *row = (Row){.first = first ? first->first : place, .next = ROW_END, .last = place};
        if (first) {
                last->next = place;
                first->last = place;
        }
}

/* Pipes, sockets and memfds that have more than one description. */
static void join_inode(GHashTable *inodes, Isolation *i, OpenFile *f)
{
        g_autofree char *id = NULL;
        gpointer found;
        size_t next = i->files->len, k;

        if (f->kind != OPEN_PIPE && f->kind != OPEN_SOCKET && f->kind != OPEN_MEMFD) {
                row_append(&f->inode, next, NULL, NULL);
                return;
        }

        id = g_strdup_printf("%d %ju %ju", (int) f->kind, (uintmax_t) f->st.st_dev, (uintmax_t) f->st.st_ino);
        if (!g_hash_table_lookup_extended(inodes, id, NULL, &found)) {
                row_append(&f->inode, next, NULL, NULL);
                g_hash_table_insert(inodes, g_steal_pointer(&id), GSIZE_TO_POINTER(next));
                return;
        }
        k = GPOINTER_TO_SIZE(found);
        row_append(&f->inode, next, &FILE_AT(i, k)->inode, &FILE_AT(i, FILE_AT(i, k)->inode.last)->inode);
}

/* The first of its description: what there is to be known of it. False where it cannot be looked at. */
static bool describe(Isolation *i, OpenFile *f)
{
        char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)], name[1024];
        ssize_t n;

        if (fstat(f->copy, &f->st) < 0)
                return false;

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", f->copy);
        n = readlink(path, name, sizeof(name) - 1);
        f->name = n < 0 ? g_strdup("?") : g_strndup(name, (gsize) n);
        f->flags = fcntl(f->copy, F_GETFL);
        f->kind = kind_of(f);
        isolation_take_state(i, f);
        return true;
}

static void describe_like(OpenFile *f, const OpenFile *first)
{
        f->copy = safe_close(f->copy);
        f->st = first->st;
        f->name = g_strdup(first->name);
        f->flags = first->flags;
        f->kind = first->kind;
}

static void add_file(Isolation *i, unsigned member, const Target *clone, int number, GHashTable *inodes)
{
        OpenFile f = {.member = member, .number = number, .copy = puppet_take(MEMBER_AT(i, member)->puppet, number), .tee = -EBADF};
        const size_t next = i->files->len;
        guint at = 0;
        bool known = f.copy >= 0 && description_find(i->files_order, f.copy, &at);

        if (known) {
                size_t k = g_array_index(i->files_order, Description, at).place;

                describe_like(&f, FILE_AT(i, k));
                row_append(&f.same, next, &FILE_AT(i, k)->same, &FILE_AT(i, FILE_AT(i, k)->same.last)->same);
        } else if (f.copy >= 0 && describe(i, &f)) {
                const Description d = {.copy = f.copy, .place = (guint) next};

                g_array_insert_val(i->files_order, at, d);
                row_append(&f.same, next, NULL, NULL);
        } else {
                isolation_note(i, "Descriptor %d stays shared with process %d: it cannot be looked at", number,
                                (int) target_pid(MEMBER_AT(i, member)->target));
                safe_close(f.copy);
                return;
        }

        f.cloexec = is_cloexec(clone, number);
        f.replaced = f.done = is_in_request(i, member, number);
        join_inode(inodes, i, &f);
        g_array_append_val(i->files, f);
}

int isolation_list_files(Isolation *i)
{
        g_autoptr(GHashTable) inodes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

        g_array_set_size(i->files, 0);
        g_array_set_size(i->files_order, 0);

        for (unsigned member = 0; member < i->members->len; member++) {
                g_autoptr(Target) clone = NULL;
                g_autoptr(GArray) numbers = NULL;
                int r;

                r = target_new_from_pidfd(&clone, isolation_puppet(i, member)->pidfd, NULL);
                if (r >= 0)
                        r = isolation_list_numbers(clone, &numbers);
                if (r < 0)
                        return r;
                for (guint k = 0; k < numbers->len; k++)
                        add_file(i, member, clone, g_array_index(numbers, int, k), inodes);
        }

        return 0;
}

static int compare_files(const void *a, const void *b)
{
        const OpenFile *x = a, *y = b;

        return x->member != y->member ? (x->member < y->member ? -1 : 1) : x->number - y->number;
}

const OpenFile *isolation_find(const Isolation *i, unsigned member, int number)
{
        const OpenFile key = {.member = member, .number = number};
        guint at;

        return g_array_binary_search(i->files, &key, compare_files, &at) ? FILE_AT(i, at) : NULL;
}

/* Has one clone, whose descriptor is @made, put it in place for all of the row from file @k on that are its own; the next in *@ret. */
static int install_in_one(Isolation *i, size_t k, int made, size_t *ret)
{
        Puppet *p = isolation_puppet(i, FILE_AT(i, k)->member);
        size_t n;

        for (n = k; n != ROW_END && FILE_AT(i, n)->member == FILE_AT(i, k)->member; n = FILE_AT(i, n)->same.next) {
                OpenFile *f = FILE_AT(i, n);
                long r;

                if (f->done)
                        continue;
                r = puppet_call(p, SYS_dup3, (uint64_t) made, (uint64_t) f->number, f->cloexec ? O_CLOEXEC : 0);
                if (r < 0)
                        return (int) r;
                f->done = true;
        }

        *ret = n;
        return 0;
}

/* The same for one that has it not yet, but by @ours of this process. */
static int give_to_one(Isolation *i, size_t k, int ours, size_t *ret)
{
        Puppet *p = isolation_puppet(i, FILE_AT(i, k)->member);
        int there, r;

        r = puppet_give(p, &ours, 1, &there);
        if (r >= 0)
                r = install_in_one(i, k, there, ret);
        return r < 0 ? r : (int) puppet_call(p, SYS_close, (uint64_t) there);
}

int isolation_install_ours(Isolation *i, size_t k, int ours)
{
        for (size_t n = FILE_AT(i, k)->same.first; n != ROW_END;) {
                int r = 0;

                if (FILE_AT(i, n)->done)
                        n = FILE_AT(i, n)->same.next;
                else
                        r = give_to_one(i, n, ours, &n);
                if (r < 0)
                        return r;
        }

        return 0;
}

int isolation_install(Isolation *i, unsigned maker, size_t k, int made)
{
        bool others = false;
        int r = 0;

        for (size_t n = FILE_AT(i, k)->same.first; r >= 0 && n != ROW_END;) {
                if (FILE_AT(i, n)->member == maker && !FILE_AT(i, n)->done) {
                        r = install_in_one(i, n, made, &n);
                        continue;
                }
                others |= !FILE_AT(i, n)->done;
                n = FILE_AT(i, n)->same.next;
        }
        if (r >= 0 && others) {
                _cleanup_close_ int ours = puppet_take(isolation_puppet(i, maker), made);

                r = ours < 0 ? ours : isolation_install_ours(i, k, ours);
        }

        return r < 0 ? r : (int) puppet_call(isolation_puppet(i, maker), SYS_close, (uint64_t) made);
}

/*
 * Its own directory of descriptors, by a descriptor: /proc need not be mounted where the clone is, nor be its own. Whoever may trace
 * the clone may take this descriptor from it, and from a directory of this process's /proc ".." leads to this process's root: out
 * of a container, if the clone is in one. So it is a mount of its own that begins with the directory: above it there is nothing.
 * That takes CAP_SYS_ADMIN; without it there is none, and nothing can be opened again.
 */
int isolation_directory(Isolation *i, unsigned member)
{
        Member *m = MEMBER_AT(i, member);
        g_autofree char *path = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (m->directory != -EAGAIN)
                return m->directory;

        path = g_strdup_printf("/proc/%d/fd", (int) m->puppet->tracee->pid);
        fd = (int) syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
                return -ESRCH;
        m->directory = -ENOTDIR;
        if (fd < 0)
                return m->directory;
        r = puppet_give(isolation_puppet(i, member), &fd, 1, &m->directory);
        if (r < 0)
                m->directory = r;
        return m->directory;
}
