/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "state-regs.h"

/*
 *     state-probe compute|small-stack|robust-list|read|member DIRECTORY
 *
 * A process with as much state of its own as a process can have. It says "ready PID" on stdout and then either computes,
 * without a system call, until a word of memory that it shares with its clones tells it to end, or sits in read(0). As a member of a
 * tree it has namespaces and filters of its parent. Then
 * it writes all its state to DIRECTORY/PID, a line for each piece, and ends.
 */

/* Shared between target, clones and test: DIRECTORY/control */
typedef struct Control {
        volatile unsigned end;
} Control;

static char altstack[32768];
static void *robust_head[3] = {robust_head, NULL, NULL};

static void on_signal(int sig)
{
}

static void die(const char *what)
{
        (void) fprintf(stderr, "state-probe: %s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

/* Signals: a handler, an ignored one, an alternative stack, a mask, and one that is blocked and pending. */
static void set_signals(void)
{
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
        stack_t stack = {.ss_sp = altstack, .ss_size = sizeof(altstack)};
        sigset_t set;

        (void) sigaddset(&action.sa_mask, SIGHUP);
        if (sigaction(SIGUSR1, &action, NULL) < 0 || sigaltstack(&stack, NULL) < 0)
                die("signals");
        (void) signal(SIGUSR2, SIG_IGN);
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGTERM);
        (void) sigaddset(&set, SIGRTMIN + 3);
        (void) sigprocmask(SIG_SETMASK, &set, NULL);
        (void) kill(getpid(), SIGTERM);
}

/* A filter that denies one call that nobody makes. */
static void set_seccomp(void)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_acct, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                die("seccomp");
}

static void set_limits_and_files(const char *directory, bool own_namespace)
{
        struct rlimit limit = {.rlim_cur = 77, .rlim_max = 1000};
        int fd;

        (void) umask(0157);
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || setpriority(PRIO_PROCESS, 0, 3) < 0 || chdir(directory) < 0)
                die("limits");
        (void) prctl(PR_SET_NAME, "probe (x) y");
        (void) prctl(PR_SET_TIMERSLACK, 123456);
        fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "234", 3) != 3)
                die("oom_score_adj");
        (void) close(fd);
        fd = open("/proc/self/exe", O_RDONLY);
        if (fd < 0 || lseek(fd, 1234, SEEK_SET) != 1234)
                die("file");
        if (setpgid(0, 0) < 0 || (own_namespace && unshare(CLONE_NEWUTS) < 0))
                die("session");
}

/* Last: what follows needs no privilege. Real, effective and saved IDs differ, and so do groups. */
static void set_credentials(void)
{
        const gid_t groups[] = {12345, 23456};

        if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(2, groups) < 0 || setresgid(3001, 3002, 3003) < 0 ||
            setresuid(2001, 2002, 2003) < 0)
                die("credentials");
        (void) prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static void copy_file(FILE *out, const char *key, const char *path)
{
        char line[512];
        FILE *f = fopen(path, "re");

        if (!f) {
                (void) fprintf(out, "%s !%d\n", key, errno);
                return;
        }
        while (fgets(line, sizeof(line), f))
                (void) fprintf(out, "%s %s", key, line);
        (void) fclose(f);
}

static void dump_links(FILE *out)
{
        static const char *const names[] = {"cwd", "root", "exe", "ns/mnt", "ns/uts", "ns/ipc", "ns/net", "ns/pid", "ns/user",
                                            "ns/cgroup", "ns/time", NULL};

        for (int i = 0; names[i]; i++) {
                char path[64], text[512] = "";

                (void) snprintf(path, sizeof(path), "/proc/self/%s", names[i]);
                if (readlink(path, text, sizeof(text) - 1) < 0)
                        (void) snprintf(text, sizeof(text), "!%d", errno);
                (void) fprintf(out, "link-%s %s\n", names[i], text);
        }
        for (int fd = 0; fd < 20; fd++) {
                int flags = fcntl(fd, F_GETFL);

                if (flags >= 0 && fd != fileno(out))
                        (void) fprintf(out, "fd-%d %x %x %ld\n", fd, (unsigned) flags, (unsigned) fcntl(fd, F_GETFD),
                                        (long) lseek(fd, 0, SEEK_CUR));
        }
}

static void dump_signals(FILE *out)
{
        stack_t stack;

        for (int sig = 1; sig < 65; sig++) {
                struct {
                        void *handler;
                        unsigned long flags;
                        void *restorer;
                        uint64_t mask;
                } action = {};

                (void) syscall(SYS_rt_sigaction, sig, NULL, &action, 8);
                (void) fprintf(out, "action-%d %p %lx %p %lx\n", sig, action.handler, action.flags, action.restorer,
                                (unsigned long) action.mask);
        }
        (void) sigaltstack(NULL, &stack);
        (void) fprintf(out, "altstack %p %zu %d\n", stack.ss_sp, stack.ss_size, stack.ss_flags);
}

