/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "daemon/engine/ptrace-job.h"
#include "daemon/engine/puppet.h"
#include "daemon/engine/thread-info.h"
#include "daemon/tree.h"

/* What the files ptrace-tree*.c share. */

#define TREE_PAGE 4096U

/* One mapping of a process that stood still, as /proc/PID/smaps has it. */
typedef struct Vma {
        uint64_t start, end, offset;
        char permissions[5];
        char device[16];
        unsigned long inode;
        char *name;         /* owned */
        uint64_t anonymous; /* bytes of pages of its own, in memory or swapped out */
        uint64_t written;   /* bytes of them that its clone is to be given */
        uint32_t flags;     /* VMA_* */
        bool kept;          /* the parent has the same one, so that a fork of its clone has it, too */
        int object;         /* place in Image.objects of what is mapped; -1 where it is kept or is no file */
} Vma;

enum {
        VMA_DONTFORK = 1 << 0,
        VMA_WIPEONFORK = 1 << 1,
        VMA_GROWSDOWN = 1 << 2,
        VMA_HUGEPAGE = 1 << 3,
        VMA_NOHUGEPAGE = 1 << 4,
        VMA_MERGEABLE = 1 << 5,
        VMA_DONTDUMP = 1 << 6,
        VMA_RANDOM = 1 << 7,
        VMA_SEQUENTIAL = 1 << 8,
        VMA_NORESERVE = 1 << 9,
        VMA_MAYWRITE = 1 << 10,
        VMA_SHADOW_STACK = 1 << 11,
        VMA_HUGETLB = 1 << 12,
        VMA_SPECIAL = 1 << 13, /* the kernel's own, such as the vDSO */
};

#define VMA_LARGE (UINT64_C(16) << 20)
#define VMA_AT(a, k) (&g_array_index((a), Vma, (k)))

/* All of @target, by address, without what the kernel shows there but has in every process. 0 and an array of Vma, or a negative errno. */
int vmas_read(const Target *target, GArray **ret);

/* For the tests: @text is that of smaps, or of maps, which has no flags. -EBADMSG where it is not as proc(5) has it. */
int vmas_parse(const char *text, GArray **ret);

/*
 * True where @target still has exactly @vmas, which were read while it ran, as maps says, which is read many times as fast as smaps. Nothing
 * else of them may have changed that matters: which pages there are is looked at page by page, and what is large and had none would be missed.
 */
bool vmas_are_current(const GArray *vmas, const Target *target);

/* True for what a fork of a process that has @vma has there, too. */
bool vma_is_forked(const Vma *vma);
bool vma_is_private(const Vma *vma);
int vma_protection(const Vma *vma);

/* @size bytes that are in no mapping of either; 0 where there is no such place. */
uint64_t vmas_find_free(const GArray *a, const GArray *b, uint64_t size);

/* Pages that lie side by side. */
typedef struct PageRun {
        uint64_t address, size;
        uint64_t at; /* place in Image.bytes */
        guint vma;
} PageRun;

/* The content of a process' memory at the instant. */
typedef struct Image {
        GArray *runs;    /* PageRun: pages that its clone gets written */
        GArray *drops;   /* PageRun: pages that the clone of its parent has, and it does not */
        GArray *objects; /* int: descriptors of the files that are mapped, owned */
        uint8_t *bytes;
        uint64_t size;
} Image;

/* A descriptor of a process. */
typedef struct MemberFd {
        int number;
        bool close_on_exec;
        int fd; /* a duplicate; -EBADF where the parent has the same open file under the same number */
} MemberFd;

/* The kernel's struct sigaction on x86-64. */
typedef struct KernelSigaction {
        uint64_t handler, flags, restorer, mask;
} KernelSigaction;

#define TREE_SIGNALS 64

/* All of a process but memory, registers, descriptors and threads. */
typedef struct MemberState {
        ThreadInfo info; /* of the main thread */
        struct prctl_mm_map layout;
        uint8_t auxv[1024];
        int exit_signal;
        bool has_terminal; /* a controlling one */
        unsigned umask;
        uint64_t caught, ignored; /* signals */
        pid_t own_group;          /* as it sees it itself */
        uint64_t personality, timer_slack;
        int oom_score_adj, io_priority;
        bool huge_pages; /* not PR_SET_THP_DISABLE */
        char *cgroup, *label, *pid_namespace; /* owned */
        struct rlimit limits[RLIM_NLIMITS];
        int cwd, root, exe; /* descriptors, owned; -EBADF where it is that of its parent */
        /* What it was asked for. */
        KernelSigaction actions[TREE_SIGNALS];
        stack_t altstack;
        uint64_t clear_tid;
        int death_signal, subreaper;
        long dumpable, securebits;
        long write_execute;    /* PR_GET_MDWE */
        long access_to_parent; /* of kcmp(2) with its parent, which a Landlock domain of its own forbids */
} MemberState;

