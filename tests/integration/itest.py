# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the integration tests share: TAP, targets, clones, and waiting for what /proc says.

The environment: REMFORK_BUILDDIR has the built programs (build/ beside the sources otherwise), REMFORK_ENGINE names the
engine (auto), REMFORK_ROUNDS how many rounds of a hundred are made (100), REMFORK_SWEEP the step of sweeps (1), REMFORK_TURN which part of a
sweep is made where that is more (0). Everything that a test starts is ended by its PID.
"""
import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(os.environ.get('REMFORK_BUILDDIR') or os.path.join(SOURCE, 'build'), 'tests', 'integration')
ENGINE = os.environ.get('REMFORK_ENGINE', 'auto')

# Repetitions find what is rare. A guest without hardware virtualisation, 10 to 20 times slower, makes fewer of them.
ROUNDS_PERCENT = int(os.environ.get('REMFORK_ROUNDS') or 100)
TURN = int(os.environ.get('REMFORK_TURN') or 0)
SWEEP_STEP = int(os.environ.get('REMFORK_SWEEP') or 1)

# A wait that takes this long has hung: it is no measure of speed, and is long enough for any machine under load.
DEADLINE = 60 if ROUNDS_PERCENT >= 100 else 240

PR_SET_CHILD_SUBREAPER = 36


def rounds(n, least=3):
    """How often a test repeats what it does @n times at most; never less than @least times."""
    return max(min(n, least), n * ROUNDS_PERCENT // 100)


def sweep_from(name, least=1):
    """Where a sweep over all n of something begins, and its step: @least where it is made alone; more in a run of all tests, and
    most in one with few rounds, from a place that differs with @name and the turn, so that as many runs as the step is long meet all
    of them."""
    step = least * max(SWEEP_STEP, 49 * (100 - ROUNDS_PERCENT) // 100)
    return 1 + (zlib.crc32(name.encode()) + TURN) % step, step


def program(name):
    return os.path.join(BUILD, name)


class Failure(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failure(text)


def expect_equal(got, wanted, what):
    if got != wanted:
        raise Failure(f'{what}: {got!r}, expected {wanted!r}')


class Skip(Exception):
    pass


class Tap:
    """Runs cases and prints TAP; the plan comes last. Arguments on the command line choose cases by substring."""

    def __init__(self):
        self.number = self.failed = 0
        # Clones of targets whose parent ends become ours: nothing escapes.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if os.geteuid() != 0:
            print('1..0 # SKIP root is needed to clone processes of all kinds')
            sys.exit(0)

    def run(self, name, function, *args):
        if len(sys.argv) > 1 and not any(a in name for a in sys.argv[1:]):
            return
        self.number += 1
        try:
            function(*args)
            print(f'ok {self.number} - {name}', flush=True)
        except Skip as e:
            print(f'ok {self.number} - {name} # SKIP {e}', flush=True)
        except Exception as e:
            self.failed += 1
            print(f'not ok {self.number} - {name}', flush=True)
            text = str(e) if isinstance(e, Failure) else traceback.format_exc()
            for line in text.splitlines():
                print(f'# {line}', flush=True)

    def done(self):
        print(f'1..{self.number}', flush=True)
        sys.exit(1 if self.failed else 0)


def wait_for(condition, what, deadline=DEADLINE):
    """Polls where the kernel has nothing to wait on (/proc); returns what condition() returned."""
    end = time.monotonic() + deadline
    pause = 0.0005
    while True:
        r = condition()
        if r:
            return r
        if time.monotonic() > end:
            raise Failure(f'after {deadline} s still not: {what}')
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def read_proc(pid, name):
    try:
        with open(f'/proc/{pid}/{name}', errors='replace') as f:
            return f.read()
    except (FileNotFoundError, ProcessLookupError):
        return None


def status(pid, key):
    text = read_proc(pid, 'status') or ''
    for line in text.splitlines():
        if line.startswith(key + ':'):
            return line.split(':', 1)[1].strip()
    return None


def state(pid):
    """The letter of proc(5), or None where the process is gone."""
    text = read_proc(pid, 'stat')
    return text[text.rindex(')') + 2] if text else None


def parent(pid):
    text = read_proc(pid, 'stat')
    return int(text[text.rindex(')') + 2:].split()[1]) if text else None


def alive(pid):
    return state(pid) not in (None, 'Z', 'X')


def blocked_call(pid):
    """The number of the system call that a sleeping process is in, None where it runs."""
    text = read_proc(pid, 'syscall')
    if not text or text.startswith('running'):
        return None
    return int(text.split()[0])


def wait_blocked(pid, what='the process waits in a call'):
    def is_blocked():  # one look at it: it may run meanwhile
        call = blocked_call(pid) if state(pid) == 'S' else None
        return call is not None and call >= 0
    return wait_for(is_blocked, what)


def threads_of(pid):
    """The threads of a process beside the main one."""
    try:
        return sorted({int(t) for t in os.listdir(f'/proc/{pid}/task')} - {pid})
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid=None):
    """The living children of a process, zombies not counted."""
    pid = pid or os.getpid()
    result = set()
    try:
        tasks = os.listdir(f'/proc/{pid}/task')
    except (FileNotFoundError, ProcessLookupError):
        return result
    for task in tasks:
        text = read_proc(pid, f'task/{task}/children') or ''
        result |= {int(p) for p in text.split()}
    return {p for p in result if alive(p)}


SYS_RECVMSG = 47  # x86-64


def waiting_workers(n, daemon=None):
    """The PIDs of remforkd's workers that wait for work, as soon as there are @n: its children that sleep in recvmsg(2). One whose work is
    done may be on its way out still, with the next one not there yet."""
    daemon = daemon or int(os.environ['REMFORK_DAEMON_PID'])

    def waiting():
        return {p for p in children(daemon) if (read_proc(p, 'syscall') or '').split(' ')[0] == str(SYS_RECVMSG)}
    return wait_for(lambda: len(workers := waiting()) == n and workers, f'{n} of the daemon\'s workers wait for work')


def reap():
    """Takes what clones of ours have ended; the processes of subprocess are told by their Popen objects."""
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
    except ChildProcessError:
        pass


def reap_but(known):
    """Takes what of our children has ended, clones that came to us and the like, but for the PIDs in @known, whose end is a result."""
    for task in os.listdir('/proc/self/task'):
        for pid in {int(p) for p in (read_proc('self', f'task/{task}/children') or '').split()} - known:
            if state(pid) == 'Z':
                os.waitpid(pid, 0)


def end(pid):
    """Ends a process of ours and takes it where it is our child."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        wait_for(lambda: not alive(pid), f'{pid} is gone')


