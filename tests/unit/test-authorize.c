/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/authorize.h"
#include "daemon/util.h"

#define BIT(capability) (UINT64_C(1) << (capability))

static const FileIdentity own_namespace = {1, 100}, other_namespace = {1, 200};
static const Host host = {.user_namespace = {1, 100}};

static const Requester user = {.uid = 1000, .gid = 1000, .user_namespace = {1, 100}, .known = true};
static const Credentials own_target = {
        .uid = {1000, 1000, 1000, 1000},
        .gid = {1000, 1000, 1000, 1000},
        .dumpable = DUMPABLE_YES,
        .user_namespace = {1, 100},
};

static void test_own(void)
{
        g_assert_cmpint(authorize_classify(&user, &own_target, &host), ==, AUTHORIZE_OWN_PROCESS);
        g_assert_cmpstr(authorize_action(AUTHORIZE_OWN_PROCESS), ==, "org.remfork.clone.own-process");
}

/* Every combination of real, effective, saved and file system IDs that are the user's (bit 0) or not. */
static void test_ids(void)
{
        for (unsigned uids = 0; uids < 16; uids++)
                for (unsigned gids = 0; gids < 16; gids++) {
                        Credentials c = own_target;
                        bool own;

                        for (int i = 0; i < _ID_MAX; i++) {
                                c.uid[i] = uids & (1U << i) ? 1000 : 1001;
                                c.gid[i] = gids & (1U << i) ? 1000 : 1001;
                        }
                        own = (uids & 7) == 7 && (gids & 7) == 7;
                        g_assert_cmpint(authorize_classify(&user, &c, &host), ==,
                                        own ? AUTHORIZE_OWN_PROCESS : AUTHORIZE_ANY_PROCESS);
                }
}

static void test_capabilities(void)
{
        Requester r = user;
        Credentials c = own_target;

        c.permitted = BIT(CAP_NET_RAW);
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        r.permitted = BIT(CAP_NET_ADMIN);
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        r.permitted |= BIT(CAP_NET_RAW);
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_OWN_PROCESS);
        c.permitted |= BIT(40);
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
}

