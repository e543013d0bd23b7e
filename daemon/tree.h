/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/target.h"

/*
 * A process with all its descendants. It is read while they run, so that what was read may be incomplete the next moment: whoever
 * wants all of them stops those that are known and looks again, until none is new. What is stopped has no more children.
 */

#define TREE_MAX 1000U /* processes */

typedef struct TreeMember {
        Target *target; /* owned, but for the root's, which is borrowed */
        size_t parent;  /* place of its parent in the tree; of the root 0 */
        unsigned seen;  /* the last look in which it was its parent's child */
} TreeMember;

typedef struct Tree {
        GArray *members; /* TreeMember; the root is the first, and every parent comes before its children */
        GArray *zombies; /* pid_t: children that have ended and that nobody has taken notice of; they are no members */
        unsigned looks;  /* how often tree_grow() has looked */
} Tree;

#define TREE_MEMBER(t, k) (&g_array_index((t)->members, TreeMember, (k)))

/* The tree of @root alone; @root must outlive it. */
Tree *tree_new(Target *root);
Tree *tree_free(Tree *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Tree, tree_free)

/*
 * Looks for children of all members, and of what is found. Returns the number of new members, which come behind the others.
 * -ENOBUFS (LimitsExceeded) for more than @max members, -ESRCH (NoSuchProcess) where the root is gone, or another negative errno, with
 * @error filled. Takes CONFIG_PROC_CHILDREN, proc_pid_children(5); without it: -EOPNOTSUPP (Unsupported).
 */
int tree_grow(Tree *t, size_t max, CloneError *error);

/* Whether the last tree_grow() found every member but the root as a child of its parent. */
bool tree_is_whole(const Tree *t);

/* tree_grow() of the tree of @root: all that can be found of one that runs. */
int tree_read(Tree **ret, Target *root, size_t max, CloneError *error);

/*
 * Refuses remforkd, whose PID is @daemon, and the process @requester that asks, as a member of a tree: a clone of who waits for the
 * answer would read it from the same connection. 0, or a negative errno with @error filled.
 */
int tree_refuse_member(const Target *member, pid_t daemon, pid_t requester, CloneError *error);
