/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a request: what daemon/request.c, request-authorize.c, queue.c, polkit.c, peer.c and worker.c do together, and everything that can
 * come in between. spin tries every order of events. It is to hold, in every one of them:
 *
 *   reply     each call is answered once, unless its caller is gone or the daemon died (then the bus answers)
 *   target    no target stays stopped: when all is over it runs
 *   denial    no clone runs of a program, under credentials, that the requester has no right to clone
 *   orphan    no clone is left that its requester was not told of, and none begins to run after the daemon's end
 *   one       of one target, one request runs at a time
 *   state     a request goes from state to state only as transition_table of daemon/request.c has it
 *
 * The states and results are those of daemon/request.h, by name and in order; tests/model/test-model compares them. BUG_n
 * builds in one mistake each, which spin must find, so that this model is known to be able to.
 *
 * N requests (1 or 2) for one target, and EVENTS things that happen to them. The daemon's handlers are atomic, since it has one thread; the worker's steps are not.
 */

#ifndef N
#define N 2
#endif
#ifndef EVENTS
#define EVENTS 3
#endif

#define JUDGED_MAX 2 /* 3 in request-authorize.c; what matters is that there is an end */

/* daemon/request.h: RequestState */
#define REQUEST_AUTHORIZING 0
#define REQUEST_QUEUED      1
#define REQUEST_RUNNING     2
#define REQUEST_FINISHED    3

/* daemon/request.h: RequestResult */
#define REQUEST_RESULT_NONE 0
#define REQUEST_DONE        1
#define REQUEST_FAILED      2
#define REQUEST_CANCELED    3
#define REQUEST_TIMEOUT     4
#define REQUEST_DENIED      5

/* A worker's process. */
#define WORKER_NONE   0 /* not made, or reaped */
#define WORKER_ALIVE  1
#define WORKER_DEAD   2 /* a zombie */

/* What a worker sent and nobody read: daemon/worker-protocol.h. At most one HELD and one that ends the request. */
#define MESSAGE_NONE     0
#define MESSAGE_HELD     1
#define MESSAGE_RELEASED 2 /* behind HELD */
#define MESSAGE_ERROR    3
#define MESSAGE_CHANGED  4 /* an error, too: CLONE_ERROR_CHANGED */

#define CLONE_NONE    0
#define CLONE_HELD    1 /* made, and stopped before its first instruction */
#define CLONE_RUNS    2
#define CLONE_KILLED  3

typedef Request {
        byte state = REQUEST_AUTHORIZING;
        byte result = REQUEST_RESULT_NONE;
        byte n_judged;
        bool peer = true;      /* the caller is on the bus */
        bool check;            /* polkit was asked and did not answer */
        bool judge_again;
        bool settled;          /* worker.c: released() or failed() was called */
        bool error;            /* worker.c: why it fails is known already */
        byte message = MESSAGE_NONE;
        byte worker = WORKER_NONE;
        byte clone = CLONE_NONE;
        bool pidfds;           /* the daemon has the clone's pidfd */
        byte replies;
        byte copied;           /* the generation of the target that the clone is of */
        byte judged;           /* the generation of the target that the right is there for; 0: none */
}

Request r[N];

bool daemon_alive = true;
bool target_stopped;       /* by a worker */
byte holder = 255;         /* the request whose worker holds the target */
byte running = 255;        /* queue.c: the request that has the target's turn */
byte generation = 1;       /* of the target: its program and its credentials */
bool allowed[3];           /* whether a generation may be cloned; [1] and [2] are chosen at first */
byte n_over;

/* request.c: request_set_state() */
inline set_state(i, to) {
        assert((r[i].state == REQUEST_AUTHORIZING && (to == REQUEST_QUEUED || to == REQUEST_FINISHED)) ||
               (r[i].state == REQUEST_QUEUED && (to == REQUEST_RUNNING || to == REQUEST_FINISHED)) ||
               (r[i].state == REQUEST_RUNNING && (to == REQUEST_AUTHORIZING || to == REQUEST_FINISHED)));
        r[i].state = to
}

/* request-bus.c: request_reply() */
inline reply(i) {
        if
        :: r[i].peer -> r[i].replies++
        :: else
        fi
}

