/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/authorize.h"
#include "daemon/util.h"

/*
 * Each cell is a requester and a target with credentials of their own. The daemon's decision on the one and the other, as it reads
 * them in /proc, is held against what the kernel says when that requester really tries PTRACE_SEIZE on that target:
 *
 *  - what the daemon takes for the caller's right, without an administrator, the kernel must allow, in every cell;
 *  - what the kernel allows the daemon must take for the caller's right, in every cell but those where one of the reasons of
 *    stricter() holds, each a line of authorize.h.
 *
 * With REMFORK_YAMA_SCOPES in the environment, where nobody else is on this machine, in scopes 0, 1 and 2 of Yama's in turn (3
 * cannot be taken back), else in the one that is in force. With less than 100 in REMFORK_ROUNDS for some of the targets.
 */

#define A 4101U
#define B 4102U

typedef struct Identity {
        uid_t uid[3]; /* real, effective, saved */
        gid_t gid[3];
        int capability; /* the one permitted and effective; NO_CAPABILITY, ALL_CAPABILITIES */
        bool dumpable, own_namespace;
} Identity;

enum { NO_CAPABILITY = -1, ALL_CAPABILITIES = -2 };

static const uid_t target_uids[][3] = {{A, A, A}, {A, A, B}, {A, B, A}, {B, A, A}, {A, A, 0}, {A, 0, A}, {B, B, B}, {0, 0, 0}};
static const gid_t target_gids[][3] = {{A, A, A}, {A, A, B}, {A, B, A}, {B, A, A}, {B, B, B}};
static const int capabilities[] = {NO_CAPABILITY, CAP_NET_RAW, CAP_SYS_PTRACE};

static const Identity requesters[] = {
        {{A, A, A}, {A, A, A}, NO_CAPABILITY, true, false},
        {{A, A, A}, {A, A, A}, NO_CAPABILITY, false, false},
        {{A, A, A}, {A, A, A}, CAP_NET_RAW, true, false},
        {{A, A, A}, {A, A, A}, CAP_NET_RAW, false, false},
        {{A, A, A}, {A, A, A}, CAP_SYS_PTRACE, true, false},
        {{A, A, A}, {A, A, A}, ALL_CAPABILITIES, true, true},
        {{A, A, A}, {B, B, B}, NO_CAPABILITY, true, false},
        {{A, A, A}, {A, B, B}, NO_CAPABILITY, true, false},
        {{A, A, 0}, {A, A, A}, NO_CAPABILITY, true, false},
        {{0, 0, 0}, {0, 0, 0}, NO_CAPABILITY, true, false},
        {{0, 0, 0}, {0, 0, 0}, ALL_CAPABILITIES, true, false},
        {{0, 0, 0}, {0, 0, 0}, ALL_CAPABILITIES, true, true},
};

static struct {
        unsigned cells, equal, allowed, stricter, looser, unexplained;
} count;