static void dump_process(FILE *out)
{
        void *address = NULL, *head = NULL;
        size_t length = 0;
        struct rlimit limit;

        (void) prctl(PR_GET_TID_ADDRESS, &address);
        (void) fprintf(out, "tid-address %p\n", address);
        (void) fprintf(out, "id-tid-at-address %d\n", address ? *(int *) address : 0);
        (void) fprintf(out, "id-gettid %ld\n", syscall(SYS_gettid));
        (void) fprintf(out, "id-getpid %d\nid-parent %d\n", (int) getpid(), (int) getppid());
        (void) syscall(SYS_get_robust_list, 0, &head, &length);
        (void) fprintf(out, "robust-list %p %zu\n", head, length);
        (void) fprintf(out, "pgrp %d\nsession %d\n", (int) getpgrp(), (int) getsid(0));
        (void) fprintf(out, "nice %d\nscheduler %d\n", getpriority(PRIO_PROCESS, 0), sched_getscheduler(0));
        (void) fprintf(out, "timerslack %d\ndumpable %d\nkeepcaps %d\npdeathsig-none\n", prctl(PR_GET_TIMERSLACK),
                        prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS));
        for (int i = 0; i < RLIM_NLIMITS; i++)
                if (getrlimit((enum __rlimit_resource) i, &limit) == 0)
                        (void) fprintf(out, "rlimit-%d %lx %lx\n", i, (unsigned long) limit.rlim_cur,
                                        (unsigned long) limit.rlim_max);
}

static void dump(const char *directory, enum register_result registers, unsigned long rounds)
{
        char path[512];
        FILE *out;
        mode_t mask;

        (void) snprintf(path, sizeof(path), "%s/%d.part", directory, (int) getpid());
        out = fopen(path, "we");
        if (!out)
                die(path);

        (void) fprintf(out, "registers %d\nid-rounds %lu\n", (int) registers, rounds);
        mask = umask(0);
        (void) umask(mask);
        (void) fprintf(out, "umask %o\n", (unsigned) mask);
        dump_process(out);
        dump_signals(out);
        dump_links(out);
        copy_file(out, "status", "/proc/self/status");
        copy_file(out, "oom", "/proc/self/oom_score_adj");
        copy_file(out, "cgroup", "/proc/self/cgroup");
        copy_file(out, "maps", "/proc/self/maps");
        (void) fclose(out);

        /* The test looks for the name without ".part": then the file is whole. */
        {
                char final[512];

                (void) snprintf(final, sizeof(final), "%s/%d", directory, (int) getpid());
                (void) rename(path, final);
        }
}

int main(int argc, char **argv)
{
        enum register_result result = REGISTERS_OK;
        unsigned long rounds = 0;
        Control *control;
        char line[64], path[512], b;
        bool member;
        int fd, n;

        if (argc != 3) {
                (void) fprintf(stderr, "Usage: state-probe compute|small-stack|robust-list|read|member DIRECTORY\n");
                return EXIT_FAILURE;
        }

        (void) snprintf(path, sizeof(path), "%s/control", argv[2]);
        fd = open(path, O_RDWR | O_CLOEXEC);
        member = strcmp(argv[1], "member") == 0;
        control = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || control == MAP_FAILED)
                die(path);
        (void) close(fd);

        registers_prepare(strcmp(argv[1], "small-stack") == 0);
        set_limits_and_files(argv[2], !member);
        set_signals();
        set_credentials();
        if (!member)
                set_seccomp();
        (void) prctl(PR_SET_PDEATHSIG, 0);
        if (strcmp(argv[1], "robust-list") == 0) /* one of its own in place of the C library's */
                (void) syscall(SYS_set_robust_list, robust_head, sizeof(robust_head));

        n = snprintf(line, sizeof(line), "ready %d\n", (int) getpid());
        if (write(STDOUT_FILENO, line, (size_t) n) != n)
                return EXIT_FAILURE;

        if (strcmp(argv[1], "read") == 0)
                while (read(STDIN_FILENO, &b, 1) < 0 && errno == EINTR)
                        result = REGISTERS_GENERAL; /* no signal was sent: an EINTR is the fault of the cloning */
        else
                while (!control->end && result == REGISTERS_OK) {
                        result = registers_check(20000);
                        rounds++;
                }

        dump(argv[2], result, rounds);
        return result == REGISTERS_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
