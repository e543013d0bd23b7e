/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/conf.h"
#include "tests/fuzz/fuzz.h"

/* The input is a remforkd.conf; its first line is also taken for a time. */

static void check_time(const uint8_t *data, size_t size)
{
        FuzzInput in = {data, size};
        char *text = fuzz_take_text(&in, '\n', NULL);
        uint64_t usec = 77;
        int r = conf_parse_usec(text, &usec);

        FUZZ_CHECK(r == 0 || r == -EINVAL || r == -ERANGE);
        FUZZ_CHECK(r == 0 || usec == 77);
        free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        int fd = memfd_create("remforkd.conf", MFD_CLOEXEC), r;
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        Conf conf, untouched;

        FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t) size);
        memset(&conf, 0x5a, sizeof(conf));
        untouched = conf;

        r = conf_load(path, &conf, &error);
        FUZZ_CHECK(r == 0 || r == -EINVAL);
        if (r < 0) {
                /* All or nothing, and a sentence of one line that can be logged. */
                FUZZ_CHECK(memcmp(&conf, &untouched, sizeof(conf)) == 0);
                FUZZ_CHECK(error.code == CLONE_ERROR_INVALID_ARGS && error.message && error.message[0]);
                FUZZ_CHECK(strstr(error.message, path));
        } else
                FUZZ_CHECK(error.code == CLONE_ERROR_NONE && !error.message);

        (void) close(fd);
        check_time(data, size);
        return 0;
}
