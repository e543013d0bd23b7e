/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <elf.h>
#include <errno.h>
#include <glib.h>
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


/* Where the code of the file that begins at @header ends in the mapping @text; 0 where it cannot be told. */
static uint64_t code_end(pid_t pid, const Mapping *header, const Mapping *text)
{
        Elf64_Phdr phdrs[PROGRAM_HEADERS_MAX];
        Elf64_Ehdr ehdr;

        if (0 != memory_read(pid, header->start, &ehdr, sizeof(ehdr)) || memcmp(ehdr.e_ident, ELFMAG, SELFMAG) != 0 ||
            ehdr.e_ident[EI_CLASS] != ELFCLASS64 || ehdr.e_phentsize != sizeof(Elf64_Phdr) ||
            ehdr.e_phnum > PROGRAM_HEADERS_MAX || ehdr.e_phoff > header->end - header->start)
                return 0;

        if (0 != memory_read(pid, header->start + ehdr.e_phoff, phdrs, ehdr.e_phnum * sizeof(Elf64_Phdr)))
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
        uint64_t zeros, used; /* what was found, 0 for nothing */
} Search;

static void search_mapping(Search *s, const Mapping *header, const Mapping *text)
{
        uint64_t end = code_end(s->pid, header, text);
        uint8_t bytes[CAVE_MAX];

        if (end == 0)
                return;

        /* From the end of the page: the farthest from anything that runs. */
        for (uint64_t at = (text->end - s->size) & ~(uint64_t) (CAVE_ALIGNMENT - 1);
                        at >= end && s->zeros == 0 && memory_read(s->pid, at, bytes, s->size) == 0; at -= s->size) {
                if (all_zero(bytes, s->size))
                        s->zeros = at;
                else if (s->used == 0 && s->reusable(bytes))
                        s->used = at;
        }
}

int cave_find(const char *maps, pid_t pid, size_t size, bool (*reusable)(const uint8_t *bytes), uint64_t *ret)
{
        g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
        Search s = {.pid = pid, .size = size, .reusable = reusable};
        Mapping header = {};

        g_return_val_if_fail(size <= CAVE_MAX && size % CAVE_ALIGNMENT == 0, -EINVAL);

        for (char **line = lines; *line && **line && s.zeros == 0; line++) {
                Mapping m;

                if (parse_line(*line, &m) < 0)
                        return -EBADMSG;
                if (m.inode == 0)
                        continue;
                if (m.offset == 0)
                        header = m;
                if (memcmp(m.permissions, "r-xp", 4) == 0 && same_file(&m, &header))
                        search_mapping(&s, &header, &m);
        }

        *ret = s.zeros != 0 ? s.zeros : s.used;
        return *ret != 0 ? 0 : -ENOENT;
}
