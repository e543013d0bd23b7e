/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine/forkmarks.h"
#include "daemon/engine/isolate-shared.h"
#include "daemon/engine/memlocks.h"
#include "daemon/engine/notes.h"

static const char plain[] =
        "55d0c0000000-55d0c0002000 rw-p 00000000 00:00 0                          [heap dc wf lo]\n"
        "Size:                  8 kB\n"
        "VmFlags: rd wr mr mw me ac sd dd \n";

static void test_nothing(void)
{
        g_auto(GStrv) s = notes_on_memory(plain, 7, CLONE_ISOLATE_NONE, true), empty = notes_on_memory("", 7, CLONE_ISOLATE_NONE, true);

        g_assert_null(s[0]);
        g_assert_null(empty[0]);
}

static const char rich[] =
        "1000-3000 rw-p 00000000 00:00 0 \n"
        "VmFlags: rd wr mr mw me dc \n"
        "5000-6000 rw-p 00000000 00:00 0 \n"
        "VmFlags: rd wr mr mw me dc lo\n"
        "7000-8000 rw-p 00000000 00:00 0 \n"
        "VmFlags: rd wr wf \n"
        "9000-a000 rw-s 00000000 00:01 17                         /dev/zero (deleted)\n"
        "VmFlags: rd wr sh \n"
        "b000-c000 rw-s 00000000 fd:01 18                         /srv/a file\n"
        "VmFlags: rd wr sh \n";

static void test_rich(void)
{
        g_auto(GStrv) s = notes_on_memory(rich, 7, CLONE_ISOLATE_NONE, true), isolated = notes_on_memory(rich, 7, CLONE_ISOLATE_ALL, true);

        g_assert_cmpuint(g_strv_length(s), ==, 3);
        g_assert_nonnull(strstr(s[0], "process 7 (12 KiB, the first at 1000) is marked MADV_DONTFORK"));
        g_assert_nonnull(strstr(s[1], "(4 KiB, the first at 7000) is marked MADV_WIPEONFORK"));
        g_assert_nonnull(strstr(s[2], "(4 KiB, the first at 9000) is shared"));
        g_assert_cmpuint(g_strv_length(isolated), ==, 2);
}

/* With an engine that gives the marked memory to the clone. */
static void test_given(void)
{
        static const char driver[] = "1000-3000 rw-s 00000000 00:05 5 /dev/x\nVmFlags: rd wr sh io dc \n";
        g_auto(GStrv) s = notes_on_memory(rich, 7, CLONE_ISOLATE_ALL, false), d = notes_on_memory(driver, 7, CLONE_ISOLATE_ALL, false);

        g_assert_cmpuint(g_strv_length(s), ==, 1);
        g_assert_nonnull(strstr(s[0], "(4 KiB, the first at 7000) is marked MADV_WIPEONFORK and is in the clone as it is"));
        g_assert_cmpuint(g_strv_length(d), ==, 1);
        g_assert_nonnull(strstr(d[0], "(8 KiB, the first at 1000) belongs to a driver and is marked MADV_DONTFORK"));
}

static const char marked[] =
        "1000-3000 rw-p 00000000 00:00 0 \nSize: 8 kB\nVmFlags: rd wr dc \n"
        "5000-6000 ---p 00000000 00:00 0 \nVmFlags: mr dc wf\n"
        "6000-7000 rw-p 00000000 00:00 0 [heap]\nVmFlags: rd wr \n"
        "7000-8000 rw-p 00000000 00:00 0 \nVmFlags: rd dc \n"
        "8000-9000 rw-s 00000000 00:05 5 /dev/x\nVmFlags: rd dc pf \n"
        "9000-a000 rw-p 00000000 00:00 0 \nVmFlags: rd dc\n"
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\nVmFlags: ex ";

