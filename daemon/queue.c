/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <inttypes.h>

#include "daemon/queue.h"

/* Clones that a user asked for at one moment, to be forgotten when rate_limit_interval_usec has passed. */
typedef struct Charge {
        uint64_t when;
        uint32_t count;
} Charge;

typedef struct User {
        uid_t uid;
        unsigned admitted, waiting, running; /* requests */
        uint64_t pending;                    /* clones that the requests in the queue ask for */
        uint64_t live;                       /* clones that are there */
        uint64_t charged;                    /* sum of charges */
        GQueue charges;                      /* Charge, oldest first */
        GQueue items;                        /* waiting QueueItems, linked by QueueItem.link, oldest first */
        GList turn;                          /* in Queue.turns while something waits */
} User;

struct Queue {
        const Conf *conf;
        GHashTable *users;   /* uid -> User */
        GHashTable *targets; /* the PIDs that are being cloned */
        GQueue turns;        /* User, whose turn is next first */
        unsigned admitted, waiting, running;
        uint64_t order;
};

static void user_free(void *p)
{
        User *u = p;

        g_queue_clear_full(&u->charges, g_free);
        g_free(u);
}

int queue_new(Queue **ret, const Conf *conf)
{
        Queue *q = g_new0(Queue, 1);

        q->conf = conf;
        q->users = g_hash_table_new_full(NULL, NULL, NULL, user_free);
        q->targets = g_hash_table_new(NULL, NULL);
        g_queue_init(&q->turns);

        *ret = q;
        return 0;
}

Queue *queue_free(Queue *q)
{
        if (!q)
                return NULL;

        g_hash_table_unref(q->users);
        g_hash_table_unref(q->targets);
        g_free(q);
        return NULL;
}

static bool is_exempt(uid_t uid)
{
        return uid == 0;
}

static User *user_get(Queue *q, uid_t uid)
{
        User *u = g_hash_table_lookup(q->users, GUINT_TO_POINTER(uid));

        if (!u) {
                u = g_new0(User, 1);
                u->uid = uid;
                g_queue_init(&u->charges);
                g_queue_init(&u->items);
                u->turn.data = u;
                g_hash_table_insert(q->users, GUINT_TO_POINTER(uid), u);
        }

        return u;
}

/* Forgets the charges that are older than the interval. */
static void user_expire(const Queue *q, User *u, uint64_t now)
{
        Charge *c;

        while ((c = g_queue_peek_head(&u->charges)) && now - c->when >= q->conf->rate_limit_interval_usec) {
                u->charged -= c->count;
                g_free(g_queue_pop_head(&u->charges));
        }
}

static bool user_is_unused(const User *u)
{
        return u->admitted == 0 && u->waiting == 0 && u->running == 0 && u->live == 0 && u->charges.length == 0;
}

/* Forgets the users of whom nothing is known any more; few users, and only at an admission. */
static void queue_collect(Queue *q, uint64_t now)
{
        GHashTableIter i;
        void *u;

        g_hash_table_iter_init(&i, q->users);
        while (g_hash_table_iter_next(&i, NULL, &u)) {
                user_expire(q, u, now);
                if (user_is_unused(u))
                        g_hash_table_iter_remove(&i);
        }
}

static int check_limits(const Queue *q, const User *u, const QueueItem *item, CloneError *error)
{
        const Conf *c = q->conf;

        if (c->queued_max > 0 && q->admitted + q->waiting >= c->queued_max)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0, "%u requests wait already, more are not taken",
                                q->admitted + q->waiting);

        if (is_exempt(u->uid))
                return 0;

        if (c->queued_per_user_max > 0 && u->admitted + u->waiting >= c->queued_per_user_max)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0,
                                "%u requests of user %" PRIu32 " wait already, more are not taken",
                                u->admitted + u->waiting, (uint32_t) u->uid);

        if (c->rate_limit_burst > 0 && c->rate_limit_interval_usec > 0 &&
            u->charged + item->count > c->rate_limit_burst)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0,
                                "User %" PRIu32 " may ask for %" PRIu32 " clones in %" PRIu64
                                " ms, %" PRIu64 " were asked for and now %" PRIu32 " more",
                                (uint32_t) u->uid, c->rate_limit_burst, c->rate_limit_interval_usec / 1000, u->charged,
                                item->count);

        if (c->clones_per_user_max > 0 && u->live + u->pending + item->count > c->clones_per_user_max)
                return clone_error_set(error, CLONE_ERROR_LIMITS_EXCEEDED, 0,
                                "User %" PRIu32 " may have %" PRIu32 " clones, %" PRIu64 " are there, %" PRIu64
                                " are under way and now %" PRIu32 " more were asked for",
                                (uint32_t) u->uid, c->clones_per_user_max, u->live, u->pending, item->count);

        return 0;
}

