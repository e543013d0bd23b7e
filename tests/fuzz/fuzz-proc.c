/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/credentials.h"
#include "daemon/target.h"
#include "tests/fuzz/fuzz.h"

/*
 * What the daemon reads of /proc/PID, from a directory that looks like one. The input: a byte that says how it is made, then
 *   even  the whole of "status", 0xff, the whole of "stat"
 *   odd   a process's name, to which the kernel sets no bounds but its length; all else is as it should be, and must come out
 */

#define START_TIME UINT64_C(424242)
#define NAME_MAX_SIZE 15U /* TASK_COMM_LEN of include/linux/sched.h, without the NUL */

static char directory[] = "/tmp/remfork-fuzz-XXXXXX";
static int directory_fd = -EBADF;

static void remove_directory(void)
{
        static const char *const names[] = {"status", "stat", "exe", "ns/user"};

        for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
                (void) unlinkat(directory_fd, names[i], 0);
        (void) unlinkat(directory_fd, "ns", AT_REMOVEDIR);
        (void) rmdir(directory);
}

static void make_directory(void)
{
        FUZZ_CHECK(mkdtemp(directory));
        directory_fd = open(directory, O_DIRECTORY | O_CLOEXEC | O_PATH);
        FUZZ_CHECK(directory_fd >= 0 && mkdirat(directory_fd, "ns", 0700) == 0);
        FUZZ_CHECK(symlinkat("/proc/self/ns/user", directory_fd, "ns/user") == 0);
        FUZZ_CHECK(symlinkat("/proc/self/exe", directory_fd, "exe") == 0);
        FUZZ_CHECK(atexit(remove_directory) == 0);
}

static void put_file(const char *name, const char *text, size_t size)
{
        int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        FUZZ_CHECK(fd >= 0 && write(fd, text, size) == (ssize_t) size);
        (void) close(fd);
}

static void put_any(FuzzInput *in)
{
        g_autofree char *status = NULL, *stat = NULL;
        size_t size;

        status = fuzz_take_text(in, 0xff, &size);
        put_file("status", status, size);
        stat = fuzz_take_text(in, 0xff, &size);
        put_file("stat", stat, size);
}

/* As proc_task_name() of fs/proc/array.c writes it into status: a newline and a backslash are escaped there, and only there. */
static char *escaped(const char *name)
{
        g_autoptr(GString) s = g_string_new(NULL);

        for (const char *p = name; *p; p++)
                if (*p == '\n')
                        g_string_append(s, "\\n");
                else if (*p == '\\')
                        g_string_append(s, "\\\\");
                else
                        g_string_append_c(s, *p);
        return g_string_free(g_steal_pointer(&s), FALSE);
}

static void put_named(FuzzInput *in)
{
        g_autofree char *name = fuzz_take_text(in, 0, NULL), *shown = NULL, *status = NULL, *stat = NULL;

        if (strlen(name) > NAME_MAX_SIZE)
                name[NAME_MAX_SIZE] = '\0';
        shown = escaped(name);

        status = g_strdup_printf("Name:\t%s\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t77\nPPid:\t3\nTracerPid:\t5\n"
                                 "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t5 \nNSpid:\t77\t9\nThreads:\t6\n"
                                 "CapInh:\t0000000000000001\nCapPrm:\t0000000000000002\nCapEff:\t0000000000000003\n"
                                 "CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000004\nSeccomp:\t2\nSeccomp_filters:\t1\n",
                        shown);
        put_file("status", status, strlen(status));

        stat = g_strdup_printf("77 (%s) T 3 77 77 0 -1 2097152 0 0 0 0 0 0 0 0 20 0 1 0 %" PRIu64 " 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 "
                               "1 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
                        name, START_TIME);
        put_file("stat", stat, strlen(stat));
}

static void check_named(const Credentials *c, const TargetStatus *s)
{
        for (uint32_t i = 0; i < _ID_MAX; i++)
                FUZZ_CHECK(c->uid[i] == i + 1 && c->gid[i] == i + 5);
        FUZZ_CHECK(c->inheritable == 1 && c->permitted == 2 && c->effective == 3 && c->ambient == 4);
        FUZZ_CHECK(c->start_time == START_TIME && s->start_time == START_TIME);
        FUZZ_CHECK(s->state == 'T' && s->parent == 3 && s->tracer == 5 && s->threads == 6 && s->own_pid == 9);
        FUZZ_CHECK(s->seccomp == 2 && s->processor == 1 && s->kernel_thread);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        FuzzInput in = {data, size};
        g_autoptr(Target) target = NULL;
        Credentials credentials;
        TargetStatus status;
        int r, k;
        bool named = fuzz_take(&in, 1) & 1;

        if (directory_fd < 0)
                make_directory();
        if (named)
                put_named(&in);
        else
                put_any(&in);

        target = target_new_received(getpid(), (int) syscall(SYS_pidfd_open, getpid(), 0), dup(directory_fd));
        r = target_read_credentials(target, (FileIdentity){}, &credentials);
        k = target_read_status(target, &status);
        FUZZ_CHECK(r == 0 || r == -EBADMSG);
        FUZZ_CHECK(k == 0 || k == -EBADMSG);
        if (named) {
                FUZZ_CHECK(r == 0 && k == 0);
                check_named(&credentials, &status);
        }
        return 0;
}
