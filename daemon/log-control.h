/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <systemd/sd-bus.h>

/* Serves org.freedesktop.LogControl1, for "systemctl service-log-level" and "service-log-target". A negative errno. */
int log_control_add(sd_bus *bus);
