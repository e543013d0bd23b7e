/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <elf.h>
#include <errno.h>
#include <glib.h>
#include <limits.h>
#include <stdio.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/engine/cave.h"
#include "daemon/engine/memory.h"

#define CAVE_ALIGNMENT 16U
#define CAVE_MAX 512U
#define PROGRAM_HEADERS_MAX 64U

typedef struct Mapping {
        uint64_t start, end, offset;
        char permissions[5];
        unsigned major, minor;
        unsigned long inode;
} Mapping;

static bool same_file(const Mapping *a, const Mapping *b)
{
        return a->inode == b->inode && a->major == b->major && a->minor == b->minor;
}

static int parse_line(const char *line, Mapping *ret)
{
        return sscanf(line, "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x %4s %" G_GINT64_MODIFIER "x %x:%x %lu", &ret->start,
                               &ret->end, ret->permissions, &ret->offset, &ret->major, &ret->minor, &ret->inode) == 7
                               ? 0
                               : -EBADMSG;
}

/* -ENOEXEC where no ELF file that can be loaded is mapped at @header. */
static int read_headers(pid_t pid, const Mapping *header, Elf64_Ehdr *ret, Elf64_Phdr ret_phdrs[static PROGRAM_HEADERS_MAX])
{
        uint8_t begin[sizeof(*ret) + PROGRAM_HEADERS_MAX * sizeof(Elf64_Phdr)]; /* less than a page: all is there, or nothing */
        size_t size;

        if (memory_read(pid, header->start, begin, sizeof(begin)) < 0)
                return -ENOEXEC;
        memcpy(ret, begin, sizeof(*ret));
        if (memcmp(ret->e_ident, ELFMAG, SELFMAG) != 0 || ret->e_ident[EI_CLASS] != ELFCLASS64 ||
            ret->e_phentsize != sizeof(Elf64_Phdr) || ret->e_phnum > PROGRAM_HEADERS_MAX ||
            ret->e_phoff > header->end - header->start)
                return -ENOEXEC;

        size = ret->e_phnum * sizeof(Elf64_Phdr);
        if (ret->e_phoff <= sizeof(begin) - size) { /* where every linker puts them */
                memcpy(ret_phdrs, begin + ret->e_phoff, size);
                return 0;
        }
        return memory_read(pid, header->start + ret->e_phoff, ret_phdrs, size) < 0 ? -ENOEXEC : 0;
}

/* Where the code of the file that begins at @header ends in the mapping @text; 0 where it cannot be told. */
static uint64_t code_end(pid_t pid, const Mapping *header, const Mapping *text)
{
        Elf64_Phdr phdrs[PROGRAM_HEADERS_MAX];
        Elf64_Ehdr ehdr;

        if (read_headers(pid, header, &ehdr, phdrs) < 0)
                return 0;

        for (unsigned i = 0; i < ehdr.e_phnum; i++) {
                const Elf64_Phdr *p = phdrs + i;

                if (p->p_type != PT_LOAD || !(p->p_flags & PF_X) || p->p_memsz != p->p_filesz)
                        continue;
                if (p->p_offset >= text->offset && p->p_offset - text->offset < text->end - text->start &&
                    p->p_filesz <= text->end - text->start - (p->p_offset - text->offset))
                        return text->start + (p->p_offset - text->offset) + p->p_filesz;
        }

        return 0;
}

static bool all_zero(const uint8_t *bytes, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (bytes[i] != 0)
                        return false;

        return true;
}

typedef struct Search {
        pid_t pid;
        size_t size;
        bool (*reusable)(const uint8_t *bytes);
        uint64_t *zeros; /* what was found */
        size_t n, max;
        uint64_t used; /* 0 for nothing */
} Search;

static void search_mapping(Search *s, const Mapping *header, const Mapping *text)
{
        uint64_t end = code_end(s->pid, header, text);
        uint8_t bytes[CAVE_MAX];

        if (end == 0)
                return;

        /* From the end of the page: the farthest from anything that runs. */
        for (uint64_t at = (text->end - s->size) & ~(uint64_t) (CAVE_ALIGNMENT - 1);
                        at >= end && s->n < s->max && memory_read(s->pid, at, bytes, s->size) == 0; at -= s->size) {
                if (all_zero(bytes, s->size))
                        s->zeros[s->n++] = at;
                else if (s->used == 0 && s->reusable(bytes))
                        s->used = at;
        }
}

static int search(const char *maps, Search *s, void (*look)(Search *s, const Mapping *header, const Mapping *m, const char *line))
{
        char line[PATH_MAX + 128]; /* a name is no longer than a path */
        Mapping header = {};

        for (const char *next = maps; *next && s->n < s->max;) {
                size_t n = strcspn(next, "\n"), k = MIN(n, sizeof(line) - 1);
                Mapping m;

                memcpy(line, next, k);
                line[k] = '\0';
                next += n + (next[n] == '\n');
                if (parse_line(line, &m) < 0)
                        return -EBADMSG;
                if (m.inode == 0)
                        continue;
                if (m.offset == 0)
                        header = m;
                if (same_file(&m, &header))
                        look(s, &header, &m, line);
        }

        return 0;
}