/* request.c: request_finish() */
inline finish(i, how) {
        set_state(i, REQUEST_FINISHED);
        r[i].result = how;
        r[i].check = false; /* polkit_check_free(): the answer is not waited for any more */
#ifndef BUG_8
        if
        :: running == i -> running = 255
        :: else
        fi;
#endif
        reply(i);
        n_over++
}

/* request-authorize.c: request_authorize(). The target's credentials are read, and polkit is asked for what was read. */
inline authorize(i) {
        if
        :: r[i].n_judged >= JUDGED_MAX -> finish(i, REQUEST_DENIED)
        :: else ->
                r[i].n_judged++;
                r[i].judged = generation;
                r[i].check = true
        fi
}

/* worker.c: destroy_clones() */
inline destroy(i) {
        if
        :: r[i].pidfds && r[i].clone != CLONE_NONE -> r[i].clone = CLONE_KILLED
        :: else
        fi;
        r[i].pidfds = false
}

/* worker.c: settle_failed(), and on_failed() of request.c. @how is r[i].result to be. */
inline fail(i, how) {
        destroy(i);
        r[i].settled = true;
        finish(i, how)
}

/* What happens to processes whose worker ends. The target restores itself, PTRACE_O_EXITKILL ends a clone that is traced. */
inline worker_ends(i) {
        r[i].worker = WORKER_DEAD;
        if
        :: holder == i ->
                holder = 255;
#ifndef BUG_4
                target_stopped = false
#endif
        :: else
        fi;
#ifndef BUG_5
        if
        :: r[i].clone == CLONE_HELD -> r[i].clone = CLONE_KILLED
        :: else
        fi
#endif
}

/* request.c: request_cancel() */
inline cancel(i, how) {
        if
        :: r[i].state == REQUEST_FINISHED -> skip
        :: r[i].state == REQUEST_RUNNING && !r[i].judge_again ->
                /* worker.c: worker_kill(); what becomes of the request is said when the worker is reaped */
                if
                :: !r[i].settled && !r[i].error && r[i].worker != WORKER_NONE ->
                        r[i].error = true;
                        r[i].result = how;
                        if
                        :: r[i].worker == WORKER_ALIVE -> worker_ends(i)
                        :: else
                        fi
#ifdef BUG_1
                        ; finish(i, how)
#endif
                :: else
                fi
        :: else -> finish(i, how)
        fi
}

/* worker.c: handle_message() of what is next; the messages of a request that was settled are not listened to. */
inline take_message(i) {
        if
        :: r[i].message == MESSAGE_HELD ->
                r[i].pidfds = true;
                r[i].message = MESSAGE_NONE
        :: r[i].message == MESSAGE_RELEASED ->
                r[i].pidfds = false; /* closed: they are not the daemon's any more */
                r[i].settled = true;
                r[i].message = MESSAGE_NONE;
                finish(i, REQUEST_DONE)
        :: r[i].message == MESSAGE_ERROR ->
                r[i].message = MESSAGE_NONE;
                if
                :: r[i].error -> fail(i, r[i].result)
                :: else -> fail(i, REQUEST_FAILED)
                fi
        :: r[i].message == MESSAGE_CHANGED ->
                r[i].message = MESSAGE_NONE;
                destroy(i);
                r[i].settled = true;
                if
                :: r[i].error -> finish(i, r[i].result)
                :: else -> r[i].judge_again = true
                fi
        fi
}

/* worker.c: on_child(), on_gone() of request.c. It comes after all messages (PRIORITY_CHILD, drain()). */
inline reap(i) {
        r[i].worker = WORKER_NONE;
        if
        :: !r[i].settled && r[i].error -> fail(i, r[i].result)
        :: !r[i].settled && !r[i].error -> fail(i, REQUEST_FAILED)
        :: else
        fi;
        if
        :: r[i].judge_again && r[i].state == REQUEST_RUNNING ->
                r[i].judge_again = false;
                set_state(i, REQUEST_AUTHORIZING);
                running = 255; /* queue_unready() */
                authorize(i)
        :: else -> r[i].judge_again = false
        fi
}

