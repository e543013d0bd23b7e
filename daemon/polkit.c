/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>

#include "daemon/bus-util.h"
#include "daemon/log.h"
#include "daemon/polkit.h"
#include "daemon/util.h"

#define POLKIT_NAME "org.freedesktop.PolicyKit1"
#define POLKIT_PATH "/org/freedesktop/PolicyKit1/Authority"
#define POLKIT_INTERFACE "org.freedesktop.PolicyKit1.Authority"
#define POLKIT_ALLOW_USER_INTERACTION 1U

#define USEC_PER_SEC (UINT64_C(1000000))
/*
 * Longer than the 15 s that polkit lets a rule run (RUNAWAY_KILLER_TIMEOUT): polkit 122 may lose the wake-up between the thread that
 * ran the rules and the one that waits for it, and then gives its answer, the right one, only after that time (src/polkitbackend/
 * polkitbackendduktapeauthority.c, runaway_killer_common(): the condition is signalled without the lock).
 */
#define TIMEOUT_USEC (20 * USEC_PER_SEC)
#define TIMEOUT_INTERACTIVE_USEC (120 * USEC_PER_SEC) /* a user types a password */
#define GRANT_USEC (60 * USEC_PER_SEC)                /* shorter than polkit's own five minutes */

/*
 * polkitd answers one question after the other in the order in which they come. Of one user's no more than this lie there at a
 * time, so that one who asks a hundred does not put them all before another's first. Those that may wait for a password are
 * counted by themselves: they do not keep a script of the same user waiting.
 */
#define ASKED_PER_USER_MAX 4
#define ASKED_PER_USER_INTERACTIVE_MAX 16

struct Polkit {
        sd_bus *bus;
        Peers *peers;
        sd_bus_slot *changed;
        sd_event_source *next; /* asks what may be asked now; not done where a question ends, as whoever ends it is in the middle of that */
        GQueue checks;         /* PolkitCheck, in the order in which they came; not owned */
        uint64_t next_cancellation;
};

struct PolkitCheck {
        Polkit *polkit;
        Peer *peer;
        Grant grant; /* what is remembered where polkit grants it for a while */
        bool interactive;
        uint64_t cancellation;
        sd_bus_message *question; /* NULL once it is asked */
        sd_bus_slot *call;
        PolkitDone done;
        void *userdata;
};

typedef struct Answer {
        bool authorized, challenge, temporary;
} Answer;

/* The rules, the actions or what is granted for a while changed. */
static int on_changed(sd_bus_message *message, void *userdata, sd_bus_error *unused)
{
        Polkit *p = userdata;

        peers_drop_grants(p->peers);
        return 0;
}

static bool grant_is_for(const Grant *a, const Grant *b)
{
        return a->class == b->class && a->target_uid == b->target_uid && a->target == b->target &&
               a->target_start_time == b->target_start_time && file_identity_equal(a->target_program, b->target_program) &&
               file_identity_equal(a->target_user_namespace, b->target_user_namespace);
}

static bool has_grant(const Peer *peer, const Grant *wanted)
{
        uint64_t now = now_usec();

        for (unsigned i = 0; i < peer->n_grants; i++)
                if (grant_is_for(&peer->grants[i], wanted) && now < peer->grants[i].until)
                        return true;
        return false;
}

static void remember_grant(Peer *peer, const Grant *grant)
{
        unsigned i;

        for (i = 0; i < peer->n_grants; i++)
                if (grant_is_for(&peer->grants[i], grant))
                        break;

        if (i == PEER_GRANTS_MAX) { /* the oldest goes */
                memmove(&peer->grants[0], &peer->grants[1], sizeof(Grant) * (PEER_GRANTS_MAX - 1));
                i--;
        } else if (i == peer->n_grants)
                peer->n_grants++;

        peer->grants[i] = *grant;
        peer->grants[i].until = now_usec() + GRANT_USEC;
}

static int read_answer(sd_bus_message *reply, Answer *ret)
{
        int authorized, challenge, r;
        const char *key, *value;
        Answer answer = {};

        r = sd_bus_message_enter_container(reply, 'r', "bba{ss}");
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "bb", &authorized, &challenge);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(reply, 'a', "{ss}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(reply, "{ss}", &key, &value)) > 0)
                if (strcmp(key, "polkit.temporary_authorization_id") == 0)
                        answer.temporary = true;
        if (r < 0)
                return r;

        answer.authorized = authorized != 0;
        answer.challenge = challenge != 0;
        *ret = answer;
        return 0;
}

