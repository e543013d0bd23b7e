/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>
#include <string.h>

#include "daemon/credentials.h"
#include "daemon/log.h"
#include "tests/fuzz/fuzz.h"

/* The names that others give themselves: that of a process in logs and prompts, and a security module's label. */

#define SHOWN_MAX (16 * 64) /* 64 characters of a name, each of up to four bytes that are shown as \xNN */

static void check_escaped(const uint8_t *data, size_t size)
{
        FuzzInput in = {data, size};
        g_autofree char *text = fuzz_take_text(&in, 0, NULL), *shown = log_escape(text), *again = NULL;

        FUZZ_CHECK(g_utf8_validate(shown, -1, NULL));
        FUZZ_CHECK(g_utf8_strlen(shown, -1) <= SHOWN_MAX + 3); /* and an ellipsis */
        for (const char *p = shown; *p; p = g_utf8_next_char(p)) {
                gunichar c = g_utf8_get_char(p);

                FUZZ_CHECK(!g_unichar_iscntrl(c) && c != '"' && c != 0x2028 && c != 0x2029);
                FUZZ_CHECK(g_unichar_type(c) != G_UNICODE_FORMAT); /* such as those that turn the direction of a line */
        }
}

static void check_label(const uint8_t *data, size_t size)
{
        static const char free_label[] = "unconfined";
        bool confined = label_is_confined((const char *) data, size);
        size_t n = size;

        while (n > 0 && (data[n - 1] == '\0' || data[n - 1] == '\n'))
                n--;
        FUZZ_CHECK(confined == !(n == 0 || (n == strlen(free_label) && memcmp(data, free_label, n) == 0)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        check_escaped(data, size);
        check_label(data, size);
        return 0;
}
