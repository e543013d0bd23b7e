/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "daemon/engine/fdinfo.h"
#include "daemon/engine/isolate.h"
#include "daemon/engine/sampler.h"

/* What the parts of isolate*.c share; of no use to others. */

typedef enum OpenKind {
        OPEN_REGULAR,
        OPEN_DIRECTORY,
        OPEN_PIPE,
        OPEN_SOCKET,
        OPEN_TERMINAL,
        OPEN_EPOLL,
        OPEN_EVENTFD,
        OPEN_TIMERFD,
        OPEN_SIGNALFD,
        OPEN_INOTIFY,
        OPEN_MEMFD,
        OPEN_HARMLESS, /* /dev/null and its like, O_PATH: nothing that could be shared */
        OPEN_OTHER,
} OpenKind;

/* What belongs together, as places in an array: each has the first and the next of its row. */
typedef struct Row {
        size_t first; /* the own place where it is the first */
        size_t next;  /* ROW_END for none */
        size_t last;  /* of the first only */
} Row;

#define ROW_END SIZE_MAX

/* One descriptor of one of the clones. What is told of the description only its first descriptor has: isolation_first(). */
typedef struct OpenFile {
        unsigned member; /* whose it is */
        int number;
        bool cloexec;
        bool replaced; /* the request says what it is */
        bool done;     /* has been given to the clone as its own, or is to stay */
        Row same;      /* all descriptors of the same description */
        Row inode;     /* of pipes, sockets and memfds: all descriptors of the same one */
        OpenKind kind;
        int flags; /* F_GETFL */
        struct stat st;
        char *name; /* what /proc/PID/fd has, for notes and for telling the kind */

        /* Of the first only. */
        int copy;        /* a duplicate in this process; owned */
        char *info;      /* fdinfo at the instant */
        int tee;         /* read end of a pipe with the bytes in flight, -EBADF */
        GBytes *waiting; /* what a UNIX stream socket had to be read at the instant; NULL for nothing */
        int unread;      /* bytes that it had besides, which could not be had */
        int pipe_size;   /* bytes that the pipe holds; where tee is a pipe */
        bool sampled;    /* was there before the instant */
        bool busy;       /* could not be looked at in time */
        bool unpeekable; /* has SO_PEEK_OFF set, so that what it had to be read is not known */
} OpenFile;

/* A description that was fetched from the running targets. */
typedef struct Sample {
        unsigned member; /* of one who has it */
        int number;      /* as which */
        int copy;        /* of the target's descriptor; owned */
        int infofd;      /* fdinfo of the copy, read anew by each pread(2); owned */
        char *info;      /* as captured, of a file or directory */
        int tee_read, tee_write; /* a pipe for the bytes in flight, or -EBADF */
        int source;      /* place among the sampler's, or -1 */
        bool changed;    /* between the two captures */
        bool unpeekable;
} Sample;

/* One of the processes that are cloned at one instant. */
typedef struct Member {
        Target *target; /* borrowed */
        const CloneFds *fds; /* what the request says of the clone's; NULL for none */
        Puppet *puppet; /* of the clone that is being worked on; borrowed */
        int directory;  /* in the clone, see isolation_directory(); -EAGAIN where it was not asked for yet */
        int diag;       /* a socket of the clone's network namespace, see isolate-sockets.c; -EAGAIN likewise */
} Member;

/* Descriptions in the order that kcmp(2) gives them, so that one is found without comparing it with each. */
typedef struct Description {
        int copy;
        guint place;
} Description;

struct Isolation {
        const CloneSpec *spec;
        const EngineHandler *handler;
        GArray *members; /* Member */
        unsigned at;     /* the member that was worked on last, for the error */
        GArray *samples; /* Sample */
        GArray *samples_order; /* Description */
        GArray *sources; /* SamplerSource */
        Sampler *sampler; /* NULL where there is nothing for it */
        GHashTable *snapshots; /* of shared memory, see isolate-snapshot.c */
        uint64_t snapshots_size;
        unsigned n_captured;
        GArray *files; /* OpenFile, of the clones that are being worked on: by member, then by number */
        GArray *files_order; /* Description: the first of each row */
        bool told; /* notes were given for earlier clones, which are like the others */
};

#define FILE_AT(i, k) (&g_array_index((i)->files, OpenFile, (k)))
#define MEMBER_AT(i, k) (&g_array_index((i)->members, Member, (k)))

