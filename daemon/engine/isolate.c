/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "daemon/engine/isolate-internal.h"
#include "daemon/util.h"

static void file_clear(void *p)
{
        OpenFile *f = p;

        safe_close(f->copy);
        safe_close(f->tee);
        g_free(f->name);
        g_free(f->info);
        g_clear_pointer(&f->waiting, g_bytes_unref);
}

static void sample_clear(void *p)
{
        Sample *s = p;

        safe_close(s->copy);
        safe_close(s->infofd);
        safe_close(s->tee_read);
        safe_close(s->tee_write);
        g_free(s->info);
}

static void note(Isolation *i, const char *before, const char *format, va_list ap)
{
        g_autofree char *text = g_strdup_vprintf(format, ap), *whole = g_strconcat(before, text, NULL);

        i->handler->note(whole, i->handler->userdata);
}

static bool is_to_note(const Isolation *i)
{
        return !i->told && i->handler->note;
}

void isolation_note(Isolation *i, const char *format, ...)
{
        va_list ap;

        if (!is_to_note(i))
                return;
        va_start(ap, format);
        note(i, "", format, ap);
        va_end(ap);
}

void isolation_note_file(Isolation *i, const OpenFile *f, const char *format, ...)
{
        g_autofree char *which = NULL;
        va_list ap;

        if (!is_to_note(i))
                return;
        which = i->members->len == 1 ? g_strdup_printf("Descriptor %d (%s): ", f->number, f->name)
                                     : g_strdup_printf("Descriptor %d (%s) of process %d: ", f->number, f->name,
                                                       (int) target_pid(MEMBER_AT(i, f->member)->target));
        va_start(ap, format);
        note(i, which, format, ap);
        va_end(ap);
}

void isolation_note_shared(Isolation *i, const OpenFile *f, const char *reason)
{
        isolation_note(i, "Descriptor %d (%s) stays shared with process %d: %s", f->number, f->name, (int) target_pid(MEMBER_AT(i, f->member)->target),
                        reason);
}

void isolation_leave(Isolation *i, size_t k, const char *reason)
{
        isolation_note_shared(i, FILE_AT(i, k), reason);
        FOR_EACH_SAME(i, n, k)
                FILE_AT(i, n)->done = true;
}

static int look_at(Isolation *i, unsigned member, CloneError *error)
{
        g_autoptr(GArray) numbers = NULL;
        const Target *target = MEMBER_AT(i, member)->target;
        int r = isolation_list_numbers(target, &numbers);

        if (r < 0)
                return clone_error_set(error, r == -ESRCH || r == -ENOENT ? CLONE_ERROR_NO_SUCH_PROCESS : CLONE_ERROR_FAILED, -r,
                                "The descriptors of process %d cannot be listed: %s", (int) target_pid(target), g_strerror(-r));
        isolation_look(i, member, numbers);
        isolation_look_memory(i, member);
        return 0;
}

int isolation_new(Isolation **ret, Target *const *targets, const CloneFds *const *fds, size_t n, const CloneSpec *spec,
                const EngineHandler *handler, CloneError *error)
{
        g_autoptr(Isolation) i = g_new0(Isolation, 1);
        int r;

        i->spec = spec;
        i->handler = handler;
        i->members = g_array_new(FALSE, FALSE, sizeof(Member));
        i->samples = g_array_new(FALSE, FALSE, sizeof(Sample));
        g_array_set_clear_func(i->samples, sample_clear);
        i->samples_order = g_array_new(FALSE, FALSE, sizeof(Description));
        i->sources = g_array_new(FALSE, FALSE, sizeof(SamplerSource));
        i->files = g_array_new(FALSE, FALSE, sizeof(OpenFile));
        g_array_set_clear_func(i->files, file_clear);
        i->files_order = g_array_new(FALSE, FALSE, sizeof(Description));

        for (size_t k = 0; k < n; k++) {
                const Member m = {.target = targets[k], .fds = fds[k], .directory = -EAGAIN, .diag = -EAGAIN};

                g_array_append_val(i->members, m);
                r = look_at(i, (unsigned) k, error);
                if (r < 0)
                        return r;
        }

        r = isolation_look_done(i);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The descriptors of process %d cannot be looked at: %s",
                                (int) target_pid(targets[0]), g_strerror(-r));

        *ret = g_steal_pointer(&i);
        return 0;
}

