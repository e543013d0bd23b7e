/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/bus-util.h"
#include "daemon/spec.h"
#include "daemon/util.h"

static sd_bus *bus;

/* A sealed message with an a{sv} of @types and what follows, read by spec_read(). */
static int read_options(CloneSpec *ret, CloneError *error, const char *types, ...)
{
        _cleanup_bus_message_ sd_bus_message *m = NULL;
        va_list ap;

        g_assert_cmpint(sd_bus_message_new_method_call(bus, &m, "a.b", "/", "a.b", "C"), >=, 0);
        va_start(ap, types);
        g_assert_cmpint(sd_bus_message_appendv(m, types, ap), >=, 0);
        va_end(ap);
        g_assert_cmpint(sd_bus_message_seal(m, 1, 0), >=, 0);
        return spec_read(m, ret, error);
}

#define BAD(r_, code_, text_, ...)                                              \
        G_STMT_START                                                            \
        {                                                                       \
                _cleanup_clone_error_ CloneError e_ = CLONE_ERROR_INIT;         \
                CloneSpec s_ = {.count = 77};                                   \
                                                                                \
                g_assert_cmpint(read_options(&s_, &e_, __VA_ARGS__), ==, r_);   \
                g_assert_cmpint(e_.code, ==, code_);                            \
                if (!strstr(e_.message, text_))                                 \
                        g_error("\"%s\" lacks \"%s\"", e_.message, text_);      \
                g_assert_cmpuint(s_.count, ==, 77);                             \
        }                                                                       \
        G_STMT_END

#define INVALID(text_, ...) BAD(-EINVAL, CLONE_ERROR_INVALID_ARGS, text_, __VA_ARGS__)

static void test_defaults(void)
{
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 0), ==, 0);
        g_assert_cmpint(s.trigger, ==, CLONE_TRIGGER_IMMEDIATE);
        g_assert_cmpint(s.parent, ==, CLONE_PARENT_SHARED);
        g_assert_cmpint(s.engine, ==, CLONE_ENGINE_AUTO);
        g_assert_cmpint(s.threads, ==, CLONE_THREADS_ALL);
        g_assert_false(s.stopped);
        g_assert_cmpuint(s.count, ==, 1);
        g_assert_cmpuint(s.timeout_usec, ==, 0);
        g_assert_cmpint(s.isolate, ==, CLONE_ISOLATE_NONE);
        g_assert_false(s.session);
        g_assert_null(s.fds);
}

static void test_all(void)
{
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 9, "trigger", "s", "syscall", "parent", "s", "daemon", "engine", "s",
                                        "ptrace", "stopped", "b", 1, "count", "u", 1000U, "timeout-usec", "t",
                                        CLONE_TIMEOUT_MAX_USEC, "isolate", "s", "none", "tree", "b", 0, "threads", "s", "caller"),
                        ==, 0);
        g_assert_cmpint(s.trigger, ==, CLONE_TRIGGER_SYSCALL);
        g_assert_cmpint(s.parent, ==, CLONE_PARENT_DAEMON);
        g_assert_cmpint(s.engine, ==, CLONE_ENGINE_PTRACE);
        g_assert_cmpint(s.threads, ==, CLONE_THREADS_CALLER);
        g_assert_true(s.stopped);
        g_assert_cmpuint(s.count, ==, 1000);
        g_assert_cmpuint(s.timeout_usec, ==, CLONE_TIMEOUT_MAX_USEC);
}

