/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/param.h>
#include <sys/syscall.h>

#include "daemon/engine/arch.h"

#define USER64_CS 0x33U      /* arch/x86/include/asm/segment.h: __USER_CS */

#define FLAG_CF_TO_SF 0xd5U /* CF, PF, AF, ZF, SF: what SAHF loads */
#define FLAG_DF (1U << 10)
#define FLAG_OF (1U << 11)

/*
 * Calls that fail with EINTR instead of restarting, signal(7) "Interruption of system calls and library functions by
 * signal handlers", and those that do so on a socket with a timeout (net/core/sock.h: sock_intr_errno()). Each of them
 * has done nothing yet when it returns -EINTR; close(2), which has, must never be here.
 */
static const unsigned short never_restart[] = {
        SYS_read,          SYS_readv,    SYS_write,      SYS_writev,      SYS_preadv2,         SYS_pwritev2,
        SYS_recvfrom,      SYS_recvmsg,  SYS_recvmmsg,   SYS_sendto,      SYS_sendmsg,         SYS_sendmmsg,
        SYS_accept,        SYS_accept4,  SYS_connect,    SYS_epoll_wait,  SYS_epoll_pwait,     441 /* epoll_pwait2 */,
        SYS_rt_sigtimedwait, SYS_semop,  SYS_semtimedop, SYS_msgrcv,      SYS_msgsnd,          SYS_io_getevents,
        SYS_io_pgetevents, SYS_poll,     SYS_ppoll,      SYS_select,      SYS_pselect6,        SYS_pause,
        SYS_rt_sigsuspend, SYS_nanosleep, SYS_clock_nanosleep, SYS_futex, 449 /* futex_waitv */, SYS_getrandom,
        SYS_io_uring_enter, SYS_mq_timedsend, SYS_mq_timedreceive,
};

bool arch_is_compat(const struct user_regs_struct *regs)
{
        return regs->cs != USER64_CS;
}

bool arch_is_restart_code(long rax)
{
        return rax == -ARCH_ERESTARTSYS || rax == -ARCH_ERESTARTNOINTR || rax == -ARCH_ERESTARTNOHAND ||
               rax == -ARCH_ERESTART_RESTARTBLOCK;
}

bool arch_in_interrupted_call(const struct user_regs_struct *regs)
{
        return (long) regs->orig_rax >= 0 && arch_is_restart_code((long) regs->rax);
}

bool arch_hide_spurious_eintr(struct user_regs_struct *regs)
{
        if ((long) regs->orig_rax < 0 || (long) regs->rax != -EINTR)
                return false;

        for (size_t i = 0; i < sizeof(never_restart) / sizeof(never_restart[0]); i++)
                if (regs->orig_rax == never_restart[i]) {
                        regs->rax = (unsigned long long) -ARCH_ERESTARTNOHAND;
                        return true;
                }

        return false;
}

/* mov $number,%eax somewhere before the syscall instruction; the nearest counts. -1 for none. */
static long find_number(const uint8_t *code, size_t n)
{
        static const uint32_t numbers[] = {SYS_poll, SYS_nanosleep, SYS_futex, SYS_clock_nanosleep};

        for (size_t at = n; at-- >= 1 + sizeof(uint32_t) + ARCH_SYSCALL_SIZE;) {
                const uint8_t *p = code + at - sizeof(uint32_t) - ARCH_SYSCALL_SIZE;
                uint32_t value;

                if (*p != 0xb8)
                        continue;
                memcpy(&value, p + 1, sizeof(value));
                for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
                        if (value == numbers[i])
                                return value;
        }

        return -1;
}

#define CLOCKS_MAX 16U         /* clockid_t, but for those of a process' time, which are negative */
#define LOWEST_POINTER 0x1000U /* what is less is a number */

/* poll(fds, n, timeout), nanosleep(wanted, left), futex(word, operation, value, timeout), clock_nanosleep(clock, flags, wanted, left) */
static long guess_number(const struct user_regs_struct *regs)
{
        if ((regs->rdi < CLOCKS_MAX || (int32_t) regs->rdi < 0) && regs->rsi <= 1 && regs->rdx >= LOWEST_POINTER)
                return SYS_clock_nanosleep;
        if (regs->rsi == 0 || regs->rsi >= LOWEST_POINTER)
                return regs->rdi >= LOWEST_POINTER ? SYS_nanosleep : -1;
        if ((regs->rdi & 3) == 0 && regs->r10 >= LOWEST_POINTER && (regs->rsi & 0x7f) <= 13)
                return SYS_futex;
        return SYS_poll;
}

