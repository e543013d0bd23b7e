/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/worker-protocol.h"
#include "daemon/worker.h"
#include "tests/fuzz/fuzz.h"

/*
 * A worker that sends what it likes: the daemon must still see the request end, once. The input: a byte with the number of
 * clones asked for and one that says how the worker ends and whether it is killed; then for each packet a byte with its type,
 * one with the number of descriptors that go with it, one with the length that is wrong (0: none, 255: it goes the wrong way instead), and 8 bytes of its beginning.
 */

#define PACKETS_MAX 24
#define ROUND_USEC (20 * G_USEC_PER_SEC) /* far beyond what one takes: it hangs */

enum { END_EXIT, END_SIGNAL, END_CLOSE_AND_WAIT, END_WAIT, _END_MAX };

/* Set before the worker is forked, which has a copy. */
static FuzzInput script;
static unsigned end_mode;

typedef struct Outcome {
        sd_event *event;
        uint32_t count;
        bool released, failed, gone;
} Outcome;

/* A pidfd of what ended long ago: the daemon kills whatever it was handed. */
static int dead_pidfd(void)
{
        pid_t pid = fork();
        int fd;

        if (pid == 0)
                _exit(EXIT_SUCCESS);
        fd = (int) syscall(SYS_pidfd_open, pid, 0);
        (void) waitpid(pid, NULL, 0);
        return fd;
}

#define WRONG_SOCKET 255U /* all else of the packet is as it should be */

/* The sockets that a worker has: the one that is listened to, and that for HELD. */
static void find_sockets(int ret[static 2])
{
        size_t k = 0;

        ret[0] = ret[1] = -1;

        for (int fd = 3; fd < 1024; fd++) {
                socklen_t n = sizeof(int);
                int type;

                if (k < 2 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_SEQPACKET)
                        ret[k++] = fd;
        }
        (void) fcntl(ret[1], F_SETFL, O_NONBLOCK); /* which is not emptied before something comes by the other */
}

static void send_packet(const int sockets[static 2], int pidfd, FuzzInput *in)
{
        WorkerMessage m = {.type = (uint32_t) fuzz_take(in, 1) % 8};
        size_t n_fds = fuzz_take(in, 1), wrong = fuzz_take(in, 1), size = worker_message_size(m.type);
        uint64_t begin = fuzz_take(in, 8);
        const bool held = (m.type == WORKER_HELD) != (wrong == WRONG_SOCKET);
        int fds[WORKER_HELD_MAX];

        n_fds = MIN(n_fds, WORKER_HELD_MAX);
        for (size_t i = 0; i < WORKER_HELD_MAX; i++)
                fds[i] = pidfd;
        if (m.type == WORKER_HELD)
                for (size_t i = 0; i < WORKER_HELD_MAX; i++)
                        m.held.pids[i] = m.held.sources[i] = (int32_t) i + 1;
        memcpy(&m.held, &begin, sizeof(begin));
        if (m.type == WORKER_RELEASED)
                m.released.again = (uint32_t) (begin >> 8) & 1;

        size = size == 0 ? sizeof(m) : size;
        (void) worker_packet_send(sockets[held], &m, wrong == 0 || wrong == WRONG_SOCKET ? size : wrong * size / 256, fds, n_fds); /* it may be listened to no more */
}

static int misbehave(Target *target, const CloneSpec *spec, const EngineHandler *h, EngineResult *ret, CloneError *error)
{
        int sockets[2], pidfd = dead_pidfd();

        find_sockets(sockets);

        for (int i = 0; i < PACKETS_MAX && script.size > 0; i++)
                send_packet(sockets, pidfd, &script);

        if (end_mode == END_SIGNAL)
                (void) raise(SIGKILL);
        if (end_mode == END_CLOSE_AND_WAIT)
                (void) close(sockets[0]);
        while (end_mode >= END_CLOSE_AND_WAIT)
                (void) pause();
        _exit(EXIT_SUCCESS);
}

static const Engine engine = {.name = "fuzz", .clone = misbehave};

static void on_released(Worker *w, const WorkerResult *result, void *userdata)
{
        Outcome *o = userdata;

        FUZZ_CHECK(!o->released && !o->failed && !o->gone);
        FUZZ_CHECK(result->n == o->count);
        for (size_t i = 0; i < result->n; i++)
                FUZZ_CHECK(result->pids[i] > 0 && result->pidfds[i] >= 0);
        for (char *const *note = result->notes; *note; note++)
                FUZZ_CHECK((*note)[0] && g_utf8_validate(*note, -1, NULL) && !strchr(*note, '\n'));
        o->released = true;
}

static void on_failed(Worker *w, const CloneError *error, void *userdata)
{
        Outcome *o = userdata;

        FUZZ_CHECK(!o->released && !o->failed && !o->gone);
        FUZZ_CHECK(error->code != CLONE_ERROR_NONE && error->message && g_utf8_validate(error->message, -1, NULL));
        o->failed = true;
}

static void on_exited(Worker *w, pid_t pid, int code, int status, void *userdata)
{
        const Outcome *o = userdata;

        FUZZ_CHECK(o->released && !o->gone && pid > 0);
}

static void on_gone(Worker *w, void *userdata)
{
        Outcome *o = userdata;

        FUZZ_CHECK(o->released != o->failed && !o->gone);
        o->gone = true;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
        worker_kill(userdata, CLONE_ERROR_CANCELED, "nobody waits any longer");
        return 0;
}

/* A worker that waits for ever and was heard out is what a request with its parent as the daemon has: ended from outside. */
static void run(Worker *w, Outcome *o)
{
        uint64_t end = (uint64_t) g_get_monotonic_time() + ROUND_USEC;
        bool ended = false;

        while (!o->gone) {
                FUZZ_CHECK(sd_event_run(o->event, 1000) >= 0);
                FUZZ_CHECK((uint64_t) g_get_monotonic_time() < end);
                if (o->released && end_mode >= END_CLOSE_AND_WAIT && !ended) {
                        FUZZ_CHECK(kill(worker_pid(w), SIGTERM) == 0);
                        ended = true;
                }
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        FuzzInput in = {data, size};
        g_autoptr(Worker) worker = NULL;
        g_autoptr(Target) target = NULL;
        sd_event_source *timer = NULL;
        Outcome o = {.count = 1 + (uint32_t) fuzz_take(&in, 1) % 4};
        const WorkerHandler handler = {NULL, on_released, on_failed, on_exited, on_gone, &o};
        WorkerJob job = {.engine = &engine, .spec = {.count = o.count}};
        uint64_t how = fuzz_take(&in, 1);
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGCHLD);
        (void) sigprocmask(SIG_BLOCK, &set, NULL); /* sd_event_add_child(3) wants it */
        end_mode = how % _END_MAX;
        script = in;
        job.target = target_new_received(getpid(), (int) syscall(SYS_pidfd_open, getpid(), 0), dup(STDIN_FILENO));
        target = job.target;

        FUZZ_CHECK(sd_event_new(&o.event) >= 0 && worker_new(&worker, o.event) >= 0);
        FUZZ_CHECK(worker_start(worker, &job, &handler) >= 0);
        if (end_mode >= END_CLOSE_AND_WAIT)
                FUZZ_CHECK(sd_event_add_time_relative(o.event, &timer, CLOCK_MONOTONIC, how * 50, 1, on_timer, worker) >= 0);
        run(worker, &o);
        sd_event_source_disable_unref(timer);
        worker = worker_free(worker);
        sd_event_unref(o.event);
        return 0;
}
