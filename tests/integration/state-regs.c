/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "state-regs.h"

/*
 * Every register holds a value of its own while a loop compares them all, one instruction after the other, with what
 * they should be. Between two looks nothing is saved, so that a clone or a stop at any instruction of the loop that
 * changes any register is seen. The extended state is compared once for each round: XSAVE writes all of it to memory.
 *
 * RSP points into a stack of its own whose surroundings hold a pattern. The small one has less room below the red zone
 * than a signal frame of a processor with AVX-512 needs.
 */

#define SMALL_STACK 512U
#define FIELD 65536U

struct register_file register_file __attribute__((aligned(64)));
unsigned char register_xsave[XSAVE_MAX] __attribute__((aligned(64)));

/* RAX RBX RCX RDX RSI RDI RBP R8..R15 of register_file in this order, RSP apart. Returns the number of mismatches. */
unsigned long register_round(void);

#define LOAD(reg, n) "movq register_file+8*" #n "(%rip), %" #reg "\n"
#define LOOK(reg, n) "cmpq register_file+8*" #n "(%rip), %" #reg "\n jne 9f\n"
#define ALL(X)                                                                                                              \
        X(rax, 0) X(rbx, 1) X(rcx, 2) X(rdx, 3) X(rsi, 4) X(rdi, 5) X(rbp, 6) X(r8, 7) X(r9, 8) X(r10, 9) X(r11, 10) X(r12, 11) \
        X(r13, 12) X(r14, 13) X(r15, 14)

/* register_file: 15 values, [15] the small stack's pointer, [16] the caller's, [17] the turns left, [18] RFLAGS at the end. */
__asm__(".text\n"
        ".globl register_round\n"
        ".type register_round, @function\n"
        "register_round:\n"
        "pushq %rbx\n pushq %rbp\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, register_file+8*16(%rip)\n"
        "movq register_file+8*15(%rip), %rsp\n" ALL(LOAD)
        "std\n"
        "1:\n" ALL(LOOK) LOOK(rsp, 15)
        /* Nothing below changes a flag until each was looked at: CF, ZF, SF, OF, PF. */
        "subq $1, register_file+8*17(%rip)\n"
        "stc\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n nop\n"
        "jnc 9f\n"
        "cmpq $0, register_file+8*17(%rip)\n"
        "jg 1b\n"
        "pushfq\n popq register_file+8*18(%rip)\n"
        "movl $-1, %eax\n movl $-1, %edx\n"
        "leaq register_xsave(%rip), %rdi\n"
        "xsave64 (%rdi)\n"
        "xorl %eax, %eax\n"
        "jmp 2f\n"
        "9:\n"
        "pushfq\n popq register_file+8*18(%rip)\n"
        "movl $1, %eax\n"
        "2:\n"
        "cld\n"
        "movq register_file+8*16(%rip), %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbp\n popq %rbx\n"
        "ret\n"
        ".size register_round, .-register_round\n");

static unsigned char *field;
static unsigned stack_size;

static void load_avx(void)
{
        static unsigned char pattern[16][32] __attribute__((aligned(32)));

        for (size_t i = 0; i < sizeof(pattern); i++)
                pattern[i / 32][i % 32] = (unsigned char) (i * 7 + 1);
#define YMM(n) "vmovdqa 32*" #n "(%0), %%ymm" #n "\n"
        __asm__ volatile(YMM(0) YMM(1) YMM(2) YMM(3) YMM(4) YMM(5) YMM(6) YMM(7) YMM(8) YMM(9) YMM(10) YMM(11) YMM(12) YMM(13)
                                         YMM(14) YMM(15)::"r"(pattern)
                         : "memory");
}

static void load_avx512(void)
{
        static unsigned char pattern[32][64] __attribute__((aligned(64)));

        for (size_t i = 0; i < sizeof(pattern); i++)
                pattern[i / 64][i % 64] = (unsigned char) (i * 11 + 3);
#define ZMM(n) "vmovdqa64 64*" #n "(%0), %%zmm" #n "\n"
#define K(n) "kmovq 8*" #n "(%0), %%k" #n "\n"
        __asm__ volatile(ZMM(0) ZMM(1) ZMM(2) ZMM(3) ZMM(4) ZMM(5) ZMM(6) ZMM(7) ZMM(8) ZMM(9) ZMM(10) ZMM(11) ZMM(12) ZMM(13)
                                         ZMM(14) ZMM(15) ZMM(16) ZMM(17) ZMM(18) ZMM(19) ZMM(20) ZMM(21) ZMM(22) ZMM(23)
                                                         ZMM(24) ZMM(25) ZMM(26) ZMM(27) ZMM(28) ZMM(29) ZMM(30) ZMM(31)
                                                                         K(0) K(1) K(2) K(3) K(4) K(5) K(6) K(7)::"r"(pattern)
                         : "memory");
}

/* x87 with a full stack and a precision of its own; MXCSR with a rounding mode of its own. */
static void load_fpu(void)
{
        const unsigned short control = 0x027f | 0x0400;
        const unsigned mxcsr = 0x1f80 | 0x4000;

        __asm__ volatile("fninit\n fldcw %0\n fldpi\n fldl2e\n fldl2t\n fldlg2\n fldln2\n fld1\n fldz\n fldpi\n ldmxcsr %1" ::"m"(
                        control),
                        "m"(mxcsr));
}

void registers_prepare(bool small_stack)
{
        unsigned eax, ebx = 0, ecx, edx;

        if (!__get_cpuid_count(13, 0, &eax, &ebx, &ecx, &edx) || ebx > XSAVE_MAX) {
                (void) fprintf(stderr, "This processor has no XSAVE, or %u bytes of it\n", ebx);
                exit(EXIT_FAILURE);
        }

        stack_size = small_stack ? SMALL_STACK : FIELD;
        field = mmap(NULL, 2 * FIELD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (field == MAP_FAILED)
                exit(EXIT_FAILURE);
        memset(field, 0x5a, 2 * FIELD);
        for (int i = 0; i < 15; i++)
                register_file.value[i] = 0x8877665544332211UL * (unsigned long) (i + 1);
        register_file.value[15] = (unsigned long) field + FIELD;
}

void registers_load(void)
{
        __builtin_cpu_init();
        load_fpu();
        if (__builtin_cpu_supports("avx512bw"))
                load_avx512();
        else if (__builtin_cpu_supports("avx"))
                load_avx();
}

/* Around the stack nothing may have been written. */
static bool field_is_whole(void)
{
        for (unsigned i = 0; i < 2 * FIELD; i++)
                if (field[i] != 0x5a && (i < FIELD - stack_size || i >= FIELD))
                        return false;

        return true;
}

enum register_result registers_check(unsigned long turns)
{
        static unsigned char reference[XSAVE_MAX];
        static bool have_reference;
        bool failed;

        register_file.value[17] = turns;
        memset(register_xsave, 0, sizeof(register_xsave));
        registers_load();
        failed = register_round() != 0;

        if (failed)
                return REGISTERS_GENERAL;
        if (!(register_file.value[18] & 0x400))
                return REGISTERS_FLAGS;
        if (!have_reference) {
                memcpy(reference, register_xsave, sizeof(reference));
                have_reference = true;
        }
        if (memcmp(reference, register_xsave, sizeof(reference)) != 0)
                return REGISTERS_EXTENDED;
        if (!field_is_whole())
                return REGISTERS_STACK;

        return REGISTERS_OK;
}
