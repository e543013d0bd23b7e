/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "daemon/error.h"

static inline void bus_message_unrefp(sd_bus_message **m)
{
        sd_bus_message_unref(*m);
}

#define _cleanup_bus_message_ __attribute__((cleanup(bus_message_unrefp)))

/* Answers @message with @error, unless its sender wants no answer. What the bus refuses to take is logged. */
void bus_reply_error(sd_bus_message *message, const CloneError *error);

/* CLOCK_MONOTONIC in microseconds. */
uint64_t now_usec(void);
