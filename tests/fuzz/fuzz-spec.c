/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/bus-util.h"
#include "daemon/spec.h"
#include "tests/fuzz/fuzz.h"

/*
 * The options of a request. The bus lets only well-formed messages through, so the input says how one is built: for each
 * option a byte that chooses the key, one that chooses the type, and the value's bytes.
 */

static const char *const keys[] = {"trigger", "parent", "threads", "engine", "stopped", "session", "count", "timeout-usec",
                "isolate", "tree", "scope", "slice", "properties", "stdin", "stdout", "stderr", "fds", "close", "same-pids"};
static const char *const words[] = {"immediate", "syscall", "shared", "daemon", "all", "caller", "auto", "kernel", "ptrace", "none",
                "files", ""};
static const char *const types[] = {"s", "b", "u", "t", "h", "a(uh)", "au", "as", "i", "y", "v", "a{sv}"};

#define OPTIONS_MAX 24
#define ITEMS_MAX 80U

static sd_bus *bus;
static int files[4]; /* to be passed: for reading, for writing, for both, O_PATH */

static void set_up(void)
{
        int pair[2];

        if (bus)
                return;

        /* A connection that nobody answers: enough to make messages with descriptors. */
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        FUZZ_CHECK(sd_bus_new(&bus) >= 0 && sd_bus_set_fd(bus, pair[0], pair[0]) >= 0);
        FUZZ_CHECK(sd_bus_negotiate_fds(bus, true) >= 0 && sd_bus_start(bus) >= 0);

        files[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        files[1] = open("/dev/null", O_WRONLY | O_CLOEXEC);
        files[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
        files[3] = open("/dev/null", O_PATH | O_CLOEXEC);
}

static int append_string(sd_bus_message *m, FuzzInput *in)
{
        uint64_t choice = fuzz_take(in, 1);
        g_autofree char *text = NULL;

        if (choice < G_N_ELEMENTS(words))
                return sd_bus_message_append_basic(m, 's', words[choice]);

        text = fuzz_take_text(in, 0, NULL);
        return sd_bus_message_append_basic(m, 's', text);
}

static int append_basic(sd_bus_message *m, char type, FuzzInput *in)
{
        uint64_t number;
        int value;

        switch (type) {
        case 's':
                return append_string(m, in);
        case 'b':
                value = (int) fuzz_take(in, 1) & 1;
                return sd_bus_message_append_basic(m, type, &value);
        case 'h':
                value = files[fuzz_take(in, 1) % G_N_ELEMENTS(files)];
                return sd_bus_message_append_basic(m, type, &value);
        default: /* u, t, i, y: little-endian, so that the low bytes are what a shorter type takes */
                number = fuzz_take(in, type == 't' ? 8 : type == 'y' ? 1 : 4);
                return sd_bus_message_append_basic(m, type, &number);
        }
}

static int append_array(sd_bus_message *m, const char *element, FuzzInput *in)
{
        uint64_t n = fuzz_take(in, 1) % ITEMS_MAX;
        int r = sd_bus_message_open_container(m, 'a', element);

        for (uint64_t i = 0; r >= 0 && i < n && strcmp(element, "{sv}") != 0; i++) {
                if (strcmp(element, "(uh)") != 0) {
                        r = append_basic(m, element[0], in);
                        continue;
                }
                r = sd_bus_message_open_container(m, 'r', "uh");
                if (r >= 0)
                        r = append_basic(m, 'u', in);
                if (r >= 0)
                        r = append_basic(m, 'h', in);
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
        }

        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_option(sd_bus_message *m, FuzzInput *in)
{
        uint64_t choice = fuzz_take(in, 1);
        g_autofree char *any = choice < G_N_ELEMENTS(keys) ? g_strdup(keys[choice]) : fuzz_take_text(in, 0, NULL);
        const char *type = types[fuzz_take(in, 1) % G_N_ELEMENTS(types)];
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', any);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', type);
        if (r >= 0 && type[0] == 'v')
                r = sd_bus_message_append(m, "v", "s", "inner");
        else if (r >= 0)
                r = type[0] == 'a' ? append_array(m, type + 1, in) : append_basic(m, type[0], in);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* -EINVAL for strings that no message can have. */
static int build(sd_bus_message *m, FuzzInput *in)
{
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (int i = 0; r >= 0 && in->size > 0 && i < OPTIONS_MAX; i++)
                r = append_option(m, in);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_seal(m, 1, 0);
}

static void check_taken(const CloneSpec *s)
{
        FUZZ_CHECK(s->trigger < _CLONE_TRIGGER_MAX && s->parent < _CLONE_PARENT_MAX && s->engine < _CLONE_ENGINE_MAX);
        FUZZ_CHECK(s->threads < _CLONE_THREADS_MAX && s->isolate < _CLONE_ISOLATE_MAX);
        FUZZ_CHECK(s->count >= 1 && s->count <= CLONE_COUNT_MAX && s->timeout_usec <= CLONE_TIMEOUT_MAX_USEC);
        if (!s->fds)
                return;

        FUZZ_CHECK(s->fds->n >= 1 && s->fds->n <= CLONE_FDS_MAX);
        for (size_t i = 0; i < s->fds->n; i++) {
                const CloneFd *f = s->fds->items + i;
                int flags = f->fd < 0 ? 0 : fcntl(f->fd, F_GETFL);

                FUZZ_CHECK(f->number >= 0 && flags >= 0 && !(flags & O_PATH));
                FUZZ_CHECK(f->fd < 0 || (fcntl(f->fd, F_GETFD) & FD_CLOEXEC));
                for (size_t k = 0; k < i; k++)
                        FUZZ_CHECK(s->fds->items[k].number != f->number);
        }
}

static void check_refused(int r, const CloneSpec *s, const CloneError *e)
{
        FUZZ_CHECK(r == -EINVAL || r == -EOPNOTSUPP);
        FUZZ_CHECK(e->code == (r == -EINVAL ? CLONE_ERROR_INVALID_ARGS : CLONE_ERROR_UNSUPPORTED));
        FUZZ_CHECK(e->message && e->message[0] && g_utf8_validate(e->message, -1, NULL));
        for (const char *p = e->message; *p; p++)
                FUZZ_CHECK(!g_ascii_iscntrl(*p));
        FUZZ_CHECK(s->count == 77 && !s->fds);
}

/* The lowest descriptor that is free; all the lower ones are in use. */
static int lowest_free(void)
{
        int fd = dup(files[0]);

        FUZZ_CHECK(fd >= 0);
        (void) close(fd);
        return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        FuzzInput in = {data, size};
        CloneSpec spec = {.count = 77};
        sd_bus_message *m = NULL;
        int before, r;

        set_up();
        before = lowest_free();
        FUZZ_CHECK(sd_bus_message_new_method_call(bus, &m, "a.b", "/", "a.b", "C") >= 0);
        if (build(m, &in) >= 0) {
                r = spec_read(m, &spec, &error);
                if (r < 0)
                        check_refused(r, &spec, &error);
                else
                        check_taken(&spec);
                if (r >= 0)
                        spec_clear(&spec);
        }

        sd_bus_message_unref(m);
        FUZZ_CHECK(lowest_free() == before);
        return 0;
}
