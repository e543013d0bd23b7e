/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/util.h"

/* /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst */
#define PAGE_PRESENT (UINT64_C(1) << 63)
#define PAGE_SWAPPED (UINT64_C(1) << 62)
#define PAGE_FILE (UINT64_C(1) << 61)
#define PAGE_FRAME ((UINT64_C(1) << 55) - 1)

#define WINDOW 65536U /* pages that are looked at in one go */
#define IOV_RUNS 256U

void image_clear(Image *i)
{
        for (guint k = 0; i->objects && k < i->objects->len; k++)
                safe_close(g_array_index(i->objects, int, k));
        g_clear_pointer(&i->objects, g_array_unref);
        g_clear_pointer(&i->runs, g_array_unref);
        g_clear_pointer(&i->drops, g_array_unref);
        if (i->bytes)
                (void) munmap(i->bytes, i->size);
        *i = (Image){};
}

static bool same_vma(const Vma *a, const Vma *b)
{
        return a->start == b->start && a->end == b->end && a->offset == b->offset && a->inode == b->inode && a->flags == b->flags &&
               strcmp(a->permissions, b->permissions) == 0 && strcmp(a->device, b->device) == 0 && strcmp(a->name, b->name) == 0;
}

/* Both are sorted; *@at goes along. */
static const Vma *find_same(const GArray *vmas, const Vma *vma, guint *at)
{
        while (*at < vmas->len && VMA_AT(vmas, *at)->start < vma->start)
                (*at)++;
        return *at < vmas->len && same_vma(VMA_AT(vmas, *at), vma) && vma_is_forked(vma) ? VMA_AT(vmas, *at) : NULL;
}

/* A page that is the process' own, and not the file's. */
static bool is_own(uint64_t entry)
{
        return (entry & PAGE_SWAPPED) || (entry & (PAGE_PRESENT | PAGE_FILE)) == PAGE_PRESENT;
}

/* Frames are 0 where this process may not see them (CAP_SYS_ADMIN). */
static bool same_page(uint64_t a, uint64_t b)
{
        return (a & PAGE_PRESENT) && (b & PAGE_PRESENT) && (a & PAGE_FRAME) == (b & PAGE_FRAME) && (a & PAGE_FRAME) != 0;
}

/* What this engine writes into the clone of a parent before its children come from it. */
static bool is_touched(const Member *parent, uint64_t page)
{
        const Instant *i = &parent->job.instant;

        return (i->cave & ~(uint64_t) (TREE_PAGE - 1)) == page ||
               (i->tid_cache.address != 0 && (i->tid_cache.address & ~(uint64_t) (TREE_PAGE - 1)) == page);
}

static void add_page(GArray *runs, uint64_t address, guint vma)
{
        PageRun *last = runs->len > 0 ? &g_array_index(runs, PageRun, runs->len - 1) : NULL;

        if (last && last->vma == vma && last->address + last->size == address)
                last->size += TREE_PAGE;
        else
                g_array_append_val(runs, ((PageRun){.address = address, .size = TREE_PAGE, .vma = vma}));
}

static void add_run(Member *m, uint64_t page, guint k)
{
        add_page(m->image.runs, page, k);
        VMA_AT(m->vmas, k)->written += TREE_PAGE;
}

static int open_pagemap(const Member *m)
{
        char path[64];

        (void) snprintf(path, sizeof(path), "/proc/%d/pagemap", (int) target_pid(m->job.target));
        return open_with_override(path, O_RDONLY);
}

static int read_pagemap(int fd, uint64_t address, uint64_t *ret, size_t n)
{
        ssize_t k = pread(fd, ret, n * sizeof(*ret), (off_t) (address / TREE_PAGE * sizeof(*ret)));

        return k < 0 ? -errno : (size_t) k == n * sizeof(*ret) ? 0 : -EIO;
}