/* One process of the tree and its clone, which is job.clones. */
typedef struct Member {
        Job job;
        CloneSpec spec;        /* for the job */
        EngineHandler handler; /* for the job */
        CloneFds *spec_fds;    /* owned, with borrowed descriptors */
        size_t parent;         /* place; of the root 0 */
        bool prepared, interrupted, stopped, gone;
        uint8_t *xstate;
        size_t xstate_size;
        MemberState state;
        GArray *vmas;
        Image image;
        GArray *files; /* MemberFd */
        bool settings_known;
        bool born;     /* it has a clone */
        pid_t clone_own_group; /* of the clone, as it sees it itself */
} Member;

typedef struct PtraceTree {
        Target *target;
        const CloneSpec *spec;
        const EngineHandler *handler;
        Tree *tree;
        GPtrArray *members; /* Member, owned, in the places of the tree's */
        GPtrArray *family;  /* Clones, borrowed: those of all members */
        Fitout *fitout;     /* of all members that are not gone, in their order; NULL where their clones are complete without */
        Marks marks;        /* of the root */
        GArray *strangers;  /* pid_t: what may end while clones are awaited; of all members that there ever were */
        uint64_t deadline;  /* ns of CLOCK_MONOTONIC: by then all must stand still */
} PtraceTree;

static inline Member *tree_member(const PtraceTree *t, size_t k)
{
        return g_ptr_array_index(t->members, (guint) k);
}

static inline Member *tree_parent(const PtraceTree *t, const Member *m)
{
        return tree_member(t, m->parent);
}

void tree_note(const PtraceTree *t, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Fills @error for what went wrong with the clone of @m. */
int member_failed(const Member *m, long r, const char *what, CloneError *error);

/* ptrace-tree-stop.c: finds and takes hold of all there are while they run; stops them. 1: done; 0: the tree changed, begin anew. */
int tree_prepare_all(PtraceTree *t, CloneError *error);
int tree_stop_all(PtraceTree *t, CloneError *error);

/* ptrace-tree-state.c: reads @m, which stands still, and asks it for what only it can tell. Refuses what no clone can be given. */
int member_read(PtraceTree *t, Member *m, CloneError *error);
int member_compare(const PtraceTree *t, const Member *m, CloneError *error);
void member_state_clear(MemberState *s);

/* ptrace-tree-ask.c */
int member_ask(const PtraceTree *t, Member *m, CloneError *error);

/*
 * What is read while @m runs still, with what it is seized for, so that it need not be read while it stands still: its settings that change
 * rarely, if ever, and its memory map, which is compared later. Nothing is lost where it fails.
 */
void member_read_early(PtraceTree *t, Member *m);
void member_read_settings(Member *m);

/* ptrace-tree-image.c */
void member_read_map_early(PtraceTree *t, Member *m);
int member_read_memory(PtraceTree *t, Member *m, CloneError *error);
void image_clear(Image *i);

/* ptrace-tree-memory.c: makes the memory of the blank clone of @m that of @m; @p is worked with from a page of its own afterwards. */
int member_build_memory(PtraceTree *t, Member *m, Puppet *p, CloneError *error);

/* ptrace-tree-fds.c */
int member_read_files(const PtraceTree *t, Member *m, CloneError *error);
int member_place_files(PtraceTree *t, Member *m, Puppet *p, CloneError *error);

/* ptrace-tree-dress.c: everything else. */
int member_dress(PtraceTree *t, Member *m, Puppet *p, CloneError *error);

/* ptrace-tree-credentials.c: the IDs, capabilities and what goes with them; last, since they may take away rights. */
int member_set_credentials(const PtraceTree *t, Member *m, Puppet *p, CloneError *error);

/* ptrace-tree-build.c: makes all clones but the root's, which is there and complete. */
int tree_build(PtraceTree *t, CloneError *error);
