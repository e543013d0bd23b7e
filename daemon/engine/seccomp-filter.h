/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What a seccomp filter (classic BPF over struct seccomp_data, kernel/seccomp.c) answers for @data: a SECCOMP_RET_* value.
 * A program that the kernel would not have taken gives SECCOMP_RET_KILL_PROCESS, so that a doubt is never read as consent.
 */
uint32_t seccomp_filter_run(const struct sock_filter *program, size_t n, const struct seccomp_data *data);