/* Finds out which pages of mapping @k the clone is to be given or relieved of. */
static int look_at_pages(Member *m, const Member *parent, guint k, const Vma *same, int pagemap, int parent_pagemap)
{
        static uint64_t own[WINDOW], theirs[WINDOW];
        const Vma *vma = VMA_AT(m->vmas, k);

        for (uint64_t at = vma->start; at < vma->end; at += (uint64_t) WINDOW * TREE_PAGE) {
                size_t n = MIN((vma->end - at) / TREE_PAGE, WINDOW);
                int r = read_pagemap(pagemap, at, own, n);

                if (r >= 0 && same)
                        r = read_pagemap(parent_pagemap, at, theirs, n);
                if (r < 0)
                        return r;
                for (size_t i = 0; i < n; i++) {
                        uint64_t page = at + i * TREE_PAGE;
                        bool touched = same && is_touched(parent, page);

                        if (is_own(own[i]) && (!same || touched || !same_page(own[i], theirs[i])))
                                add_run(m, page, k);
                        else if (!is_own(own[i]) && same && (touched || is_own(theirs[i])))
                                add_page(m->image.drops, page, k);
                }
        }

        return 0;
}

/* The file or other object that @vma maps, as it is opened already: the same rights and no more. */
static int open_object(Member *m, Vma *vma)
{
        bool shared = vma->permissions[3] == 's';
        char path[96];
        int fd;

        for (guint k = 0; k < m->vmas->len; k++) {
                const Vma *other = VMA_AT(m->vmas, k);

                if (other->object >= 0 && other->inode == vma->inode && strcmp(other->device, vma->device) == 0 &&
                    other->permissions[3] == vma->permissions[3] && ((other->flags ^ vma->flags) & VMA_MAYWRITE) == 0) {
                        vma->object = other->object;
                        return 0;
                }
        }

        (void) snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int) target_pid(m->job.target), vma->start, vma->end);
        fd = open_with_override(path, shared && (vma->flags & VMA_MAYWRITE) ? O_RDWR : O_RDONLY);
        if (fd < 0)
                return fd;
        vma->object = (int) m->image.objects->len;
        g_array_append_val(m->image.objects, fd);
        return 0;
}

/* What memory is not open to process_vm_readv(2) is to the tracer. */
static int read_forced(const Member *m, const PageRun *run, uint8_t *bytes)
{
        for (uint64_t done = 0; done < run->size;) {
                ssize_t k = pread(m->job.instant.memory, bytes + done, run->size - done, (off_t) (run->address + done));

                if (k <= 0)
                        return k < 0 ? -errno : -EFAULT;
                done += (uint64_t) k;
        }

        return 0;
}

/* @n runs that lie side by side in Image.bytes; one call for all where it can be. */
static int read_runs(Member *m, const PageRun *runs, guint n)
{
        struct iovec remote[IOV_RUNS], local = {.iov_base = m->image.bytes + runs[0].at};
        ssize_t k;

        for (guint i = 0; i < n; i++) {
                remote[i] = (struct iovec){.iov_base = (void *) (uintptr_t) runs[i].address, .iov_len = runs[i].size};
                local.iov_len += runs[i].size;
        }
        k = process_vm_readv(target_pid(m->job.target), &local, 1, remote, n, 0);
        if (k == (ssize_t) local.iov_len)
                return 0;

        for (guint i = 0; i < n; i++) {
                int r = read_forced(m, &runs[i], m->image.bytes + runs[i].at);

                if (r < 0)
                        return r;
        }

        return 0;
}

static int read_bytes(Member *m)
{
        const GArray *runs = m->image.runs;
        uint64_t size = 0;
        void *bytes;

        for (guint k = 0; k < runs->len; k++) {
                g_array_index(runs, PageRun, k).at = size;
                size += g_array_index(runs, PageRun, k).size;
        }
        if (size == 0)
                return 0;

        bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (bytes == MAP_FAILED)
                return -ENOMEM;
        m->image.bytes = bytes;
        m->image.size = size;

        for (guint k = 0; k < runs->len; k += IOV_RUNS) {
                int r = read_runs(m, &g_array_index(runs, PageRun, k), MIN(runs->len - k, IOV_RUNS));

                if (r < 0)
                        return r;
        }

        return 0;
}

