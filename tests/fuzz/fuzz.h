/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * What each target of tests/fuzz has: it is given any bytes and must neither crash nor break a promise (FUZZ_CHECK). libFuzzer
 * calls it, or run-corpus.c with the inputs in the tree. Always 0, as libFuzzer wants it.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Unlike g_assert() it says what broke on a line of its own, before the stack that the sanitizer prints. */
#define FUZZ_CHECK(condition_)                                                                           \
        do                                                                                               \
                if (!(condition_)) {                                                                     \
                        (void) fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition_);  \
                        abort();                                                                         \
                }                                                                                        \
        while (0)

/* Takes an input apart, from the front; where it is used up everything is 0. */
typedef struct FuzzInput {
        const uint8_t *data;
        size_t size;
} FuzzInput;

static inline uint64_t fuzz_take(FuzzInput *in, size_t bytes)
{
        uint64_t value = 0;

        for (size_t i = 0; i < bytes && in->size > 0; i++, in->data++, in->size--)
                value |= (uint64_t) *in->data << (8 * i);
        return value;
}

/* The bytes up to the next @separator, or all that are left, as a string that the caller frees. */
static inline char *fuzz_take_text(FuzzInput *in, uint8_t separator, size_t *ret_size)
{
        char *text = malloc(in->size + 1);
        size_t n = 0;

        FUZZ_CHECK(text);
        while (n < in->size && in->data[n] != separator) {
                text[n] = (char) in->data[n];
                n++;
        }
        text[n] = '\0';
        if (ret_size)
                *ret_size = n;

        n += n < in->size;
        in->data += n;
        in->size -= n;
        return text;
}