/* What the event loop has to do for a request: an event source is ready. */
#define POLKIT_ANSWERED(i) (r[i].check && r[i].state == REQUEST_AUTHORIZING)
#ifdef BUG_7
#define TURN_CAME(i) (r[i].state == REQUEST_QUEUED)
#else
#define TURN_CAME(i) (r[i].state == REQUEST_QUEUED && running == 255)
#endif
#define WAS_TOLD(i) (r[i].message != MESSAGE_NONE && !r[i].settled)
#define CHILD_ENDED(i) (r[i].worker == WORKER_DEAD && !WAS_TOLD(i))
#ifdef BUG_6
#define STALE_ANSWER(i) (r[i].state == REQUEST_FINISHED && r[i].result == REQUEST_CANCELED && r[i].replies == 1)
#else
#define STALE_ANSWER(i) false
#endif
#define READY(i) (POLKIT_ANSWERED(i) || TURN_CAME(i) || WAS_TOLD(i) || CHILD_ENDED(i) || STALE_ANSWER(i))

inline handle(i) {
        if
        /* on_polkit_done(): yes for what was asked; then the target is looked at again. */
        :: POLKIT_ANSWERED(i) && allowed[r[i].judged] ->
                r[i].check = false;
                if
#ifdef BUG_3
                :: true -> r[i].judged = generation; set_state(i, REQUEST_QUEUED)
#else
                :: r[i].judged == generation -> set_state(i, REQUEST_QUEUED)
                :: else -> authorize(i)
#endif
                fi
        /* ... no, an error, or no answer in time: a denial. */
        :: POLKIT_ANSWERED(i) ->
                r[i].check = false;
#ifdef BUG_2
                set_state(i, REQUEST_QUEUED)
#else
                finish(i, REQUEST_DENIED)
#endif
        :: STALE_ANSWER(i) -> reply(i)
        /* queue_next(), request_run() */
        :: TURN_CAME(i) ->
                running = i;
                set_state(i, REQUEST_RUNNING);
                r[i].settled = false;
                r[i].error = false;
                r[i].message = MESSAGE_NONE;
                if
                :: r[i].worker = WORKER_ALIVE; run Worker(i)
                :: finish(i, REQUEST_FAILED) /* a worker cannot be started */
                fi
        :: WAS_TOLD(i) -> take_message(i)
        :: CHILD_ENDED(i) -> reap(i)
        fi
}

/* One handler at a time, in any order; it waits where there is nothing to do. */
proctype Daemon() {
        do
        :: atomic { daemon_alive && READY(0) -> handle(0) }
#if N > 1
        :: atomic { daemon_alive && READY(1) -> handle(1) }
#endif
        :: atomic { !daemon_alive || (n_over == N && r[0].worker == WORKER_NONE && r[N - 1].worker == WORKER_NONE) -> break }
        od
}

/*
 * worker-child.c and an engine: hold the target, judge, make the clone, hand it over, let go, tell. It may end anywhere, by
 * itself or by a kill; a step that it makes is whole or was not begun.
 */
proctype Worker(byte i) {
#define ALIVE (r[i].worker == WORKER_ALIVE)
        /* The target is held; nobody else can. */
        if
        :: atomic { ALIVE && !target_stopped && holder == 255 -> target_stopped = true; holder = i }
        :: atomic { ALIVE && holder != 255 -> assert(false) } /* one */
        :: atomic { ALIVE -> r[i].message = MESSAGE_ERROR; worker_ends(i); goto over } /* somebody else traces it: Busy */
        :: atomic { !ALIVE -> goto over }
        fi;

        /* on_judge(): what is read now is what is cloned, since it is stopped. */
        if
#ifndef BUG_9
        :: atomic { ALIVE && generation != r[i].judged -> r[i].message = MESSAGE_CHANGED; worker_ends(i); goto over }
        :: atomic { ALIVE && generation == r[i].judged }
#else
        :: atomic { ALIVE }
#endif
        :: atomic { !ALIVE -> goto over }
        fi;

        if
        :: atomic { ALIVE -> r[i].clone = CLONE_HELD; r[i].copied = generation }
        :: atomic { ALIVE -> r[i].message = MESSAGE_ERROR; worker_ends(i); goto over } /* it cannot be made */
        :: atomic { !ALIVE -> goto over }
        fi;

        /* on_held(). Its pidfd is in the daemon before the clone runs. */
        if
#ifndef BUG_10
        :: atomic { ALIVE -> r[i].message = MESSAGE_HELD }
#else
        :: atomic { ALIVE }
#endif
        :: atomic { !ALIVE -> goto over }
        fi;

        /* The target and the clone go on. */
        if
        :: atomic { ALIVE -> holder = 255; target_stopped = false }
        :: atomic { !ALIVE -> goto over }
        fi;
        if
        :: atomic { ALIVE ->
                assert(daemon_alive);                                          /* orphan */
                assert(allowed[r[i].copied]);                                  /* denial */
                r[i].clone = CLONE_RUNS }
        :: atomic { !ALIVE -> goto over }
        fi;

        /* The message before was read, or is before this one in the socket. */
        if
        :: atomic { ALIVE && r[i].message == MESSAGE_NONE -> r[i].message = MESSAGE_RELEASED }
        :: atomic { !ALIVE -> goto over }
        fi;

        /* parent "daemon": it stays until the clone ends. */
        if
        :: atomic { ALIVE -> worker_ends(i) }
        :: atomic { !ALIVE }
        fi;
over:
        skip
}

