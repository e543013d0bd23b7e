/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/capability.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/memory.h"
#include "daemon/util.h"

/* The same page in this process and, copied by fork(), in the child: mapped without the right to write, as code is. */
static uint64_t *page;

/* A child of user @uid that waits, traced and stopped. */
static pid_t start_child(uid_t uid)
{
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                if (uid != 0 && setresuid(uid, uid, uid) < 0)
                        _exit(EXIT_FAILURE);
                /* The change of user made it non-dumpable, as if it were setuid: its files in /proc would be root's. */
                (void) prctl(PR_SET_DUMPABLE, 1);
                (void) ptrace(PTRACE_TRACEME, 0, NULL, NULL);
                (void) raise(SIGSTOP);
                _exit(EXIT_SUCCESS);
        }

        g_assert_cmpint(RETRY_EINTR(waitpid(pid, &status, __WALL)), ==, pid);
        g_assert_true(WIFSTOPPED(status));
        return pid;
}

static void end_child(pid_t pid)
{
        (void) kill(pid, SIGKILL);
        (void) RETRY_EINTR(waitpid(pid, NULL, __WALL));
}

static void set_override(cap_flag_t flag, cap_flag_value_t value)
{
        const cap_value_t override = CAP_DAC_OVERRIDE;
        cap_t caps = cap_get_proc();

        g_assert_cmpint(cap_set_flag(caps, flag, 1, &override, value), ==, 0);
        g_assert_cmpint(cap_set_proc(caps), ==, 0);
        cap_free(caps);
}

static int n_capability_sets = -1; /* that succeed before one fails; negative: all do */

/* In the place of the C library's: to give a capability up never fails otherwise. */
int capset(cap_user_header_t header, const cap_user_data_t data)
{
        int (*real)(cap_user_header_t, const cap_user_data_t) =
                        (int (*)(cap_user_header_t, const cap_user_data_t)) dlsym(RTLD_NEXT, "capset");

        g_assert_nonnull(real);
        if (n_capability_sets == 0) {
                errno = EPERM;
                return -1;
        }
        if (n_capability_sets > 0)
                n_capability_sets--;
        return real(header, data);
}

static bool override_effective(void)
{
        cap_t caps = cap_get_proc();
        cap_flag_value_t value = CAP_SET;

        g_assert_cmpint(cap_get_flag(caps, CAP_DAC_OVERRIDE, CAP_EFFECTIVE, &value), ==, 0);
        cap_free(caps);
        return value == CAP_SET;
}

static void check_write(int fd, pid_t pid)
{
        const uint64_t words[] = {0x1122334455667788, 0x99aabbccddeeff00};
        uint64_t back[3], here[3];

        g_assert_cmpint(memory_write(fd, pid, (uint64_t) (uintptr_t) (page + 1), words, sizeof(words)), ==, 0);
        g_assert_cmpint(memory_read(pid, (uint64_t) (uintptr_t) page, back, sizeof(back)), ==, 0);
        g_assert_cmphex(back[0], ==, 0);
        g_assert_cmphex(back[1], ==, words[0]);
        g_assert_cmphex(back[2], ==, words[1]);

        memcpy(here, page, sizeof(here));
        g_assert_cmphex(here[1], ==, 0); /* the child has a copy of its own */
}

static void test_words(void)
{
        const uint64_t word = 0;
        pid_t pid = start_child(getuid());

        check_write(-EBADF, pid);
        g_assert_cmpint(memory_write(-EBADF, pid, 16, &word, sizeof(word)), ==, -EIO);
        end_child(pid);
}

static void test_file(void)
{
        const uint64_t word = 0;
        pid_t pid = start_child(getuid());
        int fd = memory_open(pid);

        g_assert_cmpint(fd, >=, 0);
        check_write(fd, pid);
        g_assert_cmpint(memory_write(fd, pid, 16, &word, sizeof(word)), ==, -EIO);
        close(fd);
        end_child(pid);
}

/* As the daemon has it: permitted, and in force while the file is opened. */
static void test_override(void)
{
        pid_t pid;
        int fd;

        if (getuid() != 0) {
                g_test_skip("only root can start a process of another user");
                return;
        }
        pid = start_child(65534);
        set_override(CAP_EFFECTIVE, CAP_CLEAR);

        fd = memory_open(pid);
        g_assert_cmpint(fd, >=, 0);
        g_assert_false(override_effective());
        check_write(fd, pid);
        close(fd);

        set_override(CAP_PERMITTED, CAP_CLEAR);
        g_assert_cmpint(memory_open(pid), ==, -EACCES);
        check_write(-EACCES, pid);
        end_child(pid);
}

/* A worker that would keep the capability ends before it opens anything else. */
static void test_override_stays(void)
{
        int status;
        pid_t pid, worker;

        if (getuid() != 0) {
                g_test_skip("only root can start a process of another user");
                return;
        }
        pid = start_child(65534);
        worker = fork();
        if (worker == 0) {
                set_override(CAP_EFFECTIVE, CAP_CLEAR);
                n_capability_sets = 1;
                (void) memory_open(pid);
                _exit(77);
        }
        g_assert_cmpint(waitpid(worker, &status, 0), ==, worker);
        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, EXIT_FAILURE);
        end_child(pid);
}

static void test_ranges(void)
{
        uint64_t a = 1, b = 2, got[2] = {};
        const MemoryRange ranges[] = {
                {.address = (uint64_t) (uintptr_t) &b, .buffer = got, .size = sizeof(b)},
                {.address = (uint64_t) (uintptr_t) &a, .buffer = got + 1, .size = sizeof(a)},
                {.address = 16, .buffer = got, .size = 1},
        };

        g_assert_cmpint(memory_read_ranges(getpid(), ranges, 2), ==, 0);
        g_assert_cmphex(got[0], ==, 2);
        g_assert_cmphex(got[1], ==, 1);
        g_assert_cmpint(memory_read_ranges(getpid(), ranges, 3), ==, -EFAULT);
        g_assert_cmpint(memory_read_ranges(getpid(), ranges, 100), ==, -EINVAL);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);

        page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        g_assert_true(page != MAP_FAILED);

        g_test_add_func("/memory/words", test_words);
        g_test_add_func("/memory/file", test_file);
        g_test_add_func("/memory/ranges", test_ranges);
        g_test_add_func("/memory/override-stays", test_override_stays);
        g_test_add_func("/memory/override", test_override); /* last: it gives the capability away */

        return g_test_run();
}
