/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/request.h"

/* The transitions that the issue of a request may take, written down a second time and apart from the code. */
static void test_transitions(void)
{
        static const char *const allowed[] = {
                "authorizing>queued", "authorizing>finished", "queued>running",   "queued>finished",
                "running>authorizing", "running>finished",
        };
        size_t n = 0;

        for (RequestState from = 0; from < _REQUEST_STATE_MAX; from++)
                for (RequestState to = 0; to < _REQUEST_STATE_MAX; to++) {
                        g_autofree char *name = g_strdup_printf("%s>%s", request_state_to_string(from),
                                        request_state_to_string(to));
                        bool found = false;

                        for (size_t i = 0; i < G_N_ELEMENTS(allowed); i++)
                                found |= strcmp(allowed[i], name) == 0;
                        g_assert_cmpint(request_transition_is_allowed(from, to), ==, found);
                        n += found;
                }
        g_assert_cmpuint(n, ==, G_N_ELEMENTS(allowed));
}

static void test_results(void)
{
        static const struct {
                CloneErrorCode code;
                const char *result;
        } cases[] = {
                {CLONE_ERROR_NONE, "done"},
                {CLONE_ERROR_FAILED, "failed"},
                {CLONE_ERROR_INVALID_ARGS, "failed"},
                {CLONE_ERROR_ACCESS_DENIED, "denied"},
                {CLONE_ERROR_INTERACTIVE, "denied"},
                {CLONE_ERROR_CHANGED, "denied"},
                {CLONE_ERROR_NO_SUCH_PROCESS, "failed"},
                {CLONE_ERROR_UNSUPPORTED, "failed"},
                {CLONE_ERROR_BUSY, "failed"},
                {CLONE_ERROR_TIMEOUT, "timeout"},
                {CLONE_ERROR_CANCELED, "canceled"},
        };

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
                g_assert_cmpstr(request_result_to_string(request_result_from_error(cases[i].code)), ==, cases[i].result);
}

static void test_usec(void)
{
        static const struct {
                const char *text;
                int r;
                uint64_t usec;
        } cases[] = {
                {"10s", 0, 10000000},    {"500ms", 0, 500000}, {"2min 30s", 0, 150000000}, {"2min30s", 0, 150000000},
                {"7", 0, 7000000},       {"0", 0, 0},          {"infinity", 0, 0},         {"1 h", 0, 3600000000},
                {"3us", 0, 3},           {"", -EINVAL, 0},     {"s", -EINVAL, 0},          {"-1", -EINVAL, 0},
                {"+1", -EINVAL, 0},      {"1x", -EINVAL, 0},   {"1.5s", -EINVAL, 0},       {"10s x", -EINVAL, 0},
                {"18446744073709551616", -ERANGE, 0},          {"18446744073709551615", -ERANGE, 0},
                {"18446744073709551615us", 0, UINT64_MAX},     {"18446744073709551615us 1us", -ERANGE, 0},
        };

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                uint64_t usec = 77;

                g_assert_cmpint(conf_parse_usec(cases[i].text, &usec), ==, cases[i].r);
                g_assert_cmpuint(usec, ==, cases[i].r < 0 ? 77 : cases[i].usec);
        }
}

static void test_conf(void)
{
        static const struct {
                const char *text, *error; /* NULL: none */
        } cases[] = {
                {"", NULL},
                {"[Limits]\n#QueuedMax=1\n", NULL},
                {"[Limits]\nQueuedMax=5\nRequestTimeoutSec=1min\n", NULL},
                {"[Limits]\nQueuedMax=5\nQueuedmax=6\n", "no setting Queuedmax"},
                {"[Limit]\n", "no section [Limit]"},
                {"[Limits]\nQueuedMax=-1\n", "QueuedMax is \"-1\""},
                {"[Limits]\nQueuedMax=4294967296\n", "QueuedMax is \"4294967296\""},
                {"[Limits]\nQueuedMax=\n", "QueuedMax is \"\""},
                {"[Limits]\nRequestTimeoutSec=soon\n", "RequestTimeoutSec is \"soon\""},
                {"QueuedMax=5\n", "remforkd.conf"},
        };
        g_autofree char *directory = g_dir_make_tmp("remfork-XXXXXX", NULL),
                        *path = g_build_filename(directory, "remforkd.conf", NULL);
        Conf c;

        g_assert_cmpint(conf_load(path, &c, NULL), ==, -ENOENT);
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
                int r;

                c = (Conf){.queued_max = 77};
                g_assert_true(g_file_set_contents(path, cases[i].text, -1, NULL));
                r = conf_load(path, &c, &error);
                if (cases[i].error) {
                        g_assert_cmpint(r, ==, -EINVAL);
                        g_assert_nonnull(strstr(error.message, cases[i].error));
                        g_assert_cmpuint(c.queued_max, ==, 77);
                        continue;
                }
                g_assert_cmpint(r, ==, 0);
                g_assert_cmpuint(c.queued_max, ==, i == 2 ? 5 : conf_default.queued_max);
                g_assert_cmpuint(c.request_timeout_usec, ==, i == 2 ? 60000000 : conf_default.request_timeout_usec);
                g_assert_cmpuint(c.rate_limit_burst, ==, 25);
        }
        g_assert_cmpint(unlink(path), ==, 0);
        g_assert_cmpint(rmdir(directory), ==, 0);
}

static void test_escape(void)
{
        static const struct {
                const char *text, *escaped;
        } cases[] = {
                {"bash", "bash"},
                {"a\nb", "a\\x0ab"},
                {"\x1b[31m", "\\x1b[31m"},
                {"<b>\"&'\\", "\\x3cb\\x3e\\x22\\x26\\x27\\x5c"},
                {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
                {"\xff\xc3", "\\xff\\xc3"},
                {"\xe2\x80\xae" "evil", "\\xe2\\x80\\xae" "evil"}, /* right-to-left override */
                {"a\xe2\x80\xa9" "b\xe2\x80\xa8", "a\\xe2\\x80\\xa9" "b\\xe2\\x80\\xa8"}, /* paragraph and line separator */
        };
        g_autofree char *name = g_strnfill(100, 'x'), *cut = log_escape(name);

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                g_autofree char *escaped = log_escape(cases[i].text);

                g_assert_cmpstr(escaped, ==, cases[i].escaped);
        }
        g_assert_cmpuint(strlen(cut), ==, 64 + 3);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/request/transitions", test_transitions);
        g_test_add_func("/request/results", test_results);
        g_test_add_func("/conf/usec", test_usec);
        g_test_add_func("/conf/load", test_conf);
        g_test_add_func("/log/escape", test_escape);
        return g_test_run();
}
