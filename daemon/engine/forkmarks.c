/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/engine/forkmarks.h"
#include "daemon/util.h"

bool forkmarks_has_flag(const char *flags, const char *flag)
{
        for (const char *p = flags; (p = strstr(p, flag)); p++)
                if (p > flags && p[-1] == ' ' && (p[2] == ' ' || p[2] == '\0'))
                        return true;
        return false;
}

bool forkmarks_is_driver(const char *flags)
{
        static const char driver[][3] = {"io", "pf", "mm", "de"};

        for (size_t k = 0; k < G_N_ELEMENTS(driver); k++)
                if (forkmarks_has_flag(flags, driver[k]))
                        return true;
        return false;
}

/* A mapping with or without the mark: a stretch that was begun grows, or ends. */
static void grow(GArray *marks, bool *open, bool has, bool wipe, uint64_t start, uint64_t end)
{
        if (has && !*open)
                g_array_append_vals(marks, &(ForkMark){.start = start, .wipe = wipe}, 1);
        for (guint k = marks->len; has && k > 0; k--) /* the last of its kind */
                if (g_array_index(marks, ForkMark, k - 1).wipe == wipe) {
                        g_array_index(marks, ForkMark, k - 1).end = end;
                        break;
                }
        *open = has;
}

GArray *forkmarks_parse(const char *smaps, char **ret_maps)
{
        GArray *marks = g_array_new(FALSE, FALSE, sizeof(ForkMark));
        GString *maps = ret_maps ? g_string_new(NULL) : NULL;
        bool dont = false, wipe = false;
        uint64_t start = 0, end = 0;

        for (const char *line = smaps; *line;) {
                size_t length = strcspn(line, "\n");
                const char *next = line + length + (line[length] == '\n');
                uint64_t a, b;

                if (g_str_has_prefix(line, "VmFlags:")) {
                        g_autofree char *flags = g_strndup(line, length);
                        bool driver = forkmarks_is_driver(flags);

                        grow(marks, &dont, !driver && forkmarks_has_flag(flags, "dc"), false, start, end);
                        grow(marks, &wipe, !driver && forkmarks_has_flag(flags, "wf"), true, start, end);
                } else if (!g_ascii_isupper(*line) && sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &a, &b) == 2) {
                        start = a;
                        end = b;
                        if (maps)
                                g_string_append_len(maps, line, next - line);
                }
                line = next;
        }

        if (ret_maps)
                *ret_maps = g_string_free(maps, FALSE);
        return marks;
}

uint64_t forkmarks_pages_of(pid_t pid)
{
        char path[sizeof("/proc//statm") + 3 * sizeof(pid)], text[32]; /* the first number is whole in it */
        _cleanup_close_ int fd = -EBADF;
        ssize_t n;

        (void) snprintf(path, sizeof(path), "/proc/%d/statm", (int) pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : RETRY_EINTR(read(fd, text, sizeof(text) - 1));
        text[MAX(n, 0)] = '\0';
        return strtoull(text, NULL, 10);
}
