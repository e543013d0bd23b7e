/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <time.h>

#include "daemon/bus-util.h"
#include "daemon/log.h"

void bus_reply_error(sd_bus_message *message, const CloneError *error)
{
        /* CHANGED never leaves the daemon as such, clone_error_name() has AccessDenied for it. */
        int r;

        r = sd_bus_reply_method_errorf(message, clone_error_name(error->code), "%s", error->message);
        if (r < 0) /* what is short now may be there a moment later */
                r = sd_bus_reply_method_errorf(message, clone_error_name(error->code), "%s", error->message);
        if (r < 0)
                log_warning("A call of %s cannot be answered: %s", sd_bus_message_get_sender(message), g_strerror(-r));
}

uint64_t now_usec(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
        return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}
