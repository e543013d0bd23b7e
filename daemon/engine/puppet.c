/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "daemon/engine/arch.h"
#include "daemon/engine/inject.h"
#include "daemon/engine/memory.h"
#include "daemon/engine/puppet.h"
#include "daemon/util.h"

long puppet_call6(Puppet *p, long nr, const uint64_t args[static 6])
{
        struct user_regs_struct regs = arch_call_regs(&p->base, p->syscall_at, nr, args);
        long result;
        int r;

        arch_set_sixth_argument(&regs, args[5]);
        r = tracee_set_regs(p->tracee, &regs);
        if (r >= 0)
                r = instant_run_call(p->tracee, false, &result);
        return r < 0 ? r : result;
}

int puppet_open(Puppet *p, Tracee *tracee, int pidfd, const struct user_regs_struct *base, uint64_t syscall_at)
{
        long r;

        *p = (Puppet){.tracee = tracee, .pidfd = pidfd, .base = *base, .syscall_at = syscall_at};

        r = puppet_call(p, SYS_mmap, 0, PUPPET_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t) -1);
        if (r < 0)
                return (int) r;
        p->page = (uint64_t) r;
        return 0;
}

int puppet_close(Puppet *p)
{
        uint64_t page = p->page;

        p->page = 0;
        return page != 0 ? (int) puppet_call(p, SYS_munmap, page, PUPPET_PAGE) : 0;
}

int puppet_read(const Puppet *p, uint64_t address, void *buffer, size_t n)
{
        return memory_read(p->tracee->pid, address, buffer, n);
}

int puppet_write(const Puppet *p, uint64_t address, const void *buffer, size_t n)
{
        const struct iovec local = {.iov_base = (void *) buffer, .iov_len = n};
        const struct iovec remote = {.iov_base = (void *) (uintptr_t) address, .iov_len = n};
        ssize_t k = process_vm_writev(p->tracee->pid, &local, 1, &remote, 1, 0);

        return k < 0 ? -errno : (size_t) k == n ? 0 : -EFAULT;
}

int puppet_take(const Puppet *p, int fd)
{
        int r = (int) syscall(SYS_pidfd_getfd, p->pidfd, fd, 0);

        return r < 0 ? -errno : r;
}

/* What one message brings along, laid out as it stands in the page. */
typedef struct Parcel {
        struct msghdr header;
        struct iovec iov;
        char byte;
        union {
                struct cmsghdr header;
                char buffer[CMSG_SPACE(sizeof(int) * PUPPET_GIVE_MAX)];
        } control;
} Parcel;
G_STATIC_ASSERT(sizeof(Parcel) <= PUPPET_PAGE);

static int send_parcel(int socket, const int *fds, size_t n)
{
        Parcel parcel = {};

        parcel.iov = (struct iovec){.iov_base = &parcel.byte, .iov_len = 1};
        parcel.header = (struct msghdr){
                .msg_iov = &parcel.iov, .msg_iovlen = 1, .msg_control = &parcel.control, .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
        parcel.control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n)};
        memcpy(CMSG_DATA(&parcel.control.header), fds, sizeof(int) * n);
        return RETRY_EINTR(sendmsg(socket, &parcel.header, MSG_NOSIGNAL)) < 0 ? -errno : 0;
}

#define IN_PAGE(p, member) ((void *) (uintptr_t) ((p)->page + offsetof(Parcel, member)))

static int receive_parcel(Puppet *p, int socket, size_t n, int *ret)
{
        Parcel parcel = {};
        size_t got = 0;
        long r;

        parcel.iov = (struct iovec){.iov_base = IN_PAGE(p, byte), .iov_len = 1};
        parcel.header = (struct msghdr){.msg_iov = IN_PAGE(p, iov), .msg_iovlen = 1, .msg_control = IN_PAGE(p, control),
                .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
        r = puppet_write(p, p->page, &parcel, sizeof(parcel));
        if (r >= 0)
                r = puppet_call(p, SYS_recvmsg, (uint64_t) socket, p->page, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (r >= 0)
                r = puppet_read(p, p->page, &parcel, sizeof(parcel));
        if (r < 0)
                return (int) r;

        if (parcel.header.msg_controllen >= sizeof(struct cmsghdr) && parcel.control.header.cmsg_len >= CMSG_LEN(0))
                got = (parcel.control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (got < n) /* net/core/scm.c: what does not fit under RLIMIT_NOFILE is dropped */
                return -EMFILE;
        memcpy(ret, CMSG_DATA(&parcel.control.header), sizeof(int) * n);
        return 0;
}

int puppet_give(Puppet *p, const int *fds, size_t n, int *ret)
{
        _cleanup_close_ int ours = -EBADF;
        int pair[2];
        long r;

        g_return_val_if_fail(n >= 1 && n <= PUPPET_GIVE_MAX, -EINVAL);

        /* Of the clone's making, so that no address in any namespace is needed; the near end is then fetched. */
        r = puppet_call(p, SYS_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, p->page);
        if (r >= 0)
                r = puppet_read(p, p->page, pair, sizeof(pair));
        if (r < 0)
                return (int) r;

        ours = puppet_take(p, pair[0]);
        r = ours < 0 ? ours : puppet_call(p, SYS_close, (uint64_t) pair[0]);
        if (r >= 0)
                r = send_parcel(ours, fds, n);
        if (r >= 0)
                r = receive_parcel(p, pair[1], n, ret);
        if (r >= 0)
                r = puppet_call(p, SYS_close, (uint64_t) pair[1]);
        return (int) r;
}
