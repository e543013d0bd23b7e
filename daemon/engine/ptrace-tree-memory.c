/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <linux/mman.h>
#include <linux/rseq.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "daemon/engine/memory.h"
#include "daemon/engine/ptrace-tree-internal.h"
#include "daemon/util.h"

/*
 * The workshop: a page of code with one syscall instruction, and the pages that calls read and write, at an address that is free in
 * the clone before and after. Behind it is room for what has to be moved out of the way.
 */
#define WORKSHOP_SIZE (PUPPET_PAGE + TREE_PAGE)
#define MOVED_MAX (64U * TREE_PAGE)
#define COMPARE_PAGES 64U

typedef struct Build {
        PtraceTree *tree;
        Member *m;
        const Member *parent;
        Puppet *p;
        uint64_t workshop;
        int *given; /* the numbers that the objects have in the clone */
} Build;

static int open_workshop(Build *b)
{
        static const uint8_t code[8] = {0x0f, 0x05, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc};
        Puppet *p = b->p;
        long r;

        b->workshop = vmas_find_free(b->m->vmas, b->parent->vmas, WORKSHOP_SIZE + MOVED_MAX);
        if (b->workshop == 0)
                return -ENOMEM;

        r = puppet_call(p, SYS_mmap, b->workshop, PUPPET_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t) -1);
        if (r >= 0)
                r = puppet_call(p, SYS_mmap, b->workshop + PUPPET_PAGE, TREE_PAGE, PROT_READ | PROT_EXEC,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t) -1);
        if (r >= 0)
                r = memory_write(b->m->job.instant.memory, p->tracee->pid, b->workshop + PUPPET_PAGE, code, sizeof(code));
        if (r < 0)
                return (int) r;

        p->page = b->workshop;
        p->syscall_at = b->workshop + PUPPET_PAGE;
        return 0;
}

/* What is given to the clone, if for a moment only, needs room among its descriptors. */
static long raise_limit(Build *b)
{
        struct rlimit limit = b->parent->state.limits[RLIMIT_NOFILE];
        long r;

        limit.rlim_cur = limit.rlim_max;
        r = puppet_write(b->p, b->p->page, &limit, sizeof(limit));
        return r < 0 ? r : puppet_call(b->p, SYS_prlimit64, 0, RLIMIT_NOFILE, b->p->page, 0);
}

/* The kernel writes there whenever the task returns to user mode, and kills it where there is nothing. */
static long leave_rseq(Build *b)
{
        const struct __ptrace_rseq_configuration *rseq = &b->parent->job.instant.rseq;

        return rseq->rseq_abi_pointer == 0 ? 0
                                           : puppet_call(b->p, SYS_rseq, rseq->rseq_abi_pointer, rseq->rseq_abi_size, RSEQ_FLAG_UNREGISTER,
                                                         rseq->signature);
}

static const Vma *find_start(const GArray *vmas, uint64_t start)
{
        for (guint k = 0; k < vmas->len; k++)
                if (VMA_AT(vmas, k)->start == start)
                        return VMA_AT(vmas, k);
        return NULL;
}

static const Vma *find_special(const GArray *vmas, const char *name)
{
        for (guint k = 0; k < vmas->len; k++)
                if ((VMA_AT(vmas, k)->flags & VMA_SPECIAL) && strcmp(VMA_AT(vmas, k)->name, name) == 0)
                        return VMA_AT(vmas, k);
        return NULL;
}

/* The vDSO and what belongs to it: where the parent has it is where the clone has it, and @m may have something else there. */
static long move_special(Build *b, bool away)
{
        const GArray *vmas = b->parent->vmas;
        uint64_t aside = b->workshop + WORKSHOP_SIZE;
        long r = 0;

        for (guint k = 0; k < vmas->len && r >= 0; k++) {
                const Vma *vma = VMA_AT(vmas, k), *wanted = find_special(b->m->vmas, vma->name);
                uint64_t size = vma->end - vma->start;

                if (!(vma->flags & VMA_SPECIAL) || (wanted && wanted->start == vma->start))
                        continue;
                if (!wanted || wanted->end - wanted->start != size || aside + size > b->workshop + WORKSHOP_SIZE + MOVED_MAX)
                        r = away ? puppet_call(b->p, SYS_munmap, vma->start, size) : 0;
                else {
                        r = puppet_call(b->p, SYS_mremap, away ? vma->start : aside, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
                                        away ? aside : wanted->start);
                        aside += size;
                }
        }

        return r;
}

