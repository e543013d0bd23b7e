/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/coredump.h"
#include "client/output.h"
#include "client/program.h"
#include "client/snapshot.h"

#define SLOW_USEC (G_USEC_PER_SEC / 2)
#define BAR_WIDTH 30

/*
 * gdb writes the file: it knows every kernel's and processor's notes, and is what will read it. The kernel's own dump would be no
 * quicker, goes where core_pattern says for the whole machine, and with the target's limits.
 */

typedef struct Progress {
        const char *path;
        uint64_t expected; /* bytes, about */
        gint64 begun;
        bool shown;
} Progress;

static void show_progress(void *userdata)
{
        Progress *p = userdata;
        g_autofree char *done = NULL, *all = NULL, *bar = NULL;
        uint64_t written, width;
        struct stat st;

        if (!isatty(STDERR_FILENO) || g_get_monotonic_time() - p->begun < SLOW_USEC || stat(p->path, &st) < 0)
                return;
        written = (uint64_t) st.st_size;
        done = g_format_size_full(written, G_FORMAT_SIZE_IEC_UNITS);
        all = g_format_size_full(p->expected, G_FORMAT_SIZE_IEC_UNITS);
        width = p->expected > 0 ? MIN(written * BAR_WIDTH / p->expected, BAR_WIDTH) : 0; /* more may come than was expected */
        bar = g_strnfill(BAR_WIDTH, '.');
        memset(bar, '#', width);
        fprintf(stderr, "\r\033[K[%s] %s of about %s", bar, done, all);
        p->shown = true;
}

static void end_progress(Progress *p)
{
        if (p->shown)
                fputs("\r\033[K", stderr);
        p->shown = false;
}

/* The memory that is there, in bytes. */
static uint64_t resident(pid_t pid)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/statm", (int) pid), *text = NULL;
        uint64_t pages = 0;

        if (g_file_get_contents(path, &text, NULL, NULL))
                (void) sscanf(text, "%*u %" SCNu64, &pages);
        return pages * (uint64_t) sysconf(_SC_PAGESIZE);
}

/* An empty file beside @output, that only its owner may read: a dump holds what the process knew. Both are the caller's. */
static ClientExit make_temporary(const char *output, const char *suffix, char **ret, int *ret_fd)
{
        g_autofree char *path = g_strdup_printf("%s.XXXXXX%s", output, suffix);
        int fd = mkostemps(path, (int) strlen(suffix), O_CLOEXEC);

        if (fd < 0)
                return client_error(CLIENT_FAILED, "%s cannot be written: %s", output, g_strerror(errno));
        *ret = g_steal_pointer(&path);
        *ret_fd = fd;
        return CLIENT_OK;
}

/* gdb's commands know no quotes, so the file is named by the descriptor: no name of a user's choosing is part of a command. */
static ClientExit dump(const Snapshot *s, const char *path, int fd, bool to_systemd)
{
        g_autofree char *then = to_systemd ? coredump_command(s->pid, fd) : NULL, *number = g_strdup_printf("%d", (int) s->pid),
                        *command = g_strdup_printf("gcore /proc/%d/fd/%d", (int) getpid(), fd);
        Progress progress = {.path = path, .expected = resident(s->pid), .begun = g_get_monotonic_time()};
        struct stat st;
        ClientExit status;
        int code;

        /* "kill" ends the clone also when this process has ended before it could. */
        status = program_run((const char *const[]){"gdb", "--batch", "-nx", "-q", "-iex", "set auto-load no", "-iex", "set debuginfod enabled off",
                                                   "-p", number, "-ex", command, "-ex", then ?: "echo", "-ex", "kill", "-ex",
                                                   to_systemd ? "quit $_shell_exitcode" : "quit", NULL},
                             0, show_progress, &progress, &code);
        end_progress(&progress);
        if (status != CLIENT_OK)
                return status;
        if (code != 0 || stat(path, &st) < 0 || st.st_size == 0) /* gdb ends with 0 though it could not attach */
                return client_error(CLIENT_FAILED, "gdb could not dump clone %d (status %d); may this user trace it? see ptrace(2), or run it as root",
                                    (int) s->pid, code);
        return CLIENT_OK;
}

static ClientExit compress(const char *path, const char *output)
{
        Progress progress = {.path = output, .begun = g_get_monotonic_time()};
        struct stat st;
        ClientExit status;
        int code;

        if (stat(path, &st) == 0)
                progress.expected = (uint64_t) st.st_size;
        status = program_run((const char *const[]){"zstd", "-q", "-f", "-T0", path, "-o", output, NULL}, 0, show_progress, &progress, &code);
        end_progress(&progress);
        if (status == CLIENT_OK && code != 0)
                return client_error(CLIENT_FAILED, "zstd could not compress the dump (status %d)", code);
        return status;
}

