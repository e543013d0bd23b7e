/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

/*
 * Gives every input of the corpus in the tree to a target, with an ordinary compiler: a bug that a fuzzer found once stays
 * found. Arguments name files; without any it is all of tests/fuzz/corpus/NAME, where NAME is this program's.
 */

/* The directory of the corpus: automake tells tests where the sources are in "srcdir", tests/run in REMFORK_SOURCEDIR. */
static char *corpus_path(const char *program)
{
        g_autofree char *name = g_path_get_basename(program);
        const char *top = g_getenv("REMFORK_SOURCEDIR") ?: g_getenv("srcdir") ?: ".";

        return g_build_filename(top, "tests/fuzz/corpus", g_str_has_prefix(name, "test-") ? name + strlen("test-") : name, NULL);
}

static void run_file(const char *path)
{
        g_autofree char *contents = NULL;
        g_autofree uint8_t *exact = NULL;
        g_autoptr(GError) error = NULL;
        gsize size;

        if (!g_file_get_contents(path, &contents, &size, &error)) {
                printf("Bail out! %s\n", error->message);
                exit(EXIT_FAILURE);
        }

        /* Said before it is run, so that the input which crashes is the last one named. */
        printf("# %s, %zu bytes\n", path, (size_t) size);
        (void) fflush(stdout);
        exact = g_memdup2(contents, size); /* without the NUL behind it: to read too far is seen by a sanitizer */
        LLVMFuzzerTestOneInput(size > 0 ? exact : (const uint8_t *) "", size);
}

int main(int argc, char *argv[])
{
        unsigned n = 0;

        printf("1..1\n");
        if (argc > 1) {
                for (; argv[n + 1]; n++)
                        run_file(argv[n + 1]);
        } else {
                g_autofree char *path = corpus_path(argv[0]);
                g_autoptr(GError) error = NULL;
                g_autoptr(GDir) dir = g_dir_open(path, 0, &error);
                const char *name;

                if (!dir) {
                        printf("Bail out! %s\n", error->message);
                        return EXIT_FAILURE;
                }
                while ((name = g_dir_read_name(dir))) {
                        g_autofree char *file = g_build_filename(path, name, NULL);

                        run_file(file);
                        n++;
                }
        }

        printf("%s 1 - %u inputs of the corpus\n", n > 0 ? "ok" : "not ok", n);
        return n > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