static bool is_to_stay(const Build *b, const Vma *vma)
{
        const Vma *own = find_start(b->m->vmas, vma->start);

        return (vma->flags & VMA_SPECIAL) || (own && own->kept);
}

/* As few calls as possible: what is between two mappings may go along, but for the workshop. */
static long remove_others(Build *b)
{
        const GArray *vmas = b->parent->vmas;
        uint64_t start = 0, end = 0;
        long r = 0;

        for (guint k = 0; k <= vmas->len && r >= 0; k++) {
                const Vma *vma = k < vmas->len ? VMA_AT(vmas, k) : NULL;
                bool stays = !vma || is_to_stay(b, vma);

                if (start != 0 && (stays || (start < b->workshop && vma->start > b->workshop))) {
                        r = puppet_call(b->p, SYS_munmap, start, end - start);
                        start = 0;
                }
                if (stays)
                        continue;
                if (start == 0)
                        start = vma->start;
                end = vma->end;
        }

        return r;
}

/* A fork of the parent's clone has it, or it will be put there. */
static bool is_to_be_made(const Vma *vma)
{
        return !vma->kept && !(vma->flags & VMA_SPECIAL);
}

/* Content is written with the rights of the mapping where that does not make memory writable and executable, which may be forbidden. */
static bool is_opened_to_write(const Vma *vma)
{
        return vma_is_private(vma) && vma->written > 0 && vma->permissions[2] != 'x';
}

/* A segment of System V is attached as such, so that it is counted and can be detached. */
static long attach(Build *b, const Vma *vma)
{
        struct stat st;

        if (!g_str_has_prefix(vma->name, "/SYSV") || vma->offset != 0 || fstat(g_array_index(b->m->image.objects, int, vma->object), &st) < 0 ||
            (((uint64_t) st.st_size + TREE_PAGE - 1) & ~(uint64_t) (TREE_PAGE - 1)) != vma->end - vma->start)
                return -EINVAL;
        return puppet_call(b->p, SYS_shmat, vma->inode, vma->start,
                        (vma->permissions[1] == 'w' ? 0 : SHM_RDONLY) | (vma->permissions[2] == 'x' ? SHM_EXEC : 0));
}

static long make_mapping(Build *b, const Vma *vma)
{
        uint64_t flags = MAP_FIXED_NOREPLACE, protection = (uint64_t) vma_protection(vma), fd = (uint64_t) -1;

        if (vma->object >= 0 && attach(b, vma) >= 0)
                return 0;

        flags |= vma->permissions[3] == 's' ? MAP_SHARED : MAP_PRIVATE;
        flags |= vma->object < 0 ? MAP_ANONYMOUS : 0;
        flags |= vma->flags & VMA_GROWSDOWN ? MAP_GROWSDOWN : 0;
        flags |= vma->flags & VMA_NORESERVE ? MAP_NORESERVE : 0;
        if (is_opened_to_write(vma))
                protection |= PROT_READ | PROT_WRITE;
        if (vma->object >= 0)
                fd = (uint64_t) b->given[vma->object];
        return puppet_call(b->p, SYS_mmap, vma->start, vma->end - vma->start, protection, flags, fd, vma->object >= 0 ? vma->offset : 0);
}

static long make_mappings(Build *b, const char **ret_what)
{
        const GArray *objects = b->m->image.objects;
        long r = 0;

        b->given = g_new0(int, objects->len + 1);
        for (guint k = 0; r >= 0 && k < objects->len; k += PUPPET_GIVE_MAX)
                r = puppet_give(b->p, &g_array_index(objects, int, k), MIN(objects->len - k, PUPPET_GIVE_MAX), b->given + k);
        for (guint k = 0; r >= 0 && k < b->m->vmas->len; k++)
                if (is_to_be_made(VMA_AT(b->m->vmas, k))) {
                        r = make_mapping(b, VMA_AT(b->m->vmas, k));
                        *ret_what = VMA_AT(b->m->vmas, k)->name;
                }
        for (guint k = 0; r >= 0 && k < objects->len; k++)
                r = puppet_call(b->p, SYS_close, (uint64_t) b->given[k]);
        g_clear_pointer(&b->given, g_free);
        return r;
}

