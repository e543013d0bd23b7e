/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>

#include "daemon/engine/isolate-internal.h"

/* The formats of fdinfo: Documentation/filesystems/proc.rst, "3.8 /proc/<pid>/fdinfo/<fd>". */

static long make_eventfd(Isolation *i, Puppet *p, const OpenFile *f)
{
        const char *count = fdinfo_get(f->info, "eventfd-count"), *semaphore = fdinfo_get(f->info, "eventfd-semaphore");
        uint64_t value = count ? strtoull(count, NULL, 16) : 0;
        int flags = (f->flags & O_NONBLOCK ? EFD_NONBLOCK : 0) | EFD_CLOEXEC;
        long fd, r;

        if (!count)
                return -EBADMSG;
        if (!semaphore) /* before Linux 6.5 */
                isolation_note_file(i, f, "this kernel does not tell whether it counts down by one, the clone's does not");
        else if (*semaphore == '1')
                flags |= EFD_SEMAPHORE;

        fd = puppet_call(p, SYS_eventfd2, 0, (uint64_t) flags);
        if (fd < 0 || value == 0)
                return fd;
        /* A counter that is full took its last write without waiting. */
        r = puppet_write(p, p->page, &value, sizeof(value));
        if (r >= 0)
                r = puppet_call(p, SYS_write, (uint64_t) fd, p->page, sizeof(value)); /* EINVAL: it has run over, which takes no write */
        return isolation_close_failed(p, fd, r);
}

static bool read_time(const char *info, const char *key, struct timespec *ret)
{
        const char *text = fdinfo_get(info, key);
        long long sec, nsec;

        if (!text || sscanf(text, "(%lld, %lld)", &sec, &nsec) != 2)
                return false;
        *ret = (struct timespec){.tv_sec = sec, .tv_nsec = nsec};
        return true;
}

#define TFD_IOC_SET_TICKS_REQUEST _IOW('T', 0, uint64_t) /* include/uapi/linux/timerfd.h */

static long make_timerfd(Isolation *i, Puppet *p, const OpenFile *f)
{
        const char *clock = fdinfo_get(f->info, "clockid"), *ticks = fdinfo_get(f->info, "ticks");
        struct itimerspec spec;
        uint64_t n = ticks ? strtoull(ticks, NULL, 10) : 0;
        long fd, r = 0;

        if (!clock || !read_time(f->info, "it_value", &spec.it_value) || !read_time(f->info, "it_interval", &spec.it_interval))
                return -EBADMSG;

        fd = puppet_call(p, SYS_timerfd_create, strtoull(clock, NULL, 10), TFD_CLOEXEC | (f->flags & O_NONBLOCK ? TFD_NONBLOCK : 0));
        if (fd < 0)
                return fd;
        /* it_value is what was left at the instant, also of an absolute time. */
        if (spec.it_value.tv_sec != 0 || spec.it_value.tv_nsec != 0) {
                r = puppet_write(p, p->page, &spec, sizeof(spec));
                if (r >= 0)
                        r = puppet_call(p, SYS_timerfd_settime, (uint64_t) fd, 0, p->page, 0);
        }
        if (r >= 0 && n > 0) {
                r = puppet_write(p, p->page, &n, sizeof(n));
                if (r >= 0)
                        r = puppet_call(p, SYS_ioctl, (uint64_t) fd, TFD_IOC_SET_TICKS_REQUEST, p->page);
                if (r < 0 && r != -ESRCH) { /* a kernel without CONFIG_CHECKPOINT_RESTORE */
                        isolation_note_file(i, f, "%" PRIu64 " expirations not read yet are missing in the clone", n);
                        r = 0;
                }
        }
        return isolation_close_failed(p, fd, r);
}

static long make_signalfd(Isolation *i, Puppet *p, const OpenFile *f)
{
        const char *text = fdinfo_get(f->info, "sigmask");
        uint64_t mask = text ? strtoull(text, NULL, 16) : 0;
        long r;

        if (!text)
                return -EBADMSG;
        r = puppet_write(p, p->page, &mask, sizeof(mask));
        return r < 0 ? r : puppet_call(p, SYS_signalfd4, (uint64_t) -1, p->page, sizeof(mask), SFD_CLOEXEC | (f->flags & O_NONBLOCK ? SFD_NONBLOCK : 0));
}

/* What is watched is told by inode and handle, which take a capability to be opened: only that something is missing is known. */
static long make_inotify(Isolation *i, Puppet *p, const OpenFile *f)
{
        unsigned n = 0;

        for (const char *line = f->info; line && (line = strstr(line, "inotify wd:")); line++)
                n++;
        if (n > 0)
                isolation_note_file(i, f, "its %u watches are missing in the clone, which has to add them again", n);
        return puppet_call(p, SYS_inotify_init1, IN_CLOEXEC | (uint64_t) (f->flags & O_NONBLOCK));
}

