/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 *     kill-at N COMMAND...
 *
 * Runs COMMAND and kills it with SIGKILL when it is about to make its Nth system call, counting from its execve, which is
 * not counted; children that it makes are followed, their calls count too, and they are killed with it: a worker may be
 * more than one process. Says "killed N" or "ended STATUS CALLS" as the last line on stderr.
 *
 * What COMMAND itself traces is not followed: a process has one tracer.
 */

#define PROCESSES_MAX 64

static pid_t processes[PROCESSES_MAX];
static bool in_call[PROCESSES_MAX];
static int n_processes;

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

static pid_t start(char **argv)
{
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
        (void) ptrace(PTRACE_SETOPTIONS, pid, NULL,
                        PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE);
        (void) ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
        return pid;
}

/* The signal to go on with: the process's own, none for ptrace's stops and for the SIGSTOP a followed child starts with. */
static int signal_of(int status, bool is_new)
{
        int sig = WSTOPSIG(status);

        return sig == (SIGTRAP | 0x80) || status >> 16 || (is_new && sig == SIGSTOP) ? 0 : sig;
}

int main(int argc, char **argv)
{
        long limit = argc > 2 ? strtol(argv[1], NULL, 10) : 0, calls = 0;
        pid_t main_pid;

        if (limit <= 0) {
                (void) fprintf(stderr, "Usage: kill-at N COMMAND...\n");
                return EXIT_FAILURE;
        }

        main_pid = start(argv + 2);
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
                        in_call[i] = !in_call[i];
                        if (in_call[i] && ++calls == limit) {
                                kill_all();
                                (void) fprintf(stderr, "killed %ld\n", calls);
                                return EXIT_SUCCESS;
                        }
                }
                (void) ptrace(PTRACE_SYSCALL, pid, NULL, (long) signal_of(status, n_processes > known));
        }
}