static int write_bytes(const Build *b, const Vma *vma, uint64_t address, const uint8_t *bytes, size_t n)
{
        bool writable = vma->kept ? vma->permissions[1] == 'w' : is_opened_to_write(vma) || vma->permissions[1] == 'w';

        if (writable && puppet_write(b->p, address, bytes, n) >= 0)
                return 0;
        return memory_write(b->m->job.instant.memory, b->p->tracee->pid, address, bytes, n);
}

static bool is_zero(const uint8_t *page)
{
        static const uint8_t zeros[TREE_PAGE];

        return memcmp(page, zeros, TREE_PAGE) == 0;
}

/* What the clone has already, by the fork or because nothing was written there yet, is shared as long as nobody writes. */
static int write_run(const Build *b, const PageRun *run)
{
        static uint8_t there[COMPARE_PAGES * TREE_PAGE];
        const Vma *vma = VMA_AT(b->m->vmas, run->vma);
        const uint8_t *bytes = b->m->image.bytes + run->at;
        uint64_t first = 0; /* of what is to be written */
        bool known = false, same;
        int r = 0;

        for (uint64_t at = 0; at < run->size && r >= 0; at += TREE_PAGE) {
                uint64_t in = at % sizeof(there);

                if (in == 0)
                        known = vma->kept && puppet_read(b->p, run->address + at, there, MIN(sizeof(there), run->size - at)) >= 0;
                same = known ? memcmp(bytes + at, there + in, TREE_PAGE) == 0 : !vma->kept && vma->object < 0 && is_zero(bytes + at);
                if (!same)
                        continue;
                if (at > first)
                        r = write_bytes(b, vma, run->address + first, bytes + first, at - first);
                first = at + TREE_PAGE;
        }

        return r < 0 || first >= run->size ? r : write_bytes(b, vma, run->address + first, bytes + first, run->size - first);
}

static long write_content(Build *b)
{
        const Image *i = &b->m->image;
        long r = 0;

        for (guint k = 0; k < i->drops->len && r >= 0; k++) {
                const PageRun *run = &g_array_index(i->drops, PageRun, k);

                r = puppet_call(b->p, SYS_madvise, run->address, run->size, MADV_DONTNEED);
        }
        for (guint k = 0; k < i->runs->len && r >= 0; k++)
                r = write_run(b, &g_array_index(i->runs, PageRun, k));
        return r;
}

/* Advice is not worth failing for, but for that which says what a fork of the clone is to have. */
static long advise(Build *b, const Vma *vma)
{
        static const struct {
                uint32_t flag;
                int advice;
        } table[] = {
                {VMA_DONTFORK, MADV_DONTFORK},     {VMA_WIPEONFORK, MADV_WIPEONFORK}, {VMA_HUGEPAGE, MADV_HUGEPAGE}, {VMA_NOHUGEPAGE, MADV_NOHUGEPAGE},
                {VMA_MERGEABLE, MADV_MERGEABLE},   {VMA_DONTDUMP, MADV_DONTDUMP},     {VMA_RANDOM, MADV_RANDOM},     {VMA_SEQUENTIAL, MADV_SEQUENTIAL},
        };
        long r = 0;

        for (size_t i = 0; i < G_N_ELEMENTS(table) && r != -ESRCH; i++)
                if (vma->flags & table[i].flag) {
                        r = puppet_call(b->p, SYS_madvise, vma->start, vma->end - vma->start, (uint64_t) table[i].advice);
                        if (r < 0 && table[i].flag != VMA_DONTFORK && table[i].flag != VMA_WIPEONFORK)
                                r = r == -ESRCH ? r : 0;
                }
        return r;
}

