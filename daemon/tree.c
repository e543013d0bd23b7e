/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/tree.h"
#include "daemon/util.h"

Tree *tree_new(Target *root)
{
        Tree *t = g_new(Tree, 1);

        *t = (Tree){.members = g_array_new(FALSE, FALSE, sizeof(TreeMember)), .zombies = g_array_new(FALSE, FALSE, sizeof(pid_t))};
        g_array_append_val(t->members, (TreeMember){.target = root});
        return t;
}

Tree *tree_free(Tree *t)
{
        if (!t)
                return NULL;

        for (guint k = 1; k < t->members->len; k++)
                target_free(TREE_MEMBER(t, k)->target);
        g_array_unref(t->members);
        g_array_unref(t->zombies);
        g_free(t);
        return NULL;
}

static bool is_known(const Tree *t, size_t parent, pid_t pid)
{
        for (guint k = 0; k < t->members->len; k++) {
                TreeMember *m = TREE_MEMBER(t, k);

                if (target_pid(m->target) != pid)
                        continue;
                if (k > 0 && m->parent == parent)
                        m->seen = t->looks;
                return true;
        }
        for (guint k = 0; k < t->zombies->len; k++)
                if (g_array_index(t->zombies, pid_t, k) == pid)
                        return true;
        return false;
}

/* 1 where it is new, 0 where it is known, has ended or is no child of member @parent any more. */
static int add_child(Tree *t, size_t parent, pid_t pid, size_t max, CloneError *error)
{
        g_autoptr(Target) child = NULL;
        TargetStatus s;
        int r;

        if (is_known(t, parent, pid))
                return 0;
        r = target_new(&child, pid, error);
        if (r >= 0)
                r = target_read_status(child, &s);
        if (r == -ESRCH)
                clone_error_clear(error);
        if (r < 0)
                return r == -ESRCH ? 0 : r;
        if (s.parent != target_pid(TREE_MEMBER(t, parent)->target)) /* the number was given anew, or the parent ended */
                return 0;

        if (s.state == 'Z' && s.threads <= 1) {
                g_array_append_val(t->zombies, pid);
                return 0;
        }
        if (t->members->len >= max)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, ENOBUFS, "The tree of process %d has more than %zu processes",
                                (int) target_pid(TREE_MEMBER(t, 0)->target), max);

        g_array_append_val(t->members, ((TreeMember){g_steal_pointer(&child), parent, t->looks}));
        return 1;
}

/* The children of thread @tid of member @k: PIDs with a blank behind each. */
static int add_children(Tree *t, size_t k, pid_t tid, size_t max, CloneError *error)
{
        g_autofree char *name = g_strdup_printf("task/%d/children", (int) tid), *text = NULL;
        int found = 0, r;
        char *end;

        r = target_read_file(TREE_MEMBER(t, k)->target, name, &text, NULL);
        if (r == -ENOENT) /* the thread is gone, or the kernel has no such file, which the caller finds out */
                return 0;
        if (r < 0)
                return r;

        for (const char *p = text;; p = end) {
                long pid = strtol(p, &end, 10);

                if (end == p || pid <= 0)
                        return found;
                r = add_child(t, k, (pid_t) pid, max, error);
                if (r < 0)
                        return r;
                found += r;
        }
}

/* -ESRCH where it has ended. */
static int add_children_of_all(Tree *t, size_t k, size_t max, CloneError *error)
{
        int fd = openat(target_procfd(TREE_MEMBER(t, k)->target), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), found = 0;
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);

        if (!directory) {
                int r = errno == ENOENT ? -ESRCH : -errno;

                safe_close(fd);
                return r;
        }

        for (const struct dirent *d; found >= 0 && (d = readdir(directory));)
                if (g_ascii_isdigit(d->d_name[0])) {
                        int r = add_children(t, k, (pid_t) atoi(d->d_name), max, error);

                        found = r < 0 ? r : found + r;
                }
        (void) closedir(directory); /* it was read only */
        return found;
}

/* The links of /proc/PID/task are its threads, and the two of any directory (fs/proc/base.c: proc_task_getattr()). */
static bool has_one_thread(const Target *t)
{
        struct stat st;

        return fstatat(target_procfd(t), "task", &st, 0) >= 0 && st.st_nlink == 3;
}

static int grow_member(Tree *t, size_t k, size_t max, CloneError *error)
{
        const Target *member = TREE_MEMBER(t, k)->target;

        /* A parked tree waits for this: the directory is read where there is something to find. */
        if (has_one_thread(member))
                return add_children(t, k, target_pid(member), max, error);
        return add_children_of_all(t, k, max, error);
}

/* That of this process says whether the kernel has it. */
static bool has_children_file(void)
{
        return access("/proc/thread-self/children", F_OK) == 0;
}

int tree_grow(Tree *t, size_t max, CloneError *error)
{
        int pid = (int) target_pid(TREE_MEMBER(t, 0)->target), found = 0;

        if (!has_children_file())
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                "This kernel does not tell the children of process %d: CONFIG_PROC_CHILDREN is not set", pid);

        t->looks++;
        for (guint k = 0; k < t->members->len; k++) {
                int r = grow_member(t, k, max, error);

                if (r == -ESRCH && k > 0) /* its children are others' now */
                        continue;
                if (r < 0 && (!error || error->code == CLONE_ERROR_NONE))
                        return clone_error_set(error, r == -ESRCH ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                                        "The children of process %d cannot be read: %s", (int) target_pid(TREE_MEMBER(t, k)->target),
                                        g_strerror(-r));
                if (r < 0)
                        return r;
                found += r;
        }

        return found;
}

bool tree_is_whole(const Tree *t)
{
        for (guint k = 1; k < t->members->len; k++)
                if (TREE_MEMBER(t, k)->seen != t->looks)
                        return false;
        return true;
}

int tree_read(Tree **ret, Target *root, size_t max, CloneError *error)
{
        g_autoptr(Tree) t = tree_new(root);
        int r = tree_grow(t, max, error);

        if (r < 0)
                return r;
        *ret = g_steal_pointer(&t);
        return 0;
}

int tree_refuse_member(const Target *member, pid_t daemon, pid_t requester, CloneError *error)
{
        pid_t pid = target_pid(member);

        if (pid == daemon)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0, "Process %d of the tree is remforkd, which is not cloned",
                                (int) pid);
        if (pid == requester)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, 0,
                                "Process %d of the tree is the one that asks; ask from outside the tree, as with setsid(1) or from another terminal",
                                (int) pid);
        return 0;
}
