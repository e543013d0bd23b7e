/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <stdarg.h>

#include "daemon/error.h"

static const struct {
        const char *name;
        int error_number; /* used where the caller has none of its own */
} error_table[_CLONE_ERROR_MAX] = {
        [CLONE_ERROR_NONE] = {"", 0},
        [CLONE_ERROR_FAILED] = {"org.freedesktop.DBus.Error.Failed", EIO},
        [CLONE_ERROR_INVALID_ARGS] = {"org.freedesktop.DBus.Error.InvalidArgs", EINVAL},
        [CLONE_ERROR_ACCESS_DENIED] = {"org.freedesktop.DBus.Error.AccessDenied", EACCES},
        [CLONE_ERROR_INTERACTIVE] = {"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", EACCES},
        [CLONE_ERROR_LIMITS_EXCEEDED] = {"org.freedesktop.DBus.Error.LimitsExceeded", ENOBUFS},
        [CLONE_ERROR_NO_SUCH_PROCESS] = {"org.remfork.Clone.Error.NoSuchProcess", ESRCH},
        [CLONE_ERROR_NO_SUCH_REQUEST] = {"org.remfork.Clone.Error.NoSuchRequest", ENOENT},
        [CLONE_ERROR_UNSUPPORTED] = {"org.remfork.Clone.Error.Unsupported", EOPNOTSUPP},
        [CLONE_ERROR_BUSY] = {"org.remfork.Clone.Error.Busy", EBUSY},
        [CLONE_ERROR_TIMEOUT] = {"org.remfork.Clone.Error.Timeout", ETIMEDOUT},
        [CLONE_ERROR_CANCELED] = {"org.remfork.Clone.Error.Canceled", ECANCELED},
        [CLONE_ERROR_CHANGED] = {"org.freedesktop.DBus.Error.AccessDenied", ESTALE},
};

const char *clone_error_name(CloneErrorCode code)
{
        return error_table[(unsigned) code < _CLONE_ERROR_MAX ? code : CLONE_ERROR_FAILED].name;
}

CloneErrorCode clone_error_code_from_name(const char *name)
{
        for (int i = CLONE_ERROR_FAILED; i < _CLONE_ERROR_MAX; i++)
                if (g_strcmp0(error_table[i].name, name) == 0)
                        return (CloneErrorCode) i;

        return CLONE_ERROR_FAILED;
}

int clone_error_set(CloneError *e, CloneErrorCode code, int error_number, const char *format, ...)
{
        if (error_number == 0)
                error_number = error_table[code].error_number;

        if (e) {
                va_list ap;

                g_free(e->message);
                va_start(ap, format);
                e->message = g_strdup_vprintf(format, ap);
                va_end(ap);
                e->code = code;
                e->error_number = error_number;
        }

        return -error_number;
}

void clone_error_clear(CloneError *e)
{
        if (!e)
                return;

        g_free(e->message);
        *e = CLONE_ERROR_INIT;
}