static int judge_reply(PolkitCheck *c, sd_bus_message *reply, CloneError *error)
{
        const char *action = authorize_action(c->grant.class);
        Answer answer;
        int r;

        if (sd_bus_message_is_method_error(reply, NULL)) {
                const sd_bus_error *e = sd_bus_message_get_error(reply);

                log_warning("polkit cannot say whether %s is allowed: %s", action, e->message ?: e->name);
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, 0,
                                "polkit, which decides on %s, cannot be asked: %s", action, e->message ?: e->name);
        }

        r = read_answer(reply, &answer);
        if (r < 0) {
                log_warning("polkit's answer on %s cannot be read: %s", action, g_strerror(-r));
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, 0, "polkit's answer on %s cannot be read", action);
        }

        if (answer.authorized) {
                if (answer.temporary)
                        remember_grant(c->peer, &c->grant);
                return 0;
        }

        if (answer.challenge && !c->interactive)
                return clone_error_set(error, CLONE_ERROR_INTERACTIVE, 0,
                                "A password is needed for %s, and the caller did not allow to ask for one", action);
        if (answer.challenge)
                return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, 0,
                                "A password is needed for %s, and there is no polkit agent that could ask for it", action);
        return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, 0, "polkit does not allow %s", action);
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *unused)
{
        _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
        PolkitCheck *c = userdata;
        int r;

        /* Answered: there is nothing to take back, unless it is this end that gave up waiting. */
        if (!sd_bus_message_is_method_error(reply, SD_BUS_ERROR_NO_REPLY) &&
            !sd_bus_message_is_method_error(reply, SD_BUS_ERROR_TIMEOUT))
                c->call = sd_bus_slot_unref(c->call);
        r = judge_reply(c, reply, &error);
        c->done(r, &error, c->userdata);
        polkit_check_free(c);
        return 0;
}

/*
 * The name of @uid for the prompt. Only from /etc/passwd: a name service that asks over the network would hold up the
 * event loop.
 */
static char *user_name(uid_t uid)
{
        _cleanup_fclose_ FILE *f = fopen("/etc/passwd", "re");
        struct passwd *pw;

        while (f && (pw = fgetpwent(f)))
                if (pw->pw_uid == uid)
                        return log_escape(pw->pw_name);
        return g_strdup_printf("%" PRIu32, (uint32_t) uid);
}

/* PID, program and user of the target, as the prompt shows them. */
static int append_details(sd_bus_message *m, const PolkitQuestion *q)
{
        g_autofree char *pid = NULL, *name = NULL, *program = NULL, *user = NULL;

        if (!q->target)
                return sd_bus_message_append(m, "a{ss}", 0);

        pid = g_strdup_printf("%d", (int) target_pid(q->target));
        program = target_read_file(q->target, "comm", &name, NULL) < 0 ? g_strdup("?") : log_escape(g_strchomp(name));
        user = user_name(q->credentials->uid[ID_EFFECTIVE]);

        return sd_bus_message_append(m, "a{ss}", 3, "pid", pid, "program", program, "user", user);
}

static int make_question(PolkitCheck *c, const PolkitQuestion *q)
{
        _cleanup_bus_message_ sd_bus_message *m = NULL;
        g_autofree char *cancellation = g_strdup_printf("remfork-%" PRIu64, c->cancellation);
        int r;

        r = sd_bus_message_new_method_call(c->polkit->bus, &m, POLKIT_NAME, POLKIT_PATH, POLKIT_INTERFACE,
                        "CheckAuthorization");
        if (r < 0)
                return r;

        /* Never a PID: it could be another process's by the time that polkit looks. */
        r = sd_bus_message_append(m, "(sa{sv})s", "system-bus-name", 1, "name", "s", c->peer->name,
                        authorize_action(q->class));
        if (r < 0)
                return r;

        r = append_details(m, q);
        if (r < 0)
                return r;

        r = sd_bus_message_append(m, "us", q->interactive ? POLKIT_ALLOW_USER_INTERACTION : 0U, cancellation);
        if (r < 0)
                return r;

        c->question = g_steal_pointer(&m);
        return 0;
}

/* Whether as many of the user's questions came before as may be asked at a time. */
static bool must_wait(const PolkitCheck *check)
{
        unsigned before = 0;

        for (const GList *l = check->polkit->checks.head; l->data != check; l = l->next) {
                const PolkitCheck *c = l->data;

                if (c->interactive == check->interactive && c->peer->requester.uid == check->peer->requester.uid)
                        before++;
        }
        return before >= (check->interactive ? ASKED_PER_USER_INTERACTIVE_MAX : ASKED_PER_USER_MAX);
}

