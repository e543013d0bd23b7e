# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs with threads, as Debian ships them: how each is started, put under load, and looked at by its own means."""
import http.client
import json
import os
import socket
import threading

from itest import *  # noqa: F403

# Each writes lines of its process ID, read anew each time, of how far it came, and of whether all was right.
PYTHON = r"""
import os, queue, random, threading, zlib
local, lock, jobs, results = threading.local(), threading.RLock(), queue.Queue(16), queue.Queue(16)
event, barrier, total = threading.Event(), threading.Barrier(3), [0]
def work():
    local.n = 0
    while True:
        n, data = jobs.get()
        with lock, lock:
            local.n += 1
            total[0] += 1
        results.put((n, zlib.crc32(data), local.n))
def feed():
    n = 0
    while True:
        jobs.put((n, b'%d' % n * 50))
        n += 1
def meet():
    while True:
        barrier.wait()
def tick():
    while True:
        event.wait(.01)
for f in (work, work, work, work, feed, meet, meet, meet, tick):
    threading.Thread(target=f, daemon=True).start()
seen, done, step = set(), 0, 0
while True:
    n, crc, _ = results.get()
    good = crc == zlib.crc32(b'%d' % n * 50) and n not in seen and n >= done
    step += 1
    seen.add(n)
    while done in seen:  # nothing is left out, nothing is done twice
        seen.remove(done)
        done += 1
    if step % 200 == 0 or not good:
        os.write(1, b'%d %d %s\n' % (os.getpid(), step, b'right' if good else b'wrong'))
"""

JAVA = r"""
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.concurrent.locks.*;

public class Work {
    static final AtomicLong wrong = new AtomicLong();
    static final ThreadLocal<long[]> own = ThreadLocal.withInitial(() -> new long[1]);
    static long expected;

    /* Garbage, a sort, and a sum: for the collector and both compilers. */
    static long piece(long seed) {
        TreeMap<Long, String> map = new TreeMap<>();
        Random random = new Random(seed);
        for (int i = 0; i < 2000; i++)
            map.merge(random.nextLong() % 1000, "x" + i, String::concat);
        long sum = 17;
        for (Map.Entry<Long, String> e : map.entrySet())
            sum = sum * 31 + e.getKey() * e.getValue().hashCode();
        return sum;
    }

    public static void main(String[] args) throws Exception {
        BlockingQueue<Integer> queue = new ArrayBlockingQueue<>(4);
        Object turn = new Object();
        int[] whose = {0};
        AtomicLong pieces = new AtomicLong(), turns = new AtomicLong();
        expected = piece(42);
        for (int i = 0; i < 3; i++)
            new Thread(() -> {
                try {
                    for (;;) {
                        queue.take();
                        own.get()[0]++;
                        if (piece(42) != expected)
                            wrong.incrementAndGet();
                        pieces.incrementAndGet();
                    }
                } catch (InterruptedException e) { wrong.incrementAndGet(); }
            }).start();
        for (int i = 0; i < 3; i++) {
            int me = i;
            new Thread(() -> { /* take turns: each waits until it is woken by the one before */
                try {
                    for (;;)
                        synchronized (turn) {
                            while (whose[0] != me)
                                turn.wait();
                            whose[0] = (me + 1) % 3;
                            turns.incrementAndGet();
                            turn.notifyAll();
                            turn.wait(1);
                        }
                } catch (InterruptedException e) { wrong.incrementAndGet(); }
            }).start();
        }
        ScheduledExecutorService clock = Executors.newScheduledThreadPool(1);
        AtomicLong ticks = new AtomicLong();
        clock.scheduleAtFixedRate(ticks::incrementAndGet, 5, 5, TimeUnit.MILLISECONDS);
        new Thread(() -> {
            long[] last = {0, 0, 0};
            for (long step = 0;;) {
                long[] now = {pieces.get(), turns.get(), ticks.get()};
                boolean all = true;
                for (int i = 0; i < 3; i++)
                    all &= now[i] > last[i];
                if (all) {
                    String pid = "";
                    while (pid.isEmpty()) /* what is cloned between open and read shares the position: one of the two finds the end */
                        try { pid = Files.readString(Path.of("/proc/self/stat")).split(" ")[0]; } catch (Exception e) { pid = "?"; }
                    System.out.println(pid + " " + ++step + (wrong.get() == 0 ? " right" : " wrong"));
                    last = now;
                }
                LockSupport.parkNanos(20_000_000);
            }
        }).start();
        for (int i = 0;; i++)
            queue.put(i);
    }
}
"""

