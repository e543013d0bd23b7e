/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * Job control among the clones of a tree: in which order they are made, and which process groups and sessions they get, so that
 * they are grouped as what they are clones of, and apart from it.
 */

/* A member of the tree as it stands still; in the tree's order, a parent before its children. */
typedef struct JobMember {
        pid_t pid, group, session;
        size_t parent;      /* place; of the root 0 */
        bool leader_exists; /* the leader of its group is there, in the tree or elsewhere */
} JobMember;

typedef enum JobKind {
        JOB_INHERIT,     /* group and session of what it is a clone of: they belong to others, too */
        JOB_JOIN,        /* those of the clone of member @with */
        JOB_NEW_GROUP,   /* leads a group, in the session of the clone of member @with; JOB_NOBODY: in that of what it is a clone of */
        JOB_NEW_SESSION, /* leads a session, and a group */
} JobKind;

#define JOB_NOBODY ((size_t) -1)

/* One clone, to be made in the order of the plan. */
typedef struct JobStep {
        size_t member;
        JobKind kind;
        size_t with;
        bool other_leader; /* a descendant leads the group of its member, and is cloned later: its clone leads it instead */
} JobStep;

/*
 * Fills @ret, of @n places; what is referred to comes first. @session: the root's clone leads a session in any case. A root that leads
 * its group or its session has a clone that does, too; any other root's clone stays in the group of its target, as after a fork.
 */
void jobs_plan(const JobMember *members, size_t n, bool session, JobStep *ret);