static void look_at_code(Search *s, const Mapping *header, const Mapping *m, const char *line)
{
        if (memcmp(m->permissions, "r-xp", 4) == 0)
                search_mapping(s, header, m);
}

int cave_find_many(const char *maps, pid_t pid, size_t size, bool (*reusable)(const uint8_t *bytes), uint64_t *ret, size_t max)
{
        Search s = {.pid = pid, .size = size, .reusable = reusable, .zeros = ret, .max = max};
        int r;

        g_return_val_if_fail(size <= CAVE_MAX && size % CAVE_ALIGNMENT == 0 && max > 0, -EINVAL);

        r = search(maps, &s, look_at_code);
        if (r < 0)
                return r;
        if (s.n == 0 && s.used != 0)
                ret[s.n++] = s.used;
        return s.n > 0 ? (int) s.n : -ENOENT;
}

int cave_find(const char *maps, pid_t pid, size_t size, bool (*reusable)(const uint8_t *bytes), uint64_t *ret)
{
        int r = cave_find_many(maps, pid, size, reusable, ret, 1);

        return r < 0 ? r : 0;
}

/*
 * The rest of the last page of an ELF file's variables, which the kernel fills with zeros (fs/binfmt_elf.c: padzero()). Not of
 * the dynamic loader, whose own malloc() takes it, and nowhere where musl's does: it takes all of them.
 */
static void look_at_variables(Search *s, const Mapping *header, const Mapping *m, const char *line)
{
        const uint64_t page = 4096;
        Elf64_Phdr phdrs[PROGRAM_HEADERS_MAX];
        uint64_t bias = 0;
        Elf64_Ehdr ehdr;

        /* Once for each file: at its first mapping. */
        if (m->offset != 0 || strstr(line, "/ld-") || read_headers(s->pid, m, &ehdr, phdrs) < 0)
                return;

        for (unsigned i = 0; i < ehdr.e_phnum && s->n < s->max; i++) {
                const Elf64_Phdr *p = phdrs + i;
                uint8_t bytes[CAVE_MAX];
                uint64_t begin, end;

                if (p->p_type != PT_LOAD)
                        continue;
                if (p->p_offset == 0)
                        bias = m->start - (p->p_vaddr & ~(page - 1));
                if (!(p->p_flags & PF_W) || p->p_memsz <= p->p_filesz)
                        continue;

                begin = (bias + p->p_vaddr + p->p_memsz + CAVE_ALIGNMENT - 1) & ~(uint64_t) (CAVE_ALIGNMENT - 1);
                end = (begin + page - 1) & ~(page - 1);
                while (s->n < s->max && end - begin >= s->size) {
                        end -= s->size;
                        if (memory_read(s->pid, end, bytes, s->size) == 0 && all_zero(bytes, s->size))
                                s->zeros[s->n++] = end;
                }
        }
}

int cave_find_variables(const char *maps, pid_t pid, size_t size, uint64_t *ret, size_t max)
{
        Search s = {.pid = pid, .size = size, .zeros = ret, .max = max};
        int r;

        g_return_val_if_fail(size <= CAVE_MAX && size % CAVE_ALIGNMENT == 0, -EINVAL);

        if (strstr(maps, "/ld-musl"))
                return 0;
        r = search(maps, &s, look_at_variables);
        return r < 0 ? r : (int) s.n;
}

static void look_at_variable_range(Search *s, const Mapping *header, const Mapping *m, const char *line)
{
        Elf64_Phdr phdrs[PROGRAM_HEADERS_MAX];
        uint64_t bias = 0;
        Elf64_Ehdr ehdr;

        if (m->offset != 0 || read_headers(s->pid, m, &ehdr, phdrs) < 0)
                return;

        for (unsigned i = 0; i < ehdr.e_phnum && s->n + 2 <= s->max; i++) {
                const Elf64_Phdr *p = phdrs + i;

                if (p->p_type != PT_LOAD)
                        continue;
                if (p->p_offset == 0)
                        bias = m->start - (p->p_vaddr & ~UINT64_C(4095));
                if (!(p->p_flags & PF_W))
                        continue;
                s->zeros[s->n++] = bias + p->p_vaddr;
                s->zeros[s->n++] = bias + p->p_vaddr + p->p_memsz;
        }
}

int cave_find_variable_ranges(const char *maps, pid_t pid, uint64_t (*ret)[2], size_t max)
{
        Search s = {.pid = pid, .zeros = ret[0], .max = 2 * max};
        int r = search(maps, &s, look_at_variable_range);

        return r < 0 ? r : (int) (s.n / 2);
}
