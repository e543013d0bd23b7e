/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "daemon/engine/isolate-mappings.h"
#include "daemon/engine/memory.h"
#include "daemon/util.h"

char *mapping_id(const SharedMapping *m)
{
        return g_strdup_printf("%s:%lu", m->device, m->inode);
}

/* The same: fs/proc/task_mmu.c: show_vma_header_prefix(). */
char *mappings_id_of(const OpenFile *f)
{
        return g_strdup_printf("%02x:%02x:%ju", major(f->st.st_dev), minor(f->st.st_dev), (uintmax_t) f->st.st_ino);
}

static void append(Mappings *t, SharedMapping *m)
{
        g_autofree char *id = mapping_id(m);
        const size_t next = t->list->len, k = GPOINTER_TO_SIZE(g_hash_table_lookup(t->objects, id));
        Row row;

        if (k == 0) {
                row_append(&row, next, NULL, NULL);
                g_hash_table_insert(t->objects, g_steal_pointer(&id), GSIZE_TO_POINTER(next + 1));
        } else
                row_append(&row, next, MAPPING_ROW(t, k - 1), MAPPING_ROW(t, MAPPING_ROW(t, k - 1)->last));
        g_array_append_val(t->list, *m);
        g_array_append_val(t->rows, row);
}

int mappings_read(Isolation *i, Mappings *ret)
{
        *ret = (Mappings){
                .list = g_array_new(FALSE, FALSE, sizeof(SharedMapping)),
                .rows = g_array_new(FALSE, FALSE, sizeof(Row)),
                .objects = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
        };

        for (unsigned member = 0; member < i->members->len; member++) {
                g_autoptr(GArray) own = NULL;
                int r = shared_mappings_read(isolation_puppet(i, member)->tracee->pid, &own);

                if (r < 0)
                        return r;
                for (guint k = 0; k < own->len; k++) {
                        SharedMapping *m = &g_array_index(own, SharedMapping, k);

                        m->member = member;
                        append(ret, m);
                }
        }

        return 0;
}

void mappings_clear(Mappings *t)
{
        g_clear_pointer(&t->list, g_array_unref);
        g_clear_pointer(&t->rows, g_array_unref);
        g_clear_pointer(&t->objects, g_hash_table_unref);
}

size_t mappings_find(const Mappings *t, const OpenFile *f)
{
        g_autofree char *id = mappings_id_of(f);
        size_t k = GPOINTER_TO_SIZE(g_hash_table_lookup(t->objects, id));

        return k == 0 ? ROW_END : k - 1;
}

void mappings_leave(Isolation *i, const Mappings *t, size_t k, const char *reason)
{
        FOR_EACH_OF_OBJECT(t, n, k) {
                SharedMapping *m = MAPPING_AT(t, n);

                if (m->done)
                        continue;
                isolation_note(i, "Memory at %" PRIx64 " (%s) stays shared with process %d: %s", m->start, m->name,
                                (int) target_pid(MEMBER_AT(i, m->member)->target), reason);
                m->done = true;
        }
}

int mapping_prot(const SharedMapping *m)
{
        return (m->permissions[0] == 'r' ? PROT_READ : 0) | (m->permissions[1] == 'w' ? PROT_WRITE : 0) |
               (m->permissions[2] == 'x' ? PROT_EXEC : 0);
}

/* What is mapped there, or with O_PATH | O_NOFOLLOW the link that leads to it. */
static int open_link(pid_t pid, uint64_t start, uint64_t end, int flags)
{
        char name[64];

        (void) snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, start, end);
        return memory_open_file(pid, name, flags);
}

/* The link has the mode of the description that it was mapped by (fs/proc/base.c: proc_map_files_instantiate()). */
bool mapping_may_write(Isolation *i, const SharedMapping *m)
{
        _cleanup_close_ int fd = -EBADF;
        struct stat st;

        if (m->permissions[1] == 'w')
                return true;
        fd = open_link(isolation_puppet(i, m->member)->tracee->pid, m->start, m->end, O_PATH | O_NOFOLLOW);
        return fd < 0 || fstat(fd, &st) < 0 ? m->kind == SHARED_ANONYMOUS : (st.st_mode & S_IWUSR) != 0;
}

/*
 * Is it on the mount of the kernel's own that all shared memory is on? A file that is named like it may be, say, of a FUSE of the
 * target's, which could be kept waiting for.
 */
static bool is_of_kernel(const SharedMapping *m)
{
        _cleanup_close_ int own = memfd_create("", MFD_CLOEXEC);
        char device[sizeof(m->device)];
        struct stat st;

        if (own < 0 || fstat(own, &st) < 0)
                return false;
        (void) snprintf(device, sizeof(device), "%02x:%02x", major(st.st_dev), minor(st.st_dev));
        return strcmp(device, m->device) == 0;
}

/* Or on a tmpfs that the process sees, as /dev/shm is? statfs(2) could be kept waiting as well; blanks in the names of mounts are escaped. */
static bool is_of_tmpfs(const SharedMapping *m, pid_t pid)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/mountinfo", (int) pid), *text = NULL;
        unsigned major_number, minor_number, a, b;
        g_auto(GStrv) lines = NULL;

        if (sscanf(m->device, "%x:%x", &major_number, &minor_number) != 2 || !g_file_get_contents(path, &text, NULL, NULL))
                return false;

        lines = g_strsplit(text, "\n", -1);
        for (char **line = lines; *line; line++)
                if (sscanf(*line, "%*u %*u %u:%u ", &a, &b) == 2 && a == major_number && b == minor_number)
                        return strstr(*line, " - tmpfs ") != NULL;
        return false;
}

int mapping_open(const SharedMapping *m, pid_t pid, int flags)
{
        if (is_of_kernel(m) || (m->kind == SHARED_DELETED && is_of_tmpfs(m, pid)))
                return open_link(pid, m->start, m->end, flags);
        return -EOPNOTSUPP;
}

int lender_map(Lender *l, const SharedMapping *m, Lending how)
{
        Puppet *p = isolation_puppet(l->isolation, m->member);
        long r = 0;

        if (m->member != l->member)
                r = lender_end(l);
        l->member = m->member;
        if (r >= 0 && l->there[how] < 0)
                r = puppet_give(p, &l->ours[how], 1, &l->there[how]);
        if (r >= 0)
                r = puppet_call(p, SYS_mmap, m->start, m->end - m->start, (uint64_t) mapping_prot(m), MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
                                (uint64_t) l->there[how], m->offset);
        return (int) MIN(r, 0);
}

int lender_end(Lender *l)
{
        for (unsigned how = 0; how < LEND_MAX; how++) {
                long r = 0;

                if (l->there[how] >= 0)
                        r = puppet_call(isolation_puppet(l->isolation, l->member), SYS_close, (uint64_t) l->there[how]);
                l->there[how] = -EBADF;
                if (r < 0)
                        return (int) r;
        }

        return 0;
}

void lender_clear(Lender *l)
{
        for (unsigned how = 0; how < LEND_MAX; how++)
                l->ours[how] = safe_close(l->ours[how]);
}