static void die(const char *what)
{
        printf("Bail out! %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static int set_capabilities(int capability)
{
        cap_t caps = capability == ALL_CAPABILITIES ? cap_get_proc() : cap_init();
        cap_value_t value = capability;
        int r = 0;

        if (!caps)
                return -1;
        if (capability >= 0)
                r = cap_set_flag(caps, CAP_PERMITTED, 1, &value, CAP_SET) < 0 || cap_set_flag(caps, CAP_EFFECTIVE, 1, &value, CAP_SET) < 0
                                    ? -1
                                    : 0;
        if (r == 0)
                r = cap_set_proc(caps);
        cap_free(caps);
        return r;
}

/* In a child: becomes @i, or ends. */
static void become(const Identity *i)
{
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_KEEPCAPS, 1) < 0 || setgroups(0, NULL) < 0 ||
            setresgid(i->gid[0], i->gid[1], i->gid[2]) < 0 || setresuid(i->uid[0], i->uid[1], i->uid[2]) < 0 ||
            (i->own_namespace && unshare(CLONE_NEWUSER) < 0) || set_capabilities(i->capability) < 0 ||
            prctl(PR_SET_DUMPABLE, i->dumpable) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                _exit(EXIT_FAILURE);
}

/* A child that is @i. It says so, then tries to seize each process whose PID it is sent, and sends back what came of it. */
static pid_t start(const Identity *i, int fds[2])
{
        int to[2], from[2], target, result;
        pid_t pid;

        if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
                die("pipe");
        pid = fork();
        if (pid < 0)
                die("fork");
        if (pid > 0) {
                close(to[0]);
                close(from[1]);
                fds[0] = from[0];
                fds[1] = to[1];
                if (read(from[0], &result, sizeof(result)) != sizeof(result))
                        die("a process cannot have the credentials of a cell");
                return pid;
        }

        close(to[1]);
        become(i);
        result = 0;
        (void) !write(from[1], &result, sizeof(result));
        while (read(to[0], &target, sizeof(target)) == sizeof(target)) {
                result = ptrace(PTRACE_SEIZE, target, 0, 0) < 0 ? errno : 0;
                (void) !write(from[1], &result, sizeof(result));
                /* One SEIZE is one cell: a tracer lets go by its end. */
        }
        _exit(EXIT_SUCCESS);
}

static void stop(pid_t pid, const int fds[2])
{
        close(fds[0]);
        close(fds[1]);
        (void) kill(pid, SIGKILL);
        if (RETRY_EINTR(waitpid(pid, NULL, 0)) < 0)
                die("waitpid");
}

static void read_credentials(pid_t pid, const Host *host, Credentials *ret)
{
        g_autoptr(Target) t = NULL;
        int r = target_new(&t, pid, NULL);

        if (r >= 0)
                r = target_read_credentials(t, host->user_namespace, ret);
        if (r < 0) {
                errno = -r;
                die("credentials cannot be read");
        }
}

/* Why the daemon asks an administrator though the kernel would allow it; NULL where there is no reason. */
static const char *stricter(const Identity *r, const Identity *t, const Host *host)
{
        if (host->yama_scope != 0)
                return "Yama's scope";
        if (r->capability == CAP_SYS_PTRACE || r->capability == ALL_CAPABILITIES)
                return "CAP_SYS_PTRACE of somebody who is not uid 0, or in a user namespace of its own";
        if (t->own_namespace)
                return "the target's user namespace";
        if (t->uid[1] == 0)
                return "dumpability is not told of what runs as uid 0";
        if (r->uid[0] != r->uid[2])
                return "the requester could become another user";
        if (r->capability != NO_CAPABILITY && !r->dumpable)
                return "capabilities of a requester that is not dumpable";
        return NULL;
}

static void print_identity(const char *what, const Identity *i)
{
        printf("#   %s: uid %u/%u/%u gid %u/%u/%u capability %d%s%s\n", what, i->uid[0], i->uid[1], i->uid[2], i->gid[0], i->gid[1],
                        i->gid[2], i->capability, i->dumpable ? "" : ", not dumpable", i->own_namespace ? ", own user namespace" : "");
}

static void judge_cell(const Identity *ri, const Identity *ti, pid_t target, const Credentials *tc, const Host *host)
{
        int fds[2], pid = target, result;
        pid_t requester = start(ri, fds);
        bool daemon_allows, kernel_allows;
        Credentials rc;
        Requester r;

        read_credentials(requester, host, &rc);
        requester_fill(ri->uid[1], NULL, 0, &rc, true, &r);
        daemon_allows = authorize_classify(&r, tc, host) <= AUTHORIZE_OWN_PROCESS;

        if (write(fds[1], &pid, sizeof(pid)) != sizeof(pid) || read(fds[0], &result, sizeof(result)) != sizeof(result))
                die("a requester is gone");
        if (result != 0 && result != EPERM) {
                errno = result;
                die("PTRACE_SEIZE");
        }
        kernel_allows = result == 0;
        stop(requester, fds);

        count.cells++;
        count.allowed += daemon_allows;
        if (daemon_allows == kernel_allows)
                count.equal++;
        else if (daemon_allows) {
                count.looser++;
                printf("# the kernel does not allow what the daemon does:\n");
        } else if (stricter(ri, ti, host))
                count.stricter++;
        else {
                count.unexplained++;
                printf("# the daemon asks an administrator without a reason:\n");
        }
        if (daemon_allows != kernel_allows && (daemon_allows || !stricter(ri, ti, host))) {
                print_identity("requester", ri);
                print_identity("target", ti);
        }
}

static void judge_target(const Identity *ti, const Host *host)
{
        Credentials tc;
        int fds[2];
        pid_t target = start(ti, fds);

        read_credentials(target, host, &tc);
        for (size_t i = 0; i < G_N_ELEMENTS(requesters); i++)
                judge_cell(requesters + i, ti, target, &tc, host);
        stop(target, fds);
}

#define SCOPE "/proc/sys/kernel/yama/ptrace_scope"

/* Every so manieth target, of which each kind comes in turn. */
static unsigned target_step(void)
{
        const char *rounds = getenv("REMFORK_ROUNDS");

        return rounds && atoi(rounds) < 100 ? 13 : 1;
}

static void judge_all(const Host *host)
{
        unsigned step = target_step(), n = 0;

        for (size_t u = 0; u < G_N_ELEMENTS(target_uids); u++)
                for (size_t g = 0; g < G_N_ELEMENTS(target_gids); g++)
                        for (size_t c = 0; c < G_N_ELEMENTS(capabilities); c++)
                                for (int flags = 0; flags < 4; flags++) {
                                        Identity t = {.capability = capabilities[c], .dumpable = (flags & 1) == 0,
                                                        .own_namespace = (flags & 2) != 0};

                                        memcpy(t.uid, target_uids[u], sizeof(t.uid));
                                        memcpy(t.gid, target_gids[g], sizeof(t.gid));
                                        if (n++ % step == 0)
                                                judge_target(&t, host);
                                }
}

static int set_scope(const char *text)
{
        _cleanup_close_ int fd = open(SCOPE, O_WRONLY | O_CLOEXEC);

        return fd < 0 || write(fd, text, strlen(text)) < 0 ? -1 : 0;
}

static void judge_scope(void)
{
        unsigned cells = count.cells;
        Host host;

        if (host_read("/proc", &host) < 0)
                die("/proc");
        judge_all(&host);
        printf("# Yama's scope %d: %u cells\n", host.yama_scope, count.cells - cells);
}

static void judge_scopes(void)
{
        g_autofree char *before = NULL;

        if (!getenv("REMFORK_YAMA_SCOPES") || !g_file_get_contents(SCOPE, &before, NULL, NULL)) {
                judge_scope();
                return;
        }

        for (const char *scope = "012"; *scope; scope++) {
                if (set_scope((const char[]){*scope, '\0'}) < 0)
                        die(SCOPE);
                judge_scope();
        }
        if (set_scope(before) < 0)
                die(SCOPE);
}

int main(void)
{

        setvbuf(stdout, NULL, _IOLBF, 0);
        if (geteuid() != 0) {
                printf("1..0 # SKIP root is needed to be everybody\n");
                return 0;
        }
        printf("1..3\n");
        judge_scopes();
        printf("# %u cells: in %u daemon and kernel agree (%u allowed), in %u the daemon asks an administrator "
               "where the kernel would allow it, for a reason that is known\n",
                        count.cells, count.equal, count.allowed, count.stricter);
        printf("%s 1 - nothing is a caller's right that the kernel denies\n", count.looser ? "not ok" : "ok");
        printf("%s 2 - what the kernel allows is the caller's right, but for known reasons\n", count.unexplained ? "not ok" : "ok");
        printf("%s 3 - there are cells of each kind\n",
                        count.allowed > 0 && count.equal > count.allowed && count.stricter > 0 ? "ok" : "not ok");
        return count.looser || count.unexplained ? EXIT_FAILURE : EXIT_SUCCESS;
}
