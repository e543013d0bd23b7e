/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine/fdinfo.h"
#include "daemon/engine/sampler.h"
#include "daemon/util.h"

#define ARENA_SIZE (256U * 1024U * 1024U) /* of address space: memory is taken as it is written to */
#define TRIES 4U
#define END_USEC 50000U

typedef struct Text {
        size_t at, n; /* at 0: none */
} Text;

typedef struct Record {
        atomic_uint captured; /* number of the last capture that was done, 0 for none */
        Text info, waiting;
        int unread, pipe_size;
        bool changed;
} Record;

/* Shared with the process; it has it to itself but for what is atomic until it answers. */
typedef struct Arena {
        atomic_size_t at; /* the source that is being looked at */
        size_t used;      /* bytes */
        Record records[];
} Arena;

struct Sampler {
        SamplerSource *sources; /* borrowed */
        size_t n;
        Arena *arena;
        pid_t pid; /* 0 for none */
        int fd;    /* commands and answers, a byte each */
        unsigned n_captures;
        bool late; /* it has not answered, and is not asked any more */
};

/* Processes that were started and not waited for. */
static GArray *started;

static void remember(pid_t pid)
{
        if (!started)
                started = g_array_new(FALSE, FALSE, sizeof(pid_t));
        g_array_append_val(started, pid);
}

bool sampler_was(pid_t pid)
{
        for (guint k = 0; started && k < started->len; k++)
                if (g_array_index(started, pid_t, k) == pid) {
                        g_array_remove_index_fast(started, k);
                        return true;
                }

        return false;
}

/* One that does not end, as it waits for a lock, ends when it gets it: it was sent SIGKILL. Until then there is no use in waiting. */
static void finish(pid_t pid)
{
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        (void) kill(pid, SIGKILL); /* a child that was not waited for: the PID is its own */
        if (pidfd >= 0 && RETRY_EINTR(poll(&p, 1, END_USEC / 1000)) > 0 && waitpid(pid, NULL, WNOHANG) == pid)
                (void) sampler_was(pid);
}

static int compare(const void *a, const void *b)
{
        return *(const int *) a - *(const int *) b;
}

/* In the child: all descriptors but @keep are closed, so that no pipe of the request's stays open for longer than this process. */
static void close_others(int *keep, size_t n)
{
        unsigned from = 0;

        qsort(keep, n, sizeof(*keep), compare);
        for (size_t k = 0; k < n; k++) {
                if (keep[k] < 0 || (unsigned) keep[k] < from)
                        continue;
                if ((unsigned) keep[k] > from)
                        (void) close_range(from, (unsigned) keep[k] - 1, 0);
                from = (unsigned) keep[k] + 1;
        }
        (void) close_range(from, ~0U, 0);
}

/* 0 in the child, which ends with its parent. */
static pid_t fork_child(void)
{
        pid_t parent = getpid(), pid = fork();

        if (pid < 0)
                return -errno;
        if (pid > 0) {
                remember(pid);
                return pid;
        }
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                _exit(EXIT_FAILURE);
        (void) prctl(PR_SET_NAME, "remfork-sampler");
        return 0;
}

/* The kernel makes the text at a read from its beginning, all of it at once (fs/seq_file.c), however long it is. */
static Text read_info(Arena *a, int infofd)
{
        char *to = (char *) a + a->used;
        ssize_t n = pread(infofd, to, ARENA_SIZE - a->used - 1, 0);
        Text text = {};

        if (n < 0 || (size_t) n >= ARENA_SIZE - a->used - 1) /* there is more than fits */
                return text;
        to[n] = '\0';
        text = (Text){a->used, (size_t) n};
        a->used += (size_t) n + 1;
        return text;
}

/* A peek goes through the queue of a stream, up to a message that brings descriptors (net/unix/af_unix.c: unix_stream_read_generic()). */
static void peek(Arena *a, Record *r, int fd)
{
        int waiting = 0;
        ssize_t n = recv(fd, (char *) a + a->used, ARENA_SIZE - a->used, MSG_PEEK | MSG_DONTWAIT);

        if (n > 0) {
                r->waiting = (Text){a->used, (size_t) n};
                a->used += (size_t) n;
        }
        if (ioctl(fd, FIONREAD, &waiting) == 0)
                r->unread = MAX(waiting - (int) MAX(n, 0), 0);
}

static bool differs(const Arena *a, Text x, Text y)
{
        return x.at > 0 && y.at > 0 && fdinfo_differs((const char *) a + x.at, (const char *) a + y.at, "eventfd-count");
}

static void capture(Arena *a, const SamplerSource *s, Record *r, unsigned number)
{
        Text before = r->info;

        if (number == 0) { /* so that the first real one is as quick as it can be, and what is kept busy is known before */
                r->pipe_size = s->tee_write >= 0 ? fcntl(s->fd, F_GETPIPE_SZ) : 0;
                if (s->tee_write >= 0)
                        (void) fcntl(s->tee_write, F_SETPIPE_SZ, r->pipe_size); /* a smaller one holds less, which is noted */
        }
        if (s->infofd >= 0)
                r->info = read_info(a, s->infofd);
        if (s->stream && number <= 1)
                peek(a, r, s->fd);
        if (s->tee_write >= 0 && number == 1)
                (void) tee(s->fd, s->tee_write, INT32_MAX, SPLICE_F_NONBLOCK); /* EAGAIN: it is empty */
        r->changed = number > 1 && differs(a, before, r->info);
        r->captured = number;
}

