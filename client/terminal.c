/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "client/terminal.h"

#define LEAVE_CHARACTER 0x1d /* ^] */
#define LEAVE_COUNT 3U
#define LEAVE_USEC G_USEC_PER_SEC

ClientExit terminal_new(int *ret_master, int *ret_slave)
{
        int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave = -1;
        struct termios t;
        struct winsize size;

        if (master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0)
                slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC); /* needs no path: any mount namespace will do */
        if (slave < 0) {
                ClientExit status = client_error(CLIENT_FAILED, "a new terminal cannot be made: %s", g_strerror(errno));

                if (master >= 0)
                        (void) close(master);
                return status;
        }

        /* Where stdin is no terminal the defaults do. */
        if (tcgetattr(STDIN_FILENO, &t) == 0)
                (void) tcsetattr(slave, TCSANOW, &t);
        if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
                (void) ioctl(slave, TIOCSWINSZ, &size);

        *ret_master = master;
        *ret_slave = slave;
        return CLIENT_OK;
}

/* What was read and could not be written yet. */
typedef struct Buffer {
        char data[65536];
        size_t begin, end;
} Buffer;

typedef struct Attachment {
        int master, signals;
        bool stdin_open, is_terminal;
        bool at_end;           /* stdin has come to its end, of which the clone is to be told */
        Buffer input, output;  /* on the way to the clone, and from it */
        unsigned n_leave;      /* how often LEAVE_CHARACTER was typed in a row */
        gint64 first_leave;    /* when that began, in microseconds of the monotonic clock */
} Attachment;

static bool is_empty(const Buffer *b)
{
        return b->begin == b->end;
}

static void add(Buffer *b, const char *data, size_t n)
{
        if (n > sizeof(b->data) - b->end) {
                memmove(b->data, b->data + b->begin, b->end - b->begin);
                b->end -= b->begin;
                b->begin = 0;
        }
        n = MIN(n, sizeof(b->data) - b->end);
        memcpy(b->data + b->end, data, n);
        b->end += n;
}

#define CHUNK 4096U /* PIPE_BUF: pipe(7) has room for so much where poll(2) says that it has any */

/* As much as goes without waiting. False where nobody reads any more. */
static bool flush(Buffer *b, int fd)
{
        ssize_t n = write(fd, b->data + b->begin, MIN(b->end - b->begin, CHUNK));

        if (n < 0)
                return errno == EINTR || errno == EAGAIN;
        b->begin += (size_t) n;
        if (is_empty(b))
                b->begin = b->end = 0;
        return true;
}

/* True where the user wants to leave. */
static bool wants_to_leave(Attachment *a, const char *data, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                gint64 now = g_get_monotonic_time();

                if (data[i] != LEAVE_CHARACTER) {
                        a->n_leave = 0;
                        continue;
                }
                if (a->n_leave == 0 || now - a->first_leave > LEAVE_USEC) {
                        a->n_leave = 0;
                        a->first_leave = now;
                }
                if (++a->n_leave == LEAVE_COUNT)
                        return true;
        }

        return false;
}

/* False where it is over: EIO on the master says that nobody has the other end open any more. */
static bool take_output(Attachment *a)
{
        char buffer[CHUNK];
        ssize_t n = read(a->master, buffer, sizeof(buffer));

        if (n < 0)
                return errno == EINTR || errno == EAGAIN;
        add(&a->output, buffer, (size_t) n);
        return n > 0;
}

static bool take_input(Attachment *a)
{
        char buffer[CHUNK];
        ssize_t n = read(STDIN_FILENO, buffer, sizeof(buffer));

        if (n < 0)
                return errno == EINTR || errno == EAGAIN;
        if (n == 0) { /* a file or a pipe has come to its end: the program is told as a terminal would */
                a->stdin_open = false;
                a->at_end = true;
                return true;
        }
        if (wants_to_leave(a, buffer, (size_t) n))
                return false;
        add(&a->input, buffer, (size_t) n);
        return true;
}