static void test_marks(void)
{
        static const ForkMark expected[] = {{0x1000, 0x6000, false}, {0x5000, 0x6000, true}, {0x7000, 0x8000, false}, {0x9000, 0xa000, false}};
        g_autofree char *maps = NULL;
        g_autoptr(GArray) none = forkmarks_parse("", NULL), marks = forkmarks_parse(marked, &maps);

        g_assert_cmpuint(none->len, ==, 0);
        g_assert_cmpuint(marks->len, ==, G_N_ELEMENTS(expected));
        for (guint k = 0; k < marks->len; k++) {
                const ForkMark *m = &g_array_index(marks, ForkMark, k);

                g_assert_cmphex(m->start, ==, expected[k].start);
                g_assert_cmphex(m->end, ==, expected[k].end);
                g_assert_true(m->wipe == expected[k].wipe);
        }
        g_assert_true(g_str_has_prefix(maps, "1000-3000 rw-p 00000000 00:00 0 \n5000-6000 ---p"));
        g_assert_cmpuint(forkmarks_pages_of(getpid()), >, 100);
        g_assert_cmpuint(forkmarks_pages_of(0), ==, 0);
}

static void test_locks(void)
{
        static const char locked[] =
                "1000-3000 rw-p 00000000 00:00 0 [heap]\nVmFlags: rd lo \n"
                "3000-4000 r--p 00000000 00:00 0 \nVmFlags: rd lo\n"
                "5000-6000 rw-p 00000000 00:00 0 /x [stack]\nVmFlags: rd \n"
                "7000-8000 rw-p 00000000 00:00 0      [stack]\nVmFlags: rd lo";
        MemoryLocks l;

        memory_locks_parse(&l, locked);
        g_assert_cmpuint(l.list->len, ==, 2);
        g_assert_cmphex(g_array_index(l.list, MemoryLock, 0).start, ==, 0x1000);
        g_assert_cmphex(g_array_index(l.list, MemoryLock, 0).end, ==, 0x4000);
        g_assert_cmphex(g_array_index(l.list, MemoryLock, 1).start, ==, 0x7000);
        g_assert_true(l.all);
        memory_locks_clear(&l);

        memory_locks_parse(&l, plain); /* the name of a mapping is no flag */
        g_assert_cmpuint(l.list->len, ==, 0);
        g_assert_false(l.all);
        memory_locks_clear(&l);
}

static void test_shared_mapping(void)
{
        SharedMapping m;

        g_assert_false(shared_mapping_parse("", &m));
        g_assert_false(shared_mapping_parse("VmFlags: rd wr", &m));
        g_assert_false(shared_mapping_parse("1000-2000 rw-p 00000000 00:00 0 ", &m));
        g_assert_true(shared_mapping_parse("7f0000000000-7f0000001000 r--s 0000a000 00:01 1032                       /SYSV00001234 (deleted)", &m));
        g_assert_cmphex(m.start, ==, 0x7f0000000000);
        g_assert_cmphex(m.end, ==, 0x7f0000001000);
        g_assert_cmphex(m.offset, ==, 0xa000);
        g_assert_cmpuint(m.inode, ==, 1032);
        g_assert_cmpint(m.kind, ==, SHARED_SYSV);
        g_assert_cmpstr(m.name, ==, "/SYSV00001234 (deleted)");
        g_assert_true(shared_mapping_parse("1000-2000 rw-s 00000000 00:01 5 /memfd:a b (deleted)", &m));
        g_assert_cmpint(m.kind, ==, SHARED_MEMFD);
        /* A file of that name is no anonymous memory. */
        g_assert_true(shared_mapping_parse("1000-2000 rw-s 00000000 00:01 5 /dev/zero", &m));
        g_assert_cmpint(m.kind, ==, SHARED_FILE);
        g_assert_true(shared_mapping_parse("1000-2000 rw-s 00000000 00:1a 7 /dev/shm/sem.mp-x (deleted)", &m));
        g_assert_cmpint(m.kind, ==, SHARED_DELETED);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);

        g_test_add_func("/notes/nothing", test_nothing);
        g_test_add_func("/notes/rich", test_rich);
        g_test_add_func("/notes/given", test_given);
        g_test_add_func("/notes/marks", test_marks);
        g_test_add_func("/notes/locks", test_locks);
        g_test_add_func("/notes/shared-mapping", test_shared_mapping);
        return g_test_run();
}
