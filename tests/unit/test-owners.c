/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/engine/owners.h"

/* Real locks of the libc in use, held by this thread: what is found in them is compared with what libc itself thinks. */
typedef union Lock {
        pthread_mutex_t mutex;
        pthread_rwlock_t rwlock;
        uint8_t bytes[64];
} Lock;

#define NEW_ID 7654321

static void change(const OwnedLock *lock, void *userdata)
{
        for (size_t i = 0; i < lock->n_words; i++)
                memcpy((uint8_t *) userdata + lock->words[i].at, &lock->words[i].value, sizeof(lock->words[i].value));
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

#define PAGE 4096
#define OLD_ID 7654322

/* What the child of test_hand_over() has. */
typedef struct Object {
        char name[100];
        pthread_mutex_t mutex;
} Object;

static pthread_mutex_t among_variables = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

static pthread_mutex_t *new_mutex(void)
{
        Lock *l = g_new0(Lock, 1);

        make_mutex(l, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE);
        return &l->mutex;
}

/* Holds locks of each kind of place, tells its parent, and when it may says what became of them: a letter for each that is not right. */
static void G_GNUC_NORETURN hold_locks(int in, int out)
{
        pthread_mutex_t **pointer = g_new0(pthread_mutex_t *, 1);
        Object *volatile *on_stack = g_alloca(sizeof(*on_stack)); /* of the real stack, also where a sanitizer keeps variables elsewhere */
        uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pthread_mutexattr_t attributes;
        char answer[1], wrong[4] = "", *next = wrong;

        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
        *on_stack = g_new0(Object, 1);
        pthread_mutex_init(&(*on_stack)->mutex, &attributes);
        *pointer = new_mutex();
        pthread_mutex_lock(*pointer);
        pthread_mutex_lock(&(*on_stack)->mutex);
        pthread_mutex_lock(&among_variables);
        (*pointer)->__data.__owner = (*on_stack)->mutex.__data.__owner = among_variables.__data.__owner = OLD_ID; /* as in a copy of another process */
        g_assert_cmpint(write(out, "", 1), ==, 1);
        g_assert_cmpint(read(in, page, PAGE), ==, PAGE); /* numbers that nothing points to */
        g_assert_cmpint(write(out, "", 1), ==, 1);
        g_assert_cmpint(read(in, answer, 1), ==, 1);

        if ((*pointer)->__data.__owner != gettid())
                *next++ = 'p';
        if ((*on_stack)->mutex.__data.__owner != gettid())
                *next++ = 'o';
        if (among_variables.__data.__owner != gettid())
                *next++ = 'v';
        g_assert_cmpint(write(out, wrong, sizeof(wrong)), ==, sizeof(wrong));
        g_assert_cmpint(write(out, page, PAGE), ==, PAGE);
        _exit(0);
}

/* Locks are handed over; what has their looks and is none, as the nodes of a compiler may, is left alone. */
static void test_hand_over(void)
{
        uint8_t page[PAGE] = {}, after[PAGE];
        OwnerPair pairs[2] = {};
        char answer[4];
        int in[2], out[2];
        pid_t child;

        g_assert_cmpint(pipe(in), ==, 0);
        g_assert_cmpint(pipe(out), ==, 0);
        child = fork();
        if (child == 0) {
                close(in[1]);
                hold_locks(in[0], out[1]);
        }

        g_assert_cmpint(read(out[0], answer, 1), ==, 1);
        for (size_t at = PAGE / 2; at < PAGE; at += 64) {
                const uint32_t node[] = {2, 4, OLD_ID, 8, 1};

                memcpy(page + at, node, sizeof(node));
        }
        g_assert_cmpint(write(in[1], page, PAGE), ==, PAGE);
        g_assert_cmpint(read(out[0], answer, 1), ==, 1);

        kill(child, SIGSTOP); /* as a clone that is being completed does not run */
        g_assert_cmpint(waitpid(child, NULL, WUNTRACED), ==, child);
        pairs[0] = (OwnerPair){1 << 21, 5};
        pairs[1] = (OwnerPair){OLD_ID, child};
        g_assert_cmpint(owners_hand_over(child, pairs, G_N_ELEMENTS(pairs)), ==, 3);
        g_assert_cmpint(owners_hand_over(child, (OwnerPair[]){{OWNER_ID_MIN - 1, child}}, 1), ==, -EDOM);
        kill(child, SIGCONT);

        g_assert_cmpint(write(in[1], "", 1), ==, 1);
        g_assert_cmpint(read(out[0], answer, sizeof(answer)), ==, sizeof(answer));
        g_assert_cmpstr(answer, ==, "");
        g_assert_cmpint(read(out[0], after, PAGE), ==, PAGE);
        g_assert_true(memcmp(after, page, PAGE) == 0);
        g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
        for (unsigned i = 0; i < 2; i++) {
                close(in[i]);
                close(out[i]);
        }
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);

        g_test_add_func("/owners/mutexes", test_mutexes);
        g_test_add_func("/owners/rwlock", test_rwlock);
        g_test_add_func("/owners/numbers", test_numbers);
        g_test_add_func("/owners/hand-over", test_hand_over);
        return g_test_run();
}
