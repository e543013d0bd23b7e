/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>

#include "daemon/refuse.h"
#include "daemon/request.h"

#define JUDGED_MAX 3U /* how often a target that keeps changing is judged anew */

static void request_check_and_admit(Request *r);

/* 0 where the target's credentials are still those that were judged; -ESTALE where not. */
static int request_check_unchanged(Request *r)
{
        Credentials now;
        int k;

        k = target_read_credentials(r->target, r->manager->host.user_namespace, &now);
        if (k < 0)
                return k;
        return credentials_equal(&now, &r->credentials) ? 0 : -ESTALE;
}

/* What polkit_ask() returns. */
static int ask(Request *r, AuthorizeClass class, PolkitDone done)
{
        const PolkitQuestion question = {
                .class = class,
                .target = r->target,
                .credentials = &r->credentials,
                .interactive = r->message && sd_bus_message_get_allow_interactive_authorization(r->message) > 0,
        };

        return polkit_ask(r->manager->polkit, r->peer, &question, done, r, &r->check, &r->error);
}

static void on_polkit_done(int k, const CloneError *error, void *userdata)
{
        Request *r = userdata;

        r->check = NULL; /* freed by whoever calls this */

        if (k < 0) {
                request_fail(r, error);
                return;
        }

        request_check_and_admit(r);
}

static void on_scope_allowed(int k, const CloneError *error, void *userdata)
{
        Request *r = userdata;

        if (k >= 0)
                r->scope_allowed = true;
        on_polkit_done(k, error, r);
}

/* The target may be cloned. To start units, and to leave those of one's own with their limits, is an administrator's right. */
static void request_authorize_scope(Request *r)
{
        int k;

        if (!r->spec.scope || r->scope_allowed) {
                request_admit(r);
                return;
        }

        k = ask(r, AUTHORIZE_MANAGE_UNITS, on_scope_allowed);
        if (k > 0)
                request_admit(r);
        else if (k < 0)
                request_finish(r, NULL);
}

/* While polkit thought about one program, another may have taken its place. */
static void request_check_and_admit(Request *r)
{
        if (request_check_unchanged(r) == 0)
                request_authorize_scope(r);
        else /* a failure to read is found by it again */
                request_authorize(r);
}

void request_authorize(Request *r)
{
        Manager *m = r->manager;
        int k;

        if (r->n_judged++ >= JUDGED_MAX) {
                clone_error_set(&r->error, CLONE_ERROR_ACCESS_DENIED, 0,
                                "Process %d changed its credentials or its program %u times while it was judged",
                                (int) r->target_pid, JUDGED_MAX);
                request_finish(r, NULL);
                return;
        }

        r->superuser = authorize_is_superuser(&r->peer->requester, &m->host);
        if (r->superuser) { /* whatever the target is, so that nothing of it has to be read */
                request_admit(r);
                return;
        }

        k = target_read_credentials(r->target, m->host.user_namespace, &r->credentials);
        if (k < 0) {
                if (k == -ESRCH)
                        clone_error_set(&r->error, CLONE_ERROR_NO_SUCH_PROCESS, 0, "Process %d ended", (int) r->target_pid);
                else
                        clone_error_set(&r->error, CLONE_ERROR_ACCESS_DENIED, -k,
                                        "The credentials of process %d cannot be read: %s", (int) r->target_pid,
                                        g_strerror(-k));
                request_finish(r, NULL);
                return;
        }

        /* Yama's scope is a switch that is turned while the daemon runs. */
        k = host_read("/proc", &m->host);
        if (k < 0) {
                clone_error_set(&r->error, CLONE_ERROR_ACCESS_DENIED, -k, "What this machine allows to be traced cannot be read: %s",
                                g_strerror(-k));
                request_finish(r, NULL);
                return;
        }

        r->class = authorize_classify(&r->peer->requester, &r->credentials, &m->host);
        if (r->spec.tree) {
                k = classify_tree(m, r->target, &r->peer->requester, &r->class, &r->error);
                if (k < 0) {
                        request_finish(r, NULL);
                        return;
                }
        }

        k = ask(r, r->class, on_polkit_done);
        if (k > 0)
                request_authorize_scope(r);
        else if (k < 0)
                request_finish(r, NULL);
}
