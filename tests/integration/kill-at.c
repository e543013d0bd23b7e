/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 *     kill-at [--alone] [--error=NUMBER] N COMMAND...
 *     kill-at --error=NUMBER --pid=PID N
 *
 * Runs COMMAND and kills it with SIGKILL when it is about to make its Nth system call, counting from its first
 * pidfd_open(2) on, with which it takes hold of its target: before that it is a program that starts. Children that it makes
 * are followed, their calls count too, and they are killed with it: a worker may be more than one process. Alone it is not so:
 * what COMMAND makes is left to itself. Says "killed N" or "ended
 * STATUS CALLS" as the last line on stderr.
 *
 * With an error COMMAND goes on, but its Nth call is not made and gives that error (0: one that goes with the call); a line "failed
 * CALL-NUMBER" tells of it, "spared CALL-NUMBER" of a call that is made all the same (can_fail()). With a PID it is the Nth call from now on of a process that runs already, whose children are not followed;
 * says "ready" on stdout when it begins to count, and leaves the process alone after the failure or when it is killed itself.
 *
 * What COMMAND itself traces is not followed: a process has one tracer.
 */

#define PROCESSES_MAX 64

static pid_t processes[PROCESSES_MAX];
static bool in_call[PROCESSES_MAX];
static int n_processes;

/* True from the first pidfd_open() on. */
static bool is_counted(pid_t pid)
{
        static bool begun;

        if (!begun)
                begun = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, orig_rax), NULL) == SYS_pidfd_open;
        return begun;
}

static const char *strip(const char *text, const char *prefix)
{
        return strncmp(text, prefix, strlen(prefix)) == 0 ? text + strlen(prefix) : NULL;
}

/* What is short when a call like this fails. */
static int error_of(long call)
{
        switch (call) {
        case SYS_open:
        case SYS_openat:
        case SYS_pidfd_open:
        case SYS_pidfd_getfd:
        case SYS_socketpair:
        case SYS_socket:
        case SYS_pipe2:
        case SYS_dup:
        case SYS_dup2:
        case SYS_dup3:
        case SYS_memfd_create:
        case SYS_recvmsg: /* where it brings descriptors */
                return EMFILE;
        case SYS_fork:
        case SYS_vfork:
        case SYS_clone:
        case SYS_clone3:
                return EAGAIN;
        default:
                return ENOMEM;
        }
}

/*
 * Not those that cannot fail for want of anything; ptrace(2) and the waits do for one reason alone, that a tracee was killed. Nor close(2),
 * which would really leave a descriptor behind, brk(2), whose failure libc's allocator does not survive at each of its instants, and
 * write(2), by which COMMAND says what it has done.
 */
static bool can_fail(pid_t pid, long call)
{
        static const long never[] = {SYS_ptrace, SYS_write, SYS_waitid, SYS_wait4, SYS_brk, SYS_close, SYS_timerfd_settime, SYS_exit, SYS_exit_group,
                SYS_rt_sigreturn, SYS_execve, SYS_epoll_wait, SYS_getpid, SYS_getuid, SYS_geteuid, SYS_getppid, SYS_gettid};

        for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
                if (call == never[i])
                        return false;
        /* To take one out, or have it wait for something else, takes nothing; sd-event rests on it. */
        return call != SYS_epoll_ctl || ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rsi), NULL) == EPOLL_CTL_ADD;
}

/* At the entry of the call: it is not made. */
static long skip_call(pid_t pid)
{
        long call = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, orig_rax), NULL);

        if (can_fail(pid, call))
                (void) ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), -1L);
        return call;
}

/* At its exit. */
static void fail_call(pid_t pid, long call, int error)
{
        (void) fprintf(stderr, "%s %ld\n", can_fail(pid, call) ? "failed" : "spared", call);
        if (can_fail(pid, call))
                (void) ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rax), (long) -(error ? error : error_of(call)));
}

/* The signal to go on with: the process's own, none for ptrace's stops and for the SIGSTOP a followed child starts with. */
static int signal_of(int status, bool is_new)
{
        int sig = WSTOPSIG(status);

        return sig == (SIGTRAP | 0x80) || status >> 16 || (is_new && sig == SIGSTOP) ? 0 : sig;
}

