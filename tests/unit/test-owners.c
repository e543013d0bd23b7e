/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <glib.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine/owners.h"

/* Real locks of the libc in use, held by this thread: what is found in them is compared with what libc itself thinks. */
typedef union Lock {
        pthread_mutex_t mutex;
        pthread_rwlock_t rwlock;
        uint8_t bytes[64];
} Lock;

#define NEW_ID 7654321

static void change(size_t offset, uint32_t value, void *userdata)
{
        memcpy((uint8_t *) userdata + offset, &value, sizeof(value));
}

static unsigned scan(Lock *l, size_t n, pid_t id)
{
        const OwnerPair pairs[] = {{1 << 21, 5}, {id, NEW_ID}};

        return owners_scan(l->bytes, n, pairs, G_N_ELEMENTS(pairs), change, l);
}

static void make_mutex(Lock *l, int type, int protocol)
{
        pthread_mutexattr_t attributes;

        memset(l, 0, sizeof(*l));
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_settype(&attributes, type);
        pthread_mutexattr_setprotocol(&attributes, protocol);
        g_assert_cmpint(pthread_mutex_init(&l->mutex, &attributes), ==, 0);
}

static void test_mutexes(void)
{
        static const struct {
                int type, protocol;
                unsigned found;
        } cases[] = {
                {PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, 0}, /* who holds it does not matter */
                {PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, 1},
                {PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, 1},
                {PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT, 1},
                {PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_INHERIT, 1},
        };

        for (size_t k = 0; k < G_N_ELEMENTS(cases); k++) {
                Lock l, held;

                make_mutex(&l, cases[k].type, cases[k].protocol);
                g_assert_cmpuint(scan(&l, sizeof(l.mutex), gettid()), ==, 0); /* nobody holds it */
                pthread_mutex_lock(&l.mutex);
                held = l;
                g_assert_cmpuint(scan(&l, sizeof(l.mutex), gettid() + 1), ==, 0); /* another's */
                g_assert_cmpuint(scan(&l, sizeof(l.mutex) - 8, gettid()), ==, 0); /* not all of it is seen */
                g_assert_true(memcmp(&l, &held, sizeof(l)) == 0);
                g_assert_cmpuint(scan(&l, sizeof(l.mutex), gettid()), ==, cases[k].found);
                g_assert_cmpint(memcmp(&l, &held, sizeof(l)) != 0, ==, cases[k].found);
                g_assert_cmpuint(scan(&l, sizeof(l.mutex), gettid()), ==, 0);
                /* Given back, it is the lock that was held before. */
                g_assert_cmpuint(owners_scan(l.bytes, sizeof(l.mutex), &(OwnerPair){NEW_ID, gettid()}, 1, change, &l), ==, cases[k].found);
                g_assert_true(memcmp(&l, &held, sizeof(l)) == 0);
                pthread_mutex_unlock(&l.mutex);
                g_assert_cmpuint(scan(&l, sizeof(l.mutex), gettid()), ==, 0);
        }
}

static void test_rwlock(void)
{
        Lock l = {}, held;

        pthread_rwlock_init(&l.rwlock, NULL);
        pthread_rwlock_rdlock(&l.rwlock);
        g_assert_cmpuint(scan(&l, sizeof(l.rwlock), gettid()), ==, 0);
        pthread_rwlock_unlock(&l.rwlock);
        pthread_rwlock_wrlock(&l.rwlock);
        held = l;
        g_assert_cmpuint(scan(&l, sizeof(l.rwlock), gettid()), ==, 1);
        g_assert_cmpuint(owners_scan(l.bytes, sizeof(l.rwlock), &(OwnerPair){NEW_ID, gettid()}, 1, change, &l), ==, 1);
        g_assert_true(memcmp(&l, &held, sizeof(l)) == 0);
        pthread_rwlock_unlock(&l.rwlock);
        g_assert_cmpuint(scan(&l, sizeof(l.rwlock), gettid()), ==, 0);
}

/* An ID among other numbers is none, whatever the numbers are. */
static void test_numbers(void)
{
        const pid_t id = 54321;

        for (unsigned k = 0; k < 100000; k++) {
                Lock l;
                uint32_t word = (uint32_t) id;

                for (size_t i = 0; i < sizeof(l.bytes); i += sizeof(word)) {
                        const uint32_t number = (uint32_t) g_test_rand_int_range(0, 3);

                        memcpy(l.bytes + i, &number, sizeof(number));
                }
                memcpy(l.bytes + 8, &word, sizeof(word));
                memset(l.bytes + 20, 0, 20);
                l.bytes[g_test_rand_int_range(20, 40)] = 1; /* one byte that is not 0 in a held lock */
                memcpy(l.bytes + 48, &word, sizeof(word));
                g_assert_cmpuint(scan(&l, sizeof(l), id), ==, 0);
        }
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);

        g_test_add_func("/owners/mutexes", test_mutexes);
        g_test_add_func("/owners/rwlock", test_rwlock);
        g_test_add_func("/owners/numbers", test_numbers);
        return g_test_run();
}