static void test_rest(void)
{
        Requester r = user;
        Credentials c = own_target;
        Host h = host;

        c.dumpable = DUMPABLE_NO;
        g_assert_cmpint(authorize_classify(&user, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        c.dumpable = DUMPABLE_UNKNOWN;
        g_assert_cmpint(authorize_classify(&user, &c, &host), ==, AUTHORIZE_ANY_PROCESS);

        c = own_target;
        c.user_namespace = other_namespace;
        g_assert_cmpint(authorize_classify(&user, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        r.user_namespace = other_namespace; /* both are in one, but not in the daemon's */
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        g_assert_cmpint(authorize_classify(&r, &own_target, &host), ==, AUTHORIZE_ANY_PROCESS);

        for (int scope = 1; scope <= 3; scope++) {
                h.yama_scope = scope;
                g_assert_cmpint(authorize_classify(&user, &own_target, &h), ==, AUTHORIZE_ANY_PROCESS);
        }

        r = user;
        r.known = false;
        g_assert_cmpint(authorize_classify(&r, &own_target, &host), ==, AUTHORIZE_ANY_PROCESS);
        r = user;
        r.confined = true;
        g_assert_cmpint(authorize_classify(&r, &own_target, &host), ==, AUTHORIZE_ANY_PROCESS);
}

static void test_superuser(void)
{
        const Requester root = {.permitted = BIT(CAP_SYS_PTRACE), .user_namespace = own_namespace, .known = true};
        Credentials c = own_target;
        Requester r;

        c.dumpable = DUMPABLE_NO;
        c.permitted = UINT64_MAX;
        g_assert_cmpint(authorize_classify(&root, &c, &host), ==, AUTHORIZE_SUPERUSER);
        g_assert_null(authorize_action(AUTHORIZE_SUPERUSER));

        r = root;
        r.uid = 1000; /* the capability alone does not do */
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        r = root;
        r.permitted = ~BIT(CAP_SYS_PTRACE); /* root of a container */
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        r = root;
        r.user_namespace = other_namespace;
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        r = root;
        r.known = false;
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
        r = root;
        r.confined = true;
        g_assert_cmpint(authorize_classify(&r, &c, &host), ==, AUTHORIZE_ANY_PROCESS);
}

/* What the bus says decides; the process that it names is believed only where it fits. */
static void test_requester(void)
{
        static const gid_t groups[] = {4, 1000}, foreign[] = {4, 20};
        Credentials c = own_target;
        Requester r;

        c.permitted = BIT(CAP_NET_RAW);
        requester_fill(1000, groups, 2, &c, false, &r);
        g_assert_true(r.known);
        g_assert_cmpuint(r.gid, ==, 1000);
        g_assert_cmpuint(r.permitted, ==, 0); /* the PID may be another process's by now */
        requester_fill(1000, groups, 2, &c, true, &r);
        g_assert_cmpuint(r.permitted, ==, BIT(CAP_NET_RAW));
        requester_fill(1000, NULL, 0, &c, true, &r);
        g_assert_true(r.known);

        requester_fill(1001, groups, 2, &c, true, &r);
        g_assert_false(r.known);
        g_assert_cmpuint(r.uid, ==, 1001);
        g_assert_cmpuint(r.permitted, ==, 0);
        requester_fill(1000, foreign, 2, &c, true, &r);
        g_assert_false(r.known);
        requester_fill(1000, groups, 2, NULL, true, &r);
        g_assert_false(r.known);

        c.uid[ID_SAVED] = 0; /* it could become root, the requester could not */
        requester_fill(1000, groups, 2, &c, true, &r);
        g_assert_false(r.known);
}

/* A directory like /proc/PID, made of files. */
typedef struct FakeProc {
        char *path;
        int fd;
} FakeProc;

static void write_file(const FakeProc *p, const char *name, const char *text)
{
        g_autofree char *path = g_build_filename(p->path, name, NULL);

        g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void write_status(const FakeProc *p, uid_t uid)
{
        g_autofree char *text = g_strdup_printf("Name:\tx\nUmask:\t0022\nUid:\t%u\t%u\t%u\t%u\nGid:\t7\t8\t9\t10\n"
                                                "CapInh:\t0000000000000001\nCapPrm:\t000001ffffffffff\n"
                                                "CapEff:\t0000000000000002\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000004\n",
                        uid, uid, uid, uid);

        write_file(p, "status", text);
}

static FakeProc fake_proc(void)
{
        FakeProc p = {.path = g_dir_make_tmp("remfork-XXXXXX", NULL)};
        g_autofree char *ns = g_build_filename(p.path, "ns", NULL);

        g_assert_nonnull(p.path);
        g_assert_cmpint(g_mkdir(ns, 0700), ==, 0);
        write_file(&p, "ns/user", "");
        write_file(&p, "exe", "");
        write_file(&p, "stat", "12 (a) S 9) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n");
        p.fd = open(p.path, O_DIRECTORY | O_CLOEXEC | O_PATH);
        g_assert_cmpint(p.fd, >=, 0);
        return p;
}

static void fake_proc_remove(FakeProc *p)
{
        static const char *const names[] = {"ns/user", "ns", "exe", "stat", "status"};

        for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
                g_autofree char *path = g_build_filename(p->path, names[i], NULL);

                (void) g_remove(path);
        }
        g_assert_cmpint(g_rmdir(p->path), ==, 0);
        safe_close(p->fd);
        g_free(p->path);
}

static void test_read(void)
{
        FakeProc p = fake_proc();
        FileIdentity namespace;
        Credentials c, d;
        uid_t me = getuid() == 0 ? 1234 : getuid();
        g_autofree char *status = g_build_filename(p.path, "status", NULL);

        g_assert_cmpint(file_identity_read(p.fd, "ns/user", &namespace), ==, 0);
        write_status(&p, me);
        if (getuid() == 0)
                g_assert_cmpint(chown(status, me, me), ==, 0);

        g_assert_cmpint(credentials_read(p.fd, namespace, &c), ==, 0);
        for (int i = 0; i < _ID_MAX; i++) {
                g_assert_cmpuint(c.uid[i], ==, me);
                g_assert_cmpuint(c.gid[i], ==, 7 + (gid_t) i);
        }
        g_assert_cmphex(c.permitted, ==, 0x1ffffffffff);
        g_assert_cmphex(c.effective, ==, 2);
        g_assert_cmphex(c.inheritable, ==, 1);
        g_assert_cmphex(c.ambient, ==, 4);
        g_assert_cmpuint(c.start_time, ==, 4711);
        g_assert_cmpint(c.dumpable, ==, DUMPABLE_YES);
        g_assert_true(credentials_equal(&c, &c));

        /* Of another namespace nothing can be told. */
        g_assert_cmpint(credentials_read(p.fd, other_namespace, &d), ==, 0);
        g_assert_cmpint(d.dumpable, ==, DUMPABLE_UNKNOWN);
        g_assert_false(credentials_equal(&c, &d));

        /* Owned by somebody else than the process's user. */
        write_status(&p, me + 1);
        g_assert_cmpint(credentials_read(p.fd, namespace, &d), ==, 0);
        g_assert_cmpint(d.dumpable, ==, DUMPABLE_NO);
        write_status(&p, 0);
        g_assert_cmpint(credentials_read(p.fd, namespace, &d), ==, 0);
        g_assert_cmpint(d.dumpable, ==, DUMPABLE_UNKNOWN);

        fake_proc_remove(&p);
}

static void test_read_bad(void)
{
        static const char *const bad[] = {
                "",
                "Uid:\t1\t1\t1\t1\n",
                "x\nUid:\t1\t1\t1\nGid:\t1\t1\t1\t1\n",
                "x\nUid:\t1\t1\t1\t-1\nGid:\t1\t1\t1\t1\n",
                "x\nUid:\t1\t1\t1\t4294967296\nGid:\t1\t1\t1\t1\n",
                "x\nUid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapAmb:\t0\n",
        };
        FakeProc p = fake_proc();
        Credentials c;

        g_assert_cmpint(credentials_read(p.fd, own_namespace, &c), ==, -ESRCH);
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                write_file(&p, "status", bad[i]);
                g_assert_cmpint(credentials_read(p.fd, own_namespace, &c), ==, -EBADMSG);
        }
        write_status(&p, 1);
        write_file(&p, "stat", "1 (x) S 1 2 3");
        g_assert_cmpint(credentials_read(p.fd, own_namespace, &c), ==, -EBADMSG);
        fake_proc_remove(&p);
}

/* "unconfined" and nothing else is; no module is none; what cannot be read counts as confined. */
static void test_confined(void)
{
        static const struct {
                const char *current, *apparmor; /* NULL: there is no such file */
                bool confined;
        } cases[] = {
                {NULL, NULL, false},
                {"", NULL, false},
                {"unconfined\n", NULL, false},
                {"unconfined", "unconfined\n", false},
                {"/usr/bin/man (enforce)\n", NULL, true},
                {"unconfined (enforce)\n", NULL, true},
                {"unconfined_u:unconfined_r:unconfined_t:s0", NULL, true},
                {"unconfined\n", "/usr/bin/man (complain)\n", true},
                {NULL, "/usr/bin/man (enforce)\n", true},
        };

        g_assert_false(label_is_confined("unconfined", 11)); /* with its NUL */
        g_assert_true(label_is_confined("unconfine", 9));
        g_assert_false(label_is_confined("", 0));

        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                FakeProc p = fake_proc();
                g_autofree char *attr = g_build_filename(p.path, "attr", NULL), *sub = g_build_filename(attr, "apparmor", NULL),
                                *file = g_build_filename(attr, "current", NULL), *sub_file = g_build_filename(sub, "current", NULL);

                g_assert_cmpint(g_mkdir_with_parents(sub, 0700), ==, 0);
                if (cases[i].current)
                        write_file(&p, "attr/current", cases[i].current);
                if (cases[i].apparmor)
                        write_file(&p, "attr/apparmor/current", cases[i].apparmor);
                g_assert_cmpint(confinement_read(p.fd), ==, cases[i].confined);

                (void) g_remove(file);
                g_assert_cmpint(g_mkdir(file, 0700), ==, 0); /* read(2) of it fails, but not as with no module */
                g_assert_true(confinement_read(p.fd));

                g_rmdir(file);
                (void) g_remove(sub_file);
                g_rmdir(sub);
                g_rmdir(attr);
                fake_proc_remove(&p);
        }
}

/* Each field on its own makes a difference. */
static void test_equal(void)
{
        for (int field = 0; field < 12; field++) {
                Credentials a = own_target, b = own_target;

                switch (field) {
                case 0 ... 3:
                        b.uid[field]++;
                        break;
                case 4:
                        b.gid[ID_SAVED]++;
                        break;
                case 5:
                        b.permitted++;
                        break;
                case 6:
                        b.effective++;
                        break;
                case 7:
                        b.inheritable++;
                        break;
                case 8:
                        b.ambient++;
                        break;
                case 9:
                        b.dumpable = DUMPABLE_NO;
                        break;
                case 10:
                        b.program.inode++;
                        break;
                default:
                        b.start_time++;
                }
                g_assert_true(credentials_equal(&a, &a));
                g_assert_false(credentials_equal(&a, &b));
        }
}

static void test_yama(void)
{
        static const struct {
                const char *text; /* NULL: no file */
                int scope;
        } cases[] = {{NULL, 0}, {"0\n", 0}, {"1\n", 1}, {"3\n", 3}, {"", 3}, {"maybe\n", 3}, {"4\n", 3}};
        g_autofree char *root = g_dir_make_tmp("remfork-XXXXXX", NULL), *ns = g_build_filename(root, "self/ns", NULL),
                        *yama = g_build_filename(root, "sys/kernel/yama", NULL),
                        *scope = g_build_filename(yama, "ptrace_scope", NULL), *user_ns = g_build_filename(ns, "user", NULL);
        Host h;

        g_assert_cmpint(host_read(root, &h), ==, -ENOENT);
        g_assert_cmpint(g_mkdir_with_parents(ns, 0700), ==, 0);
        g_assert_cmpint(g_mkdir_with_parents(yama, 0700), ==, 0);
        g_assert_true(g_file_set_contents(user_ns, "", -1, NULL));
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                if (cases[i].text)
                        g_assert_true(g_file_set_contents(scope, cases[i].text, -1, NULL));
                g_assert_cmpint(host_read(root, &h), ==, 0);
                g_assert_cmpint(h.yama_scope, ==, cases[i].scope);
        }

        g_assert_cmpint(g_remove(scope) | g_remove(user_ns), ==, 0);
        for (const char *leaf = yama; strlen(leaf) > strlen(root);) {
                g_autofree char *parent = g_path_get_dirname(leaf);

                g_assert_cmpint(g_rmdir(leaf), ==, 0);
                strcpy((char *) leaf, parent);
        }
        g_assert_cmpint(g_rmdir(ns), ==, 0);
        *strrchr(ns, '/') = '\0';
        g_assert_cmpint(g_rmdir(ns) | g_rmdir(root), ==, 0);
}

int main(int argc, char *argv[])
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/authorize/own", test_own);
        g_test_add_func("/authorize/ids", test_ids);
        g_test_add_func("/authorize/capabilities", test_capabilities);
        g_test_add_func("/authorize/rest", test_rest);
        g_test_add_func("/authorize/superuser", test_superuser);
        g_test_add_func("/authorize/requester", test_requester);
        g_test_add_func("/authorize/yama", test_yama);
        g_test_add_func("/credentials/read", test_read);
        g_test_add_func("/credentials/read-bad", test_read_bad);
        g_test_add_func("/credentials/confined", test_confined);
        g_test_add_func("/credentials/equal", test_equal);
        return g_test_run();
}