static void serve(Sampler *s, int fd) G_GNUC_NORETURN;
static void serve(Sampler *s, int fd)
{
        const size_t begin = s->arena->used;
        uint8_t number;

        while (RETRY_EINTR(read(fd, &number, 1)) == 1) {
                for (size_t k = 0; k < s->n; k++) {
                        s->arena->at = k;
                        if (!s->sources[k].busy)
                                capture(s->arena, &s->sources[k], &s->arena->records[k], number);
                }
                if (number == 0)
                        s->arena->used = begin;
                if (RETRY_EINTR(write(fd, &number, 1)) != 1)
                        break;
        }
        _exit(EXIT_SUCCESS);
}

static int start(Sampler *s)
{
        g_autofree int *keep = g_new(int, 3 * s->n + 1);
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        keep[0] = pair[1];
        for (size_t k = 0; k < s->n; k++) {
                keep[3 * k + 1] = s->sources[k].fd;
                keep[3 * k + 2] = s->sources[k].infofd;
                keep[3 * k + 3] = s->sources[k].tee_write;
        }

        s->pid = fork_child();
        if (s->pid == 0) {
                int fd = pair[1];

                close_others(keep, 3 * s->n + 1);
                serve(s, fd);
        }
        safe_close(pair[1]);
        s->fd = pair[0];
        return s->pid < 0 ? s->pid : 0;
}

static void stop(Sampler *s)
{
        s->fd = safe_close(s->fd);
        if (s->pid > 0)
                finish(s->pid);
        s->pid = 0;
}

/* False where there was no answer in time. */
static bool ask(Sampler *s, unsigned number, uint64_t limit_usec)
{
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        const struct timespec limit = {(time_t) (limit_usec / G_USEC_PER_SEC), (long) (limit_usec % G_USEC_PER_SEC) * 1000};
        uint8_t byte = (uint8_t) number;

        return send(s->fd, &byte, 1, MSG_NOSIGNAL) == 1 && ppoll(&p, 1, &limit, NULL) > 0 && recv(s->fd, &byte, 1, MSG_DONTWAIT) == 1;
}

int sampler_new(Sampler **ret, SamplerSource *sources, size_t n, uint64_t limit_usec)
{
        g_autoptr(Sampler) s = g_new0(Sampler, 1);

        *s = (Sampler){.sources = sources, .n = n, .fd = -EBADF};
        if (n > ARENA_SIZE / 2 / sizeof(Record))
                return -E2BIG;
        s->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (s->arena == MAP_FAILED) {
                s->arena = NULL;
                return -errno;
        }

        for (unsigned tries = 0;; tries++) {
                int r;

                s->arena->used = sizeof(Arena) + n * sizeof(Record);
                r = start(s);
                if (r < 0)
                        return r;
                if (ask(s, 0, limit_usec))
                        break;
                stop(s);
                sources[s->arena->at].busy = true;
                for (size_t k = 0; tries == TRIES && k < n; k++) /* somebody takes pains; there is no end to that */
                        sources[k].busy = true;
        }

        *ret = g_steal_pointer(&s);
        return 0;
}

Sampler *sampler_free(Sampler *s)
{
        if (!s)
                return NULL;

        stop(s);
        if (s->arena)
                (void) munmap(s->arena, ARENA_SIZE);
        g_free(s);
        return NULL;
}

void sampler_capture(Sampler *s, uint64_t limit_usec)
{
        if (s->late)
                return;
        s->n_captures++;
        s->late = !ask(s, s->n_captures, limit_usec);
}

bool sampler_get(const Sampler *s, size_t k, SamplerResult *ret)
{
        const Record *r = &s->arena->records[k];
        const char *base = (const char *) s->arena;

        if (s->n_captures == 0 || s->sources[k].busy || r->captured != s->n_captures)
                return false;
        *ret = (SamplerResult){
                .info = r->info.at > 0 ? base + r->info.at : NULL,
                .waiting = r->waiting.at > 0 ? base + r->waiting.at : NULL,
                .n_waiting = r->waiting.n,
                .unread = r->unread,
                .pipe_size = r->pipe_size,
                .changed = r->changed,
        };
        return true;
}

int sampler_run(int (*run)(void *userdata), void *userdata, uint64_t limit_usec)
{
        _cleanup_close_ int near = -EBADF, far = -EBADF;
        struct pollfd p = {.events = POLLIN};
        int pair[2], r;
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        near = pair[0];
        far = pair[1];

        pid = fork_child();
        if (pid < 0)
                return pid;
        if (pid == 0) {
                r = run(userdata);
                _exit(send(far, &r, sizeof(r), MSG_NOSIGNAL) == sizeof(r) ? EXIT_SUCCESS : EXIT_FAILURE);
        }

        far = safe_close(far);
        p.fd = near;
        if (RETRY_EINTR(poll(&p, 1, (int) (limit_usec / 1000))) <= 0 || recv(near, &r, sizeof(r), MSG_DONTWAIT) != sizeof(r))
                r = -ETIMEDOUT;
        finish(pid);
        return r;
}