/* Of a process that runs already; one of its threads. */
static int fail_at(pid_t pid, long limit, int error)
{
        bool inside = false;
        long calls = 0, call = 0;
        int status;

        if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0) {
                perror("kill-at: ptrace");
                return EXIT_FAILURE;
        }
        while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
                /* Where it waits in a call now, the first stop is at its exit. */
                if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
                        struct __ptrace_syscall_info info;

                        (void) ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info);
                        inside = info.op == PTRACE_SYSCALL_INFO_ENTRY;
                        if (inside && ++calls == limit)
                                call = skip_call(pid);
                        if (!inside && calls == limit) {
                                fail_call(pid, call, error);
                                return ptrace(PTRACE_DETACH, pid, 0, 0) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
                        }
                } else if (calls == 0 && status >> 16 == PTRACE_EVENT_STOP) {
                        (void) puts("ready");
                        (void) fflush(stdout);
                }
                (void) ptrace(PTRACE_SYSCALL, pid, NULL, (long) signal_of(status, false));
        }
        (void) fprintf(stderr, "kill-at: process %d ended\n", (int) pid);
        return EXIT_FAILURE;
}

static int find(pid_t pid)
{
        for (int i = 0; i < n_processes; i++)
                if (processes[i] == pid)
                        return i;

        if (n_processes == PROCESSES_MAX) {
                (void) fprintf(stderr, "kill-at: more than %d processes\n", PROCESSES_MAX);
                exit(EXIT_FAILURE);
        }
        processes[n_processes] = pid;
        return n_processes++;
}

static void forget(int i)
{
        n_processes--;
        processes[i] = processes[n_processes];
        in_call[i] = in_call[n_processes];
}

static void kill_all(void)
{
        for (int i = 0; i < n_processes; i++)
                (void) kill(processes[i], SIGKILL);
        while (waitpid(-1, NULL, __WALL) > 0)
                ;
}

static pid_t start(char **argv, bool alone)
{
        const long follow = alone ? 0 : PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE;
        pid_t pid = fork();
        int status;

        if (pid < 0) {
                perror("kill-at: fork");
                exit(EXIT_FAILURE);
        }
        if (pid == 0) {
                (void) ptrace(PTRACE_TRACEME, 0, NULL, NULL);
                (void) execv(argv[0], argv);
                perror(argv[0]);
                _exit(127);
        }

        if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) {
                (void) fprintf(stderr, "kill-at: %s does not start\n", argv[0]);
                exit(EXIT_FAILURE);
        }
        (void) ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | follow);
        (void) ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
        return pid;
}

int main(int argc, char **argv)
{
        long limit, calls = 0, failing = 0;
        const char *error = NULL, *other = NULL;
        pid_t main_pid, failed_pid = 0;
        bool alone = false;

        for (; argc > 1 && argv[1][0] == '-'; argc--, argv++)
                if (strip(argv[1], "--error="))
                        error = strip(argv[1], "--error=");
                else if (strcmp(argv[1], "--alone") == 0)
                        alone = true;
                else if (strip(argv[1], "--pid="))
                        other = strip(argv[1], "--pid=");
                else
                        break;
        limit = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
        if (limit <= 0 || (other ? !error || argc != 2 : argc < 3)) {
                (void) fprintf(stderr, "Usage: kill-at [--alone] [--error=NUMBER] N COMMAND..., kill-at --error=NUMBER --pid=PID N\n");
                return EXIT_FAILURE;
        }
        if (other)
                return fail_at((pid_t) strtol(other, NULL, 10), limit, atoi(error));

        main_pid = start(argv + 2, alone);
        (void) find(main_pid);

        for (;;) {
                int status, known = n_processes, i;
                pid_t pid = waitpid(-1, &status, __WALL);

                if (pid < 0) {
                        (void) fprintf(stderr, "kill-at: waitpid: %s\n", strerror(errno));
                        return EXIT_FAILURE;
                }

                i = find(pid);
                if (!WIFSTOPPED(status)) {
                        forget(i);
                        if (pid != main_pid)
                                continue;
                        kill_all();
                        (void) fprintf(stderr, "ended %d %ld\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
                                        calls);
                        return EXIT_SUCCESS;
                }

                if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
                        bool reached;

                        in_call[i] = !in_call[i];
                        reached = in_call[i] && is_counted(pid) && ++calls == limit;
                        if (reached && !error) {
                                kill_all();
                                (void) fprintf(stderr, "killed %ld\n", calls);
                                return EXIT_SUCCESS;
                        }
                        if (reached) {
                                failing = skip_call(pid);
                                failed_pid = pid;
                        } else if (!in_call[i] && failed_pid == pid) {
                                fail_call(pid, failing, atoi(error));
                                failed_pid = 0;
                        }
                }
                (void) ptrace(PTRACE_SYSCALL, pid, NULL, (long) signal_of(status, n_processes > known));
        }
}
