/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/agent.h"

#define AGENT_PATH "/usr/bin/pkttyagent"
#define AGENT_START_MSEC 5000

static pid_t agent_pid;

static void agent_child(gpointer userdata)
{
        int fd = GPOINTER_TO_INT(userdata);

        (void) fcntl(fd, F_SETFD, 0);
        (void) prctl(PR_SET_PDEATHSIG, SIGTERM); /* whatever ends this program, nobody is asked for a password after it */
}

void agent_open(void)
{
        g_autofree char *fd_text = NULL;
        struct pollfd p = {.events = POLLIN};
        int fds[2], r;

        if (agent_pid > 0 || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
                return;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return;

        /* Without --process the agent speaks for its parent, which is this program. */
        fd_text = g_strdup_printf("%d", fds[1]);
        if (!g_spawn_async(NULL, (char *[]){(char *) AGENT_PATH, (char *) "--notify-fd", fd_text, (char *) "--fallback", NULL},
                           NULL,
                           G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_CHILD_INHERITS_STDIN | G_SPAWN_LEAVE_DESCRIPTORS_OPEN,
                           agent_child, GINT_TO_POINTER(fds[1]), &agent_pid, NULL))
                agent_pid = 0;
        (void) close(fds[1]);

        /* It closes its end once it is registered, or has failed. */
        p.fd = fds[0];
        do
                r = agent_pid > 0 ? poll(&p, 1, AGENT_START_MSEC) : 0;
        while (r < 0 && errno == EINTR);
        (void) close(fds[0]);
}

void agent_close(void)
{
        if (agent_pid <= 0)
                return;

        (void) kill(agent_pid, SIGTERM);
        (void) kill(agent_pid, SIGCONT);
        while (waitpid(agent_pid, NULL, 0) < 0 && errno == EINTR)
                ;
        agent_pid = 0;
}
