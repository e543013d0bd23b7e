/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* 0, also where it has ended by itself, or a negative errno. */
int pidfd_end(int pidfd);

/* Until all have ended, zombies included, or @usec are over. */
void pidfds_await_end(const int *pidfds, size_t n, uint64_t usec);