int queue_admit(Queue *q, QueueItem *item, uint64_t now, CloneError *error)
{
        User *u;
        int r;

        g_assert(item->state == QUEUE_STATE_NONE);

        queue_collect(q, now);
        u = user_get(q, item->uid);
        r = check_limits(q, u, item, error);
        if (r < 0)
                return r;

        if (!is_exempt(u->uid) && q->conf->rate_limit_burst > 0) { /* a list that nobody reads must not grow */
                Charge *c = g_new(Charge, 1);

                *c = (Charge){now, item->count};
                g_queue_push_tail(&u->charges, c);
                u->charged += item->count;
        }

        u->admitted++;
        u->pending += item->count;
        q->admitted++;
        item->order = q->order++;
        item->link = (GList){.data = item};
        item->state = QUEUE_STATE_ADMITTED;
        return 0;
}

static gint compare_order(gconstpointer a, gconstpointer b, void *unused)
{
        const QueueItem *x = a, *y = b;

        return x->order < y->order ? -1 : x->order > y->order;
}

void queue_ready(Queue *q, QueueItem *item)
{
        User *u = user_get(q, item->uid);
        GList *before;

        g_assert(item->state == QUEUE_STATE_ADMITTED);

        u->admitted--;
        q->admitted--;
        u->waiting++;
        q->waiting++;
        item->state = QUEUE_STATE_WAITING;

        /* By arrival, not by the speed of the answer to the authorisation. */
        for (before = u->items.tail; before && compare_order(before->data, item, NULL) > 0; before = before->prev)
                ;
        if (before)
                g_queue_insert_after_link(&u->items, before, &item->link);
        else
                g_queue_push_head_link(&u->items, &item->link);

        if (u->items.length == 1)
                g_queue_push_tail_link(&q->turns, &u->turn);
}

static void unlink_waiting(Queue *q, User *u, QueueItem *item)
{
        g_queue_unlink(&u->items, &item->link);
        if (g_queue_is_empty(&u->items))
                g_queue_unlink(&q->turns, &u->turn);
        u->waiting--;
        q->waiting--;
}

static void stop_running(Queue *q, User *u, QueueItem *item)
{
        g_hash_table_remove(q->targets, GINT_TO_POINTER(item->target));
        u->running--;
        q->running--;
}

void queue_unready(Queue *q, QueueItem *item)
{
        User *u = user_get(q, item->uid);

        g_assert(item->state == QUEUE_STATE_RUNNING);

        stop_running(q, u, item);
        u->admitted++;
        q->admitted++;
        item->state = QUEUE_STATE_ADMITTED;
}

/* The oldest request of @u whose target is free; NULL where there is none or the user has enough that run. */
static QueueItem *user_next(const Queue *q, const User *u)
{
        if (!is_exempt(u->uid) && q->conf->running_per_user_max > 0 && u->running >= q->conf->running_per_user_max)
                return NULL;

        for (GList *l = u->items.head; l; l = l->next) {
                QueueItem *item = l->data;

                if (!g_hash_table_contains(q->targets, GINT_TO_POINTER(item->target)))
                        return item;
        }

        return NULL;
}

QueueItem *queue_next(Queue *q)
{
        if (q->running >= QUEUE_RUNNING_MAX)
                return NULL;

        for (GList *l = q->turns.head; l; l = l->next) {
                User *u = l->data;
                QueueItem *item = user_next(q, u);

                if (!item)
                        continue;

                unlink_waiting(q, u, item);
                if (!g_queue_is_empty(&u->items)) { /* the others first */
                        g_queue_unlink(&q->turns, &u->turn);
                        g_queue_push_tail_link(&q->turns, &u->turn);
                }

                u->running++;
                q->running++;
                g_hash_table_add(q->targets, GINT_TO_POINTER(item->target));
                item->state = QUEUE_STATE_RUNNING;
                return item;
        }

        return NULL;
}

void queue_remove(Queue *q, QueueItem *item)
{
        User *u;

        if (item->state == QUEUE_STATE_NONE)
                return;

        u = user_get(q, item->uid);
        u->pending -= item->count;

        if (item->state == QUEUE_STATE_ADMITTED) {
                u->admitted--;
                q->admitted--;
        } else if (item->state == QUEUE_STATE_WAITING)
                unlink_waiting(q, u, item);
        else
                stop_running(q, u, item);

        item->state = QUEUE_STATE_NONE;
}

void queue_live_add(Queue *q, uid_t uid)
{
        user_get(q, uid)->live++;
}

void queue_live_remove(Queue *q, uid_t uid)
{
        User *u = user_get(q, uid);

        g_assert(u->live > 0);
        u->live--;
}

bool queue_counts_live(const Queue *q, uid_t uid)
{
        return !is_exempt(uid) && q->conf->clones_per_user_max > 0;
}

unsigned queue_length(const Queue *q)
{
        return q->admitted + q->waiting + q->running;
}

unsigned queue_running(const Queue *q)
{
        return q->running;
}
