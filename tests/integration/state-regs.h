/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

#define XSAVE_MAX 16384U /* AVX-512 and PKRU need 2,696 bytes, AMX 11,008 */

struct register_file {
        unsigned long value[19];
};

enum register_result {
        REGISTERS_OK,
        REGISTERS_GENERAL,  /* one of RAX..R15, or CF */
        REGISTERS_FLAGS,    /* DF, that was set */
        REGISTERS_EXTENDED, /* x87, MXCSR, vectors, masks: anything that XSAVE has */
        REGISTERS_STACK,    /* memory around the stack, which is 64 KiB or, where it is small, 512 bytes */
};

extern struct register_file register_file;
extern unsigned char register_xsave[XSAVE_MAX];

/* Fills the general registers' values; the extended registers are loaded by registers_load(). */
void registers_prepare(bool small_stack);
void registers_load(void);

/* One round of @turns looks at all registers. The first round is the measure for the extended state of those that follow. */
enum register_result registers_check(unsigned long turns);