bool arch_begin_anew(struct user_regs_struct *regs, const uint8_t *code, size_t n)
{
        long nr = (long) regs->orig_rax;

        if (nr < 0 || (long) regs->rax != -ARCH_ERESTART_RESTARTBLOCK)
                return false;
        if (nr == SYS_restart_syscall)
                nr = find_number(code, n);
        if (nr < 0)
                nr = guess_number(regs);
        if (nr < 0)
                return false;

        regs->orig_rax = (unsigned long long) nr;
        regs->rax = (unsigned long long) -ARCH_ERESTARTNOHAND;
        return true;
}

struct user_regs_struct arch_rewind_entry(const struct user_regs_struct *regs)
{
        struct user_regs_struct r = *regs;

        r.rax = regs->orig_rax;
        r.rip -= ARCH_SYSCALL_SIZE;
        r.orig_rax = (unsigned long long) -1;
        return r;
}

struct user_regs_struct arch_settle(const struct user_regs_struct *regs)
{
        struct user_regs_struct r = *regs;

        if (arch_in_interrupted_call(regs)) {
                r = arch_rewind_entry(regs);
                /* arch/x86/kernel/signal.c: the restart block has what the call still needs. */
                if ((long) regs->rax == -ARCH_ERESTART_RESTARTBLOCK)
                        r.rax = SYS_restart_syscall;
        }

        r.orig_rax = (unsigned long long) -1;
        return r;
}

struct user_regs_struct arch_call_regs(const struct user_regs_struct *base, uint64_t address, long nr, const uint64_t args[static 5])
{
        struct user_regs_struct r = *base;

        r.rip = address;
        r.rax = (unsigned long long) nr;
        r.orig_rax = (unsigned long long) -1;
        r.rdi = args[0];
        r.rsi = args[1];
        r.rdx = args[2];
        r.r10 = args[3];
        r.r8 = args[4];
        return r;
}

#define REX_W 0x48U
#define REX_W_BIT 0x08U

/* A cursor over the code that is being written; the size is checked once, at the end. */
typedef struct Emitter {
        uint8_t *code;
        size_t n;
} Emitter;

static void emit(Emitter *e, const void *bytes, size_t n)
{
        if (e->n + n <= ARCH_GADGET_SIZE)
                memcpy(e->code + e->n, bytes, n);
        e->n += n;
}

#define EMIT(e, ...) emit((e), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* A 32-bit displacement from the end of the instruction that ends with it, filled in when the place is known. */
static size_t emit_displacement(Emitter *e)
{
        size_t at = e->n;

        EMIT(e, 0, 0, 0, 0);
        return at;
}

static void set_displacement(Emitter *e, size_t at)
{
        int32_t d = (int32_t) (e->n - (at + 4));

        if (at + 4 <= ARCH_GADGET_SIZE)
                memcpy(e->code + at, &d, sizeof(d));
}

/* mov $value into a register: the form with 32 bits clears the upper half, and is half as long. */
static void emit_mov(Emitter *e, uint8_t rex, uint8_t opcode, uint64_t value)
{
        uint32_t low = (uint32_t) value;

        if (value != low) {
                EMIT(e, rex, opcode);
                emit(e, &value, sizeof(value));
                return;
        }

        if (rex != REX_W)
                EMIT(e, (uint8_t) (rex & ~REX_W_BIT));
        EMIT(e, opcode);
        emit(e, &low, sizeof(low));
}

/* Arithmetic flags without a stack: ADD sets OF (0x7f + 1), SAHF the others and leaves OF alone; MOV and JMP keep all. */
static void emit_flags(Emitter *e, uint64_t flags)
{
        EMIT(e, 0xb0, flags & FLAG_OF ? 0x7f : 0x00);       /* mov $n,%al */
        EMIT(e, 0x04, 0x01);                                /* add $1,%al */
        EMIT(e, 0xb4, (uint8_t) (flags & FLAG_CF_TO_SF));   /* mov $n,%ah */
        EMIT(e, 0x9e);                                      /* sahf */
        EMIT(e, flags & FLAG_DF ? 0xfd : 0xfc);             /* std, cld */
}

