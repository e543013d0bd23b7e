/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/ptrace-tree-internal.h"

static const char smaps[] = "00400000-00401000 r-xp 00001000 fe:00 123                                /usr/bin/some name\n"
                            "Size:                  4 kB\n"
                            "Rss:                   4 kB\n"
                            "Anonymous:             0 kB\n"
                            "Swap:                  0 kB\n"
                            "VmFlags: rd ex mr mw me \n"
                            "01000000-01100000 rw-p 00000000 00:00 0                                  [heap]\n"
                            "Anonymous:            12 kB\n"
                            "Swap:                  8 kB\n"
                            "SwapPss:               8 kB\n"
                            "VmFlags: rd wr mr mw me ac dc hg \n"
                            "7f0000000000-7f0000002000 rw-s 00000000 00:01 77                         /dev/zero (deleted)\n"
                            "Anonymous:             0 kB\n"
                            "VmFlags: rd wr sh mr mw me ms \n"
                            "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n"
                            "Anonymous:            16 kB\n"
                            "VmFlags: rd wr mr mw me gd ac wf \n"
                            "7ffd10000000-7ffd10002000 r-xp 00000000 00:00 0                          [vdso]\n"
                            "VmFlags: rd ex mr mw me de \n"
                            "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
                            "Anonymous:             4 kB\n"
                            "VmFlags: ex \n";

static void test_parse(void)
{
        g_autoptr(GArray) vmas = NULL;

        g_assert_cmpint(vmas_parse(smaps, &vmas), ==, 0);
        g_assert_cmpuint(vmas->len, ==, 5);

        g_assert_cmpuint(VMA_AT(vmas, 0)->start, ==, 0x400000);
        g_assert_cmpuint(VMA_AT(vmas, 0)->end, ==, 0x401000);
        g_assert_cmpuint(VMA_AT(vmas, 0)->offset, ==, 0x1000);
        g_assert_cmpuint(VMA_AT(vmas, 0)->inode, ==, 123);
        g_assert_cmpstr(VMA_AT(vmas, 0)->device, ==, "fe:00");
        g_assert_cmpstr(VMA_AT(vmas, 0)->name, ==, "/usr/bin/some name");
        g_assert_cmpint(vma_protection(VMA_AT(vmas, 0)), ==, PROT_READ | PROT_EXEC);
        g_assert_cmpuint(VMA_AT(vmas, 0)->anonymous, ==, 0);
        g_assert_true(vma_is_private(VMA_AT(vmas, 0)));
        g_assert_true(vma_is_forked(VMA_AT(vmas, 0)));

        g_assert_cmpuint(VMA_AT(vmas, 1)->anonymous, ==, 20 * 1024); /* SwapPss is not counted */
        g_assert_cmpuint(VMA_AT(vmas, 1)->flags, ==, VMA_MAYWRITE | VMA_DONTFORK | VMA_HUGEPAGE);
        g_assert_false(vma_is_forked(VMA_AT(vmas, 1)));

        g_assert_false(vma_is_private(VMA_AT(vmas, 2)));
        g_assert_cmpstr(VMA_AT(vmas, 2)->name, ==, "/dev/zero (deleted)");

        g_assert_cmpuint(VMA_AT(vmas, 3)->flags, ==, VMA_MAYWRITE | VMA_GROWSDOWN | VMA_WIPEONFORK);
        g_assert_false(vma_is_forked(VMA_AT(vmas, 3)));

        g_assert_true(VMA_AT(vmas, 4)->flags & VMA_SPECIAL);
        g_assert_false(vma_is_private(VMA_AT(vmas, 4)));
}

static void test_bad(void)
{
        static const char *const texts[] = {"nonsense\n", "1000-2000 rw-p\n", "1000 2000 rw-p 0 00:00 0\n"};
        g_autoptr(GArray) vmas = NULL;

        for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
                g_assert_cmpint(vmas_parse(texts[i], &vmas), ==, -EBADMSG);
                g_assert_null(vmas);
        }
}

static void test_free(void)
{
        g_autoptr(GArray) a = NULL, b = NULL;

        g_assert_cmpint(vmas_parse("10000-12000 rw-p 0 00:00 0\n14000-20000 rw-p 0 00:00 0\n", &a), ==, 0);
        g_assert_cmpint(vmas_parse("13000-14000 rw-p 0 00:00 0\n20000-21000 rw-p 0 00:00 0\n", &b), ==, 0);
        g_assert_cmpuint(vmas_find_free(a, b, 0x1000), ==, 0x12000);
        g_assert_cmpuint(vmas_find_free(a, b, 0x2000), ==, 0x21000);
        g_assert_cmpuint(vmas_find_free(b, a, 0x2000), ==, 0x21000);
        g_assert_cmpuint(vmas_find_free(a, a, 0x2000), ==, 0x12000);
        g_assert_cmpuint(vmas_find_free(a, b, UINT64_C(1) << 47), ==, 0);
}

#define MAPPED_SIZE 4096

/* A process that stands still, changes its map, and stands still again. */
static pid_t start_changer(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                void *page = mmap(NULL, MAPPED_SIZE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

                (void) raise(SIGSTOP);
                (void) mprotect(page, MAPPED_SIZE, PROT_NONE);
                (void) raise(SIGSTOP);
                _exit(0);
        }
        return pid;
}

static void wait_for_stop(pid_t pid)
{
        int status;

        g_assert_cmpint(waitpid(pid, &status, WUNTRACED), ==, pid);
        g_assert_true(WIFSTOPPED(status));
}

static void test_current(void)
{
        g_autoptr(Target) changer = NULL;
        g_autoptr(GArray) vmas = NULL;
        pid_t pid;

#ifdef __SANITIZE_ADDRESS__
        g_test_skip("documented: the sanitizer's shadow is large and empty memory, of which it is always looked again");
        return;
#endif
        pid = start_changer();
        wait_for_stop(pid);
        g_assert_cmpint(target_new(&changer, pid, NULL), ==, 0);
        g_assert_cmpint(vmas_read(changer, &vmas), ==, 0);
        g_assert_true(vmas_are_current(vmas, changer));
        (void) kill(pid, SIGCONT);
        wait_for_stop(pid);
        g_assert_false(vmas_are_current(vmas, changer));

        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/tree-vmas/parse", test_parse);
        g_test_add_func("/tree-vmas/bad", test_bad);
        g_test_add_func("/tree-vmas/free", test_free);
        g_test_add_func("/tree-vmas/current", test_current);
        return g_test_run();
}