NODE = r"""
const { Worker, isMainThread, parentPort } = require('worker_threads');
const crypto = require('crypto'), fs = require('fs'), http = require('http');
const digest = (n) => crypto.createHash('sha256').update('piece ' + n).digest('hex').slice(0, 16);
if (!isMainThread) {
    let heap = [];
    for (let n = 0;; n++) {  // garbage for the collector, work for the compiler
        heap.push({ n, text: 'x'.repeat(n % 50) });
        if (heap.length > 20000)
            heap = heap.slice(10000);
        if (n % 2000 === 0)
            parentPort.postMessage([n, digest(n)]);
    }
}
const state = { pieces: 0, wrong: 0, ticks: 0, files: 0, requests: 0 };
for (let i = 0; i < 2; i++)
    new Worker(__filename).on('message', ([n, d]) => {
        state.pieces++;
        state.wrong += d !== digest(n);
    });
setInterval(() => { state.ticks++; }, 5);
const read = () => fs.readFile(__filename, (e) => {  // by the threads of libuv
    state.files++;
    state.wrong += e !== null;
    setTimeout(read, 2);
});
read();
const server = http.createServer((request, response) => {
    state.requests++;
    response.end(JSON.stringify(state));
});
server.keepAliveTimeout = 0;
server.listen(process.argv[2], () => console.log('ready'));
"""


class Lines:
    """A program that reports by itself."""

    def __init__(self, target):
        self.target = target
        self.line()  # it is up

    def line(self):
        line = self.target.line()
        expect(line, 'the program ended')
        words = line.split()
        if len(words) != 3 or words[2] != 'right':
            raise Failure(f'it said {line!r}' + ''.join(f', {more!r}' for more in self.target.more_lines()))
        return int(words[0]), int(words[1])

    def options(self):
        return []

    def check(self, pid):
        """Target and clone come three steps on."""
        # As a set: a clone that is made between what the target says and the saying says it again, in the target's name.
        steps = {self.target.pid: set(), pid: set()}
        while min(len(s) for s in steps.values()) < 4:
            for p in steps:
                expect(alive(p), f'{"the target" if p == self.target.pid else "the clone"} died')
            who, step = self.line()
            if who in steps:
                steps[who].add(step)

    def finish(self):
        pass


class Server:
    """A server on a UNIX socket or a loopback port, with clients that never cease to ask. The clone has none of their connections and
    shares the listening socket: who is to answer a new one is told by stopping the other."""

    def __init__(self, target):
        self.target, self.enough, self.trouble = target, threading.Event(), []
        self.clients = []

    def load(self, function):
        def run():
            try:
                while not self.enough.is_set():
                    function()
            except Exception as e:
                self.trouble.append(f'a client: {type(e).__name__}: {e}')
        self.clients.append(threading.Thread(target=run))
        self.clients[-1].start()

    def options(self):
        return ['--isolate=all']

    def check(self, pid):
        for stopped, other in ((self.target.pid, pid), (pid, self.target.pid)):
            os.kill(stopped, signal.SIGSTOP)
            wait_for(lambda: state(stopped) == 'T' and all(state(t) == 'T' for t in threads_of(stopped)), 'one of the two is stopped')
            try:
                self.ask(other)
            except Exception as e:
                raise Failure(f'{"the clone" if other == pid else "the target"} (state {state(other)}): {type(e).__name__}: {e}')
            finally:
                os.kill(stopped, signal.SIGCONT)
        expect_equal(self.trouble, [], 'troubles of the clients')

    def finish(self):
        self.enough.set()
        for c in self.clients:
            c.join(DEADLINE)
        expect_equal(self.trouble, [], 'troubles of the clients')


