/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

/*
 * Why a clone could not be made. One table (error.c) gives each code its D-Bus error name; below the bus everything
 * speaks in these codes, so that both engines fail alike.
 */
typedef enum CloneErrorCode {
        CLONE_ERROR_NONE,
        CLONE_ERROR_FAILED,          /* org.freedesktop.DBus.Error.Failed: the system refused, error_number says why */
        CLONE_ERROR_INVALID_ARGS,    /* org.freedesktop.DBus.Error.InvalidArgs */
        CLONE_ERROR_ACCESS_DENIED,   /* org.freedesktop.DBus.Error.AccessDenied */
        CLONE_ERROR_INTERACTIVE,     /* org.freedesktop.DBus.Error.InteractiveAuthorizationRequired */
        CLONE_ERROR_LIMITS_EXCEEDED, /* org.freedesktop.DBus.Error.LimitsExceeded */
        CLONE_ERROR_NO_SUCH_PROCESS, /* org.remfork.Clone.Error.NoSuchProcess */
        CLONE_ERROR_NO_SUCH_REQUEST, /* org.remfork.Clone.Error.NoSuchRequest */
        CLONE_ERROR_UNSUPPORTED,     /* org.remfork.Clone.Error.Unsupported */
        CLONE_ERROR_BUSY,            /* org.remfork.Clone.Error.Busy */
        CLONE_ERROR_TIMEOUT,         /* org.remfork.Clone.Error.Timeout */
        CLONE_ERROR_CANCELED,        /* org.remfork.Clone.Error.Canceled */
        CLONE_ERROR_CHANGED,         /* internal: the target is no longer what was authorised; judged anew, never sent */
        _CLONE_ERROR_MAX,
} CloneErrorCode;

typedef struct CloneError {
        CloneErrorCode code;
        int error_number; /* positive errno, 0 where none is behind it */
        char *message;    /* one sentence without a full stop; owned */
} CloneError;

#define CLONE_ERROR_INIT ((CloneError){})

/* The D-Bus error name of @code; static storage. */
const char *clone_error_name(CloneErrorCode code);

/* The code of a D-Bus error name; CLONE_ERROR_FAILED for one that is not in the table. */
CloneErrorCode clone_error_code_from_name(const char *name);

/*
 * Fills @e, replacing what was there; @e may be NULL. Returns -@error_number, or, where that is 0, the errno that fits
 * @code, so that a caller can write "return clone_error_set(...)".
 */
int clone_error_set(CloneError *e, CloneErrorCode code, int error_number, const char *format, ...) G_GNUC_PRINTF(4, 5);

/* Frees what @e holds and makes it CLONE_ERROR_INIT; NULL is fine. */
void clone_error_clear(CloneError *e);

#define _cleanup_clone_error_ __attribute__((cleanup(clone_error_clear)))
