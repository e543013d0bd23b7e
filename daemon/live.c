/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/live.h"
#include "daemon/log.h"
#include "daemon/target.h"
#include "daemon/util.h"

#define FILE_NAME "clones"
#define STALE_LINES_MAX 256U /* lines of clones that have ended, before the file is written anew */
#define UNCOUNTED_MAX 1024U  /* the oldest of them goes, where even those that are alive are more */

/*
 * The file: the boot's ID, then a line "UID PID START SOURCE" for each clone, START as field 22 of /proc/PID/stat. Lines are added at
 * the end, one write(2) each, so that whenever the daemon is killed each line is whole or missing. A PID with another START is
 * another process. It is written anew beside, and renamed, when most of it is about clones that have ended.
 */
struct Live {
        sd_event *event;
        Queue *queue;
        LiveEnded ended;
        void *userdata;
        char *path; /* NULL: nothing is written */
        int fd;     /* of it, for appending; -EBADF where it cannot be written */
        unsigned n_lines;
        GQueue clones; /* Clone: those that count */
        GArray *uncounted; /* LiveClone */
};

typedef struct Clone {
        Live *live;
        LiveClone what;
        int pidfd;
        sd_event_source *source;
        GList link;
} Clone;

static void clone_free(Clone *c)
{
        g_queue_unlink(&c->live->clones, &c->link);
        queue_live_remove(c->live->queue, c->what.uid);
        sd_event_source_disable_unref(c->source);
        safe_close(c->pidfd);
        g_free(c);
}

static int on_clone_exit(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
        Clone *c = userdata;
        Live *l = c->live;

        clone_free(c);
        l->ended(l->userdata);
        return 0;
}

/* Whether the process is there still. */
static bool is_alive(const LiveClone *what)
{
        g_autoptr(Target) target = NULL;
        TargetStatus status;

        return target_new(&target, what->pid, NULL) >= 0 && target_read_status(target, &status) >= 0 &&
               status.start_time == what->start_time && status.state != 'Z' && status.state != 'X';
}

static void forget_ended(Live *l)
{
        for (guint i = 0; i < l->uncounted->len;)
                if (is_alive(&g_array_index(l->uncounted, LiveClone, i)))
                        i++;
                else
                        g_array_remove_index(l->uncounted, i);
}

static void add_uncounted(Live *l, const LiveClone *what)
{
        if (l->uncounted->len >= UNCOUNTED_MAX)
                forget_ended(l);
        if (l->uncounted->len >= UNCOUNTED_MAX)
                g_array_remove_index(l->uncounted, 0);
        g_array_append_val(l->uncounted, *what);
}

/* Knows the process of @target from now on, and counts it where its user has a limit. */
static int add(Live *l, const LiveClone *what, const Target *target)
{
        Clone *c;
        int r, fd;

        if (!queue_counts_live(l->queue, what->uid)) {
                add_uncounted(l, what);
                return 0;
        }

        fd = fcntl(target_pidfd(target), F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return -errno;

        c = g_new(Clone, 1);
        *c = (Clone){.live = l, .what = *what, .pidfd = fd, .link = {.data = c}};
        queue_live_add(l->queue, what->uid);
        g_queue_push_tail_link(&l->clones, &c->link);

        r = sd_event_add_io(l->event, &c->source, c->pidfd, EPOLLIN, on_clone_exit, c);
        if (r < 0)
                clone_free(c);
        return r;
}

static char *boot_id(void)
{
        char *text;

        return g_file_get_contents("/proc/sys/kernel/random/boot_id", &text, NULL, NULL) ? g_strchomp(text) : g_strdup("?");
}

/* What cannot be written once is given up until the file is written anew, when the daemon starts again. */
static void give_up(Live *l, const char *what, int r)
{
        log_warning("%s cannot be %s, so that clones are not remembered over a restart: %s", l->path, what, g_strerror(-r));
        l->fd = safe_close(l->fd);
}

static void append(Live *l, const LiveClone *c)
{
        g_autofree char *line = g_strdup_printf("%" PRIu32 " %d %" PRIu64 " %d\n", (uint32_t) c->uid, (int) c->pid, c->start_time,
                        (int) c->source);
        ssize_t n;

        if (l->fd < 0)
                return;
        n = RETRY_EINTR(write(l->fd, line, strlen(line)));
        if (n != (ssize_t) strlen(line))
                give_up(l, "written", n < 0 ? -errno : -ENOSPC);
        l->n_lines++;
}

/* The file with the clones that there are. */
static void write_anew(Live *l)
{
        g_autofree char *id = boot_id(), *temporary = NULL;
        int fd;

        if (!l->path)
                return;

        temporary = g_strdup_printf("%s.new", l->path);
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
                give_up(l, "written", -errno);
                return;
        }

        safe_close(l->fd);
        l->fd = fd;
        l->n_lines = 0;
        if (dprintf(fd, "%s\n", id) < 0) {
                give_up(l, "written", -errno);
                return;
        }
        for (GList *link = l->clones.head; link && l->fd >= 0; link = link->next)
                append(l, &((const Clone *) link->data)->what);
        for (guint i = 0; i < l->uncounted->len && l->fd >= 0; i++)
                append(l, &g_array_index(l->uncounted, LiveClone, i));
        if (l->fd >= 0 && rename(temporary, l->path) < 0)
                give_up(l, "put in its place", -errno);
}

