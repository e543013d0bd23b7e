/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/engine/isolate-internal.h"
#include "daemon/util.h"

/*
 * The state of what the target has open, at the instant. Of files and directories this process reads it, which takes no lock; all
 * else is the sampler's.
 */

#define LOOK_USEC (300U * 1000U) /* for what takes microseconds where nobody keeps it busy */
#define STOP_TIMEOUT_USEC (2U * G_USEC_PER_SEC)
#define INFO_MAX (64U * 1024U) /* the offset is in its first line; locks on the file, which may be many, come last */

/* The kernel makes the text at each read from its beginning (fs/seq_file.c). */
static char *read_info(int infofd)
{
        static char buffer[INFO_MAX]; /* not allocated while the target waits */
        ssize_t n = pread(infofd, buffer, sizeof(buffer), 0);

        return n < 0 ? NULL : g_strndup(buffer, (gsize) n);
}

static int open_info(int fd)
{
        char path[sizeof("/proc/self/fdinfo/") + 3 * sizeof(int)];

        (void) snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
        return open(path, O_RDONLY | O_CLOEXEC);
}

static int socket_option(int fd, int name)
{
        int value = -1;
        socklen_t n = sizeof(value);

        return getsockopt(fd, SOL_SOCKET, name, &value, &n) < 0 ? -1 : value; /* also of what is no socket */
}

static bool is_file(const struct stat *st)
{
        return S_ISREG(st->st_mode) || S_ISDIR(st->st_mode);
}

/* What others could keep busy. An inode of no type is anonymous. */
static void add_source(Isolation *i, Sample *s, const struct stat *st)
{
        SamplerSource source = {.fd = s->copy, .infofd = -EBADF, .tee_write = -EBADF};
        int pair[2];

        if ((st->st_mode & S_IFMT) == 0)
                source.infofd = s->infofd = open_info(s->copy);

        /* Bytes in flight may be wanted of every pipe that can be read here: which they are is known when the clone is there. */
        if (S_ISFIFO(st->st_mode) && (fcntl(s->copy, F_GETFL) & (O_ACCMODE | O_PATH)) != O_WRONLY && pipe2(pair, O_CLOEXEC | O_NONBLOCK) == 0) {
                s->tee_read = pair[0];
                source.tee_write = s->tee_write = pair[1];
        }
        source.stream = socket_option(s->copy, SO_DOMAIN) == AF_UNIX && socket_option(s->copy, SO_TYPE) == SOCK_STREAM;
        if (source.stream && socket_option(s->copy, SO_PEEK_OFF) >= 0) { /* a peek would move it on, for the target too */
                source.stream = false;
                s->unpeekable = true;
        }
        if (source.infofd < 0 && source.tee_write < 0 && !source.stream)
                return;

        s->source = (int) i->sources->len;
        g_array_append_val(i->sources, source);
}

/* What several have, or one has twice, is looked at once. */
static void add_sample(Isolation *i, unsigned member, int number)
{
        Sample s = {.member = member, .number = number, .infofd = -EBADF, .tee_read = -EBADF, .tee_write = -EBADF, .source = -1};
        Description d = {.place = i->samples->len};
        struct stat st;
        guint at;

        s.copy = d.copy = (int) syscall(SYS_pidfd_getfd, target_pidfd(MEMBER_AT(i, member)->target), number, 0);
        if (s.copy < 0 || description_find(i->samples_order, s.copy, &at) || fstat(s.copy, &st) < 0) {
                safe_close(s.copy); /* closed meanwhile, or known */
                return;
        }
        if (is_file(&st))
                s.infofd = open_info(s.copy);
        else if (i->spec->isolate == CLONE_ISOLATE_ALL)
                add_source(i, &s, &st);
        g_array_insert_val(i->samples_order, at, d);
        g_array_append_val(i->samples, s);
}

void isolation_look(Isolation *i, unsigned member, const GArray *numbers)
{
        for (guint k = 0; k < numbers->len; k++)
                add_sample(i, member, g_array_index(numbers, int, k));
}

int isolation_look_done(Isolation *i)
{
        if (i->sources->len == 0)
                return 0;
        return sampler_new(&i->sampler, (SamplerSource *) (void *) i->sources->data, i->sources->len, LOOK_USEC);
}

void isolation_capture(Isolation *i)
{
        uint64_t limit = i->spec->stop_timeout_usec > 0 ? i->spec->stop_timeout_usec : STOP_TIMEOUT_USEC;

        for (guint k = 0; k < i->samples->len; k++) {
                Sample *s = &g_array_index(i->samples, Sample, k);
                char *info;

                if (s->source >= 0 || s->infofd < 0)
                        continue;
                info = read_info(s->infofd);
                s->changed = i->n_captured > 0 && fdinfo_differs(info, s->info, "pos");
                g_free(s->info);
                s->info = info;
        }
        isolation_capture_memory(i);
        if (i->sampler)
                sampler_capture(i->sampler, limit / 4); /* at the whole of it this process is ended */
        i->n_captured++;
}

void isolation_note_changed(Isolation *i)
{
        if (isolation_snapshot_changed(i))
                isolation_note(i, "Shared memory of process %d was written to at the instant of the clone, which has its state of a moment before",
                                (int) target_pid(MEMBER_AT(i, 0)->target));
        for (guint k = 0; k < i->samples->len; k++) {
                const Sample *s = &g_array_index(i->samples, Sample, k);
                SamplerResult result;

                if (s->changed || (s->source >= 0 && sampler_get(i->sampler, (size_t) s->source, &result) && result.changed))
                        isolation_note(i, "Descriptor %d of process %d was used at the instant of the clone, which may have its state of a moment later",
                                        s->number, (int) target_pid(MEMBER_AT(i, s->member)->target));
        }
}

static void take_sample(Isolation *i, const Sample *s, OpenFile *f)
{
        SamplerResult result;

        f->sampled = true;
        f->unpeekable = s->unpeekable;
        if (s->source < 0) {
                f->info = g_strdup(s->info);
                return;
        }
        if (!sampler_get(i->sampler, (size_t) s->source, &result)) {
                f->busy = true;
                return;
        }

        f->info = g_strdup(result.info);
        if (result.waiting)
                f->waiting = g_bytes_new(result.waiting, result.n_waiting);
        f->unread = result.unread;
        f->pipe_size = result.pipe_size;
        if (s->tee_read >= 0)
                f->tee = fcntl(s->tee_read, F_DUPFD_CLOEXEC, 3);
}

void isolation_take_state(Isolation *i, OpenFile *f)
{
        _cleanup_close_ int infofd = -EBADF;
        guint at;

        if (description_find(i->samples_order, f->copy, &at))
                take_sample(i, &g_array_index(i->samples, Sample, g_array_index(i->samples_order, Description, at).place), f);
        else if (is_file(&f->st)) {
                infofd = open_info(f->copy);
                f->info = infofd >= 0 ? read_info(infofd) : NULL;
        }
}