static void test_bad(void)
{
        INVALID("\"cuont\"", "a{sv}", 1, "cuont", "u", 1U);
        INVALID("\"\"", "a{sv}", 1, "", "u", 1U);
        INVALID("\\x0a", "a{sv}", 1, "a\nb", "u", 1U);
        INVALID("count has the D-Bus type s, u was", "a{sv}", 1, "count", "s", "1");
        INVALID("count has the D-Bus type t, u was", "a{sv}", 1, "count", "t", G_GUINT64_CONSTANT(1));
        INVALID("stopped has the D-Bus type s, b was", "a{sv}", 1, "stopped", "s", "yes");
        INVALID("count is 0, a number from 1 to 1000", "a{sv}", 1, "count", "u", 0U);
        INVALID("count is 1001,", "a{sv}", 1, "count", "u", 1001U);
        INVALID("count is 4294967295,", "a{sv}", 1, "count", "u", UINT32_MAX);
        INVALID("count is given twice", "a{sv}", 2, "count", "u", 1U, "count", "u", 1U);
        INVALID("trigger is \"never\", immediate or syscall", "a{sv}", 1, "trigger", "s", "never");
        INVALID("threads is \"one\", all or caller", "a{sv}", 1, "threads", "s", "one");
        INVALID("threads has the D-Bus type b, s was", "a{sv}", 1, "threads", "b", 1);
        INVALID("engine is \"\", auto, kernel or ptrace", "a{sv}", 1, "engine", "s", "");
        INVALID("isolate is \"some\", none, files or all", "a{sv}", 1, "isolate", "s", "some");
        INVALID("parent is \"me\\x22\", shared or daemon", "a{sv}", 1, "parent", "s", "me\"");
        INVALID("timeout-usec is 18446744073709551615,", "a{sv}", 1, "timeout-usec", "t", UINT64_MAX);
        /* An option before the bad one changes nothing either. */
        INVALID("count is 0", "a{sv}", 2, "stopped", "b", 1, "count", "u", 0U);
}

static void test_same_pids(void)
{
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 0), ==, 0);
        g_assert_false(s.same_pids);
        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 2, "same-pids", "b", 1, "tree", "b", 1), ==, 0);
        g_assert_true(s.same_pids && s.tree);
        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 2, "same-pids", "b", 0, "count", "u", 2U), ==, 0);
        g_assert_false(s.same_pids);
        INVALID("same-pids has the D-Bus type s, b was", "a{sv}", 1, "same-pids", "s", "true");
        INVALID("count is 2, with same-pids only 1 was expected", "a{sv}", 2, "same-pids", "b", 1, "count", "u", 2U);
}

static void test_tree(void)
{
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 2, "tree", "b", 1, "count", "u", 1U), ==, 0);
        g_assert_true(s.tree);
        INVALID("tree has the D-Bus type s, b was", "a{sv}", 1, "tree", "s", "false");
        INVALID("count is 2, with tree only 1 was expected", "a{sv}", 2, "tree", "b", 1, "count", "u", 2U);
        INVALID("trigger is \"syscall\", with tree", "a{sv}", 2, "trigger", "s", "syscall", "tree", "b", 1);
}

/* A pipe and a file of each access mode. */
typedef struct Files {
        int in, out, both, path;
} Files;

static Files open_files(void)
{
        Files f = {
                .in = open("/dev/null", O_RDONLY | O_CLOEXEC),
                .out = open("/dev/null", O_WRONLY | O_CLOEXEC),
                .both = open("/dev/null", O_RDWR | O_CLOEXEC),
                .path = open("/dev/null", O_PATH | O_CLOEXEC),
        };

        g_assert_true(f.in >= 0 && f.out >= 0 && f.both >= 0 && f.path >= 0);
        return f;
}

static void close_files(const Files *f)
{
        safe_close(f->in);
        safe_close(f->out);
        safe_close(f->both);
        safe_close(f->path);
}

static int n_open(void)
{
        g_autoptr(GDir) d = g_dir_open("/proc/self/fd", 0, NULL);
        int n = 0;

        while (g_dir_read_name(d))
                n++;
        return n;
}

static void test_fds(void)
{
        const Files f = open_files();
        int before = n_open();
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 5, "stdin", "h", f.in, "stdout", "h", f.out, "stderr", "h", f.both, "fds",
                                        "a(uh)", 2, 7U, f.in, 2147483647U, f.out, "close", "au", 2, 5U, 3U),
                        ==, 0);
        g_assert_nonnull(s.fds);
        g_assert_cmpuint(s.fds->n, ==, 7);
        for (size_t i = 0; i < s.fds->n; i++) {
                static const int numbers[] = {0, 1, 2, 7, INT_MAX, 5, 3};

                g_assert_cmpint(s.fds->items[i].number, ==, numbers[i]);
                if (i >= 5)
                        g_assert_cmpint(s.fds->items[i].fd, ==, -EBADF);
                else
                        g_assert_cmpint(fcntl(s.fds->items[i].fd, F_GETFD), ==, FD_CLOEXEC);
        }
        g_assert_cmpint(fcntl(s.fds->items[1].fd, F_GETFL) & O_ACCMODE, ==, O_WRONLY);
        spec_clear(&s);
        g_assert_null(s.fds);
        g_assert_cmpint(n_open(), ==, before);
        close_files(&f);
}

