/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <string.h>

#include "daemon/engine/fdinfo.h"

const char *fdinfo_get(const char *info, const char *key)
{
        size_t n = strlen(key);

        for (const char *line = info; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
                if (strncmp(line, key, n) == 0 && line[n] == ':')
                        return line + n + 1 + strspn(line + n + 1, " \t");
        return NULL;
}

bool fdinfo_differs(const char *a, const char *b, const char *key)
{
        const char *x = fdinfo_get(a, key), *y = fdinfo_get(b, key);

        return x && y && strncmp(x, y, strcspn(x, "\n") + 1) != 0;
}