Isolation *isolation_free(Isolation *i)
{
        if (!i)
                return NULL;

        sampler_free(i->sampler);
        g_clear_pointer(&i->snapshots, g_hash_table_unref);
        g_array_unref(i->samples);
        g_array_unref(i->samples_order);
        g_array_unref(i->sources);
        g_array_unref(i->files);
        g_array_unref(i->files_order);
        g_array_unref(i->members);
        g_free(i);
        return NULL;
}

/* What has a state that is not known: half a pipe would be of no use, so all of it. */
static void leave_unknown(Isolation *i)
{
        static const char busy[] = "it could not be looked at in time, as somebody keeps it busy";

        for (guint k = 0; k < i->files->len; k++) {
                const OpenFile *f = FILE_AT(i, k), *first = isolation_first(i, f);
                bool anonymous = (f->st.st_mode & S_IFMT) == 0 && f->kind != OPEN_OTHER && f->kind != OPEN_HARMLESS;

                if (f->done || (!first->busy && !(anonymous && !first->info)))
                        continue;
                isolation_leave(i, k, first->busy ? busy : "it was opened at the instant of the clone");
                if (f->kind != OPEN_PIPE)
                        continue;
                FOR_EACH_OF_INODE(i, n, k)
                        if (!FILE_AT(i, n)->done)
                                isolation_leave(i, n, busy);
        }
}

static int isolate_all(Isolation *i)
{
        static int (*const steps[])(Isolation *i) = {
                isolate_pipes, isolate_sockets, isolate_terminals, isolate_events, isolate_memory, isolate_epolls,
        };

        leave_unknown(i);
        for (size_t k = 0; k < G_N_ELEMENTS(steps); k++) {
                int r = steps[k](i);

                if (r < 0)
                        return r;
        }

        for (guint k = 0; k < i->files->len; k++)
                if (!FILE_AT(i, k)->done && FILE_AT(i, k)->kind == OPEN_OTHER)
                        isolation_leave(i, k, "there is no way to make another of its kind");
        return 0;
}

/* What was lent to the clones, and what this process has of theirs. */
static int take_back(Isolation *i, bool alive)
{
        long r = 0;

        for (unsigned k = 0; k < i->members->len; k++) {
                Member *m = MEMBER_AT(i, k);

                if (alive && m->directory >= 0 && r >= 0)
                        r = puppet_call(isolation_puppet(i, k), SYS_close, (uint64_t) m->directory);
                safe_close(m->diag);
                m->directory = m->diag = -EAGAIN;
                m->puppet = NULL;
        }

        return (int) MIN(r, 0);
}

int isolation_apply(Isolation *i, Puppet *const *puppets, size_t n, CloneError *error)
{
        pid_t pid;
        int r, k;

        g_return_val_if_fail(n == i->members->len, -EINVAL);
        for (size_t m = 0; m < n; m++)
                MEMBER_AT(i, m)->puppet = puppets[m];

        isolation_note_changed(i);
        r = isolation_list_files(i);
        if (r >= 0)
                r = isolate_files(i);
        if (r >= 0 && i->spec->isolate == CLONE_ISOLATE_ALL)
                r = isolate_all(i);
        pid = target_pid(MEMBER_AT(i, i->at)->target);
        k = take_back(i, r >= 0);
        r = r < 0 ? r : k;
        i->told = true;

        if (r == -EMFILE)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, EMFILE,
                                "Process %d has no descriptor left under its RLIMIT_NOFILE, which isolating its clone needs", (int) pid);
        if (r < 0)
                return clone_error_set(error, CLONE_ERROR_FAILED, -r, "The clone of process %d cannot be isolated: %s", (int) pid, g_strerror(-r));
        return 0;
}