static void test_bad_fds(void)
{
        const Files f = open_files();
        int before = n_open();

        INVALID("stdin: the descriptor passed is open for writing only", "a{sv}", 1, "stdin", "h", f.out);
        INVALID("stdout: the descriptor passed is open for reading only", "a{sv}", 1, "stdout", "h", f.in);
        INVALID("stderr: the descriptor passed is open for reading only", "a{sv}", 1, "stderr", "h", f.in);
        INVALID("stdin: the descriptor passed for 0 is O_PATH", "a{sv}", 1, "stdin", "h", f.path);
        INVALID("fds: the descriptor passed for 9 is O_PATH", "a{sv}", 1, "fds", "a(uh)", 1, 9U, f.path);
        INVALID("fds names descriptor 2147483648,", "a{sv}", 1, "fds", "a(uh)", 1, 2147483648U, f.in);
        INVALID("close names descriptor 4294967295,", "a{sv}", 1, "close", "au", 1, UINT32_MAX);
        INVALID("fds names descriptor 5, which another", "a{sv}", 1, "fds", "a(uh)", 2, 5U, f.in, 5U, f.out);
        INVALID("stdin names descriptor 0, which another", "a{sv}", 2, "fds", "a(uh)", 1, 0U, f.in, "stdin", "h", f.in);
        INVALID("close names descriptor 1, which another", "a{sv}", 2, "stdout", "h", f.out, "close", "au", 1, 1U);
        INVALID("stdin is given twice", "a{sv}", 2, "stdin", "h", f.in, "stdin", "h", f.in);
        INVALID("stdin has the D-Bus type u, h was", "a{sv}", 1, "stdin", "u", 0U);
        INVALID("fds has the D-Bus type ah, a(uh) was", "a{sv}", 1, "fds", "ah", 0);
        /* What was taken before the bad one is given back. */
        INVALID("count is 0", "a{sv}", 2, "stdin", "h", f.in, "count", "u", 0U);
        g_assert_cmpint(n_open(), ==, before);
        close_files(&f);
}

static void test_too_many_fds(void)
{
        _cleanup_clone_error_ CloneError e = CLONE_ERROR_INIT;
        CloneFds *fds = NULL;

        for (uint32_t i = 0; i < CLONE_FDS_MAX; i++)
                g_assert_cmpint(clone_fds_add_closed(&fds, "close", i, &e), ==, 0);
        g_assert_cmpint(clone_fds_add_closed(&fds, "close", CLONE_FDS_MAX, &e), ==, -EINVAL);
        g_assert_nonnull(strstr(e.message, "descriptor 64, which is one more than the 64"));
        g_assert_cmpuint(fds->n, ==, CLONE_FDS_MAX);
        clone_fds_free(fds);
}

static void test_scope(void)
{
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 3, "slice", "s", "user-1000.slice", "properties", "a(sv)", 4, "MemoryMax", "t",
                                        UINT64_C(1) << 40, "MemoryHighScale", "u", UINT32_MAX, "Description", "s", "a b", "SendSIGKILL", "b",
                                        0, "scope", "s", "my-own:x_1.scope"),
                        ==, 0);
        g_assert_cmpstr(s.scope->name, ==, "my-own:x_1.scope");
        g_assert_cmpstr(s.scope->slice, ==, "user-1000.slice");
        g_assert_cmpuint(s.scope->n_properties, ==, 4);
        g_assert_cmpstr(s.scope->properties[0].name, ==, "MemoryMax");
        g_assert_cmpuint(s.scope->properties[0].number, ==, UINT64_C(1) << 40);
        g_assert_cmpuint(s.scope->properties[1].number, ==, UINT32_MAX);
        g_assert_cmpstr(s.scope->properties[2].text, ==, "a b");
        g_assert_cmpuint(s.scope->properties[3].number, ==, 0);
        spec_clear(&s);
        g_assert_null(s.scope);

        /* The name is the daemon's to choose. */
        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 1, "scope", "s", ""), ==, 0);
        g_assert_nonnull(s.scope);
        g_assert_null(s.scope->name);
        spec_clear(&s);

        /* Nothing is asked for by these. */
        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 2, "slice", "s", "", "properties", "a(sv)", 0), ==, 0);
        g_assert_null(s.scope);
}

