/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine/remfork.h"
#include "daemon/util.h"

/*
 *     race-driver RACE ROUNDS
 *
 * In each round a process is cloned by remfork(2) while something happens to it, at a moment that differs from round to round.
 * Whatever comes first: the answer is a clone or an error that the race allows, what should go on goes on, in the target and in
 * the clone, nobody is left stopped or traced, and nothing is left over. Prints a line
 *
 *     RACE ROUNDS rounds, CLONES clones, REFUSED refused, FAILURES failures
 *
 * and what failed, at most ten times, on stderr. Exit status 1 where there was a failure, 2 where the race cannot be run.
 */

enum {
        NOBODY = 65534,
        SLOTS = 4096,           /* beats, by PID */
        SECONDS_MAX = 20,       /* what takes longer has hung, also on a kernel that checks itself under software emulation */
        TOLD_MAX = 10,
        PROGRESS_SECONDS = 10,
};

typedef struct Shared {
        int ready;
        long result;            /* of a requester that is a process of its own */
        bool requested;
        unsigned span_usec;     /* that a request takes when nothing happens */
        uint32_t beats[SLOTS];
} Shared;

typedef struct Race {
        const char *name;
        void (*target)(void);
        void (*act)(pid_t target);              /* by a process of its own; NULL: the target does it itself */
        bool survives;                          /* the target goes on */
        bool clone_survives;                    /* so does the clone: not one that waits for a thread which it does not have */
        long allowed;                           /* -errno besides those that every race may have */
} Race;

typedef struct Count {
        unsigned long clones, refused, failures;
} Count;

static Shared *shared;
static const char *own_path;
static char setuid_path[] = "/tmp/remfork-race-XXXXXX";
static char group_path[] = "/sys/fs/cgroup/remfork-race";

static uint64_t now_nsec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000U + (uint64_t) ts.tv_nsec;
}

static void die(const char *what)
{
        (void) fprintf(stderr, "race-driver: %s: %s\n", what, strerror(errno));
        exit(2);
}

/* Until @done says so; false: it hung. */
static bool wait_until(bool (*done)(pid_t pid), pid_t pid)
{
        uint64_t limit = now_nsec() + UINT64_C(1000000000) * SECONDS_MAX;

        while (!done(pid)) {
                if (now_nsec() > limit)
                        return false;
                (void) usleep(200);
        }

        return true;
}

static void set_ready(void)
{
        __atomic_store_n(&shared->ready, 1, __ATOMIC_SEQ_CST);
}

static bool is_ready(pid_t pid)
{
        return __atomic_load_n(&shared->ready, __ATOMIC_SEQ_CST) != 0;
}

static void beat(void)
{
        /* Not libc's getpid(), which nothing keeps from being remembered: the clone must ask anew. */
        __atomic_add_fetch(&shared->beats[syscall(SYS_getpid) % SLOTS], 1, __ATOMIC_RELAXED);
}

static uint32_t beats_of(pid_t pid)
{
        return __atomic_load_n(&shared->beats[pid % SLOTS], __ATOMIC_RELAXED);
}

static bool has_beaten(pid_t pid)
{
        return beats_of(pid) >= 3;
}

static bool goes_on(pid_t pid)
{
        __atomic_store_n(&shared->beats[pid % SLOTS], 0, __ATOMIC_RELAXED);
        return wait_until(has_beaten, pid);
}

/* The number behind @key in /proc/PID/status, its @field'th; -1 where the process is gone. */
static long status_field(pid_t pid, const char *key, int field, int base)
{
        char path[64], line[256];
        long value = -1;
        FILE *f;

        (void) snprintf(path, sizeof(path), "/proc/%d/status", (int) pid);
        f = fopen(path, "re");
        if (!f)
                return -1;

        while (fgets(line, sizeof(line), f)) {
                char *p = line + strlen(key);

                if (strncmp(line, key, strlen(key)) != 0 || *p != ':')
                        continue;
                for (p++; field >= 0; field--)
                        value = strtol(p, &p, base);
                break;
        }

        (void) fclose(f);
        return value;
}

