/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/bus.h"
#include "client/clones.h"

/* "TERM", "SIGTERM" or "15"; negative where it is none. */
static int signal_from_string(const char *text)
{
        const char *name = g_str_has_prefix(text, "SIG") ? text + 3 : text;
        guint64 number;

        if (g_ascii_string_to_unsigned(text, 10, 1, (guint64) SIGRTMAX, &number, NULL))
                return (int) number;
        for (int i = 1; i < NSIG; i++)
                if (sigabbrev_np(i) && strcmp(sigabbrev_np(i), name) == 0)
                        return i;
        return -EINVAL;
}

/* With the rights of whoever runs this: the kernel decides, as for kill(1). The daemon only says what is a clone. */
ClientExit verb_kill(int argc, char **argv)
{
        g_autoptr(sd_bus) bus = NULL;
        g_autofree char *name = NULL;
        const GOptionEntry entries[] = {
                {"signal", 's', 0, G_OPTION_ARG_STRING, &name, "Send SIGNAL, a name or a number, not SIGTERM", "SIGNAL"},
                {},
        };
        ClientExit status;
        LiveClone clone;
        int number, pidfd;

        status = verb_parse(argc, argv, entries, "PID", "Sends a signal to the clone PID; a process that is no clone is refused.", 1, NULL);
        if (status != CLIENT_OK)
                return status;
        number = signal_from_string(name ?: "TERM");
        if (number < 0)
                return client_error(CLIENT_USAGE, "--signal=%s: a name such as TERM, or a number from 1 to %d was expected", name, SIGRTMAX);

        status = bus_open(&bus);
        if (status == CLIENT_OK)
                status = clones_find_word(bus, argv[1], &clone, &pidfd);
        if (status != CLIENT_OK)
                return status;

        if (syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0)
                status = errno == EPERM ? client_error(CLIENT_DENIED, "clone %u belongs to another user; run it as that user, or as root", clone.pid)
                       : errno == ESRCH ? client_error(CLIENT_NOT_FOUND, "clone %u has ended", clone.pid)
                                        : client_error(CLIENT_FAILED, "clone %u cannot be signalled: %s", clone.pid, g_strerror(errno));
        (void) close(pidfd);
        return status;
}
