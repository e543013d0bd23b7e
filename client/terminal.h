/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "client/verb.h"

/* A new pseudoterminal of the size and with the settings of this process's own, where it has one. Both are the caller's. */
ClientExit terminal_new(int *ret_master, int *ret_slave);

/*
 * Joins stdin and stdout to @master, with the own terminal in raw mode, until nobody has the other end open or ^] is typed
 * three times within a second.
 */
ClientExit terminal_attach(int master);