/* Microseconds, from none to half of what a request takes with all that is around it; differs from round to round, and meets all of it. */
static unsigned some_time(unsigned long round)
{
        return (unsigned) (round * 37 % 400 * shared->span_usec / 800);
}

/* Targets */

static void target_beats(void)
{
        set_ready();
        for (;;)
                beat();
}

static void target_exits(void)
{
        set_ready();
        (void) usleep(some_time((unsigned long) getpid()));
        _exit(0);
}

static void *thread_ends(void *arg)
{
        return arg;
}

static void target_threads(void)
{
        set_ready();
        for (;;) {
                pthread_t t;

                if (pthread_create(&t, NULL, thread_ends, NULL) == 0)
                        (void) pthread_join(t, NULL);
                beat();
        }
}

/* Becomes the process of a user who has no right over what it then becomes: a program that is setuid root. */
static void target_execs(void)
{
        if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
                _exit(2);
        /* Changing IDs took that away; Yama asks for the other. */
        (void) prctl(PR_SET_DUMPABLE, 1);
        (void) prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        set_ready();
        (void) usleep(some_time((unsigned long) getpid()));
        (void) execl(setuid_path, setuid_path, "idle", NULL);
        _exit(2);
}

/* What happens to them */

static void act_kill(pid_t target)
{
        (void) kill(target, SIGKILL);
}

static void act_stop(pid_t target)
{
        (void) kill(target, SIGSTOP);
        (void) usleep(shared->span_usec / 4);
        (void) kill(target, SIGCONT);
}

static void act_ptrace(pid_t target)
{
        if (ptrace(PTRACE_SEIZE, target, 0, 0) < 0)
                return;
        (void) ptrace(PTRACE_INTERRUPT, target, 0, 0);
        (void) waitpid(target, NULL, __WALL);
        (void) usleep(shared->span_usec / 4);
        (void) ptrace(PTRACE_DETACH, target, 0, 0);
}

static void write_to_group(const char *name, const char *text)
{
        char path[128];
        int fd;

        (void) snprintf(path, sizeof(path), "%s/%s", group_path, name);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                die(path);
        safe_close(fd);
}

static void act_freeze(pid_t target)
{
        write_to_group("cgroup.freeze", "1");
        (void) usleep(1000);
        write_to_group("cgroup.freeze", "0");
}

/* The request */

static long request(pid_t target, unsigned long round, bool stopped)
{
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, target, 0);
        struct remfork_args args = {
                .flags = (round & 1 ? REMFORK_SYSCALL : 0) | (stopped ? REMFORK_STOPPED : 0),
                .timeout = 2000000000,
        };
        long r;

        if (pidfd < 0)
                return -errno;
        r = syscall(SYS_REMFORK, pidfd, &args, sizeof(args));
        return r < 0 ? -errno : r;
}

/* NOBODY, with the one capability that remfork(2) wants. */
static void become_requester(void)
{
        const cap_value_t wanted = CAP_CHECKPOINT_RESTORE;
        cap_t caps = cap_init();

        if (prctl(PR_SET_KEEPCAPS, 1) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0 || !caps ||
                        cap_set_flag(caps, CAP_PERMITTED, 1, &wanted, CAP_SET) < 0 ||
                        cap_set_flag(caps, CAP_EFFECTIVE, 1, &wanted, CAP_SET) < 0 || cap_set_proc(caps) < 0)
                die("a requester without privilege");
        (void) cap_free(caps);
}

static pid_t start(void (*function)(void))
{
        pid_t pid = fork();

        if (pid < 0)
                die("fork");
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                function();
                _exit(0);
        }

        return pid;
}

