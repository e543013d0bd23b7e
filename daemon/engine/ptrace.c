/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <sys/capability.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/forkmarks.h"
#include "daemon/engine/notes.h"
#include "daemon/engine/ptrace-job.h"
#include "daemon/engine/ptrace-rebuild.h"
#include "daemon/engine/ptrace-tree.h"
#include "daemon/util.h"

static int ptrace_probe(CloneError *error)
{
        cap_t caps = cap_get_proc();
        cap_flag_value_t value = CAP_CLEAR;

        if (caps) {
                (void) cap_get_flag(caps, CAP_SYS_PTRACE, CAP_EFFECTIVE, &value); /* on failure value stays clear */
                (void) cap_free(caps);
        }
        if (value != CAP_SET)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EPERM, "The ptrace engine needs CAP_SYS_PTRACE");
        return 0;
}

/*
 * Marked memory is looked for where the text of it is read anyway, and where there are threads: who marks its memory nearly always
 * has some, and to be cloned takes such a process longer.
 */
static void look_for_marks(Job *j)
{
        bool all_stand_still = j->status.threads == 1 || j->spec->threads == CLONE_THREADS_ALL;

        if (!j->marks->looked && all_stand_still && (j->spec->notes || j->status.threads > 1))
                marks_look(j->marks, j->target);
        notes_tell(j->target, j->spec, j->handler, all_stand_still ? 0 : NOTES_MARKS);
}

/* All others: the clone has less memory than the target had. True where it is to be made again. */
static bool found_marks_late(Job *j)
{
        if (j->marks->looked || forkmarks_pages_of(j->clones.pids[0]) >= j->status.mapped_pages)
                return false;

        marks_look(j->marks, j->target);
        return marks_any(j->marks);
}

static int restore_marks(Job *j, CloneError *error)
{
        int r = 0;

        for (size_t k = 0; k < j->clones.n && r >= 0; k++)
                r = marks_restore(j->marks, &j->instant, &j->clones.tracees[k]);
        return r < 0 ? job_failed(j, r, "the memory of its clone cannot be marked", error) : 0;
}

static void note_marks(const Job *j)
{
        g_autofree char *text = NULL;

        if (!j->marks_reason || !j->handler->note)
                return;
        text = g_strdup_printf("Memory that process %d has marked with madvise() is missing in the clone, or zero: %s",
                        (int) target_pid(j->target), j->marks_reason);
        j->handler->note(text, j->handler->userdata);
}

/* What is left to be done for the clones while the target runs again. */
static int finish_clones(Job *j, bool *ret_again, CloneError *error)
{
        int r;

        r = clones_adopt_first(&j->clones, &j->tracee, error);
        if (r < 0)
                return r;
        if (found_marks_late(j)) {
                *ret_again = true;
                return -EAGAIN;
        }
        r = marks_settle(j->marks, &j->instant, &j->clones.tracees[0]);
        if (r < 0)
                return job_failed(j, r, "its clone cannot be put in order", error);
        j->clones.bare = !j->fitout && j->threads.list->len == 0 && !marks_any(j->marks);
        r = clones_complete(&j->clones, j->spec, error);
        if (r >= 0)
                r = restore_marks(j, error);
        if (r >= 0 && j->fitout)
                r = clones_fit(&j->clones, j->fitout, error);
        return r < 0 ? r : rebuild_threads(&j->clones, error);
}

/* *@ret_again: nothing was told yet, and it is to be done again. */
static int make_clones(Job *j, EngineResult *ret, bool *ret_again, CloneError *error)
{
        int r;

        r = job_prepare(j, error);
        if (r >= 0) {
                look_for_marks(j);
                r = fitout_new(&j->fitout, &j->target, &(const TargetStatus *){&j->status}, &(const CloneFds *){j->spec->fds}, 1, j->spec,
                                j->handler, FITOUT_ASKS_TIMERS, error);
        }
        if (r >= 0)
                r = job_stop(j, error);
        if (r >= 0 && j->spec->trigger == CLONE_TRIGGER_SYSCALL) {
                r = job_run_to_entry(j, error);
                j->pause_begin = monotonic_nsec();
        }
        if (r >= 0)
                r = job_take(j, error);
        if (r >= 0)
                r = job_clone(j, error);
        job_release(j);
        ret->pause_nsec = j->pause_begin > 0 ? monotonic_nsec() - j->pause_begin : 0;
        job_stay_no_longer(j);
        if (j->handler->resumed)
                j->handler->resumed(j->handler->userdata);
        if (r < 0)
                return r;

        note_marks(j);
        return finish_clones(j, ret_again, error);
}

static int clone_once(Target *target, const CloneSpec *spec, const EngineHandler *handler, Marks *marks, EngineResult *ret, bool *ret_again,
                CloneError *error)
{
        Job j;
        int r;

        *ret = (EngineResult){};
        job_init(&j, target, spec, handler);
        j.marks = marks;
        r = make_clones(&j, ret, ret_again, error);
        if (r >= 0 && handler->held)
                r = handler->held(j.clones.pids, j.clones.pidfds, NULL, j.clones.n, handler->userdata, error);
        /* A target that was stopped has clones that are. */
        if (r >= 0)
                r = clones_release(&j.clones, spec->parent == CLONE_PARENT_DAEMON, spec->stopped || j.tracee.group_stop != 0, error);
        if (r < 0)
                clones_kill(&j.clones);

        fitout_free(j.fitout);
        job_clear(&j);
        return r < 0 ? r : 0;
}

static int ptrace_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error)
{
        bool again = false;
        Marks marks = {};
        int r;

        if (spec->same_pids)
                return clone_error_set(error, CLONE_ERROR_UNSUPPORTED, EOPNOTSUPP,
                                "Option same-pids wants a kernel with remfork(2): a process that is made to clone itself needs CAP_SYS_ADMIN "
                                "to have its clone in another PID namespace, and process %d is not given that",
                                (int) target_pid(target));
        if (spec->tree)
                return ptrace_tree_clone(target, spec, handler, ret, error);

        r = clone_once(target, spec, handler, &marks, ret, &again, error);
        if (again) /* no more than once: it has looked by now */
                r = clone_once(target, spec, handler, &marks, ret, &again, error);
        marks_clear(&marks);
        return r;
}

const Engine engine_ptrace = {
        .name = "ptrace",
        .probe = ptrace_probe,
        .clone = ptrace_clone,
        .watch = clones_watch,
};