static long finish_mappings(Build *b)
{
        long r = 0;

        for (guint k = 0; k < b->m->vmas->len && r >= 0; k++) {
                const Vma *vma = VMA_AT(b->m->vmas, k);

                if (!is_to_be_made(vma))
                        continue;
                if (is_opened_to_write(vma) && (vma_protection(vma) & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE))
                        r = puppet_call(b->p, SYS_mprotect, vma->start, vma->end - vma->start, (uint64_t) vma_protection(vma));
                if (r >= 0)
                        r = advise(b, vma);
                if (r >= 0 && g_str_has_prefix(vma->name, "[anon:")) {
                        g_autofree char *name = g_strndup(vma->name + strlen("[anon:"), strlen(vma->name) - strlen("[anon:]"));

                        r = puppet_write(b->p, b->p->page, name, strlen(name) + 1);
                        if (r >= 0) /* a name is all that may be missing */
                                (void) puppet_call(b->p, SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma->start, vma->end - vma->start, b->p->page);
                }
        }

        return r;
}

/* Where code, heap, arguments and so on are, which /proc and brk(2) go by, and what program it is. */
static long set_layout(Build *b)
{
        struct prctl_mm_map layout = b->m->state.layout;
        const uint64_t args[6] = {PR_SET_MM, PR_SET_MM_MAP, b->p->page, sizeof(layout)};
        int exe = -1;
        long r = 0, k;

        if (b->m->state.exe >= 0)
                r = puppet_give(b->p, &b->m->state.exe, 1, &exe);
        layout.auxv = (void *) (uintptr_t) (b->p->page + sizeof(layout));
        layout.exe_fd = (uint32_t) exe;
        if (r >= 0)
                r = puppet_write(b->p, b->p->page, &layout, sizeof(layout));
        if (r >= 0)
                r = puppet_write(b->p, b->p->page + sizeof(layout), b->m->state.auxv, layout.auxv_size);
        if (r >= 0)
                r = puppet_call6(b->p, SYS_prctl, args);
        if (r == -EPERM && exe >= 0) {
                tree_note(b->tree, "/proc/PID/exe of the clone of process %d is that of its parent: the process lacks CAP_CHECKPOINT_RESTORE",
                                (int) target_pid(b->m->job.target));
                layout.exe_fd = (uint32_t) -1;
                r = puppet_write(b->p, b->p->page, &layout, sizeof(layout));
                if (r >= 0)
                        r = puppet_call6(b->p, SYS_prctl, args);
        }
        if (exe >= 0) {
                k = puppet_call(b->p, SYS_close, (uint64_t) exe);
                r = r < 0 ? r : k;
        }
        return r;
}

int member_build_memory(PtraceTree *t, Member *m, Puppet *p, CloneError *error)
{
        Build b = {.tree = t, .m = m, .parent = tree_parent(t, m), .p = p};
        const char *what = "memory";
        long r;

        m->job.instant.memory = memory_open(p->tracee->pid);
        r = leave_rseq(&b);
        if (r < 0)
                return member_failed(m, r, "it cannot leave the restartable sequences of its parent", error);
        r = open_workshop(&b);
        if (r >= 0)
                r = raise_limit(&b);
        if (r < 0)
                return member_failed(m, r, "it has no memory to work with", error);
        r = move_special(&b, true);
        if (r >= 0)
                r = remove_others(&b);
        if (r >= 0)
                r = move_special(&b, false);
        if (r < 0)
                return member_failed(m, r, "the memory of its parent cannot be removed", error);
        r = make_mappings(&b, &what);
        if (r < 0) {
                g_autofree char *text = g_strdup_printf("%s cannot be mapped", *what ? what : "memory");

                return member_failed(m, r, text, error);
        }
        r = write_content(&b);
        if (r >= 0)
                r = finish_mappings(&b);
        if (r < 0)
                return member_failed(m, r, "its memory cannot be written", error);
        r = set_layout(&b);
        if (r < 0)
                return member_failed(m, r, "the layout of its memory cannot be set", error);

        m->job.instant.cave_free = true;
        r = instant_write(&m->job.instant, p->tracee);
        return r < 0 ? member_failed(m, r, "its code cannot be written", error) : 0;
}
