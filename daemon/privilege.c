/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/privilege.h"

static const struct {
        cap_value_t capability;
        bool effective;      /* or raised where it is needed */
        const char *without; /* what is lost */
} need_table[] = {
        {CAP_SYS_PTRACE, true, "without CAP_SYS_PTRACE only processes of the daemon's own user can be cloned"},
        {CAP_KILL, true, "without CAP_KILL an unfinished clone of another user cannot be ended"},
        {CAP_SYS_ADMIN, true, NULL}, /* only for targets under seccomp, which the engine tells by itself */
        {CAP_CHECKPOINT_RESTORE, true, NULL}, /* only for the kernel engine, which tells it by its probe */
        {CAP_DAC_OVERRIDE, false, NULL}, /* for speed, and memory that isolated clones share: memory_open_file() */
};

/* A request for many clones holds a descriptor for each. */
static void raise_descriptor_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
                return;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                log_warning("The limit on descriptors cannot be raised: %m");
}

static int keep_needed(cap_t has, cap_t keep)
{
        for (size_t i = 0; i < G_N_ELEMENTS(need_table); i++) {
                cap_value_t c = need_table[i].capability;
                cap_flag_value_t set = CAP_CLEAR;

                if (cap_get_flag(has, c, CAP_PERMITTED, &set) < 0 || set == CAP_CLEAR) {
                        if (need_table[i].without)
                                log_warning("Capability missing: %s", need_table[i].without);
                        continue;
                }
                if (cap_set_flag(keep, CAP_PERMITTED, 1, &c, CAP_SET) < 0 ||
                    (need_table[i].effective && cap_set_flag(keep, CAP_EFFECTIVE, 1, &c, CAP_SET) < 0))
                        return -errno;
        }

        return cap_set_proc(keep) < 0 ? -errno : 0;
}

int privilege_drop(void)
{
        cap_t has, keep;
        int r;

        if (geteuid() == 0)
                log_warning("remforkd runs as root; its unit runs it as a user of its own");

        raise_descriptor_limit();

        has = cap_get_proc();
        keep = cap_init();
        r = has && keep ? keep_needed(has, keep) : -errno;
        cap_free(has);
        cap_free(keep);
        if (r < 0) {
                log_error("Capabilities cannot be dropped: %s", g_strerror(-r));
                return r;
        }

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0) {
                r = -errno;
                log_error("remforkd cannot be shielded from other processes: %s", g_strerror(-r));
                return r;
        }

        return 0;
}