/* What comes from outside: up to EVENTS of all these, at any time and in any order. */
inline disturb(i) {
        if
        :: r[i].peer -> /* peer.c: on_name_owner_changed(), manager_peer_lost() */
                r[i].check = false;
                r[i].peer = false;
                cancel(i, REQUEST_CANCELED)
        :: cancel(i, REQUEST_CANCELED) /* Cancel() */
        :: r[i].state != REQUEST_AUTHORIZING -> cancel(i, REQUEST_TIMEOUT) /* on_deadline() */
        :: r[i].worker == WORKER_ALIVE -> worker_ends(i) /* SIGKILL, SIGALRM, a crash */
        fi
}

/* remforkd ends by a kill: PR_SET_PDEATHSIG takes its workers along. */
inline kill_daemon() {
        daemon_alive = false;
#ifndef BUG_11
        if
        :: r[0].worker == WORKER_ALIVE -> worker_ends(0)
        :: else
        fi;
#if N > 1
        if
        :: r[1].worker == WORKER_ALIVE -> worker_ends(1)
        :: else
        fi
#endif
#else
        skip
#endif
}

proctype World() {
        byte left = EVENTS;

        do
        :: atomic { left > 0 && daemon_alive && r[0].state != REQUEST_FINISHED -> left--; disturb(0) }
#if N > 1
        :: atomic { left > 0 && daemon_alive && r[1].state != REQUEST_FINISHED -> left--; disturb(1) }
#endif
        :: atomic { left > 0 && daemon_alive && generation == 1 && !target_stopped -> /* it executes another program */
                left--;
                generation = 2 }
        :: atomic { left > 0 && daemon_alive -> left--; kill_daemon() }
        :: atomic { n_over == N || !daemon_alive || left == 0 -> break }
        :: atomic { left > 0 -> left = 0; break }
        od
}

/* When nothing moves any more. */
proctype Judge() {
        byte i;

        timeout;
        atomic {
                assert(!target_stopped && holder == 255);                      /* target */
                i = 0;
                do
                :: i < N ->
                        assert(r[i].clone != CLONE_HELD);                      /* orphan */
                        if
                        :: daemon_alive ->
                                assert(r[i].state == REQUEST_FINISHED && r[i].worker == WORKER_NONE);
                                assert(r[i].replies == 1 || (!r[i].peer && r[i].replies == 0)); /* reply */
                                assert(r[i].result != REQUEST_RESULT_NONE);
                                assert((r[i].result == REQUEST_DONE) == (r[i].clone == CLONE_RUNS)); /* orphan */
                        :: else
                        fi;
                        i++
                :: else -> break
                od
        }
}

init {
        atomic {
                if
                :: allowed[1] = true
                :: allowed[1] = false
                fi;
                if
                :: allowed[2] = true
                :: allowed[2] = false
                fi;
                authorize(0);
#if N > 1
                authorize(1);
#endif
                run Daemon();
                run World();
                run Judge()
        }
}