/* In a process of its own: as NOBODY, or as one that is killed at some moment (@kill_after microseconds, 0: never). */
static long request_apart(pid_t target, unsigned long round, bool unprivileged, unsigned kill_after)
{
        pid_t requester;

        shared->requested = false;
        requester = fork();
        if (requester < 0)
                die("fork");
        if (requester == 0) {
                if (unprivileged)
                        become_requester();
                shared->result = request(target, round, unprivileged);
                shared->requested = true;
                _exit(0);
        }

        if (kill_after > 0) {
                (void) usleep(kill_after);
                (void) kill(requester, SIGKILL);
        }
        (void) waitpid(requester, NULL, __WALL);
        return shared->requested ? shared->result : -EINTR;
}

/* What is left is killed and taken; false: something does not end. */
static bool sweep(void)
{
        uint64_t limit = now_nsec() + UINT64_C(1000000000) * SECONDS_MAX;

        for (;;) {
                FILE *f = fopen("/proc/thread-self/children", "re");
                pid_t pid;
                int n;

                while (f && fscanf(f, "%d", &n) == 1)
                        (void) kill(n, SIGKILL);
                if (f)
                        (void) fclose(f);
                do
                        pid = waitpid(-1, NULL, WNOHANG | __WALL);
                while (pid > 0);
                if (pid < 0 && errno == ECHILD)
                        return true;
                if (now_nsec() > limit)
                        return false;
                (void) usleep(100);
        }
}

/* Why the round failed, NULL: it did not. */
static const char *judge(const Race *race, pid_t target, long result)
{
        if (result < 0 && result != -ESRCH && result != -ETIMEDOUT && result != race->allowed)
                return "an error that the race does not allow";
        if (race->act == NULL && result > 0 && race->target == target_execs &&
                        (status_field((pid_t) result, "Uid", 1, 10) == 0 || status_field((pid_t) result, "Uid", 2, 10) == 0))
                return "the clone has a privilege that the requester has no right over";
        if (!race->survives)
                return NULL;
        if (!goes_on(target))
                return "the target does not go on";
        if (status_field(target, "TracerPid", 0, 10) != 0)
                return "the target is traced";
        if (race->act == act_stop && result > 0)
                (void) kill((pid_t) result, SIGCONT); /* the clone of a target that was stopped is stopped as well */
        if (race->clone_survives && result > 0 && !goes_on((pid_t) result))
                return "the clone does not go on";
        return NULL;
}

static const char *one_round(const Race *race, unsigned long round, long *ret_result)
{
        bool killed = strcmp(race->name, "requester") == 0, unprivileged = race->target == target_execs;
        unsigned delay = some_time(round);
        const char *failure = NULL;
        pid_t target, actor = 0;

        __atomic_store_n(&shared->ready, 0, __ATOMIC_SEQ_CST);
        target = start(race->target);
        if (!wait_until(is_ready, target))
                die("the target does not begin");

        if (race->act == act_freeze) {
                char text[16];

                (void) snprintf(text, sizeof(text), "%d", (int) target);
                write_to_group("cgroup.procs", text);
        }
        if (race->act) {
                actor = fork();
                if (actor < 0)
                        die("fork");
                if (actor == 0) {
                        (void) usleep(delay);
                        race->act(target);
                        _exit(0);
                }
        }

        *ret_result = killed || unprivileged ? request_apart(target, round, unprivileged, killed ? delay + 1 : 0)
                                             : request(target, round, false);
        if (actor > 0)
                (void) waitpid(actor, NULL, __WALL);
        failure = judge(race, target, *ret_result);
        /* A requester that was killed left nothing behind: the next is served. */
        if (!failure && killed && request(target, round, true) <= 0)
                failure = "the target cannot be cloned any more";
        if (!sweep() && !failure)
                failure = "something is left that does not end";
        return failure;
}

static const Race races[] = {
        {"setuid", target_execs, NULL, false, false, -EACCES},
        {"exit", target_exits, NULL, false, false, 0},
        {"kill", target_beats, act_kill, false, false, 0},
        {"stop", target_beats, act_stop, true, true, 0},
        {"thread", target_threads, NULL, true, false, 0},
        {"ptrace", target_beats, act_ptrace, true, true, -EBUSY},
        {"freezer", target_beats, act_freeze, true, true, 0},
        {"requester", target_beats, NULL, true, true, -EINTR},
};

