/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine/cave.h"
#include "daemon/engine/memory.h"

static void test_here(void)
{
        g_autofree char *maps = NULL;
        g_auto(GStrv) lines = NULL;
        uint64_t address = 0;
        bool executable = false;
        uint8_t bytes[192];

        g_assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
        g_assert_cmpint(cave_find(maps, getpid(), sizeof(bytes), &address), ==, 0);

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

        g_assert_cmpint(cave_find("", getpid(), 192, &address), ==, -ENOENT);
        g_assert_cmpint(cave_find("7000-8000 rw-p 00000000 00:00 0 \n", getpid(), 192, &address), ==, -ENOENT);
        /* A file mapped executable whose header is not mapped. */
        g_assert_cmpint(cave_find("7000-8000 r-xp 00001000 08:01 5 /bin/x\n", getpid(), 192, &address), ==, -ENOENT);
        g_assert_cmpint(cave_find("no map at all\n", getpid(), 192, &address), ==, -EBADMSG);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/cave/here", test_here);
        g_test_add_func("/cave/none", test_none);
        return g_test_run();
}
