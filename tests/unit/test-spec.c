/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
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
#define UNSUPPORTED(text_, ...) BAD(-EOPNOTSUPP, CLONE_ERROR_UNSUPPORTED, text_, __VA_ARGS__)

static void test_defaults(void)
{
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 0), ==, 0);
        g_assert_cmpint(s.trigger, ==, CLONE_TRIGGER_IMMEDIATE);
        g_assert_cmpint(s.parent, ==, CLONE_PARENT_SHARED);
        g_assert_cmpint(s.engine, ==, CLONE_ENGINE_AUTO);
        g_assert_false(s.stopped);
        g_assert_cmpuint(s.count, ==, 1);
        g_assert_cmpuint(s.timeout_usec, ==, 0);
}

static void test_all(void)
{
        CloneSpec s;

        g_assert_cmpint(read_options(&s, NULL, "a{sv}", 9, "trigger", "s", "syscall", "parent", "s", "daemon", "engine", "s",
                                        "ptrace", "stopped", "b", 1, "count", "u", 1000U, "timeout-usec", "t",
                                        CLONE_TIMEOUT_MAX_USEC, "isolate", "s", "none", "tree", "b", 0, "threads", "s", "all"),
                        ==, 0);
        g_assert_cmpint(s.trigger, ==, CLONE_TRIGGER_SYSCALL);
        g_assert_cmpint(s.parent, ==, CLONE_PARENT_DAEMON);
        g_assert_cmpint(s.engine, ==, CLONE_ENGINE_PTRACE);
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
        INVALID("engine is \"\", auto, kernel or ptrace", "a{sv}", 1, "engine", "s", "");
        INVALID("parent is \"me\\x22\", shared or daemon", "a{sv}", 1, "parent", "s", "me\"");
        INVALID("timeout-usec is 18446744073709551615,", "a{sv}", 1, "timeout-usec", "t", UINT64_MAX);
        /* An option before the bad one changes nothing either. */
        INVALID("count is 0", "a{sv}", 2, "stopped", "b", 1, "count", "u", 0U);
}

static void test_unserved(void)
{
        UNSUPPORTED("isolate is not supported by this version, except as none", "a{sv}", 1, "isolate", "s", "files");
        UNSUPPORTED("tree is not supported by this version, except as false", "a{sv}", 1, "tree", "b", 1);
        UNSUPPORTED("threads is not", "a{sv}", 1, "threads", "s", "one");
        UNSUPPORTED("scope is not", "a{sv}", 1, "scope", "s", "x.scope");
        UNSUPPORTED("slice is not", "a{sv}", 1, "slice", "s", "x.slice");
        UNSUPPORTED("stdin is not", "a{sv}", 1, "stdin", "h", STDIN_FILENO);
        UNSUPPORTED("fds is not", "a{sv}", 1, "fds", "a(uh)", 1, 5U, STDIN_FILENO);
        INVALID("tree has the D-Bus type s, b was", "a{sv}", 1, "tree", "s", "false");
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
        g_test_add_func("/spec/unserved", test_unserved);
        r = g_test_run();
        sd_bus_close_unref(bus);
        safe_close(pair[1]);
        return r;
}