static void test_bad_scope(void)
{
        g_autofree char *long_name = g_strnfill(250, 'x'), *longer = g_strconcat(long_name, ".scope", NULL);

        INVALID("scope is \"x.service\", the name of a unit that ends in .scope", "a{sv}", 1, "scope", "s", "x.service");
        INVALID("scope is \".scope\"", "a{sv}", 1, "scope", "s", ".scope");
        INVALID("scope is \"a/b.scope\"", "a{sv}", 1, "scope", "s", "a/b.scope");
        INVALID("scope is \"a b.scope\"", "a{sv}", 1, "scope", "s", "a b.scope");
        INVALID("scope is \"a@b.scope\"", "a{sv}", 1, "scope", "s", "a@b.scope");
        INVALID("scope is \"x", "a{sv}", 1, "scope", "s", longer);
        INVALID("scope is given twice", "a{sv}", 2, "scope", "s", "", "scope", "s", "x.scope");
        INVALID("scope has the D-Bus type b, s was", "a{sv}", 1, "scope", "b", 1);
        INVALID("slice is \"x.scope\"", "a{sv}", 2, "scope", "s", "", "slice", "s", "x.scope");
        INVALID("slice was given without scope", "a{sv}", 1, "slice", "s", "x.slice");
        INVALID("properties was given without scope", "a{sv}", 1, "properties", "a(sv)", 1, "TasksMax", "t", UINT64_C(1));
        INVALID("there is no property \"Delegate\"", "a{sv}", 2, "scope", "s", "", "properties", "a(sv)", 1, "Delegate", "b", 1);
        INVALID("there is no property \"PIDs\"", "a{sv}", 2, "scope", "s", "", "properties", "a(sv)", 1, "PIDs", "au", 1, 1U);
        INVALID("TasksMax has the D-Bus type u, t was", "a{sv}", 2, "scope", "s", "", "properties", "a(sv)", 1, "TasksMax", "u", 1U);
        INVALID("TasksMax has the D-Bus type (tt), t was", "a{sv}", 2, "scope", "s", "", "properties", "a(sv)", 1, "TasksMax", "(tt)", UINT64_C(1),
                UINT64_C(1));
        INVALID("properties has TasksMax twice", "a{sv}", 2, "scope", "s", "", "properties", "a(sv)", 2, "TasksMax", "t", UINT64_C(1),
                "TasksMax", "t", UINT64_C(1));
        INVALID("properties has the D-Bus type a{sv}, a(sv) was", "a{sv}", 1, "properties", "a{sv}", 0);
}

int main(int argc, char *argv[])
{
        int pair[2], r;

        g_test_init(&argc, &argv, NULL);

        /* A connection that nobody answers: enough to make messages, also with descriptors. */
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
        g_assert_cmpint(sd_bus_new(&bus), >=, 0);
        g_assert_cmpint(sd_bus_set_fd(bus, pair[0], pair[0]), >=, 0);
        g_assert_cmpint(sd_bus_negotiate_fds(bus, true), >=, 0);
        g_assert_cmpint(sd_bus_start(bus), >=, 0);

        g_test_add_func("/spec/defaults", test_defaults);
        g_test_add_func("/spec/all", test_all);
        g_test_add_func("/spec/bad", test_bad);
        g_test_add_func("/spec/tree", test_tree);
        g_test_add_func("/spec/same-pids", test_same_pids);
        g_test_add_func("/spec/fds", test_fds);
        g_test_add_func("/spec/bad-fds", test_bad_fds);
        g_test_add_func("/spec/too-many-fds", test_too_many_fds);
        g_test_add_func("/spec/scope", test_scope);
        g_test_add_func("/spec/bad-scope", test_bad_scope);
        r = g_test_run();
        sd_bus_close_unref(bus);
        safe_close(pair[1]);
        return r;
}