static void make_setuid_program(void)
{
        int in = open(own_path, O_RDONLY | O_CLOEXEC), out = mkstemp(setuid_path);
        char buffer[65536];
        ssize_t n;

        if (in < 0 || out < 0)
                die("a setuid program");
        while ((n = read(in, buffer, sizeof(buffer))) > 0)
                if (write(out, buffer, (size_t) n) != n)
                        die(setuid_path);
        if (n < 0 || fchmod(out, 04755) < 0)
                die(setuid_path);
        safe_close(in);
        safe_close(out);
}

static void prepare(const Race *race)
{
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED)
                die("mmap");
        if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                die("PR_SET_CHILD_SUBREAPER");
        if (race->target == target_execs)
                make_setuid_program();
        if (race->act == act_freeze && mkdir(group_path, 0755) < 0 && errno != EEXIST)
                die(group_path);
}

static void clean_up(const Race *race)
{
        if (race->target == target_execs)
                (void) unlink(setuid_path);
        if (race->act == act_freeze)
                (void) rmdir(group_path);
}

/* How long a request takes here, asked by a process of its own, when nothing else happens: the median of some. */
static void measure_span(void)
{
        enum { N = 9 };
        unsigned spans[N] = {};

        for (int i = 0; i < N; i++) {
                pid_t target;
                uint64_t begin;

                __atomic_store_n(&shared->ready, 0, __ATOMIC_SEQ_CST);
                target = start(target_beats);
                if (!wait_until(is_ready, target))
                        die("the target does not begin");
                begin = now_nsec();
                if (request_apart(target, 0, false, 0) <= 0)
                        die("no clone though nothing happened");
                spans[i] = (unsigned) ((now_nsec() - begin) / 1000);
                for (int k = i; k > 0 && spans[k] < spans[k - 1]; k--) {
                        unsigned t = spans[k];

                        spans[k] = spans[k - 1];
                        spans[k - 1] = t;
                }
                if (!sweep())
                        die("a clone does not end");
        }

        shared->span_usec = spans[N / 2];
}

static int run(const Race *race, unsigned long rounds)
{
        uint64_t progress = now_nsec();
        Count count = {};

        measure_span();
        for (unsigned long i = 0; i < rounds; i++) {
                long result = 0;
                const char *failure = one_round(race, i, &result);

                count.clones += result > 0;
                count.refused += result <= 0;
                if (failure && ++count.failures <= TOLD_MAX)
                        (void) fprintf(stderr, "race-driver: %s, round %lu: %s (the answer was %ld)\n", race->name, i, failure, result);
                if (now_nsec() - progress > UINT64_C(1000000000) * PROGRESS_SECONDS) {
                        progress = now_nsec();
                        (void) fprintf(stderr, "race-driver: %s: %lu of %lu rounds\n", race->name, i + 1, rounds);
                }
        }

        (void) printf("%s %lu rounds, %lu clones, %lu refused, %lu failures\n", race->name, rounds, count.clones, count.refused,
                        count.failures);
        return count.failures > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
        /* The setuid program that the target becomes. */
        if (argc == 2 && strcmp(argv[1], "idle") == 0)
                for (;;)
                        (void) syscall(SYS_getppid);

        own_path = "/proc/self/exe";
        for (size_t i = 0; argc == 3 && i < sizeof(races) / sizeof(races[0]); i++)
                if (strcmp(argv[1], races[i].name) == 0 && strtoul(argv[2], NULL, 10) > 0) {
                        int r;

                        prepare(&races[i]);
                        r = run(&races[i], strtoul(argv[2], NULL, 10));
                        clean_up(&races[i]);
                        return r;
                }

        (void) fprintf(stderr, "race-driver: a race (setuid, exit, kill, stop, thread, ptrace, freezer, requester) and a number of "
                               "rounds were expected\n");
        return 2;
}
