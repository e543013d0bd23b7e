# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the trials at random instants are made of: the three daemons, each of which can be killed and comes again; a caller
with a connection of its own; a target whose work, and its clones', is counted by PID. Runs under tests/with-daemon."""
import mmap
import os
import pwd
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time

from gi.repository import Gio, GLib

from itest import (DEADLINE, Refused, Target, alive, children, end, expect, expect_equal, expect_free, program, shared_file, state, status,
                   temporary_directory, threads_of, wait_for)

BUS, PATH, INTERFACE = 'org.remfork.Clone', '/org/remfork/Clone', 'org.remfork.Clone'
POLKIT = 'org.freedesktop.PolicyKit1'
ADDRESS = 'DBUS_SYSTEM_BUS_ADDRESS'
SLOTS, THREADS, SLOT = 4096, 4, struct.Struct('8Q')


def connect():
    return Gio.DBusConnection.new_for_address_sync(
        os.environ[ADDRESS], Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION, None, None)


def descendants(pid):
    try:
        found = children(pid)
    except FileNotFoundError:
        return set()
    return found.union(*(descendants(p) for p in found))


class Service:
    """One of the three: begins as with-daemon's, and is ours from its first death on."""

    def __init__(self, name, variable, log):
        self.name, self.log, self.process = name, log, None
        self.command = shlex.split(os.environ[f'REMFORK_{variable}_COMMAND'])
        self.pid = int(os.environ[f'REMFORK_{variable}_PID'])

    def is_there(self):
        return alive(self.pid)

    def kill(self):
        try:
            os.kill(self.pid, signal.SIGKILL)  # a child of ours or of with-daemon's; either reaps it later
        except ProcessLookupError:
            pass
        wait_for(lambda: not self.is_there(), f'{self.name} is gone')

    def start(self):
        self.gone()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd='/',
                                        start_new_session=True)
        self.pid = self.process.pid

    def gone(self):
        """Waits for its end, which no crash may be."""
        wait_for(lambda: not alive(self.pid), f'{self.name} is gone')
        if self.process:
            code = self.process.wait()
            self.process = None
            expect(code >= 0 or -code in (signal.SIGKILL, signal.SIGTERM), f'{self.name} crashed: signal {-code}')


class Services:
    def __init__(self):
        self.log = tempfile.TemporaryFile()
        self.bus, self.polkitd, self.daemon = (Service(n, v, self.log) for n, v in
                                               (('dbus-daemon', 'BUS'), ('polkitd', 'POLKITD'), ('remforkd', 'DAEMON')))
        self.connection = connect()

    def has_name(self, name, pid):
        """Whether it is @pid's: the bus learns of the end of the one before in its own time."""
        try:
            return self.connection.call_sync('org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus',
                                             'GetConnectionUnixProcessID', GLib.Variant('(s)', (name,)), None, 0, DEADLINE * 1000,
                                             None).unpack()[0] == pid
        except GLib.Error as e:
            if Gio.DBusError.get_remote_error(e) != 'org.freedesktop.DBus.Error.NameHasNoOwner':
                raise
            return False

    def pids(self):
        return {s.pid for s in (self.bus, self.polkitd, self.daemon)}

    def reconnect(self):
        """Until the new bus listens the address is refused."""
        def connected():
            try:
                return connect()
            except GLib.Error:
                expect(self.bus.is_there(), 'the new bus ended')
                return None
        self.connection = wait_for(connected, 'the new bus listens')

    def restore(self, workers):
        """Starts again what was killed, as systemd would, and waits until it is there. @workers of a dead daemon end by themselves."""
        if not self.bus.is_there():
            for s in (self.daemon, self.polkitd):  # polkitd ends without the bus; remforkd must, too
                wait_for(lambda s=s: not s.is_there(), f'{s.name} ends without the bus')
            self.bus.start()
            self.reconnect()
        named = ((self.polkitd, POLKIT), (self.daemon, BUS))
        for s, name in named:
            if not s.is_there():
                # Until the bus has taken notice, the new one would find the name in use, and end.
                wait_for(lambda s=s, name=name: not self.has_name(name, s.pid), f'the bus knows that {s.name} is gone')
                s.start()
        for s, name in named:
            def there(s=s, name=name):
                expect(s.is_there(), f'the new {s.name} ended')
                return self.has_name(name, s.pid)
            wait_for(there, f'{s.name} is on the bus')
        if workers:
            wait_for(lambda: not any(alive(w) for w in workers), 'the workers of the daemon that was killed end')

    def busy(self):
        """Requests that are not over; those that are can be asked about for a while."""
        listed, = self.connection.call_sync(BUS, PATH, INTERFACE, 'ListRequests', None, None, 0, DEADLINE * 1000, None).unpack()
        return [r for r in listed if r[3] != 'finished']

    def stop(self):
        for s in (self.daemon, self.polkitd, self.bus):
            if s.process:
                s.process.terminate()
                s.gone()


