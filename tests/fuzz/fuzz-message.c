/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#include "daemon/error.h"
#include "daemon/spec.h"
#include "daemon/worker-protocol.h"
#include "tests/fuzz/fuzz.h"

/* One packet of a worker's: a byte with the number of descriptors, then the packet, which zeros may make as long as its type asks. */

static void check_text(const char *text)
{
        FUZZ_CHECK(memchr(text, '\0', WORKER_TEXT_MAX) && text[0]);
        FUZZ_CHECK(g_utf8_validate(text, -1, NULL));
        for (const char *p = text; *p; p++)
                FUZZ_CHECK(!g_ascii_iscntrl(*p));
}

static void check_message(const WorkerMessage *m, size_t n_fds)
{
        FUZZ_CHECK(m->type == WORKER_HELD || n_fds == 0);

        switch (m->type) {
        case WORKER_HELD:
                FUZZ_CHECK(m->held.n == n_fds && m->held.n >= 1 && m->held.n <= m->held.total && m->held.total <= CLONE_COUNT_MAX);
                for (uint32_t i = 0; i < m->held.n; i++)
                        FUZZ_CHECK(m->held.pids[i] > 0);
                return;
        case WORKER_ERROR:
                FUZZ_CHECK(m->error.code > CLONE_ERROR_NONE && m->error.code < _CLONE_ERROR_MAX && m->error.error_number > 0);
                check_text(m->error.text);
                return;
        case WORKER_NOTE:
                check_text(m->note.text);
                return;
        case WORKER_EXITED:
                FUZZ_CHECK(m->exited.pid > 0);
                return;
        default:
                FUZZ_CHECK(m->type == WORKER_RELEASED);
        }
}

static void run(const uint8_t *packet, size_t size, size_t n_fds)
{
        g_autofree uint8_t *exact = g_memdup2(packet, size);
        WorkerMessage m, untouched;
        int r;

        memset(&m, 0x5a, sizeof(m));
        untouched = m;
        r = worker_message_parse(exact ?: (const uint8_t *) "", size, n_fds, &m);
        FUZZ_CHECK(r == 0 || r == -EBADMSG);
        if (r == 0)
                check_message(&m, n_fds);
        else
                FUZZ_CHECK(memcmp(&m, &untouched, sizeof(m)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        FuzzInput in = {data, size};
        size_t n_fds = fuzz_take(&in, 1);
        uint8_t padded[sizeof(WorkerMessage)] = {};
        uint32_t type;

        run(in.data, in.size, n_fds);

        /* Few random inputs have the one size that is right. */
        memcpy(padded, in.data, MIN(in.size, sizeof(padded)));
        memcpy(&type, padded, sizeof(type));
        run(padded, worker_message_size(type), n_fds);
        return 0;
}