class Refused(Exception):
    """A clone that was refused: its D-Bus error name and its sentence."""

    def __init__(self, text):
        super().__init__(text)
        self.name, _, self.message = text.strip().partition(': ')


def start_clone(pid, *options):
    return subprocess.Popen([program('clone-direct'), f'--engine={ENGINE}', *options, str(pid)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish_clone(worker):
    try:
        out, err = worker.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
        raise Failure('the clone was not made in time')
    if worker.returncode == 0:
        return [int(line) for line in out.split() if line.isdigit()]
    if worker.returncode == 1 and ': ' in err:
        raise Refused(err)
    raise Failure(f'clone-direct ended with {worker.returncode}: {err}')


def clone(pid, *options):
    """The PIDs of the clones."""
    return finish_clone(start_clone(pid, *options))


def clone_one(pid, *options):
    pids = clone(pid, *options)
    expect_equal(len(pids), 1, 'number of clones')
    return pids[0]


def engine_in_force():
    """'kernel' or 'ptrace', also where it is the program's to choose: its choice comes before it looks for the process."""
    if ENGINE != 'auto':
        return ENGINE
    try:
        finish_clone(subprocess.Popen([program('clone-direct'), '--engine=kernel', '0'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True))
    except Refused as e:
        return 'ptrace' if e.name.endswith('.Unsupported') else 'kernel'
    raise Failure('process 0 was cloned')


class Target:
    """A program under test with its output in a pipe; it and its clones end with the `with` block."""

    def __init__(self, *argv, path=None, stdin=subprocess.DEVNULL, **kwargs):
        self.argv = argv
        self.process = subprocess.Popen([path or program(argv[0]), *argv[1:]], stdin=stdin, stdout=subprocess.PIPE, **kwargs)
        self.pid = self.process.pid
        self.clones = set()
        self.rest = b''

    def line(self, deadline=DEADLINE):
        """The next line of output, from target or clones; None at its end."""
        end_time = time.monotonic() + deadline
        while b'\n' not in self.rest:
            left = end_time - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failure(f'{" ".join(self.argv)}: no output in {deadline} s')
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b'\n')
        return line.decode(errors='replace')

    def has_output(self):
        return b'\n' in self.rest or bool(select.select([self.process.stdout], [], [], 0)[0])

    def more_lines(self, n=30):
        """What of the next @n lines comes within a moment: for a message about a line that was not expected."""
        found = []
        try:
            while len(found) < n and (line := self.line(1)) is not None:
                found.append(line)
        except Failure:
            pass
        return found

    def wait_ready(self):
        line = self.line()
        expect(line and line.startswith('ready'), f'{" ".join(self.argv)} said {line!r}, not "ready"')
        return line.split()

    def clone(self, *options):
        pids = clone(self.pid, *options)
        self.clones |= set(pids)
        return pids

    def clone_one(self, *options):
        pids = self.clone(*options)
        expect_equal(len(pids), 1, 'number of clones')
        return pids[0]

    def drop(self, pid):
        end(pid)
        self.clones.discard(pid)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        for pid in list(self.clones):
            end(pid)
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self.process.stdout.close()


def expect_free(pid):
    """Neither stopped nor traced, nor is any of its threads."""
    def thread_is_free(tid):
        return status(tid, 'TracerPid') in ('0', None) and state(tid) not in ('t', 'T')

    def free():
        return all(thread_is_free(tid) for tid in [pid, *threads_of(pid)])
    wait_for(free, f'{pid} is neither stopped nor traced', deadline=20)


def code_end(path, offset):
    """Where in an ELF file the code ends that a mapping from @offset on begins with (elf(5): PT_LOAD, p_offset + p_filesz)."""
    with open(path, 'rb') as f:
        header = f.read(64)
        if header[:5] != b'\x7fELF\2':
            return None
        (table,) = struct.unpack_from('<Q', header, 32)
        size, n = struct.unpack_from('<HH', header, 54)
        f.seek(table)
        for _ in range(n):
            kind, _, begin, _, _, length = struct.unpack('<IIQQQQ', f.read(size)[:40])
            if kind == 1 and begin & ~4095 <= offset < begin + length:
                return begin + length
    return None


def code_of(pid, padding=True):
    """All executable memory that comes from files, and the map of it: what no clone may change. Without @padding: only what
    is code, not what fills the last page, which never runs."""
    result = []
    with open(f'/proc/{pid}/mem', 'rb', buffering=0) as mem:
        for line in read_proc(pid, 'maps').splitlines():
            fields = line.split()
            if 'x' not in fields[1] or len(fields) < 6 or not fields[5].startswith('/'):
                continue
            begin, finish = (int(x, 16) for x in fields[0].split('-'))
            offset = int(fields[2], 16)
            code = None if padding else code_end(fields[5], offset)
            mem.seek(begin)
            result.append((line, hash(mem.read(code - offset if code else finish - begin))))
    return result


def shared_file(directory, name, size=4096):
    path = os.path.join(directory, name)
    with open(path, 'wb') as f:
        f.truncate(size)
    os.chmod(path, 0o666)
    return path


def temporary_directory():
    directory = tempfile.TemporaryDirectory(prefix='remfork-test-', ignore_cleanup_errors=True)
    os.chmod(directory.name, 0o777)
    return directory
