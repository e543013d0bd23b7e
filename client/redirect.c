/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "client/redirect.h"

/* dbus-daemon(1): max_message_unix_fds of the system bus; it ends the connection of who sends more. */
#define PASSED_MAX 16U

static const char *const standard_names[] = {"stdin", "stdout", "stderr"};

static void redirection_clear(void *p)
{
        Redirection *r = p;

        if (r->owned)
                (void) close(r->fd);
}

GArray *redirect_new(void)
{
        GArray *a = g_array_new(FALSE, FALSE, sizeof(Redirection));

        g_array_set_clear_func(a, redirection_clear);
        return a;
}

void redirect_add(GArray *redirections, uint32_t number, int fd)
{
        const Redirection r = {.number = number, .fd = fd};

        g_array_append_val(redirections, r);
}

/* As the shell's "<", ">" and "<>" open it; in the last case for what is allowed. */
static int open_path(const char *path, int number)
{
        int fd;

        if (number == STDIN_FILENO)
                return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (number >= 0)
                return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);

        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
        if (fd < 0 && (errno == EACCES || errno == EROFS || errno == EISDIR || errno == ETXTBSY || errno == EPERM))
                fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0 && errno == EACCES)
                fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        return fd;
}

/* What is to be opened; nothing is yet. */
typedef struct Plan {
        const char *option;
        const char *path; /* NULL: own_fd, or to be closed where that is negative */
        int standard;     /* 0, 1 or 2 where it is one of these options, else -1 */
        int own_fd;
        uint32_t number;
} Plan;

static ClientExit check_own(const char *option, int fd)
{
        if (fcntl(fd, F_GETFD) < 0)
                return client_error(CLIENT_USAGE, "%s: remforkctl has no descriptor %d", option, fd);
        return CLIENT_OK;
}

static ClientExit plan_fd(const char *text, Plan *ret)
{
        const char *colon = strchr(text, ':'), *value = colon ? colon + 1 : NULL;
        g_autofree char *number = colon ? g_strndup(text, (gsize) (colon - text)) : NULL;
        guint64 n, own;

        if (!colon || !*value || !g_ascii_string_to_unsigned(number, 10, 0, INT32_MAX, &n, NULL))
                return client_error(CLIENT_USAGE, "--fd=%s: N:PATH, N:FD or N:close was expected, N being a number from 0 to %d", text,
                                    INT32_MAX);

        *ret = (Plan){.option = text, .standard = -1, .own_fd = -EBADF, .number = (uint32_t) n};
        if (strcmp(value, "close") == 0)
                return CLIENT_OK;
        if (g_ascii_string_to_unsigned(value, 10, 0, INT32_MAX, &own, NULL)) {
                ret->own_fd = (int) own;
                return check_own(text, ret->own_fd);
        }
        ret->path = value;
        return CLIENT_OK;
}

static ClientExit plan_standard(int number, const char *value, Plan *ret)
{
        *ret = (Plan){.option = standard_names[number], .standard = number, .own_fd = -EBADF, .number = (uint32_t) number};
        if (strcmp(value, "-") != 0 && strcmp(value, "inherit") != 0) {
                ret->path = value;
                return CLIENT_OK;
        }
        ret->own_fd = number;
        return check_own(standard_names[number], number);
}

/* All words are understood before a file is opened, and with that maybe truncated. */
static ClientExit make_plans(const RedirectOptions *o, GArray *plans)
{
        ClientExit status = CLIENT_OK;
        unsigned passed = o->more;
        Plan p;

        for (int i = 0; i < 3 && status == CLIENT_OK; i++)
                if (o->standard[i]) {
                        status = plan_standard(i, o->standard[i], &p);
                        g_array_append_val(plans, p);
                }
        for (char **f = o->fds; f && *f && status == CLIENT_OK; f++) {
                status = plan_fd(*f, &p);
                g_array_append_val(plans, p);
        }

        for (guint i = 0; i < plans->len && status == CLIENT_OK; i++)
                for (guint k = 0; k < i && status == CLIENT_OK; k++)
                        if (g_array_index(plans, Plan, i).number == g_array_index(plans, Plan, k).number)
                                status = client_error(CLIENT_USAGE, "descriptor %u is named twice, by %s and by %s",
                                                      g_array_index(plans, Plan, i).number, g_array_index(plans, Plan, k).option,
                                                      g_array_index(plans, Plan, i).option);
        for (guint i = 0; i < plans->len; i++)
                passed += g_array_index(plans, Plan, i).path || g_array_index(plans, Plan, i).own_fd >= 0;
        if (status == CLIENT_OK && passed > PASSED_MAX)
                status = client_error(CLIENT_USAGE, "%u descriptors are to be given to the clone, and the system bus passes %u at once", passed,
                                      PASSED_MAX);
        return status;
}

ClientExit redirect_open(const RedirectOptions *o, GArray **ret)
{
        g_autoptr(GArray) plans = g_array_new(FALSE, FALSE, sizeof(Plan)), redirections = redirect_new();
        ClientExit status = make_plans(o, plans);

        if (status != CLIENT_OK)
                return status;

        for (guint i = 0; i < plans->len; i++) {
                const Plan *p = &g_array_index(plans, Plan, i);
                Redirection r = {.number = p->number, .fd = p->own_fd, .owned = p->path != NULL};

                if (p->path) {
                        r.fd = open_path(p->path, p->standard);
                        if (r.fd < 0)
                                return client_error(CLIENT_FAILED, "%s cannot be opened: %s", p->path, g_strerror(errno));
                }
                g_array_append_val(redirections, r);
        }

        *ret = g_steal_pointer(&redirections);
        return CLIENT_OK;
}

static int open_option(sd_bus_message *m, const char *key, const char *type)
{
        int r = sd_bus_message_open_container(m, 'e', "sv");

        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', key);
        return r < 0 ? r : sd_bus_message_open_container(m, 'v', type);
}

static int close_option(sd_bus_message *m)
{
        int r = sd_bus_message_close_container(m);

        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* The standard ones have options of their own, in which the daemon looks at the access mode too. */
static bool is_standard(const Redirection *x)
{
        return x->fd >= 0 && x->number <= STDERR_FILENO;
}

static int append_array(sd_bus_message *m, const GArray *redirections, bool closed)
{
        int r;

        r = open_option(m, closed ? "close" : "fds", closed ? "au" : "a(uh)");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', closed ? "u" : "(uh)");
        for (guint i = 0; i < redirections->len && r >= 0; i++) {
                const Redirection *x = &g_array_index(redirections, Redirection, i);

                if (closed && x->fd < 0)
                        r = sd_bus_message_append(m, "u", x->number);
                else if (!closed && x->fd >= 0 && !is_standard(x))
                        r = sd_bus_message_append(m, "(uh)", x->number, x->fd);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : close_option(m);
}

int redirect_append(sd_bus_message *m, const GArray *redirections)
{
        bool closed = false, others = false;
        int r = 0;

        for (guint i = 0; i < redirections->len && r >= 0; i++) {
                const Redirection *x = &g_array_index(redirections, Redirection, i);

                closed |= x->fd < 0;
                others |= x->fd >= 0 && !is_standard(x);
                if (!is_standard(x))
                        continue;
                r = open_option(m, standard_names[x->number], "h");
                if (r >= 0)
                        r = sd_bus_message_append_basic(m, 'h', &x->fd);
                if (r >= 0)
                        r = close_option(m);
        }

        if (r >= 0 && others)
                r = append_array(m, redirections, false);
        if (r >= 0 && closed)
                r = append_array(m, redirections, true);
        return r;
}