/* Under another name until it is whole, so that what was there before is lost only to a dump that is. */
static ClientExit write_core(Snapshot *s, const char *output, bool zstd)
{
        g_autofree char *raw = NULL, *packed = NULL;
        int raw_fd = -EBADF, packed_fd = -EBADF;
        ClientExit status = make_temporary(output, "", &raw, &raw_fd);

        if (status == CLIENT_OK)
                status = dump(s, raw, raw_fd, false);
        snapshot_clear(s);
        if (status == CLIENT_OK && zstd)
                status = make_temporary(output, ".zst", &packed, &packed_fd);
        if (status == CLIENT_OK && zstd)
                status = compress(raw, packed);
        if (status == CLIENT_OK && rename(packed ?: raw, output) < 0)
                status = client_error(CLIENT_FAILED, "%s cannot be put in its place: %s", output, g_strerror(errno));

        if (raw)
                (void) unlink(raw); /* ENOENT: it was renamed */
        if (packed)
                (void) unlink(packed);
        if (raw_fd >= 0)
                (void) close(raw_fd);
        if (packed_fd >= 0)
                (void) close(packed_fd);
        return status;
}

/* A file without a name: whatever ends this process, nothing stays of it. */
static ClientExit hand_over(Snapshot *s)
{
        int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
        ClientExit status;

        if (fd < 0)
                return client_error(CLIENT_FAILED, "no file can be made in /var/tmp: %s", g_strerror(errno));
        status = dump(s, path, fd, true);
        snapshot_clear(s);
        (void) close(fd);
        return status;
}

typedef struct CoreArguments {
        Choice choice;
        char *output, *compress;
        gboolean no_ask_password, quiet, coredump;
} CoreArguments;

static void core_arguments_clear(CoreArguments *a)
{
        choice_clear(&a->choice);
        g_free(a->output);
        g_free(a->compress);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CoreArguments, core_arguments_clear)

/* All that can be found wrong before the target is cloned. */
static ClientExit check(const CoreArguments *a, const char *word, bool *ret_zstd, uint32_t *ret_pid)
{
        ClientExit status = program_require("gdb", "gdb");

        *ret_zstd = a->compress && strcmp(a->compress, "zstd") == 0;
        if (status == CLIENT_OK && a->compress && !*ret_zstd && strcmp(a->compress, "none") != 0)
                status = client_error(CLIENT_USAGE, "--compress=%s: \"zstd\" or \"none\" was expected", a->compress);
        if (status == CLIENT_OK && a->coredump && (a->output || a->compress))
                status = client_error(CLIENT_USAGE, "--coredump: where the dump goes, and how, is systemd-coredump's to say; --output= and --compress= are not");
        if (status == CLIENT_OK && a->coredump)
                status = coredump_require();
        if (status == CLIENT_OK && *ret_zstd)
                status = program_require("zstd", "zstd");
        if (status == CLIENT_OK && a->output && g_file_test(a->output, G_FILE_TEST_EXISTS) && !g_file_test(a->output, G_FILE_TEST_IS_REGULAR))
                status = client_error(CLIENT_USAGE, "--output=%s: the name of a file was expected, this is something else", a->output);
        return status == CLIENT_OK ? choice_resolve(&a->choice, word, ret_pid) : status;
}

ClientExit verb_core(int argc, char **argv)
{
        g_auto(Snapshot) snapshot = SNAPSHOT_INIT;
        g_auto(CoreArguments) a = {};
        const GOptionEntry entries[] = {
                CHOICE_OPTIONS(a.choice),
                {"output", 'o', 0, G_OPTION_ARG_FILENAME, &a.output, "Write FILE, not core.PID", "FILE"},
                {"compress", 0, 0, G_OPTION_ARG_STRING, &a.compress, "zstd, or none (default)", "HOW"},
                {"coredump", 0, 0, G_OPTION_ARG_NONE, &a.coredump, "Hand it over to systemd-coredump: coredumpctl lists it", NULL},
                {"no-ask-password", 0, 0, G_OPTION_ARG_NONE, &a.no_ask_password, "Do not ask for a password", NULL},
                {"quiet", 'q', 0, G_OPTION_ARG_NONE, &a.quiet, "Do not print notes on what the clone could not be given", NULL},
                {},
        };
        g_autofree char *output = NULL;
        ClientExit status;
        uint32_t pid = 0;
        bool zstd;

        status = verb_parse(argc, argv, entries, "PID|--unit=UNIT|--name=NAME",
                            "Writes a core file of the process, which goes on: its pause is that of one clone.", VERB_UP_TO(1), NULL);
        if (status == CLIENT_OK)
                status = check(&a, argv[1], &zstd, &pid);
        if (status == CLIENT_OK)
                status = snapshot_make(pid, !a.no_ask_password, a.quiet, &snapshot);
        if (status != CLIENT_OK)
                return status;

        if (a.coredump)
                return hand_over(&snapshot);
        output = a.output ? g_strdup(a.output) : g_strdup_printf("core.%u%s", pid, zstd ? ".zst" : "");
        return write_core(&snapshot, output, zstd);
}
