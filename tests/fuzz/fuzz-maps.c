/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/engine/cave.h"
#include "daemon/engine/kernel-fit.h"
#include "tests/fuzz/fuzz.h"

/*
 * What an engine reads of /proc/PID/maps, and of the program headers that a target may write what it likes into. The input: a
 * byte that says how it is made, then
 *   even  the text of maps
 *   odd   a file's name, 0, then the beginning of a mapped file and, from PAGE on, its code: a process that has such a file
 *         mapped beside its vDSO
 */

#define AREA UINT64_C(0x10000000)
#define PAGE 4096U
#define VDSO UINT64_C(0x7fff00000000)
#define CAVE_SIZE 128U

static bool starts_with_ret(const uint8_t *bytes)
{
        return bytes[0] == 0xc3;
}

static uint8_t *area(void)
{
        static uint8_t *mapped;

        if (!mapped) {
                mapped = mmap((void *) (uintptr_t) AREA, 2 * PAGE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
                FUZZ_CHECK(mapped == (void *) (uintptr_t) AREA);
        }
        return mapped;
}

static void check_any(FuzzInput *in)
{
        g_autofree char *maps = fuzz_take_text(in, 0, NULL);
        uint64_t start = 0, end = 0, at = 0;
        int r;

        r = kernel_fit_find_vdso(maps, &start, &end);
        FUZZ_CHECK(r == 0 || r == -ENOENT);
        r = cave_find(maps, getpid(), CAVE_SIZE, starts_with_ret, &at);
        FUZZ_CHECK(r == 0 || r == -ENOENT || r == -EBADMSG);
        FUZZ_CHECK(r != 0 || at != 0);
}

/* Whether @name is one that the kernel would show: it escapes newlines (seq_path()) and all paths are absolute. */
static void escape_name(char *name)
{
        for (char *p = name; *p; p++)
                if (*p == '\n')
                        *p = '_';
}

static void check_named(FuzzInput *in)
{
        g_autofree char *name = fuzz_take_text(in, 0, NULL), *maps = NULL;
        uint64_t start = 0, end = 0, at = 0;
        uint8_t *file = area();
        int r;

        escape_name(name);
        memset(file, 0, 2 * PAGE);
        memcpy(file, in->data, MIN(in->size, 2 * PAGE));
        maps = g_strdup_printf("%" PRIx64 "-%" PRIx64 " r--p 00000000 08:01 5                          /%s\n"
                               "%" PRIx64 "-%" PRIx64 " r-xp 00001000 08:01 5                          /%s\n"
                               "%" PRIx64 "-%" PRIx64 " r-xp 00000000 00:00 0                          [vdso]\n",
                        AREA, AREA + PAGE, name, AREA + PAGE, AREA + 2 * PAGE, name, VDSO, VDSO + 2 * PAGE);

        FUZZ_CHECK(kernel_fit_find_vdso(maps, &start, &end) == 0);
        FUZZ_CHECK(start == VDSO && end == VDSO + 2 * PAGE);

        r = cave_find(maps, getpid(), CAVE_SIZE, starts_with_ret, &at);
        FUZZ_CHECK(r == 0 || r == -ENOENT);
        if (r < 0)
                return;

        /* Whatever the headers say: within the code's mapping, and zeros or what is known. */
        FUZZ_CHECK(at >= AREA + PAGE && at + CAVE_SIZE <= AREA + 2 * PAGE && at % 16 == 0);
        if (!starts_with_ret(file + (at - AREA)))
                for (size_t i = 0; i < CAVE_SIZE; i++)
                        FUZZ_CHECK(file[at - AREA + i] == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        FuzzInput in = {data, size};

        if (fuzz_take(&in, 1) & 1)
                check_named(&in);
        else
                check_any(&in);
        return 0;
}
