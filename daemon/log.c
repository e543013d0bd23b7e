/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "daemon/log.h"

#define ESCAPED_CHARACTERS_MAX 64

static LogTarget target = LOG_TARGET_CONSOLE;
static int level = LOG_INFO;

void log_init(void)
{
        if (!isatty(STDERR_FILENO) && g_getenv("JOURNAL_STREAM") && access("/run/systemd/journal/socket", W_OK) == 0)
                target = LOG_TARGET_JOURNAL;
}

void log_set_level(int most)
{
        level = most;
}

int log_get_level(void)
{
        return level;
}

void log_set_target(LogTarget t)
{
        target = t;
}

LogTarget log_get_target(void)
{
        return target;
}

static void send_to_journal(int priority, const char *event, pid_t pid, const char *text)
{
        g_autofree char *message = g_strdup_printf("MESSAGE=%s", text), *number = g_strdup_printf("PRIORITY=%d", priority),
                        *id = event ? g_strdup_printf("MESSAGE_ID=%s", event) : NULL,
                        *object = pid > 0 ? g_strdup_printf("OBJECT_PID=%d", (int) pid) : NULL;
        struct iovec fields[4];
        int n = 0;

        fields[n++] = (struct iovec){message, strlen(message)};
        fields[n++] = (struct iovec){number, strlen(number)};
        if (id)
                fields[n++] = (struct iovec){id, strlen(id)};
        if (object)
                fields[n++] = (struct iovec){object, strlen(object)};

        (void) sd_journal_sendv(fields, n); /* a journal that fails must not fail the request */
}

void log_event(int priority, const char *event, pid_t pid, const char *format, ...)
{
        g_autofree char *text = NULL;
        va_list ap;

        if (priority > level)
                return;

        va_start(ap, format);
        text = g_strdup_vprintf(format, ap);
        va_end(ap);

        if (target == LOG_TARGET_JOURNAL)
                send_to_journal(priority, event, pid, text);
        else
                (void) fprintf(stderr, "%s\n", text);
}

char *log_escape(const char *text)
{
        g_autoptr(GString) s = g_string_new(NULL);
        unsigned n = 0;

        for (const char *p = text; *p; n++) {
                gunichar c = g_utf8_get_char_validated(p, -1);

                if (n == ESCAPED_CHARACTERS_MAX) {
                        g_string_append(s, "...");
                        break;
                }

                if (c == (gunichar) -1 || c == (gunichar) -2) {
                        g_string_append_printf(s, "\\x%02x", (unsigned char) *p);
                        p++;
                        continue;
                }

                /*
                 * Format characters are unprintable to GLib, which takes in the ones that turn the writing direction; what
                 * separates lines and paragraphs is printable to it.
                 */
                if (c == 0x2028 || c == 0x2029 || c == '\\' || c == '"' || c == '\'' || c == '<' || c == '>' || c == '&' || !g_unichar_isprint(c))
                        for (const char *q = p; q < g_utf8_next_char(p); q++)
                                g_string_append_printf(s, "\\x%02x", (unsigned char) *q);
                else
                        g_string_append_len(s, p, g_utf8_next_char(p) - p);
                p = g_utf8_next_char(p);
        }

        return g_string_free(g_steal_pointer(&s), FALSE);
}