static int ask(PolkitCheck *c)
{
        _cleanup_bus_message_ sd_bus_message *question = g_steal_pointer(&c->question);

        return sd_bus_call_async(c->polkit->bus, &c->call, question, on_reply, c,
                        c->interactive ? TIMEOUT_INTERACTIVE_USEC : TIMEOUT_USEC);
}

static int fail_to_ask(const PolkitCheck *c, int r, CloneError *error)
{
        return clone_error_set(error, CLONE_ERROR_ACCESS_DENIED, 0, "polkit, which decides on %s, cannot be asked: %s",
                        authorize_action(c->grant.class), g_strerror(-r));
}

/* The first of the checks that wait and need no longer. False where there is none. */
static bool ask_next(Polkit *p)
{
        for (GList *l = p->checks.head; l; l = l->next) {
                _cleanup_clone_error_ CloneError error = CLONE_ERROR_INIT;
                PolkitCheck *c = l->data;
                int r;

                if (!c->question || must_wait(c))
                        continue;
                r = ask(c);
                if (r < 0) {
                        c->done(fail_to_ask(c, r, &error), &error, c->userdata);
                        polkit_check_free(c);
                }
                return true;
        }
        return false;
}

static int on_next(sd_event_source *source, void *userdata)
{
        while (ask_next(userdata))
                ;
        return 0;
}

int polkit_new(Polkit **ret, sd_bus *bus, Peers *peers)
{
        Polkit *p = g_new0(Polkit, 1);
        int r;

        g_queue_init(&p->checks);
        p->bus = sd_bus_ref(bus);
        p->peers = peers;
        r = sd_event_add_defer(sd_bus_get_event(bus), &p->next, on_next, p);
        if (r >= 0)
                r = sd_event_source_set_enabled(p->next, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_bus_match_signal_async(bus, &p->changed, POLKIT_NAME, POLKIT_PATH, POLKIT_INTERFACE, "Changed",
                                on_changed, NULL, p);
        if (r < 0) {
                polkit_free(p);
                return r;
        }

        *ret = p;
        return 0;
}

Polkit *polkit_free(Polkit *p)
{
        if (!p)
                return NULL;

        sd_event_source_disable_unref(p->next);
        sd_bus_slot_unref(p->changed);
        sd_bus_unref(p->bus);
        g_free(p);
        return NULL;
}

int polkit_ask(Polkit *p, Peer *peer, const PolkitQuestion *question, PolkitDone done, void *userdata, PolkitCheck **ret,
                CloneError *error)
{
        PolkitCheck *c;
        Grant grant = {.class = question->class, .target_uid = (uid_t) -1};
        int r;

        if (question->credentials) {
                grant.target_uid = question->credentials->uid[ID_EFFECTIVE];
                grant.target_user_namespace = question->credentials->user_namespace;
                grant.target = question->target ? target_pid(question->target) : 0;
                grant.target_start_time = question->credentials->start_time;
                grant.target_program = question->credentials->program;
        }

        if (has_grant(peer, &grant))
                return 1;

        c = g_new0(PolkitCheck, 1);
        c->polkit = p;
        c->peer = peer;
        c->grant = grant;
        c->interactive = question->interactive;
        c->cancellation = p->next_cancellation++;
        c->done = done;
        c->userdata = userdata;

        g_queue_push_tail(&p->checks, c);

        r = make_question(c, question);
        if (r >= 0 && !must_wait(c))
                r = ask(c);
        if (r < 0) {
                r = fail_to_ask(c, r, error);
                polkit_check_free(c);
                return r;
        }

        *ret = c;
        return 0;
}

PolkitCheck *polkit_check_free(PolkitCheck *c)
{
        if (!c)
                return NULL;

        if (c->call) {
                g_autofree char *cancellation = g_strdup_printf("remfork-%" PRIu64, c->cancellation);

                c->call = sd_bus_slot_unref(c->call);
                (void) sd_bus_call_method_async(c->polkit->bus, NULL, POLKIT_NAME, POLKIT_PATH, POLKIT_INTERFACE,
                                "CancelCheckAuthorization", NULL, NULL, "s", cancellation); /* polkit may be gone: fine */
        }

        sd_bus_message_unref(c->question);
        g_queue_remove(&c->polkit->checks, c);
        if (!g_queue_is_empty(&c->polkit->checks))
                (void) sd_event_source_set_enabled(c->polkit->next, SD_EVENT_ONESHOT); /* fails for no source that is ours */
        g_free(c);
        return NULL;
}
