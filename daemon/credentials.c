/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "daemon/credentials.h"
#include "daemon/util.h"

#define PROC_FILE_MAX 65536 /* status has a line for each supplementary group list; 65536 groups do not matter here */

int file_identity_read(int dirfd, const char *name, FileIdentity *ret)
{
        struct statx st;

        /* What is cached is enough, and a file system that somebody serves (FUSE, NFS) cannot keep the caller waiting. */
        if (statx(dirfd, name, AT_STATX_DONT_SYNC, STATX_INO, &st) < 0)
                return -errno;

        *ret = (FileIdentity){makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino};
        return 0;
}

bool file_identity_equal(FileIdentity a, FileIdentity b)
{
        return a.device == b.device && a.inode == b.inode;
}

/*
 * Reads at most PROC_FILE_MAX bytes of @name and, unless @ret_owner is NULL, the owner of it as it is once it was opened. For status and
 * stat, which the kernel makes of one piece (fs/seq_file.c: single_open()): a read that is not full has the end. A target may be
 * stopped meanwhile, so no call is made that is not needed.
 */
static int read_proc_file(int procfd, const char *name, char **ret, uid_t *ret_owner)
{
        _cleanup_close_ int fd = openat(procfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        g_autofree char *text = NULL;
        struct stat st;
        size_t size = 0;

        if (fd < 0)
                return errno == ENOENT ? -ESRCH : -errno;

        text = g_malloc(PROC_FILE_MAX + 1);
        while (size < PROC_FILE_MAX) {
                size_t room = PROC_FILE_MAX - size;
                ssize_t n = RETRY_EINTR(read(fd, text + size, room));

                if (n < 0)
                        return -errno;
                size += (size_t) n;
                if ((size_t) n < room)
                        break;
        }
        text[size] = '\0';

        if (ret_owner && fstatat(procfd, name, &st, 0) < 0)
                return errno == ENOENT ? -ESRCH : -errno;

        *ret = g_steal_pointer(&text);
        if (ret_owner)
                *ret_owner = st.st_uid;
        return 0;
}

/* The text behind "\n@key:", NULL where there is no such line. */
static const char *find_line(const char *status, const char *key)
{
        size_t length = strlen(key);

        for (const char *p = strchr(status, '\n'); p; p = strchr(p + 1, '\n'))
                if (strncmp(p + 1, key, length) == 0 && p[1 + length] == ':')
                        return p + 1 + length + 1;
        return NULL;
}

static int parse_ids(const char *status, const char *key, uint32_t ids[static _ID_MAX])
{
        const char *p = find_line(status, key);

        if (!p)
                return -EBADMSG;

        for (int i = 0; i < _ID_MAX; i++) {
                unsigned long long value;
                char *end;

                p += strspn(p, "\t ");
                if (!g_ascii_isdigit(*p))
                        return -EBADMSG;
                value = strtoull(p, &end, 10);
                if (value > UINT32_MAX)
                        return -EBADMSG;
                ids[i] = (uint32_t) value;
                p = end;
        }

        return 0;
}

static int parse_set(const char *status, const char *key, uint64_t *ret)
{
        const char *p = find_line(status, key);
        char *end;

        if (!p)
                return -EBADMSG;

        p += strspn(p, "\t ");
        errno = 0;
        *ret = strtoull(p, &end, 16);
        return errno != 0 || end - p != 16 ? -EBADMSG : 0; /* always sixteen digits: render_cap_t() of fs/proc/array.c */
}

/* Field 22 of stat; the name in brackets may hold anything, so the fields are counted from the last closing one. */
static int parse_start_time(const char *stat, uint64_t *ret)
{
        const char *p = strrchr(stat, ')');

        if (!p ||
            sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" G_GUINT64_FORMAT,
                            ret) != 1)
                return -EBADMSG;
        return 0;
}