int isolate_events(Isolation *i)
{
        static long (*const make[])(Isolation *i, Puppet *p, const OpenFile *f) = {
                [OPEN_EVENTFD] = make_eventfd,
                [OPEN_TIMERFD] = make_timerfd,
                [OPEN_SIGNALFD] = make_signalfd,
                [OPEN_INOTIFY] = make_inotify,
        };

        for (guint k = 0; k < i->files->len; k++) {
                const OpenFile *f = FILE_AT(i, k);
                long fd;
                int r;

                if (f->done || f->kind >= G_N_ELEMENTS(make) || !make[f->kind])
                        continue;
                fd = make[f->kind](i, isolation_puppet(i, f->member), isolation_first(i, f));
                if (fd < 0 && !isolation_is_fatal((int) fd)) { /* EPERM: a clock that may wake the machine, for example */
                        isolation_leave(i, k, g_strerror((int) -fd));
                        continue;
                }
                r = fd < 0 ? (int) fd : isolation_install(i, f->member, k, (int) fd);
                if (r < 0)
                        return r;
        }

        return 0;
}

typedef struct EpollEntry {
        int number;
        uint32_t events;
        uint64_t data;
        uint64_t inode;
        uint64_t device; /* as the kernel prints it: major and minor of its own width */
} EpollEntry;

/* The kernel's dev_t: 20 bits of minor (include/linux/kdev_t.h). */
static bool is_of(const EpollEntry *e, const OpenFile *f)
{
        return f->number == e->number && f->st.st_ino == e->inode && (major(f->st.st_dev) << 20 | minor(f->st.st_dev)) == e->device;
}

static bool is_there(const OpenFile *f, const EpollEntry *e)
{
        return f && (is_of(e, f) || f->replaced);
}

/*
 * One of the descriptors of the set of file @k whose member has, under the number by which it was added, what is watched still; NULL
 * for none. Whoever made the set, a parent most often, comes first.
 */
static const OpenFile *find_adder(Isolation *i, size_t k, const EpollEntry *e)
{
        FOR_EACH_SAME(i, n, k)
                if (is_there(isolation_find(i, FILE_AT(i, n)->member, e->number), e))
                        return FILE_AT(i, n);
        return NULL;
}

static int add_entry(Isolation *i, size_t k, const EpollEntry *e)
{
        const struct epoll_event event = {.events = e->events, .data.u64 = e->data};
        const OpenFile *set = find_adder(i, k, e);
        Puppet *p = set ? isolation_puppet(i, set->member) : NULL;
        long r;

        r = p ? puppet_write(p, p->page, &event, sizeof(event)) : -ENOENT;
        if (r >= 0)
                r = puppet_call(p, SYS_epoll_ctl, (uint64_t) set->number, EPOLL_CTL_ADD, (uint64_t) e->number, p->page);
        if (r == -ESRCH || r == -EFAULT)
                return (int) r;
        if (r < 0)
                isolation_note_file(i, FILE_AT(i, k), "what it watches as descriptor %d is missing in the clone: %s", e->number,
                                r == -ENOENT ? "it is no descriptor of the process any more" : g_strerror((int) -r));
        return 0;
}

static int fill_epoll(Isolation *i, size_t k)
{
        for (const char *line = isolation_first(i, FILE_AT(i, k))->info; line && (line = strstr(line, "tfd:")); line++) {
                EpollEntry e;
                int r;

                if (sscanf(line, "tfd: %d events: %" SCNx32 " data: %" SCNx64 " pos:%*d ino:%" SCNx64 " sdev:%" SCNx64, &e.number, &e.events, &e.data,
                                &e.inode, &e.device) != 5) {
                        isolation_note_file(i, FILE_AT(i, k), "what it watches is not told by this kernel in a form that is known, and is missing in the clone");
                        return 0;
                }
                r = add_entry(i, k, &e);
                if (r < 0)
                        return r;
        }

        return 0;
}

/* First all sets, then what is in them: one may be in another. */
int isolate_epolls(Isolation *i)
{
        g_autoptr(GArray) sets = g_array_new(FALSE, FALSE, sizeof(guint));

        for (guint k = 0; k < i->files->len; k++) {
                const OpenFile *f = FILE_AT(i, k);
                long fd;
                int r;

                if (f->done || f->kind != OPEN_EPOLL)
                        continue;
                fd = puppet_call(isolation_puppet(i, f->member), SYS_epoll_create1, EPOLL_CLOEXEC);
                if (fd < 0 && !isolation_is_fatal((int) fd)) {
                        isolation_leave(i, k, g_strerror((int) -fd));
                        continue;
                }
                g_array_append_val(sets, k);
                r = fd < 0 ? (int) fd : isolation_install(i, f->member, k, (int) fd);
                if (r < 0)
                        return r;
        }

        for (guint k = 0; k < sets->len; k++) {
                int r = fill_epoll(i, g_array_index(sets, guint, k));

                if (r < 0)
                        return r;
        }

        return 0;
}