static void give_input(Attachment *a)
{
        const char end = 4; /* ^D */

        if (is_empty(&a->input) && a->at_end) {
                add(&a->input, &end, 1);
                a->at_end = false;
        }
        if (!flush(&a->input, a->master)) { /* what it wrote before may still be read; then that says that it is over */
                a->stdin_open = a->at_end = false;
                a->input.begin = a->input.end = 0;
        }
}

/* False where this process is asked to end. */
static bool handle_signal(const Attachment *a)
{
        struct signalfd_siginfo info;
        struct winsize size;

        if (read(a->signals, &info, sizeof(info)) != sizeof(info))
                return true;
        if (info.ssi_signo != SIGWINCH)
                return false;
        if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
                (void) ioctl(a->master, TIOCSWINSZ, &size);
        return true;
}

/*
 * Nothing here waits but poll(): a clone that writes before it reads on must be read from for its input to go on, and a signal must
 * find this process. What is typed is always read, since ^] is a way out too; what does not fit is lost, as on a terminal.
 */
static void join(Attachment *a)
{
        bool more = true;

        while (more) {
                const bool to_clone = !is_empty(&a->input) || a->at_end, from_clone = !is_empty(&a->output);
                const short events = (short) ((to_clone ? POLLOUT : 0) | (from_clone ? 0 : POLLIN));
                struct pollfd p[] = {
                        {.fd = events ? a->master : -1, .events = events},
                        {.fd = a->signals, .events = POLLIN},
                        {.fd = a->stdin_open && (a->is_terminal || !to_clone) ? STDIN_FILENO : -1, .events = POLLIN},
                        {.fd = from_clone ? STDOUT_FILENO : -1, .events = POLLOUT},
                };

                if (poll(p, G_N_ELEMENTS(p), -1) < 0) {
                        if (errno != EINTR)
                                return;
                        continue;
                }
                if (p[1].revents)
                        more = handle_signal(a);
                if (more && p[3].revents)
                        more = flush(&a->output, STDOUT_FILENO);
                if (more && p[2].revents)
                        more = take_input(a);
                if (more && to_clone && p[0].revents)
                        give_input(a);
                if (more && !from_clone && p[0].revents & ~POLLOUT)
                        more = take_output(a);
        }
}

ClientExit terminal_attach(int master)
{
        g_autofree Attachment *a = g_new0(Attachment, 1);
        struct termios saved, raw;
        sigset_t signals, old;
        int flags = fcntl(master, F_GETFL);

        *a = (Attachment){.master = master, .stdin_open = true, .is_terminal = tcgetattr(STDIN_FILENO, &saved) == 0};
        if (flags < 0 || fcntl(master, F_SETFL, flags | O_NONBLOCK) < 0)
                return client_error(CLIENT_FAILED, "the clone's terminal cannot be used: %s", g_strerror(errno));

        sigemptyset(&signals);
        sigaddset(&signals, SIGWINCH);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGHUP);
        (void) sigprocmask(SIG_BLOCK, &signals, &old);
        a->signals = signalfd(-1, &signals, SFD_CLOEXEC);
        if (a->signals < 0)
                return client_error(CLIENT_FAILED, "signals cannot be waited for: %s", g_strerror(errno));

        if (a->is_terminal) {
                raw = saved;
                cfmakeraw(&raw);
                (void) tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
                (void) fprintf(stderr, "Attached to the clone's terminal; ^] typed three times within a second leaves it.\r\n");
        }

        join(a);

        if (a->is_terminal)
                (void) tcsetattr(STDIN_FILENO, TCSANOW, &saved); /* to wait for what is written would be for ever after a ^S */
        (void) close(a->signals);
        (void) sigprocmask(SIG_SETMASK, &old, NULL);
        return CLIENT_OK;
}
