/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "client/output.h"

char *output_escape(const char *text)
{
        GString *s = g_string_new(NULL);

        while (*text) {
                gunichar c = g_utf8_get_char_validated(text, -1);
                gsize length = 1;

                if (c == (gunichar) -1 || c == (gunichar) -2)
                        g_string_append_printf(s, "\\x%02x", (unsigned char) *text);
                else {
                        length = (gsize) (g_utf8_next_char(text) - text);
                        if (g_unichar_isprint(c) && c != 0x2028 && c != 0x2029) /* which begin a new line */
                                g_string_append_len(s, text, (gssize) length);
                        else
                                for (gsize i = 0; i < length; i++)
                                        g_string_append_printf(s, "\\x%02x", (unsigned char) text[i]);
                }
                text += length;
        }

        return g_string_free(s, FALSE);
}

char *output_program(pid_t pid)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/comm", pid), *name = NULL;
        gsize length;

        if (!g_file_get_contents(path, &name, &length, NULL))
                return g_strdup("-");
        if (length > 0 && name[length - 1] == '\n')
                name[length - 1] = '\0';
        return output_escape(name);
}

char *output_user(uid_t uid)
{
        struct passwd *p = getpwuid(uid); /* one thread, and the result is copied at once */

        return p ? output_escape(p->pw_name) : g_strdup_printf("%u", uid);
}

char *output_usec(uint64_t usec)
{
        uint64_t sec = usec / 1000000, rest = usec % 1000000;

        if (usec == 0)
                return g_strdup("no limit");
        if (rest % 1000)
                return g_strdup_printf("%" PRIu64 "us", usec);
        if (rest)
                return g_strdup_printf("%" PRIu64 "ms", usec / 1000);
        if (sec < 60)
                return g_strdup_printf("%" PRIu64 "s", sec);
        return sec % 60 ? g_strdup_printf("%" PRIu64 "min %" PRIu64 "s", sec / 60, sec % 60)
                        : g_strdup_printf("%" PRIu64 "min", sec / 60);
}

void output_json(JsonNode *root, JsonMode mode)
{
        g_autofree char *text = json_to_string(root, mode == JSON_PRETTY);

        puts(text);
        json_node_unref(root);
}

ClientExit output_finish(ClientExit status)
{
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;

        client_error(CLIENT_FAILED, "the output could not be written: %s", g_strerror(errno));
        return status == CLIENT_OK ? CLIENT_FAILED : status;
}
