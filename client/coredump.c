/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/coredump.h"

/* Where core_pattern(5) has it; a distribution without a merged /usr has it in the other place. */
static const char *const programs[] = {"/usr/lib/systemd/systemd-coredump", "/lib/systemd/systemd-coredump"};

static const char *find_program(void)
{
        for (size_t i = 0; i < G_N_ELEMENTS(programs); i++)
                if (access(programs[i], X_OK) == 0)
                        return programs[i];
        return NULL;
}

ClientExit coredump_require(void)
{
        if (!find_program())
                return client_error(CLIENT_FAILED, "--coredump: there is no %s; install Debian's package systemd-coredump", programs[0]);
        if (geteuid() != 0)
                return client_error(CLIENT_DENIED, "--coredump: systemd-coredump takes dumps of root alone; run it as root, or take --output=");
        return CLIENT_OK;
}

/* The real user or group, as core_pattern's %u and %g. */
static unsigned read_id(const char *status, const char *key)
{
        const char *line = strstr(status, key);
        unsigned id = 0;

        return line && sscanf(line + strlen(key), "%u", &id) == 1 ? id : 0;
}

char *coredump_command(pid_t pid, int fd)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/status", (int) pid), *status = NULL;
        char host[HOST_NAME_MAX + 1] = "";

        (void) g_file_get_contents(path, &status, NULL, NULL); /* root's, where the clone has ended; gdb will have failed then */
        if (gethostname(host, sizeof(host)) < 0 || !*host || host[strspn(host, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS ".-")] != '\0')
                g_strlcpy(host, "localhost", sizeof(host)); /* gdb's commands know no quotes */

        /* %P %u %g %s %t %c %h. No signal: nothing of its own has ended it. */
        return g_strdup_printf("shell %s %d %u %u 0 %" PRId64 " %" PRIu64 " %s </proc/%d/fd/%d", find_program(), (int) pid,
                               read_id(status ?: "", "\nUid:"), read_id(status ?: "", "\nGid:"), (int64_t) time(NULL), UINT64_MAX, host,
                               (int) getpid(), fd);
}
