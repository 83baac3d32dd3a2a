/* What the files of the funnel share. */
#ifndef OE_HOOK_IO_PRIVATE_H
#define OE_HOOK_IO_PRIVATE_H

#include "io.h"
#include "report.h"

enum { OE_LOCK_RX = 1, OE_LOCK_TX = 2 };

/* What a call holds of a socket's locks. */
struct oe_held {
    int locks;
    struct oe_sock *outer; /* the socket that the thread was in when a signal handler brought it here */
};

/*
 * Locks a direction; where the phase is not OE_PHASE_RECORDS, both. *held is for oe_io_unlock. Claims the change against other processes (share.h).
 * 0, or -errno with nothing held: EAGAIN in a signal handler that met its own thread, ECONNRESET where another process went on.
 */
int oe_io_lock(struct oe_sock *s, enum oe_dir dir, struct oe_held *held);
void oe_io_unlock(struct oe_sock *s, const struct oe_held *held);

/* Whether this thread, further down its stack, waits for the end of the handshake of s. */
int oe_io_waits_here(const struct oe_sock *s);

/* Sleeps without being a cancellation point or a call of libc's. fd >= 0: or until it is writable; ms < 0: without end. Result of ppoll(2). */
long oe_io_sleep(int fd, int ms);

/* tx held: hands what is pending to the kernel. 0: all of it, or the kernel is full (see s->pending); -errno: the connection failed. */
int oe_io_flush(struct oe_sock *s, int fd, int flags);

/* Both held: the initiator's wait for the answer to its probe is open. Waits for more, processes it, returns when it is over. Nothing held. */
void oe_io_wait_handshake(struct oe_sock *s, int fd, struct oe_report *report);

/* Both held: reacts to a push's status: reports a state that was decided, breaks the connection if it must. 0, or -errno. */
int oe_io_settle(struct oe_sock *s, enum oe_dir dir, enum oe_status st, struct oe_report *report);

/* Both held, before the first bytes of an initiator's connection, in either direction: is the peer known? first: of the application's bytes, or what they
 * may still be. */
enum oe_status oe_io_ask_trust(struct oe_sock *s, uint8_t first);

/* Both held, after a push or an end: where the connection was refused, sends what is left to say and shuts it down. */
void oe_io_refuse(struct oe_sock *s, int fd);

int oe_io_is_nonblocking(int fd, int flags);

/* A result of ENOTSOCK means that the descriptor was closed by a way that is not hooked and is something else now: the slot is emptied and the call
 * passes. Any other result stays. */
ssize_t oe_io_stale(struct oe_sock *s, int fd, ssize_t result);

/* Both held: nothing of a plain connection is on its way in the library: it can be let go. */
int oe_io_empty(const struct oe_sock *s);

/* Both held, the connection is plain: fd is the application's alone again. */
void oe_io_release(struct oe_sock *s, int fd);

/* What is kept in the kernel's queue although it has been seen is taken out: n bytes. Returns how many could not be. */
size_t oe_io_discard(int fd, size_t n);

/* Puts into s->owed, which gets a buffer of the pool if it has none. */
enum oe_status oe_io_owe(struct oe_sock *s);
enum oe_status oe_io_pend(struct oe_sock *s);

#endif
