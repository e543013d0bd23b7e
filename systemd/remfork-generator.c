/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/engine/remfork.h"

/*
 *     remfork-generator NORMAL-DIRECTORY [EARLY-DIRECTORY LATE-DIRECTORY]
 *
 * See systemd.generator(7): run by systemd before it reads its units, also when it reads them again. Where the kernel has a
 * remfork(2) that the daemon can use, the drop-in for such kernels becomes part of remforkd.service; where not, it does nothing.
 */

#define DROPIN "10-remfork-kernel.conf"

static int fail(const char *path)
{
        (void) fprintf(stderr, "remfork-generator: %s: %s\n", path, strerror(errno));
        return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
        char directory[PATH_MAX], link[PATH_MAX];
        int n;

        if (argc != 2 && argc != 4) {
                (void) fprintf(stderr, "Usage: remfork-generator NORMAL-DIRECTORY [EARLY-DIRECTORY LATE-DIRECTORY]\n");
                return EXIT_FAILURE;
        }
        if (remfork_probe() < 0) /* as the daemon finds out; one that is too old leaves it the ptrace engine */
                return EXIT_SUCCESS;

        (void) snprintf(directory, sizeof(directory), "%s/remforkd.service.d", argv[1]);
        n = snprintf(link, sizeof(link), "%s/" DROPIN, directory);
        if (n < 0 || (size_t) n >= sizeof(link)) {
                errno = ENAMETOOLONG;
                return fail(argv[1]);
        }

        if (mkdir(directory, 0755) < 0 && errno != EEXIST)
                return fail(directory);
        if (symlink(REMFORK_DROPINDIR "/" DROPIN, link) < 0 && errno != EEXIST)
                return fail(link);
        return EXIT_SUCCESS;
}