static void emit_registers(Emitter *e, const struct user_regs_struct *back)
{
        emit_mov(e, 0x48, 0xb8, back->rax);
        emit_mov(e, 0x48, 0xb9, back->rcx);
        emit_mov(e, 0x48, 0xba, back->rdx);
        emit_mov(e, 0x48, 0xbe, back->rsi);
        emit_mov(e, 0x48, 0xbf, back->rdi);
        emit_mov(e, 0x49, 0xb8, back->r8);
        emit_mov(e, 0x49, 0xba, back->r10);
        emit_mov(e, 0x49, 0xbb, back->r11);
}

/* The part that is the same in each, but for two displacements. */
static size_t emit_begin(Emitter *e, size_t *ret_child)
{
        EMIT(e, 0x0f, 0x05);                         /* syscall */
        EMIT(e, 0x85, 0xc0);                         /* test %eax,%eax: a PID, an error or 0 */
        EMIT(e, 0x0f, 0x84);                         /* jz child */
        *ret_child = emit_displacement(e);
        EMIT(e, 0xb8, SYS_rt_sigprocmask, 0, 0, 0);  /* mov $..,%eax */
        EMIT(e, 0xbf, 2 /* SIG_SETMASK */, 0, 0, 0); /* mov $..,%edi */
        EMIT(e, 0x48, 0x8d, 0x35);                   /* lea mask(%rip),%rsi */
        return emit_displacement(e);
}

/* What every errand (arch_build_errand()) begins with, and no gadget does. */
static const uint8_t errand_begin[] = {0x0f, 0x05, 0xb8, SYS_rt_sigprocmask, 0, 0, 0, 0xbf};

static const uint8_t closing_begin[] = {0x0f, 0x05, 0x48, 0x89, 0xc7, 0xbe};

bool arch_is_closing(const uint8_t code[static ARCH_GADGET_SIZE])
{
        return memcmp(code, closing_begin, sizeof(closing_begin)) == 0;
}

bool arch_is_gadget(const uint8_t code[static ARCH_GADGET_SIZE])
{
        uint8_t begin[ARCH_GADGET_SIZE];
        Emitter e = {.code = begin};
        size_t child;

        /* A worker may be killed between two words: the first is written first and erased last, the others may be anything. */
        (void) emit_begin(&e, &child);
        return memcmp(code, begin, child) == 0 || memcmp(code, errand_begin, sizeof(errand_begin)) == 0 || arch_is_closing(code);
}

size_t arch_build_gadget(uint8_t code[static ARCH_GADGET_SIZE], const struct user_regs_struct *back, uint64_t mask)
{
        Emitter e = {.code = code};
        size_t child, mask_at, rip_at;
        uint64_t rip = back->rip;

        memset(code, 0, ARCH_GADGET_SIZE);

        mask_at = emit_begin(&e, &child);
        EMIT(&e, 0x31, 0xd2);                         /* xor %edx,%edx */
        EMIT(&e, 0x41, 0xba, sizeof(mask), 0, 0, 0);  /* mov $..,%r10d */
        EMIT(&e, 0x0f, 0x05);                         /* syscall */

        emit_flags(&e, back->eflags);
        emit_registers(&e, back);
        EMIT(&e, 0xff, 0x25);                         /* jmp *rip(%rip): no register is free, and no stack is touched */
        rip_at = emit_displacement(&e);

        set_displacement(&e, child);
        EMIT(&e, 0x31, 0xff);                         /* xor %edi,%edi */
        EMIT(&e, 0xb8, SYS_exit_group, 0, 0, 0);      /* mov $..,%eax */
        EMIT(&e, 0x0f, 0x05);                         /* syscall */

        set_displacement(&e, mask_at);
        emit(&e, &mask, sizeof(mask));
        set_displacement(&e, rip_at);
        emit(&e, &rip, sizeof(rip));

        return MIN((e.n + 7) & ~(size_t) 7, (size_t) ARCH_GADGET_SIZE);
}

