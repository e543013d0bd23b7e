# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of isolation share. Whether two descriptors share a description is asked of the kernel, kcmp(2)."""
import ctypes
import os
import re
import signal
import socket
import subprocess

from itest import *  # noqa: F403

SYS_KCMP, KCMP_FILE, SYS_PIDFD_GETFD, FIONREAD = 312, 0, 438, 0x541b
libc = ctypes.CDLL(None, use_errno=True)

FILES = {'file', 'again', 'append', 'reading', 'unlinked', 'dir'}


def shared(a, fd_a, b, fd_b=None):
    r = libc.syscall(SYS_KCMP, a, b, KCMP_FILE, fd_a, fd_a if fd_b is None else fd_b)
    if r < 0:
        raise Failure(f'kcmp of descriptor {fd_a} of {a} and {b}: {os.strerror(ctypes.get_errno())}')
    return r == 0


def fdinfo(pid, number):
    """Without what differs in any two of a kind: IDs, inodes, and the time that passes."""
    text = read_proc(pid, f'fdinfo/{number}')
    # O_NOFOLLOW was about the name by which it was opened, and cannot be had through /proc.
    text = re.sub(r'(?<=flags:\t)0\d+', lambda m: f'0{int(m[0], 8) & ~os.O_NOFOLLOW:o}', text)
    text = re.sub(r'(eventfd-id: *\d+|ino:\s*\w+|mnt_id:\s*\d+|it_value:.*|scm_fds:.*)', '', text)
    return sorted(line for line in text.splitlines() if line)


class Everything:
    """isolate-target, with the other ends of what goes outside in the hands of the test."""

    def __enter__(self):
        self.directory = temporary_directory()
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(f'{self.directory.name}/server')
        self.server.listen(1)
        self.target = Target('isolate-target', self.directory.name, stdin=subprocess.PIPE)
        self.target.__enter__()
        self.pid = self.target.pid
        self.names = {}
        while (line := self.target.line()) != 'ready':
            name, number = line.split()
            self.names[name] = int(number)
        self.peer, _ = self.server.accept()
        self.peer.settimeout(DEADLINE)
        wait_blocked(self.pid)
        return self

    def __exit__(self, *args):
        self.target.__exit__(*args)
        self.peer.close()
        self.server.close()
        self.directory.cleanup()

    def clone(self, *options):
        """By remforkctl: the worker that does all this is no root."""
        done = subprocess.run(['remforkctl', 'clone', *options, str(self.pid)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
        expect_equal(done.returncode, 0, f'exit status ({done.stderr})')
        pids = [int(p) for p in done.stdout.split()]
        self.target.clones |= set(pids)
        return pids, [n.removeprefix('remforkctl: note: ') for n in done.stderr.splitlines()]

    def use(self, pid):
        """Makes it use all that it has; {what: what it found}."""
        path = f'{self.directory.name}/report.{pid}'
        if os.path.exists(path):
            os.unlink(path)
        os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: os.path.exists(path) or not alive(pid), f'{pid} writes its report')
        with open(path) as f:
            found = dict(line.rstrip('\n').partition(' ')[::2] for line in f)
        found['epoll'] = ' '.join(sorted(found['epoll'].split()))  # in no order that is promised
        return found

    def states(self, pid):
        return {name: fdinfo(pid, number) for name, number in self.names.items()}

    def own(self, pid):
        """The names of what @pid does not share with the target."""
        return {name for name, number in self.names.items() if not shared(self.pid, number, pid)}


def clone_set(pids, *options):
    """(the PIDs of the clones, what was noted)"""
    done = subprocess.run([program('clone-set'), *options, *map(str, pids)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
    expect_equal(done.returncode, 0, f'exit status ({done.stderr})')
    return [int(line) for line in done.stdout.split()], [line.removeprefix('note: ') for line in done.stderr.splitlines()]


def take(pid, number):
    """A duplicate of another process's descriptor."""
    pidfd = os.pidfd_open(pid)
    fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
    os.close(pidfd)
    expect(fd >= 0, f'descriptor {number} of {pid} cannot be fetched')
    return fd
