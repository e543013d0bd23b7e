/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A 32-bit program without a library: says "ready", then computes for ever. Built with -m32 -nostdlib -static. */
        .section .rodata
text:   .ascii "ready\n"
        .text
        .globl _start
_start:
        movl $4, %eax           /* write, of the 32-bit table */
        movl $1, %ebx
        movl $text, %ecx
        movl $6, %edx
        int $0x80
        movl $12345, %esi
1:      cmpl $12345, %esi
        jne 2f
        jmp 1b
2:      movl $1, %eax           /* exit(3): a register changed */
        movl $3, %ebx
        int $0x80
        .section .note.GNU-stack, "", @progbits