size_t arch_build_errand(uint8_t code[static ARCH_GADGET_SIZE], const struct user_regs_struct *back, uint64_t mask)
{
        Emitter e = {.code = code};
        uint64_t rip = back->rip;
        size_t mask_at, rip_at;

        memset(code, 0, ARCH_GADGET_SIZE);

        EMIT(&e, 0x0f, 0x05);                         /* syscall */
        EMIT(&e, 0xb8, SYS_rt_sigprocmask, 0, 0, 0);  /* mov $..,%eax */
        EMIT(&e, 0xbf, 2 /* SIG_SETMASK */, 0, 0, 0); /* mov $..,%edi */
        EMIT(&e, 0x48, 0x8d, 0x35);                   /* lea mask(%rip),%rsi */
        mask_at = emit_displacement(&e);
        EMIT(&e, 0xba, 0, 0, 0, 0);                   /* mov $0,%edx: XOR would change the flags, which are still the task's */
        EMIT(&e, 0x41, 0xba, sizeof(mask), 0, 0, 0);  /* mov $..,%r10d */
        EMIT(&e, 0x0f, 0x05);                         /* syscall */
        emit_registers(&e, back);
        EMIT(&e, 0xff, 0x25);                         /* jmp *rip(%rip) */
        rip_at = emit_displacement(&e);

        set_displacement(&e, mask_at);
        emit(&e, &mask, sizeof(mask));
        set_displacement(&e, rip_at);
        emit(&e, &rip, sizeof(rip));

        return MIN((e.n + 7) & ~(size_t) 7, (size_t) ARCH_GADGET_SIZE);
}

size_t arch_build_closing(uint8_t code[static ARCH_GADGET_SIZE], const struct user_regs_struct *back, uint64_t mask, uint32_t size)
{
        Emitter e = {.code = code};
        uint64_t rip = back->rip;
        size_t mask_at, rip_at;

        memset(code, 0, ARCH_GADGET_SIZE);

        emit(&e, closing_begin, sizeof(closing_begin)); /* syscall; mov %rax,%rdi; mov $..,%esi */
        emit(&e, &size, sizeof(size));
        EMIT(&e, 0xb8, SYS_munmap, 0, 0, 0);          /* mov $..,%eax */
        EMIT(&e, 0x0f, 0x05);                         /* syscall */
        EMIT(&e, 0xb8, SYS_rt_sigprocmask, 0, 0, 0);  /* mov $..,%eax */
        EMIT(&e, 0xbf, 2 /* SIG_SETMASK */, 0, 0, 0); /* mov $..,%edi */
        EMIT(&e, 0x48, 0x8d, 0x35);                   /* lea mask(%rip),%rsi */
        mask_at = emit_displacement(&e);
        EMIT(&e, 0x31, 0xd2);                         /* xor %edx,%edx */
        EMIT(&e, 0x41, 0xba, sizeof(mask), 0, 0, 0);  /* mov $..,%r10d */
        EMIT(&e, 0x0f, 0x05);                         /* syscall */
        emit_flags(&e, back->eflags);
        emit_registers(&e, back);
        emit_mov(&e, 0x49, 0xb9, back->r9);
        EMIT(&e, 0xff, 0x25);                         /* jmp *rip(%rip) */
        rip_at = emit_displacement(&e);

        set_displacement(&e, mask_at);
        emit(&e, &mask, sizeof(mask));
        set_displacement(&e, rip_at);
        emit(&e, &rip, sizeof(rip));

        return MIN((e.n + 7) & ~(size_t) 7, (size_t) ARCH_GADGET_SIZE);
}

/* The part of the annex that is the same in each, but for the displacements. */
static void emit_annex_begin(Emitter *e, size_t *ret_call, size_t *ret_parent)
{
        EMIT(e, 0x0f, 0x05);                    /* syscall */
        EMIT(e, 0xe9);                          /* jmp marks */
        *ret_call = emit_displacement(e);
        EMIT(e, 0x0f, 0x05);                    /* syscall */
        EMIT(e, 0x85, 0xc0);                    /* test %eax,%eax */
        EMIT(e, 0x0f, 0x85);                    /* jnz marks */
        *ret_parent = emit_displacement(e);
        EMIT(e, 0x31, 0xff);                    /* xor %edi,%edi */
        EMIT(e, 0xb8, SYS_exit_group, 0, 0, 0); /* mov $..,%eax */
        EMIT(e, 0x0f, 0x05);                    /* syscall */
        set_displacement(e, *ret_call);
        set_displacement(e, *ret_parent);
}

