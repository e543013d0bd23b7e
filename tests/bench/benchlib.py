# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the measurements share: the target that measures itself, and the ways to clone it."""
import os
import signal
import statistics
import subprocess
import time

from itest import BUILD, DEADLINE, ENGINE, Failure, Target, end, start_clone

BENCH_TARGET = os.path.join(os.path.dirname(BUILD), 'bench', 'bench-target')

SETTLE = 0.005  # seconds in which a target on a busy machine gets a processor again

median = statistics.median


class BenchTarget(Target):
    """bench-target: answers a line with a line."""

    def __init__(self, mb):
        super().__init__('bench-target', str(mb), path=BENCH_TARGET, stdin=subprocess.PIPE, bufsize=0)
        self.wait_ready()

    def ask(self, word):
        self.process.stdin.write(word.encode() + b'\n')
        return float(self.line())


class BenchClient:
    """bench-client: a connection to the bus that answers a line with a line of numbers."""

    def __enter__(self):
        self.process = subprocess.Popen([os.path.join(os.path.dirname(BENCH_TARGET), 'bench-client')], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, bufsize=0)
        return self

    def __exit__(self, *args):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, text):
        self.process.stdin.write(text.encode() + b'\n')
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f'bench-client ended at "{text}"')
        return [int(word) for word in line.split()]


def reap():
    """Takes the clones that have ended: they are children of their targets' parent."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def pause_of(target, make):
    """Nanoseconds that the target, computing, did not run while make() cloned it; and what make() told besides."""
    target.process.stdin.write(b'spin\n')
    target.line()  # it spins
    pids, told = make()
    time.sleep(SETTLE)  # a gap that lasts until the end of the spinning is none that it can tell
    for pid in pids:
        end(pid)
    os.kill(target.pid, signal.SIGUSR1)
    return float(target.line()), told


def direct(target, engine=ENGINE, *options):
    """The clones that an engine alone makes, and the target's pause in nanoseconds as the engine has it."""
    # Clones that ran would take the processor from the target.
    worker = start_clone(target.pid, '-v', '--stopped', f'--engine={engine}', *options)
    out, err = worker.communicate(timeout=DEADLINE)
    if worker.returncode:
        raise Failure(err)
    return [int(line.split()[0]) for line in out.splitlines()], float(err.split('pause ')[1].split()[0])


def gdb(target):
    """The clone that gdb makes by calling fork() in the target, and the nanoseconds that the command took."""
    start = time.monotonic()
    done = subprocess.run(['gdb', '-q', '-nx', '-batch', '-p', str(target.pid), '-ex', 'print (int)fork()'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    took = time.monotonic() - start
    line = next((x for x in done.stdout.splitlines() if x.startswith('$1 = ')), None)
    if not line:
        # Some do not know all of the registers of a newer processor, and cannot give them back.
        raise Failure(f'gdb did not fork: it says "{(done.stderr or done.stdout).strip().splitlines()[-1]}"')
    return [int(line.split('= ')[1])], took * 1e9