/* All of the row that file @k is in, @n being each one's place. */
#define FOR_EACH_SAME(i, n, k) for (size_t n = FILE_AT(i, k)->same.first; n != ROW_END; n = FILE_AT(i, n)->same.next)
#define FOR_EACH_OF_INODE(i, n, k) for (size_t n = FILE_AT(i, k)->inode.first; n != ROW_END; n = FILE_AT(i, n)->inode.next)

/* Puts @place at the end of the row that begins at @first, or makes it a row of its own where that is ROW_END; @rows is all of the array. */
void row_append(Row *row, size_t place, Row *first, Row *last);

/* The place in @order where the description of @copy is, or where it belongs. */
bool description_find(const GArray *order, int copy, guint *ret);

/* The clone of a member, which is about to be made to do something. */
static inline Puppet *isolation_puppet(Isolation *i, unsigned member)
{
        i->at = member;
        return MEMBER_AT(i, member)->puppet;
}

/* The first descriptor of the description of @f, which has what is known of that. */
static inline const OpenFile *isolation_first(const Isolation *i, const OpenFile *f)
{
        return FILE_AT(i, f->same.first);
}

/* A sentence for the requester, once for all clones of the request. */
void isolation_note(Isolation *i, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* "Descriptor 5 (pipe:[123]): TEXT"; of several processes it is said which. */
void isolation_note_file(Isolation *i, const OpenFile *f, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* "Descriptor 5 (pipe:[123]) stays shared with process 42: REASON" */
void isolation_note_shared(Isolation *i, const OpenFile *f, const char *reason);

/* The same, and leaves the descriptors of the description of file @k as they are. */
void isolation_leave(Isolation *i, size_t k, const char *reason);

/* The numbers of the descriptors of a process, ascending: an array of int. */
int isolation_list_numbers(const Target *target, GArray **ret);

/* Fetches what a target, which runs, has open as @numbers. */
void isolation_look(Isolation *i, unsigned member, const GArray *numbers);

/* Makes ready for isolation_capture(). Negative errno. */
int isolation_look_done(Isolation *i);

/* The same for a target's shared memory, which isolation_capture_memory() copies. */
void isolation_look_memory(Isolation *i, unsigned member);
void isolation_capture_memory(Isolation *i);

/* A descriptor, the caller's, of what the object "DEVICE:INODE" had at the instant; -ENOENT where it was not copied. */
int isolation_snapshot(const Isolation *i, const char *id);

/* Was some of it written to between two captures? */
bool isolation_snapshot_changed(const Isolation *i);

/* Fills in what was taken at the instant, where the description was open then; of a file that was not, what is now. */
void isolation_take_state(Isolation *i, OpenFile *f);

/* Notes what was not the same at both captures. */
void isolation_note_changed(Isolation *i);

/* Lists what all the clones have. */
int isolation_list_files(Isolation *i);

/* The descriptor @number of a member, NULL for none. */
const OpenFile *isolation_find(const Isolation *i, unsigned member, int number);

/*
 * Puts @made, a descriptor that the clone of member @maker has just made, where file @k is, and wherever else the same description
 * is, in whichever clone, and closes @made. Negative errno.
 */
int isolation_install(Isolation *i, unsigned maker, size_t k, int made);

/* The same with a descriptor of this process, which stays open. */
int isolation_install_ours(Isolation *i, size_t k, int ours);

/*
 * A descriptor of the clone of a member by which it can open its own descriptors again; -ENOTDIR where it cannot be given one, or
 * what is fatal.
 */
int isolation_directory(Isolation *i, unsigned member);

/*
 * Has the clone of @member open what is behind its descriptor @number once more, with the flags and at the offset of @f. The new
 * descriptor, or a negative errno, with nothing left open; -ENOTDIR as above.
 */
int isolation_open_again(Isolation *i, unsigned member, const OpenFile *f, int number);

/* Why opening failed, as a reason for a note. */
const char *isolation_reason(int r);

/* Closes @fd of the clone where @r is an error that is a matter of one descriptor; @fd, or @r. */
long isolation_close_failed(Puppet *p, long fd, long r);

/* Is @r, a negative errno, the end of the clone rather than a matter of one descriptor? */
static inline bool isolation_is_fatal(int r)
{
        return r == -ESRCH || r == -EMFILE || r == -EFAULT;
}

/*
 * Each handles all descriptors of its kinds that are not done. A negative errno is fatal for the clones; what cannot be had is
 * noted and skipped.
 */
int isolate_files(Isolation *i);
int isolate_pipes(Isolation *i);
int isolate_sockets(Isolation *i);
int isolate_terminals(Isolation *i);
int isolate_events(Isolation *i);
int isolate_epolls(Isolation *i); /* after all others */
int isolate_memory(Isolation *i); /* memfds too */
