/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/engine/forkmarks.h"
#include "daemon/engine/isolate-shared.h"
#include "daemon/engine/notes.h"
#include "daemon/util.h"

/* What is told of memory: one sentence each, with the bytes of all mappings of the kind. */
typedef enum MemoryKind {
        MEMORY_DONTFORK,
        MEMORY_DEVICE,
        MEMORY_WIPEONFORK,
        MEMORY_TWIN,
        MEMORY_SHARED,
        MEMORY_AIO,
        MEMORY_IO_URING,
        _MEMORY_MAX,
} MemoryKind;

static const char *const memory_words[_MEMORY_MAX] = {
        [MEMORY_DONTFORK] = "is marked MADV_DONTFORK, which the clone does not have",
        [MEMORY_DEVICE] = "belongs to a driver and is marked MADV_DONTFORK, which the clone does not have",
        [MEMORY_WIPEONFORK] = "is marked MADV_WIPEONFORK, which is zero in the clone",
        [MEMORY_TWIN] = "is marked MADV_WIPEONFORK and is in the clone as it is: what it guards against, such as random numbers that are the same in both, happens",
        [MEMORY_SHARED] = "is shared: what the process or the clone writes the other sees",
        [MEMORY_AIO] = "belongs to an AIO context (io_setup), which the clone cannot use",
        [MEMORY_IO_URING] = "belongs to an io_uring, which stays the process's: the clone must not submit to it",
};

typedef struct Memory {
        uint64_t bytes[_MEMORY_MAX], first[_MEMORY_MAX];
} Memory;

static void count(Memory *m, MemoryKind kind, uint64_t start, uint64_t end)
{
        if (m->bytes[kind] == 0)
                m->first[kind] = start;
        m->bytes[kind] += end - start;
}

static void count_shared(Memory *m, const char *line, CloneIsolate isolate)
{
        SharedMapping s;

        if (!shared_mapping_parse(line, &s))
                return;
        if (strstr(s.name, "[aio]"))
                count(m, MEMORY_AIO, s.start, s.end);
        else if (strstr(s.name, "[io_uring]"))
                count(m, MEMORY_IO_URING, s.start, s.end);
        else if (s.kind != SHARED_FILE && isolate != CLONE_ISOLATE_ALL)
                count(m, MEMORY_SHARED, s.start, s.end);
}

static void count_flags(Memory *m, const char *flags, uint64_t start, uint64_t end, bool lacks_marks)
{
        const bool driver = forkmarks_is_driver(flags);

        if (forkmarks_has_flag(flags, "dc") && (driver || lacks_marks))
                count(m, driver ? MEMORY_DEVICE : MEMORY_DONTFORK, start, end);
        if (forkmarks_has_flag(flags, "wf"))
                count(m, lacks_marks ? MEMORY_WIPEONFORK : MEMORY_TWIN, start, end);
}

char **notes_on_memory(const char *smaps, pid_t pid, CloneIsolate isolate, bool lacks_marks)
{
        g_auto(GStrv) lines = g_strsplit(smaps, "\n", -1);
        GPtrArray *sentences = g_ptr_array_new();
        uint64_t start = 0, end = 0;
        Memory m = {};

        for (char **line = lines; *line; line++) {
                uint64_t a, b;

                if (sscanf(*line, "%" SCNx64 "-%" SCNx64 " ", &a, &b) == 2) {
                        start = a;
                        end = b;
                        count_shared(&m, *line, isolate);
                } else if (g_str_has_prefix(*line, "VmFlags:")) {
                        count_flags(&m, *line, start, end, lacks_marks);
                }
        }

        for (int k = 0; k < _MEMORY_MAX; k++)
                if (m.bytes[k] > 0)
                        g_ptr_array_add(sentences,
                                        g_strdup_printf("Memory of process %d (%" PRIu64 " KiB, the first at %" PRIx64 ") %s", (int) pid,
                                                        m.bytes[k] / 1024, m.first[k], memory_words[k]));
        g_ptr_array_add(sentences, NULL);
        return (char **) g_ptr_array_free(sentences, FALSE);
}

static void tell(const EngineHandler *handler, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void tell(const EngineHandler *handler, const char *format, ...)
{
        g_autofree char *text = NULL;
        va_list ap;

        va_start(ap, format);
        text = g_strdup_vprintf(format, ap);
        va_end(ap);
        handler->note(text, handler->userdata);
}

static void tell_memory(Target *target, const CloneSpec *spec, const EngineHandler *handler, bool lacks_marks)
{
        g_autofree char *smaps = NULL;
        g_auto(GStrv) sentences = NULL;

        if (target_read_file(target, "smaps", &smaps, NULL) < 0)
                return;
        sentences = notes_on_memory(smaps, target_pid(target), spec->isolate, lacks_marks);
        for (char **s = sentences; *s; s++)
                tell(handler, "%s", *s);
}

typedef struct Descriptors {
        GString *locked, *userfault, *uring; /* numbers */
} Descriptors;

static void append_number(GString *s, const char *number)
{
        g_string_append_printf(s, "%s%s", s->len > 0 ? ", " : "", number);
}

/* Each kind has lines of its own in fdinfo: fs/locks.c, fs/userfaultfd.c, io_uring/fdinfo.c. */
static void look_at_descriptor(Target *target, const char *number, Descriptors *d)
{
        g_autofree char *path = g_strdup_printf("fdinfo/%s", number), *info = NULL;

        if (target_read_file(target, path, &info, NULL) < 0)
                return; /* closed meanwhile */
        if (strstr(info, "\nlock:"))
                append_number(d->locked, number);
        if (strstr(info, "\nAPI:"))
                append_number(d->userfault, number);
        if (strstr(info, "\nSqMask:"))
                append_number(d->uring, number);
}

static void tell_descriptors(Target *target, const EngineHandler *handler)
{
        Descriptors d = {g_string_new(NULL), g_string_new(NULL), g_string_new(NULL)};
        int fd = openat(target_procfd(target), "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC), pid = (int) target_pid(target);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);

        if (dir) {
                for (struct dirent *e; (e = readdir(dir));)
                        if (g_ascii_isdigit(e->d_name[0]))
                                look_at_descriptor(target, e->d_name, &d);
                (void) closedir(dir); /* it was read only */
        } else
                safe_close(fd);

        if (d.locked->len > 0)
                tell(handler, "Locks of process %d (descriptor %s) stay its own: the clone has none", pid, d.locked->str);
        if (d.userfault->len > 0)
                tell(handler, "The userfaultfd of process %d (descriptor %s) tells of no fault of the clone", pid, d.userfault->str);
        if (d.uring->len > 0)
                tell(handler, "The io_uring of process %d (descriptor %s) stays its own: the clone must not submit to it", pid, d.uring->str);
        g_string_free(d.locked, TRUE);
        g_string_free(d.userfault, TRUE);
        g_string_free(d.uring, TRUE);
}

void notes_tell(Target *target, const CloneSpec *spec, const EngineHandler *handler, NotesLack lacks)
{
        if (!spec->notes || !handler->note)
                return;

        tell_memory(target, spec, handler, (lacks & NOTES_MARKS) != 0);
        tell_descriptors(target, handler);
}