class Client:
    """A caller of a user's, on the bus already: what is killed while it waits is in the middle of a request."""

    def __init__(self, user):
        uid = pwd.getpwnam(user).pw_uid
        self.process = subprocess.Popen([program('trial-caller')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=uid,
                                        group=uid, extra_groups=[])
        self.pid = self.process.pid
        expect_equal(self.process.stdout.readline(), 'ready\n', 'a caller')

    def ask(self, pid, options):
        self.process.stdin.write(' '.join([str(pid), *(f'{k} {t} {int(v) if t == "b" else v}' for k, (t, v) in options.items())]) + '\n')
        self.process.stdin.flush()

    def answer(self):
        """The clones, or a Refused; None from one that was killed. One answer comes for each question, and no other."""
        line = self.process.stdout.readline()
        if not line.endswith('\n'):
            return None
        word, _, rest = line.strip().partition(' ')
        if word == 'clones':
            return [int(p) for p in rest.split()]
        name, _, message = rest.partition(' ')
        return Refused(f'{name}: {message}')

    def end(self):
        self.process.kill()
        self.process.communicate()


class Subject(Target):
    """A target of alice's that looks after its own work, by kind (trial-target.c)."""

    def __init__(self, kind):
        self.directory = temporary_directory()
        path = shared_file(self.directory.name, 'slots', SLOTS * SLOT.size)
        uid = pwd.getpwnam('alice').pw_uid
        super().__init__('trial-target', kind, path, user=uid, group=uid, extra_groups=[])
        self.wait_ready()
        with open(path, 'rb') as f:
            self.map = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        self.threads = THREADS if kind == 'threads' else 1
        wait_for(lambda: self.is_complete(self.pid), 'the target works')
        self.size = len(self.members(self.pid))

    def is_complete(self, pid):
        return len(self.members(pid)) == (3 if self.argv[1] == 'tree' else 1) and len(threads_of(pid)) == self.threads - 1

    def members(self, pid):
        return {pid} | descendants(pid)

    def slot(self, pid):
        """Pieces of work by each thread, and those that were wrong."""
        owner, wrong, *beats = SLOT.unpack_from(self.map, pid % SLOTS * SLOT.size)
        return (beats[:self.threads] if owner == pid else [0] * self.threads), (wrong if owner == pid else 0)

    def go_on(self, pids, what):
        """Two pieces more from each thread of each process: at least one was begun after now."""
        before = {p: self.slot(p)[0] for p in pids}
        for p in pids:
            def advanced(p=p):
                expect(alive(p), f'{what}: process {p} ended')
                return all(now >= then + 2 for now, then in zip(self.slot(p)[0], before[p]))
            wait_for(advanced, f'{what}: each thread of process {p} ({state(p)}, traced by {status(p, "TracerPid")}) goes on with its work')
            expect_equal(self.slot(p)[1], 0, f'{what}: pieces of work of process {p} that came out wrong')

    def check(self):
        members = self.members(self.pid)
        expect_equal(len(members), self.size, 'processes of the target')
        for p in members:
            expect_free(p)
        self.go_on(members, 'the target')

    def end_clone(self, pid):
        for p in self.members(pid):
            end(p)
            self.clones.discard(p)

    def __exit__(self, *args):
        for pid in self.members(self.pid) - {self.pid}:
            end(pid)
        super().__exit__(*args)
        self.map.close()
        self.directory.cleanup()


def text_of(log):
    log.seek(0)
    return log.read().decode(errors='replace')[-3000:]