static void take_line(Live *l, const char *line)
{
        g_autoptr(Target) target = NULL;
        LiveClone what = {};
        int end = 0, r;

        if (sscanf(line, "%" SCNu32 " %d %" SCNu64 " %d%n", &what.uid, &what.pid, &what.start_time, &what.source, &end) != 4 ||
            line[end] != '\0') {
                log_warning("%s: \"%s\" is not of this daemon's making, it is passed over", l->path, line);
                return;
        }
        if (what.pid <= 0 || target_new(&target, what.pid, NULL) < 0 || !is_alive(&what))
                return; /* it has ended */

        r = add(l, &what, target);
        if (r < 0)
                log_warning("Clone %d of user %" PRIu32 " cannot be counted: %s", (int) what.pid, (uint32_t) what.uid, g_strerror(-r));
}

static void read_file(Live *l)
{
        g_autofree char *text = NULL, *id = boot_id();
        g_auto(GStrv) lines = NULL;
        g_autoptr(GError) e = NULL;

        if (!g_file_get_contents(l->path, &text, NULL, &e)) {
                if (!g_error_matches(e, G_FILE_ERROR, G_FILE_ERROR_NOENT))
                        log_warning("The clones that are there are not known: %s", e->message);
                return;
        }

        lines = g_strsplit(text, "\n", -1);
        if (strcmp(lines[0], id) != 0) /* PIDs and times of another boot */
                return;
        for (char **line = lines + 1; *line && line[1]; line++) /* the last is empty, or not whole */
                take_line(l, *line);
}

int live_new(Live **ret, sd_event *event, Queue *queue, const char *directory, LiveEnded ended, void *userdata)
{
        Live *l = g_new0(Live, 1);

        l->event = sd_event_ref(event);
        l->queue = queue;
        l->ended = ended;
        l->userdata = userdata;
        l->fd = -EBADF;
        l->uncounted = g_array_new(FALSE, FALSE, sizeof(LiveClone));

        if (directory) {
                l->path = g_build_filename(directory, FILE_NAME, NULL);
                read_file(l);
                write_anew(l);
        }

        *ret = l;
        return 0;
}

Live *live_free(Live *l)
{
        if (!l)
                return NULL;

        while (l->clones.head)
                clone_free(l->clones.head->data);
        g_array_unref(l->uncounted);
        safe_close(l->fd);
        sd_event_unref(l->event);
        g_free(l->path);
        g_free(l);
        return NULL;
}

void live_add(Live *l, const LiveClone *what, const pid_t *sources, const int *pidfds, size_t n)
{
        LiveClone clone = *what;

        for (size_t i = 0; i < n; i++) {
                _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
                g_autoptr(Target) target = NULL;
                int r;

                r = target_new_from_pidfd(&target, pidfds[i], &error);
                if (r >= 0)
                        r = target_read_start_time(target, &clone.start_time);
                if (r == -ESRCH) /* it has ended already */
                        continue;
                if (r >= 0) {
                        clone.pid = target_pid(target);
                        clone.source = sources[i];
                        r = add(l, &clone, target);
                }
                if (r < 0)
                        log_warning("A clone of user %" PRIu32 " cannot be counted: %s", (uint32_t) what->uid, g_strerror(-r));
                else
                        append(l, &clone);
        }

        if (l->n_lines > l->clones.length + l->uncounted->len + STALE_LINES_MAX) {
                forget_ended(l);
                write_anew(l);
        }
}

unsigned live_count(const Live *l)
{
        return l->clones.length;
}

static gint compare_start(gconstpointer a, gconstpointer b)
{
        const LiveClone *x = a, *y = b;

        return x->start_time != y->start_time ? (x->start_time < y->start_time ? -1 : 1) : x->pid - y->pid;
}

GArray *live_list(Live *l)
{
        GArray *all = g_array_new(FALSE, FALSE, sizeof(LiveClone));

        forget_ended(l);
        g_array_append_vals(all, l->uncounted->data, l->uncounted->len);
        for (GList *link = l->clones.head; link; link = link->next)
                if (is_alive(&((const Clone *) link->data)->what)) /* a zombie's pidfd is told in the next turn of the loop */
                        g_array_append_val(all, ((const Clone *) link->data)->what);
        g_array_sort(all, compare_start);
        return all;
}