/* What is large and had no page when the map was read has none. */
static bool may_have_pages(const Vma *vma, const Vma *same, const Member *parent)
{
        return vma->anonymous > 0 || (same && same->anonymous > 0) || vma->end - vma->start <= VMA_LARGE ||
               (same && parent->job.instant.cave - vma->start < vma->end - vma->start);
}

static bool is_to_be_opened(const Vma *vma)
{
        return !vma->kept && vma->inode != 0 && !(vma->flags & VMA_SPECIAL);
}

static void make_image(Image *i)
{
        image_clear(i);
        i->runs = g_array_new(FALSE, FALSE, sizeof(PageRun));
        i->drops = g_array_new(FALSE, FALSE, sizeof(PageRun));
        i->objects = g_array_new(FALSE, FALSE, sizeof(int));
}

void member_read_map_early(PtraceTree *t, Member *m)
{
        const Member *parent = m == tree_member(t, 0) ? NULL : tree_parent(t, m);
        guint at = 0;

        make_image(&m->image);
        g_clear_pointer(&m->vmas, g_array_unref);
        if (vmas_read(m->job.target, &m->vmas) < 0)
                return;
        for (guint k = 0; parent && parent->vmas && k < m->vmas->len; k++) {
                Vma *vma = VMA_AT(m->vmas, k);

                vma->kept = find_same(parent->vmas, vma, &at) != NULL;
                if (is_to_be_opened(vma) && open_object(m, vma) < 0)
                        break; /* while it stands still there will be an error to tell */
        }
}

/* Decides what becomes of each mapping. */
static int plan(Member *m, const Member *parent, CloneError *error)
{
        _cleanup_close_ int pagemap = open_pagemap(m), parent_pagemap = open_pagemap(parent);
        guint at = 0;

        if (pagemap < 0 || parent_pagemap < 0)
                return pagemap < 0 ? pagemap : parent_pagemap;

        for (guint k = 0; k < m->vmas->len; k++) {
                Vma *vma = VMA_AT(m->vmas, k);
                const Vma *same = find_same(parent->vmas, vma, &at);
                int r = 0;

                if (vma->flags & VMA_SHADOW_STACK)
                        return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                        "Process %d has a shadow stack, which the clone of a descendant cannot be given", (int) target_pid(m->job.target));
                vma->kept = same != NULL;
                if (vma->object < 0 && is_to_be_opened(vma)) {
                        r = open_object(m, vma);
                        if (r < 0)
                                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, -r,
                                                "Process %d has %s mapped, which cannot be mapped once more: %s", (int) target_pid(m->job.target),
                                                vma->name, g_strerror(-r));
                }
                if (vma_is_private(vma) && may_have_pages(vma, same, parent))
                        r = look_at_pages(m, parent, k, same, pagemap, parent_pagemap);
                if (r < 0)
                        return r;
        }

        return 0;
}

int member_read_memory(PtraceTree *t, Member *m, CloneError *error)
{
        int r;

        if (!m->vmas || !vmas_are_current(m->vmas, m->job.target)) {
                g_clear_pointer(&m->vmas, g_array_unref);
                make_image(&m->image);
                r = vmas_read(m->job.target, &m->vmas);
                if (r < 0)
                        return job_failed(&m->job, r, "its memory map cannot be read", error);
        }
        if (m == tree_member(t, 0))
                return 0; /* the kernel copies its memory */

        r = plan(m, tree_parent(t, m), error);
        if (r >= 0)
                r = read_bytes(m);
        if (r == -ENOMEM)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, ENOMEM, "There is not enough memory to copy that of process %d",
                                (int) target_pid(m->job.target));
        return r < 0 && error->code == CLONE_ERROR_NONE ? job_failed(&m->job, r, "its memory cannot be read", error) : r;
}