bool arch_is_annex(const uint8_t code[static ARCH_ANNEX_TABLE])
{
        uint8_t begin[ARCH_GADGET_SIZE];
        Emitter e = {.code = begin};
        size_t call, parent;

        emit_annex_begin(&e, &call, &parent);
        return memcmp(code, begin, e.n) == 0;
}

/* Only what the closing gives back is used: a call leaves r8 and r10 alone. */
void arch_build_annex(uint8_t code[static ARCH_ANNEX_TABLE], uint64_t cave, uint32_t n)
{
        const uint64_t close = cave + ARCH_SYSCALL_SIZE;
        uint8_t all[ARCH_GADGET_SIZE] = {};
        Emitter e = {.code = all};
        size_t call, parent, loop;
        int32_t d;

        emit_annex_begin(&e, &call, &parent);
        EMIT(&e, 0x4c, 0x8d, 0x05);               /* lea table(%rip),%r8 */
        d = (int32_t) (ARCH_ANNEX_TABLE - (e.n + sizeof(d)));
        emit(&e, &d, sizeof(d));
        EMIT(&e, 0x41, 0xba);                     /* mov $n,%r10d */
        emit(&e, &n, sizeof(n));
        loop = e.n;
        EMIT(&e, 0x49, 0x8b, 0x38);               /* mov (%r8),%rdi */
        EMIT(&e, 0x49, 0x8b, 0x70, 0x08);         /* mov 8(%r8),%rsi */
        EMIT(&e, 0x49, 0x8b, 0x50, 0x10);         /* mov 16(%r8),%rdx */
        EMIT(&e, 0xb8, SYS_madvise, 0, 0, 0);     /* mov $..,%eax */
        EMIT(&e, 0x0f, 0x05);                     /* syscall */
        EMIT(&e, 0x49, 0x83, 0xc0, sizeof(ArchAdvice)); /* add $..,%r8 */
        EMIT(&e, 0x41, 0xff, 0xca);               /* dec %r10d */
        EMIT(&e, 0x75, (uint8_t) (loop - (e.n + 2))); /* jnz loop */
        EMIT(&e, 0x48, 0x8d, 0x05);               /* lea annex(%rip),%rax */
        d = -(int32_t) (e.n + sizeof(d));
        emit(&e, &d, sizeof(d));
        EMIT(&e, 0x49, 0xbb);                     /* mov $cave,%r11 */
        emit(&e, &close, sizeof(close));
        EMIT(&e, 0x41, 0xff, 0xe3);               /* jmp *%r11 */
        memcpy(code, all, ARCH_ANNEX_TABLE);
}

/*
 * glibc: struct pthread begins at the thread pointer and has `pid_t tid` at 0x2d0 since 2.4 (nptl/descr.h). Its fork is clone with CHILD_SETTID and CHILD_CLEARTID at &tid.
 * musl: struct pthread has `int tid` at 0x30 behind the pointer to itself (src/internal/pthread_impl.h); its
 * clear_child_tid is a lock of the library's, which a new process does not need.
 */
#define GLIBC_TID 0x2d0U
#define MUSL_TID 0x30U

ArchTid arch_find_tid(const struct user_regs_struct *regs, pid_t tid,
                int (*read_word)(uint64_t address, uint64_t *ret, void *userdata), void *userdata)
{
        uint64_t tp = regs->fs_base, word;

        if (tp == 0 || read_word(tp, &word, userdata) < 0 || word != tp) /* both begin with a pointer to themselves */
                return (ArchTid){};

        if (read_word(tp + GLIBC_TID, &word, userdata) >= 0 && (pid_t) word == tid)
                return (ArchTid){.address = tp + GLIBC_TID, .clear = true};

        if (read_word(tp + MUSL_TID, &word, userdata) >= 0 && (pid_t) word == tid)
                return (ArchTid){.address = tp + MUSL_TID};

        return (ArchTid){};
}