class Redis(Server):
    def __init__(self, target, path):
        super().__init__(target)
        self.path, self.counts = path, [0, 0]
        wait_for(lambda: os.path.exists(path), 'redis listens')
        self.ask_one(self.connect(), 'SADD', 'set', *(f'member {i}' for i in range(500)))
        for i in range(2):
            connection = self.connect()
            self.load(lambda i=i, c=connection: self.count(i, c))

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(DEADLINE)
        s.connect(self.path)
        return s

    def ask_one(self, s, *words):
        s.sendall(f'*{len(words)}\r\n'.encode() + b''.join(f'${len(w)}\r\n{w}\r\n'.encode() for w in words))
        answer = b''
        while not answer.endswith(b'\r\n'):
            data = s.recv(65536)
            expect(data, 'the connection was closed')
            answer += data
        return answer

    def count(self, i, connection):
        """Each answer comes once, and in order: none is the clone's."""
        self.counts[i] += 1
        expect_equal(self.ask_one(connection, 'INCR', f'counter{i}'), f':{self.counts[i]}\r\n'.encode(), 'the counter')

    def ask(self, pid):
        with self.connect() as s:
            expect_equal(self.ask_one(s, 'SCARD', 'set'), b':500\r\n', 'size of a set')
            expect_equal(self.ask_one(s, 'COPY', 'set', 'copy'), b':1\r\n', 'a set is copied')
            freed = self.freed(s)
            expect_equal(self.ask_one(s, 'UNLINK', 'copy'), b':1\r\n', 'a set is taken away by a thread')
            wait_for(lambda: self.freed(s) > freed, 'a thread has freed it')

    def freed(self, s):
        text = self.ask_one(s, 'INFO', 'memory')
        return int(text.split(b'lazyfreed_objects:')[1].split()[0])


class Node(Server):
    def __init__(self, target, path):
        super().__init__(target)
        self.path = path
        target.wait_ready()
        for _ in range(2):  # each with one connection, which is the target's for ever
            connection = self.connect()
            self.fetch(connection)
            self.load(lambda c=connection: self.fetch(c))

    def connect(self):
        c = http.client.HTTPConnection('localhost')
        c.sock = socket.socket(socket.AF_UNIX)
        c.sock.settimeout(DEADLINE)
        c.sock.connect(self.path)
        return c

    def fetch(self, connection):
        connection.request('GET', '/')
        got = json.loads(connection.getresponse().read())
        expect_equal(got['wrong'], 0, 'pieces of work that came out wrong')
        return got

    def ask(self, pid):
        """Timers, both workers, files and requests go on."""
        c = self.connect()
        before = self.fetch(c)

        for part in ('pieces', 'ticks', 'files', 'requests'):
            wait_for(lambda p=part: self.fetch(c)[p] > before[p] + 1, f'there are more {part}')
        c.close()


class Nats(Server):
    """Written in Go: goroutines, channels, timers, its collector."""

    def __init__(self, target, directory):
        super().__init__(target)

        def port():
            files = [f for f in os.listdir(directory) if f.endswith('.ports')]
            try:
                with open(os.path.join(directory, files[0])) as f:
                    return int(json.load(f)['nats'][0].rsplit(':', 1)[1])
            except (IndexError, ValueError, KeyError):
                return None
        self.port = wait_for(port, 'nats-server says its port')
        for i in range(2):
            connection = self.connect()
            self.load(lambda c=connection, i=i: self.echo(c, f'subject{i}'))

    def connect(self):
        s = socket.create_connection(('127.0.0.1', self.port), DEADLINE)
        f = s.makefile('rwb', buffering=0)
        f.socket, f.n = s, 0
        expect(f.readline().startswith(b'INFO '), 'nats-server greets')
        f.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        expect_equal(f.readline(), b'PONG\r\n', 'nats-server answers')
        return f

    def line(self, f):
        """The next line that is not the server's own question whether one is there."""
        while (line := f.readline()) == b'PING\r\n':
            f.write(b'PONG\r\n')
        expect(line, 'the connection was closed')
        return line

    def echo(self, f, subject):
        f.n += 1
        if f.n == 1:
            f.write(f'SUB {subject} 1\r\n'.encode())
        text = f'message {f.n} '.encode() * 20
        f.write(f'PUB {subject} {len(text)}\r\n'.encode() + text + b'\r\n')
        expect_equal(self.line(f), f'MSG {subject} 1 {len(text)}\r\n'.encode(), 'the head of a message')
        expect_equal(self.line(f), text + b'\r\n', 'a message')

    def ask(self, pid):
        f = self.connect()
        for _ in range(50):
            self.echo(f, 'check')
        expect_equal(f.readline(), b'PING\r\n', 'what a timer of the server sends')
        f.socket.close()


SQLITE = ('create table t(x);\nbegin;\ninsert into t with recursive c(x) as (values(1) union all select x + 1 from c where x < {n}) select x from c;\n'
          'select count(*), sum(x) from t where x % 3 = 0;\ncommit;\nselect count(*) from t;\n')