static Dumpable judge_dumpable(uid_t owner, uid_t effective, bool same_user_namespace)
{
        if (!same_user_namespace || effective == 0)
                return DUMPABLE_UNKNOWN;
        return owner == effective ? DUMPABLE_YES : DUMPABLE_NO;
}

int credentials_read(int procfd, FileIdentity own_user_namespace, Credentials *ret)
{
        g_autofree char *status = NULL, *stat = NULL;
        Credentials c = {};
        uid_t owner;
        int r;

        r = read_proc_file(procfd, "status", &status, &owner);
        if (r < 0)
                return r;
        r = read_proc_file(procfd, "stat", &stat, NULL);
        if (r < 0)
                return r;

        if (parse_ids(status, "Uid", c.uid) < 0 || parse_ids(status, "Gid", c.gid) < 0 ||
            parse_set(status, "CapPrm", &c.permitted) < 0 || parse_set(status, "CapEff", &c.effective) < 0 ||
            parse_set(status, "CapInh", &c.inheritable) < 0 || parse_set(status, "CapAmb", &c.ambient) < 0 ||
            parse_start_time(stat, &c.start_time) < 0)
                return -EBADMSG;

        r = file_identity_read(procfd, "ns/user", &c.user_namespace);
        if (r < 0)
                return r == -ENOENT ? -ESRCH : r;

        r = file_identity_read(procfd, "exe", &c.program);
        /* A kernel thread or a process that lost its memory has none; a FUSE mount of another user's does not say. */
        if (r < 0 && r != -ENOENT && r != -EACCES)
                return r;

        c.dumpable = judge_dumpable(owner, c.uid[ID_EFFECTIVE], file_identity_equal(c.user_namespace, own_user_namespace));

        *ret = c;
        return 0;
}

int target_read_credentials(const Target *t, FileIdentity own_user_namespace, Credentials *ret)
{
        int r;

        r = credentials_read(target_procfd(t), own_user_namespace, ret);
        if (r < 0)
                return r;

        return target_check_alive(t);
}

bool label_is_confined(const char *label, size_t size)
{
        while (size > 0 && (label[size - 1] == '\0' || label[size - 1] == '\n'))
                size--;

        /* Whole: "unconfined" also begins SELinux users and AppArmor stacks that are confined. */
        return size > 0 && (size != strlen("unconfined") || memcmp(label, "unconfined", size) != 0);
}

bool confinement_read(int procfd)
{
        /* Of the module that is shown by default, and of AppArmor's where it is not that one (since Linux 5.8). */
        static const char *const names[] = {"attr/current", "attr/apparmor/current"};

        for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
                _cleanup_close_ int fd = openat(procfd, names[i], O_RDONLY | O_CLOEXEC | O_NOCTTY);
                char label[4096]; /* a page is the most that /proc hands out (proc_pid_attr_read() of fs/proc/base.c) */
                ssize_t n;

                n = fd < 0 ? -1 : RETRY_EINTR(read(fd, label, sizeof(label)));
                if (n < 0 && errno != ENOENT && errno != EINVAL && errno != EOPNOTSUPP) /* these: there is no such module */
                        return true;
                if (n > 0 && label_is_confined(label, (size_t) n))
                        return true;
        }

        return false;
}

bool target_is_confined(const Target *t)
{
        bool confined = confinement_read(target_procfd(t));

        return confined || target_check_alive(t) < 0;
}

bool credentials_equal(const Credentials *a, const Credentials *b)
{
        return memcmp(a->uid, b->uid, sizeof(a->uid)) == 0 && memcmp(a->gid, b->gid, sizeof(a->gid)) == 0 &&
               a->permitted == b->permitted && a->effective == b->effective && a->inheritable == b->inheritable &&
               a->ambient == b->ambient && a->dumpable == b->dumpable &&
               file_identity_equal(a->user_namespace, b->user_namespace) && file_identity_equal(a->program, b->program) &&
               a->start_time == b->start_time;
}
