# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of trees share."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from itest import *  # noqa: E402,F403

PYTHON = '/usr/bin/python3'
CLONES = rounds(10)


def start_tree(pid, *options):
    return start_clone(pid, '--tree', *options)


def finish_tree(worker):
    """Clones by the PID of what each is a clone of, the root first; and the notes."""
    out, err = worker.communicate(timeout=DEADLINE)
    if worker.returncode == 1 and ': ' in err:
        raise Refused(err.splitlines()[-1])
    expect_equal(worker.returncode, 0, f'exit status of clone-direct: {err}')
    pairs = [tuple(int(n) for n in line.split()) for line in out.splitlines() if line[:1].isdigit()]
    return {source: pid for pid, source in pairs}, [line for line in err.splitlines() if line.startswith('note: ')]


def descendants(pid):
    """All of a tree, parents first."""
    found = [pid]
    for p in found:
        found += sorted(children(p))
    return found


class Tree(Target):
    """Ends everything that is below it and its clones, too."""

    def clone_tree(self, *options):
        clones, self.notes = finish_tree(start_tree(self.pid, *options))
        self.clones |= set(clones.values())
        return clones

    def __exit__(self, *args):
        for pid in [*self.clones, self.pid]:
            if alive(pid):
                for p in reversed(descendants(pid)[1:]):
                    self.clones.add(p)
        super().__exit__(*args)

    def drop_all(self, pids):
        for pid in list(pids):
            end(pid)
            self.clones.discard(pid)


def python_tree(code, **kwargs):
    return Tree(PYTHON, '-c', 'import os, sys, time, signal\n' + code, path=PYTHON, **kwargs)


def shell_tree(code, **kwargs):
    return Tree('/bin/sh', '-c', code, path='/bin/sh', **kwargs)


def stat_field(pid, n):
    """As proc(5) counts them, from 3 on."""
    text = read_proc(pid, 'stat')
    return int(text[text.rindex(')') + 2:].split()[n - 3])


def expect_same_shape(clones):
    """Every clone is a child of its parent's clone; groups and sessions are those of the clones where the tree has them."""
    root = next(iter(clones))
    for source, pid in clones.items():
        if source != root:
            expect_equal(parent(pid), clones[parent(source)], f'parent of {pid}, clone of {source}, {read_proc(source, "cmdline")}')
        for field, what in ((5, 'process group'), (6, 'session')):
            of_source, of_clone = stat_field(source, field), stat_field(pid, field)
            expect_equal(of_clone, clones.get(of_source, of_source), f'{what} of {pid}, clone of {source}')
        expect_equal(read_proc(pid, 'cmdline'), read_proc(source, 'cmdline'), f'arguments of {pid}')
        expect_equal(read_proc(pid, 'comm'), read_proc(source, 'comm'), f'name of {pid}')
        expect_equal(os.readlink(f'/proc/{pid}/exe'), os.readlink(f'/proc/{source}/exe'), f'program of {pid}')
        expect_equal(read_proc(pid, 'environ'), read_proc(source, 'environ'), f'environment of {pid}')
    for source in clones:
        expect_free(source)


def expect_lines(tree, wanted):
    """So many lines, in any order."""
    got = sorted(tree.line() for _ in wanted)
    expect_equal(got, sorted(wanted), 'output')
