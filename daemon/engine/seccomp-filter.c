/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <stdbool.h>
#include <string.h>

#include "daemon/engine/seccomp-filter.h"

typedef struct Machine {
        uint32_t a, x, memory[BPF_MEMWORDS];
} Machine;

static bool jump_taken(uint16_t code, uint32_t a, uint32_t operand)
{
        switch (BPF_OP(code)) {
        case BPF_JEQ:
                return a == operand;
        case BPF_JGT:
                return a > operand;
        case BPF_JGE:
                return a >= operand;
        case BPF_JSET:
                return (a & operand) != 0;
        default:
                return false;
        }
}

static bool arithmetic(Machine *m, uint16_t code, uint32_t operand)
{
        switch (BPF_OP(code)) {
        case BPF_ADD:
                m->a += operand;
                return true;
        case BPF_SUB:
                m->a -= operand;
                return true;
        case BPF_MUL:
                m->a *= operand;
                return true;
        case BPF_DIV:
                if (operand == 0)
                        return false;
                m->a /= operand;
                return true;
        case BPF_OR:
                m->a |= operand;
                return true;
        case BPF_AND:
                m->a &= operand;
                return true;
        case BPF_XOR:
                m->a ^= operand;
                return true;
        case BPF_LSH:
                m->a <<= operand & 31; /* as the kernel's interpreter and compilers do it (kernel/bpf/core.c) */
                return true;
        case BPF_RSH:
                m->a >>= operand & 31;
                return true;
        case BPF_NEG:
                m->a = -m->a;
                return true;
        default:
                return false;
        }
}

static bool load(uint16_t code, uint32_t k, const Machine *m, const struct seccomp_data *data, uint32_t *ret)
{
        switch (BPF_MODE(code)) {
        case BPF_IMM:
                *ret = k;
                return true;
        case BPF_LEN:
                *ret = sizeof(*data);
                return true;
        case BPF_ABS: /* seccomp_check_filter(): aligned words only */
                if (BPF_SIZE(code) != BPF_W || k % 4 != 0 || k > sizeof(*data) - 4)
                        return false;
                memcpy(ret, (const char *) data + k, 4);
                return true;
        case BPF_MEM:
                if (k >= BPF_MEMWORDS)
                        return false;
                *ret = m->memory[k];
                return true;
        default:
                return false;
        }
}

/* One instruction that neither jumps nor returns; false where it is none that a seccomp filter may have. */
static bool step(Machine *m, const struct sock_filter *f, const struct seccomp_data *data)
{
        switch (BPF_CLASS(f->code)) {
        case BPF_LD:
                return load(f->code, f->k, m, data, &m->a);
        case BPF_LDX:
                return load(f->code, f->k, m, data, &m->x);
        case BPF_ST:
        case BPF_STX:
                if (f->k >= BPF_MEMWORDS)
                        return false;
                m->memory[f->k] = BPF_CLASS(f->code) == BPF_ST ? m->a : m->x;
                return true;
        case BPF_ALU:
                return arithmetic(m, f->code, BPF_SRC(f->code) == BPF_X ? m->x : f->k);
        case BPF_MISC:
                if (BPF_MISCOP(f->code) == BPF_TAX)
                        m->x = m->a;
                else
                        m->a = m->x;
                return true;
        default:
                return false;
        }
}

uint32_t seccomp_filter_run(const struct sock_filter *program, size_t n, const struct seccomp_data *data)
{
        Machine m = {};

        /* Jumps only go forward, so this ends. */
        for (size_t pc = 0; pc < n; pc++) {
                const struct sock_filter *f = program + pc;

                if (BPF_CLASS(f->code) == BPF_RET)
                        return BPF_RVAL(f->code) == BPF_A ? m.a : f->k;

                if (BPF_CLASS(f->code) == BPF_JMP) {
                        if (BPF_OP(f->code) == BPF_JA)
                                pc += f->k;
                        else
                                pc += jump_taken(f->code, m.a, BPF_SRC(f->code) == BPF_X ? m.x : f->k) ? f->jt : f->jf;
                        continue;
                }

                if (!step(&m, f, data))
                        break;
        }

        return SECCOMP_RET_KILL_PROCESS;
}
