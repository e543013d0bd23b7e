/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/engine/ptrace-tree-internal.h"

#define LOWEST_ADDRESS UINT64_C(0x10000)
#define HIGHEST_ADDRESS UINT64_C(0x7ffffffff000)
#define KERNEL_ADDRESS (UINT64_C(1) << 63)

/* Two letters each, Documentation/filesystems/proc.rst, "VmFlags". */
static const struct {
        char letters[3];
        uint32_t flag;
} flag_table[] = {
        {"dc", VMA_DONTFORK},   {"wf", VMA_WIPEONFORK}, {"gd", VMA_GROWSDOWN},  {"hg", VMA_HUGEPAGE}, {"nh", VMA_NOHUGEPAGE},
        {"mg", VMA_MERGEABLE},  {"dd", VMA_DONTDUMP},   {"rr", VMA_RANDOM},     {"sr", VMA_SEQUENTIAL}, {"nr", VMA_NORESERVE},
        {"mw", VMA_MAYWRITE},   {"ss", VMA_SHADOW_STACK}, {"ht", VMA_HUGETLB},
};

static uint32_t parse_flags(const char *line)
{
        uint32_t flags = 0;

        for (const char *p = line + strlen("VmFlags:"); *p == ' ' && p[1] && p[1] != '\n'; p += 3)
                for (size_t i = 0; i < G_N_ELEMENTS(flag_table); i++)
                        if (strncmp(p + 1, flag_table[i].letters, 2) == 0)
                                flags |= flag_table[i].flag;
        return flags;
}

/* What every process has, and is moved instead of copied. */
static bool is_special(const char *name)
{
        return strcmp(name, "[vdso]") == 0 || g_str_has_prefix(name, "[vvar") || strcmp(name, "[uprobes]") == 0;
}

static int parse_header(const char *line, const char *end, Vma *ret)
{
        int at = 0;

        *ret = (Vma){.object = -1};
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %15s %lu%n", &ret->start, &ret->end, ret->permissions, &ret->offset, ret->device,
                            &ret->inode, &at) != 6 ||
            at == 0)
                return -EBADMSG;

        while (line + at < end && line[at] == ' ')
                at++;
        ret->name = g_strndup(line + at, (gsize) (end - (line + at)));
        if (is_special(ret->name))
                ret->flags = VMA_SPECIAL;
        return 0;
}

/* "Key:   N kB"; 0 where the line is another. */
static uint64_t parse_size(const char *line, const char *key)
{
        uint64_t kib;

        return g_str_has_prefix(line, key) && sscanf(line + strlen(key), " %" SCNu64 " kB", &kib) == 1 ? kib * 1024 : 0;
}

static void clear_vma(void *p)
{
        g_free(((Vma *) p)->name);
}

int vmas_parse(const char *text, GArray **ret)
{
        g_autoptr(GArray) vmas = g_array_new(FALSE, FALSE, sizeof(Vma));
        Vma *last = NULL;

        g_array_set_clear_func(vmas, clear_vma);
        for (const char *line = text, *end; *line; line = *end ? end + 1 : end) {
                end = strchrnul(line, '\n');

                /* Keys begin with a capital letter, addresses have small ones. */
                if (!g_ascii_isupper(*line)) {
                        Vma vma;

                        if (parse_header(line, end, &vma) < 0)
                                return -EBADMSG;
                        if (vma.start >= KERNEL_ADDRESS) { /* [vsyscall] */
                                g_free(vma.name);
                                last = NULL;
                                continue;
                        }
                        g_array_append_val(vmas, vma);
                        last = VMA_AT(vmas, vmas->len - 1);
                } else if (last && *line == 'V')
                        last->flags |= g_str_has_prefix(line, "VmFlags:") ? parse_flags(line) : 0;
                else if (last && (*line == 'A' || *line == 'S' || *line == 'P'))
                        last->anonymous += parse_size(line, "Anonymous:") + parse_size(line, "Swap:") + parse_size(line, "Private_Hugetlb:") +
                                           parse_size(line, "Shared_Hugetlb:");
        }

        *ret = g_steal_pointer(&vmas);
        return 0;
}

int vmas_read(const Target *target, GArray **ret)
{
        g_autofree char *text = NULL;
        int r = target_read_file(target, "smaps", &text, NULL);

        return r < 0 ? r : vmas_parse(text, ret);
}

static bool same_place(const Vma *a, const Vma *b)
{
        return a->start == b->start && a->end == b->end && a->offset == b->offset && a->inode == b->inode &&
               strcmp(a->permissions, b->permissions) == 0 && strcmp(a->device, b->device) == 0 && strcmp(a->name, b->name) == 0;
}

bool vmas_are_current(const GArray *vmas, const Target *target)
{
        g_autoptr(GArray) now = NULL;
        g_autofree char *text = NULL;

        if (target_read_file(target, "maps", &text, NULL) < 0 || vmas_parse(text, &now) < 0 || now->len != vmas->len)
                return false;
        for (guint k = 0; k < now->len; k++) {
                const Vma *vma = VMA_AT(vmas, k);

                if (!same_place(vma, VMA_AT(now, k)) || (vma_is_private(vma) && vma->anonymous == 0 && vma->end - vma->start > VMA_LARGE))
                        return false;
        }

        return true;
}

bool vma_is_forked(const Vma *vma)
{
        return (vma->flags & (VMA_DONTFORK | VMA_WIPEONFORK)) == 0;
}

bool vma_is_private(const Vma *vma)
{
        return vma->permissions[3] == 'p' && !(vma->flags & VMA_SPECIAL);
}

int vma_protection(const Vma *vma)
{
        return (vma->permissions[0] == 'r' ? PROT_READ : 0) | (vma->permissions[1] == 'w' ? PROT_WRITE : 0) |
               (vma->permissions[2] == 'x' ? PROT_EXEC : 0);
}

/* The end of the mapping of @vmas that overlaps the range, else 0. */
static uint64_t end_of_overlap(const GArray *vmas, uint64_t start, uint64_t end)
{
        for (guint k = 0; k < vmas->len; k++)
                if (VMA_AT(vmas, k)->start < end && VMA_AT(vmas, k)->end > start)
                        return VMA_AT(vmas, k)->end;
        return 0;
}

uint64_t vmas_find_free(const GArray *a, const GArray *b, uint64_t size)
{
        uint64_t at = LOWEST_ADDRESS;

        while (at + size <= HIGHEST_ADDRESS) {
                uint64_t end = end_of_overlap(a, at, at + size);

                if (end == 0)
                        end = end_of_overlap(b, at, at + size);
                if (end == 0)
                        return at;
                at = end;
        }

        return 0;
}
