/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <elf.h>
#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/engine/cave.h"
#include "daemon/engine/memory.h"

static bool never(const uint8_t *bytes)
{
        return false;
}

static bool starts_with_ours(const uint8_t *bytes)
{
        return bytes[0] == 0xc3;
}

/* An ELF file whose code ends 256 bytes before its page does: all but what is read here is left out. */
static void test_reuse(void)
{
        uint8_t *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t base = (uint64_t) (uintptr_t) file, address = 0, many[3];
        g_autofree char *maps = g_strdup_printf("%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x r--p 00000000 08:01 5 /x\n"
                                                "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x r-xp 00001000 08:01 5 /x\n",
                        base, base + 4096, base + 4096, base + 8192);
        Elf64_Phdr phdr = {.p_type = PT_LOAD, .p_flags = PF_X, .p_offset = 4096, .p_filesz = 3840, .p_memsz = 3840};
        Elf64_Ehdr ehdr = {.e_phoff = sizeof(ehdr), .e_phnum = 1, .e_phentsize = sizeof(phdr)};

        g_assert_true(file != MAP_FAILED);
        memcpy(ehdr.e_ident, ELFMAG, SELFMAG);
        ehdr.e_ident[EI_CLASS] = ELFCLASS64;
        memcpy(file, &ehdr, sizeof(ehdr));
        memcpy(file + sizeof(ehdr), &phdr, sizeof(phdr));

        g_assert_cmpint(cave_find(maps, getpid(), 128, starts_with_ours, &address), ==, 0);
        g_assert_cmphex(address, ==, base + 8192 - 128);

        /* One place is used: the other is taken, whatever it was used for. */
        file[8192 - 128] = 0xc3;
        g_assert_cmpint(cave_find(maps, getpid(), 128, starts_with_ours, &address), ==, 0);
        g_assert_cmphex(address, ==, base + 8192 - 256);

        /* Both are: only one that is known is taken again. */
        file[8192 - 256] = 0x90;
        g_assert_cmpint(cave_find(maps, getpid(), 128, starts_with_ours, &address), ==, 0);
        g_assert_cmphex(address, ==, base + 8192 - 128);
        g_assert_cmpint(cave_find(maps, getpid(), 128, never, &address), ==, -ENOENT);

        /* Many: no more than were asked for; one that was used, only where there is no other. */
        g_assert_cmpint(cave_find_many(maps, getpid(), 128, starts_with_ours, many, G_N_ELEMENTS(many)), ==, 1);
        g_assert_cmphex(many[0], ==, base + 8192 - 128);
        memset(file + 8192 - 256, 0, 256);
        g_assert_cmpint(cave_find_many(maps, getpid(), 64, starts_with_ours, many, G_N_ELEMENTS(many)), ==, 3);
        for (size_t i = 0; i < G_N_ELEMENTS(many); i++)
                g_assert_cmphex(many[i], ==, base + 8192 - 64 * (i + 1));
        munmap(file, 8192);
}

/* An ELF file whose variables end 64 bytes before their page does. */
static void test_variables(void)
{
        uint8_t *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t base = (uint64_t) (uintptr_t) file, found[4];
        Elf64_Phdr phdrs[] = {
                {.p_type = PT_LOAD, .p_flags = PF_R, .p_filesz = 4096, .p_memsz = 4096},
                {.p_type = PT_LOAD, .p_flags = PF_R | PF_W, .p_offset = 4096, .p_vaddr = 4096, .p_filesz = 100, .p_memsz = 4032},
        };
        Elf64_Ehdr ehdr = {.e_phoff = sizeof(ehdr), .e_phnum = G_N_ELEMENTS(phdrs), .e_phentsize = sizeof(phdrs[0])};
        static const struct {
                const char *path;
                int n;
        } cases[] = {{"/usr/bin/x", 2}, {"/lib64/ld-linux-x86-64.so.2", 0}, {"/lib/ld-musl-x86_64.so.1", 0}};

        g_assert_true(file != MAP_FAILED);
        memcpy(ehdr.e_ident, ELFMAG, SELFMAG);
        ehdr.e_ident[EI_CLASS] = ELFCLASS64;
        memcpy(file, &ehdr, sizeof(ehdr));
        memcpy(file + sizeof(ehdr), phdrs, sizeof(phdrs));

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                g_autofree char *maps = g_strdup_printf("%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x r--p 00000000 08:01 5 %s\n",
                                base, base + 4096, cases[i].path);

                g_assert_cmpint(cave_find_variables(maps, getpid(), 32, found, G_N_ELEMENTS(found)), ==, cases[i].n);
                if (cases[i].n == 0)
                        continue;
                g_assert_cmphex(found[0], ==, base + 8192 - 32);
                g_assert_cmphex(found[1], ==, base + 8192 - 64);
                file[8192 - 32] = 1; /* not as the kernel left it */
                g_assert_cmpint(cave_find_variables(maps, getpid(), 32, found, G_N_ELEMENTS(found)), ==, 1);
                g_assert_cmphex(found[0], ==, base + 8192 - 64);
        }

        munmap(file, 8192);
}

static void test_here(void)
{
        g_autofree char *maps = NULL;
        g_auto(GStrv) lines = NULL;
        uint64_t address = 0;
        bool executable = false;
        uint8_t bytes[192];

        g_assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
        g_assert_cmpint(cave_find(maps, getpid(), sizeof(bytes), never, &address), ==, 0);

        lines = g_strsplit(maps, "\n", -1);
        for (char **l = lines; *l; l++) {
                unsigned long start, end;
                char permissions[5];

                if (sscanf(*l, "%lx-%lx %4s", &start, &end, permissions) == 3 && address >= start && address + sizeof(bytes) <= end)
                        executable = strcmp(permissions, "r-xp") == 0;
        }
        g_assert_true(executable);

        g_assert_cmpint(memory_read(getpid(), address, bytes, sizeof(bytes)), ==, 0);
        for (size_t i = 0; i < sizeof(bytes); i++)
                g_assert_cmphex(bytes[i], ==, 0);
}

static void test_none(void)
{
        uint64_t address;

        g_assert_cmpint(cave_find("", getpid(), 192, never, &address), ==, -ENOENT);
        g_assert_cmpint(cave_find("7000-8000 rw-p 00000000 00:00 0 \n", getpid(), 192, never, &address), ==, -ENOENT);
        /* A file mapped executable whose header is not mapped. */
        g_assert_cmpint(cave_find("7000-8000 r-xp 00001000 08:01 5 /bin/x\n", getpid(), 192, never, &address), ==, -ENOENT);
        g_assert_cmpint(cave_find("no map at all\n", getpid(), 192, never, &address), ==, -EBADMSG);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/cave/here", test_here);
        g_test_add_func("/cave/reuse", test_reuse);
        g_test_add_func("/cave/none", test_none);
        g_test_add_func("/cave/variables", test_variables);
        return g_test_run();
}
