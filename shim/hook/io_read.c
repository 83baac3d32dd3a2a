/* Data in: peek, decrypt, hand over; raw bytes stay in the kernel's queue until the plaintext made from them has been handed over. */
#include "io_private.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include "../os/clock.h"
#include "fdtab.h"
#include "names.h"
#include "pool.h"
#include "real.h"
#include "sys.h"
#include "tag.h"

/* Below this a read peeks; from it on it takes bytes from the kernel at once, since plaintext is never longer than what it was made from. */
#define DIRECT_BYTES_MIN 4096U

/* A small read that follows a large one is most likely the header of another large packet: what is opened ahead of that large read would only be
 * copied. It takes one record; after LARGE_FOR small batches in a row the reads are small again. */
#define LARGE_FOR 2
#define AHEAD_OF_LARGE_BYTES (OE_RECORD_BYTES_MAX + 512U)

/* One read call on its way. */
struct reading {
    struct oe_sock *s;
    int fd;
    int flags;
    struct oe_vec to;
    size_t total;   /* bytes handed over */
    int seen_empty; /* the last look at the kernel's queue found its end */
    struct oe_held held;
    uint64_t waiting_ms; /* since when it waits, 0: it did not have to yet */
    struct oe_report report;
};

enum outcome {
    FETCHED, /* progress: look again */
    EMPTY,   /* the kernel's queue holds nothing new */
    END,     /* end of stream */
    WAIT,    /* the handshake is open */
    FAILED,  /* s->rx_error says why */
};

/* Hands over plaintext that is owed. The last byte of it lets go of the raw bytes in the kernel. */
static void hand_over(struct reading *rd)
{
    struct oe_sock *s = rd->s;
    uint64_t deadline;
    struct oe_vec peeked = rd->to; /* MSG_PEEK leaves its position behind */
    struct oe_vec *to = rd->flags & MSG_PEEK ? &peeked : &rd->to;
    size_t done = 0, room;
    uint8_t *p;

    while (done < oe_buf_n(&s->owed) && (room = oe_vec_front(to, &p)) != 0) {
        struct oe_span owed = oe_buf_span(&s->owed);
        size_t n = owed.n - done < room ? owed.n - done : room;
        if (!(rd->flags & MSG_TRUNC)) /* on TCP: take and throw away */
            memcpy(p, owed.p + done, n);
        oe_vec_advance(to, n);
        done += n;
    }
    rd->total += done;
    if (!(rd->flags & MSG_PEEK))
        oe_buf_drop(&s->owed, done);
    if (oe_buf_n(&s->owed) != 0)
        return;
    if (s->owed.p != NULL)
        oe_pool_put(&s->owed);
    if (s->raw != 0 && !oe_conn_waiting(&s->conn, &deadline)) {
        s->raw = oe_io_discard(rd->fd, s->raw);
        if (s->raw != 0)
            atomic_store(&s->broken, 1); /* they would come once more */
    }
}

static enum outcome failed(struct oe_sock *s, int error)
{
    s->rx_error = error;
    return FAILED;
}

/* Pushes raw bytes into the connection; plaintext goes to the application's buffer first. */
static enum outcome push(struct reading *rd, struct oe_span raw, uint8_t *p, size_t room)
{
    struct oe_sock *s = rd->s;
    int records = s->conn.phase == OE_PHASE_RECORDS;
    struct oe_sink forward = {.p = p, .n_max = room, .rest = &s->owed};
    struct oe_flow flow = {.forward = &forward, .answer = &s->pending};

    if (oe_io_owe(s) != OE_OK)
        return failed(s, ENOMEM);
    enum oe_status st = oe_conn_push(&s->conn, OE_FROM_PEER, raw, records ? 0 : oe_clock_monotonic_ms(), &flow);
    oe_vec_advance(&rd->to, forward.n);
    rd->total += forward.n;
    int e = oe_io_settle(s, OE_FROM_PEER, st, &rd->report);
    if (!records && !oe_conn_transparent(&s->conn))
        oe_tag_use(s, rd->fd);
    if (!records && oe_buf_n(&s->pending) != 0)
        (void)oe_io_flush(s, rd->fd, MSG_NOSIGNAL); /* the application's next write meets the error again */
    oe_io_refuse(s, rd->fd);
    return e == 0 ? FETCHED : failed(s, -e);
}

/* The peer's stream is at its end. */
static enum outcome end(struct reading *rd)
{
    struct oe_sock *s = rd->s;
    struct oe_sink forward = {.rest = &s->owed};
    struct oe_flow flow = {.forward = &forward, .answer = &s->pending};
    /* in OE_PHASE_RECORDS only rx is held, and there is nothing left to say */
    if (oe_io_owe(s) != OE_OK || (s->conn.phase != OE_PHASE_RECORDS && oe_io_pend(s) != OE_OK))
        return failed(s, ENOMEM);
    int e = oe_io_settle(s, OE_FROM_PEER, oe_conn_peer_end(&s->conn, &flow), &rd->report);
    oe_io_refuse(s, rd->fd);
    if (e != 0)
        return failed(s, -e);
    return oe_buf_n(&s->owed) != 0 ? FETCHED : END;
}

/* The application's own memory of this broker is asked before a probe could be sent. */
static void ask_memory(struct oe_sock *s)
{
    char endpoint[OE_ENDPOINT_CHARS_MAX];

    s->memory_asked = 1;
    oe_names_endpoint(&s->address, s->hosts_n != 0 ? s->hosts[0] : NULL, endpoint, sizeof(endpoint));
    s->conn.no_probe = oe_names_no_probe(endpoint);
}

/* One look at the kernel's queue. Nothing is owed. */
static enum outcome fetch(struct reading *rd)
{
    struct oe_sock *s = rd->s;
    struct oe_buf scratch = {0};
    enum outcome outcome;
    uint64_t deadline;
    uint8_t *p = NULL;
    size_t room = rd->flags & (MSG_PEEK | MSG_TRUNC) ? 0 : oe_vec_front(&rd->to, &p);
    size_t kept = oe_conn_kept(&s->conn);
    int direct = s->conn.phase == OE_PHASE_RECORDS && s->raw == 0 && room >= kept + DIRECT_BYTES_MIN;

    if (oe_conn_waiting(&s->conn, &deadline))
        return WAIT;
    if (s->conn.phase == OE_PHASE_I_CONNACK && !s->memory_asked)
        ask_memory(s);
    if (oe_pool_get(&scratch) != OE_OK)
        return failed(s, ENOMEM);
    size_t ask = OE_READ_BYTES;
    if (direct) {
        ask = room - kept < ask ? room - kept : ask;
        s->large = LARGE_FOR;
    } else if (s->large != 0) {
        ask = AHEAD_OF_LARGE_BYTES;
        s->large--;
    }
    long r = oe_sys_recv(rd->fd, scratch.p, ask, MSG_DONTWAIT | (direct ? 0 : MSG_PEEK));
    rd->seen_empty = r < (long)ask;
    if (r == -EAGAIN) {
        outcome = EMPTY;
    } else if (r < 0) {
        outcome = r == -EINTR ? FETCHED : failed(s, (int)-r);
    } else if (r == 0) {
        outcome = end(rd);
    } else if (oe_io_ask_trust(s, OE_TYPE_CONNECT << 4) != OE_OK) {
        outcome = failed(s, ENOMEM);
    } else {
        outcome = push(rd, (struct oe_span){scratch.p, (size_t)r}, p, room);
        if (!direct)
            s->raw = (size_t)r; /* hand_over lets go of it at once if nothing is owed */
    }
    oe_pool_put(&scratch);
    return outcome;
}

/* ---- waiting -------------------------------------------------------------------------------------------------------------------------- */

static void unref_on_cancel(void *s)
{
    oe_fdtab_unref(s);
}

/* A wait that goes on: what the application got to wait for was only a part of a record. SO_RCVTIMEO counts from the first wait. 0: go on. */
static ssize_t time_left(struct reading *rd)
{
    int64_t limit = oe_sys_timeout_ms(rd->fd, OE_SYS_RCVTIMEO);

    if (limit == 0)
        return 0;
    int64_t left = (int64_t)rd->waiting_ms + limit - (int64_t)oe_clock_monotonic_ms();
    struct pollfd p = {.fd = rd->fd, .events = POLLIN};
    long r = left > 0 ? oe_sys_poll(&p, 1, left) : 0;
    return r == 0 ? -EAGAIN : r < 0 ? r : 0;
}

/* Where the wait below puts its byte: a preload behind us may make our recv by another call that is hooked. */
static __thread const void *look;

int oe_io_is_look(const void *p, size_t n, int flags)
{
    return n == 1 && (flags & MSG_PEEK) != 0 && p == look;
}

/* Waits for the kernel's queue as the application's own call would: O_NONBLOCK, SO_RCVTIMEO, signals and cancellation are the kernel's and
 * libc's. 1: there is something, or the end; otherwise -errno. */
static ssize_t wait_natively(struct reading *rd)
{
    uint8_t byte;
    ssize_t r = rd->waiting_ms != 0 ? time_left(rd) : 0;

    if (r < 0)
        return r;
    if (rd->waiting_ms == 0)
        rd->waiting_ms = oe_clock_monotonic_ms();
    pthread_cleanup_push(unref_on_cancel, rd->s);
    look = &byte;
    r = oe_real.recv(rd->fd, &byte, 1, MSG_PEEK | (rd->flags & MSG_DONTWAIT));
    look = NULL;
    pthread_cleanup_pop(0);
    return r < 0 ? -errno : 1;
}

/* What the call returns when it returns now, or 1: it goes on. Under the lock. */
static ssize_t verdict(struct reading *rd, ssize_t *result)
{
    struct oe_sock *s = rd->s;
    uint8_t *p;
    int full = oe_vec_front(&rd->to, &p) == 0 || (rd->flags & MSG_PEEK);
    int done = rd->total != 0 && (full || (rd->seen_empty && !(rd->flags & MSG_WAITALL)));

    *result = (ssize_t)rd->total;
    if ((done || rd->total == 0) && !atomic_load(&s->broken) && oe_io_empty(s)) {
        oe_io_release(s, rd->fd);
        if (rd->total == 0)
            *result = OE_IO_PASS;
        return 0;
    }
    if (s->conn.phase == OE_PHASE_PLAIN && (rd->total != 0 || s->raw != 0 || oe_buf_n(&s->owed) != 0))
        oe_tag_use(s, rd->fd); /* some of it is here */
    if (done || oe_vec_front(&rd->to, &p) == 0)
        return 0;
    if (s->rx_error != 0) {
        if (rd->total == 0) {
            *result = -s->rx_error;
            s->rx_error = 0;
        }
        return 0;
    }
    if (atomic_load(&s->broken)) {
        oe_report_inherited(s, &rd->report);
        *result = rd->total != 0 ? *result : -ECONNRESET;
        return 0;
    }
    return 1;
}

/* After a look that found nothing more. 1: look again, otherwise *result is the call's. */
static int empty(struct reading *rd, ssize_t *result)
{
    *result = (ssize_t)rd->total;
    if (rd->total != 0 && !(rd->flags & MSG_WAITALL))
        return 0;
    ssize_t r = wait_natively(rd);
    if (r < 0 && rd->total == 0)
        *result = r;
    else if (r < 0)
        oe_io_keep_error(rd->s, (int)-r); /* what the call has is told first */
    if (r > 0 && !oe_fdtab_holds(rd->fd, rd->s)) {
        /* closed by another thread, and the number may be somebody else's by now; or let go of */
        if (rd->total == 0)
            *result = atomic_load(&rd->s->released) ? OE_IO_PASS : -EBADF;
        return 0;
    }
    return r > 0;
}

ssize_t oe_io_read(struct oe_sock *s, int fd, struct oe_vec to, int flags)
{
    struct reading rd = {.s = s, .fd = fd, .flags = flags, .to = to};
    ssize_t result = 0;
    int more = 1;

    if (to.n == 1 && oe_io_is_look(to.iov[0].iov_base, to.iov[0].iov_len, flags))
        return OE_IO_PASS;
    while (more) {
        int e = oe_io_lock(s, OE_FROM_PEER, &rd.held);
        if (e != 0) {
            result = rd.total != 0 ? (ssize_t)rd.total : e;
            break;
        }
        hand_over(&rd);
        more = (int)verdict(&rd, &result);
        enum outcome outcome = more ? fetch(&rd) : FETCHED;
        oe_io_unlock(s, &rd.held);
        switch (outcome) {
        case FETCHED:
        case FAILED: /* the verdict of the next round */
            break;
        case EMPTY:
            more = empty(&rd, &result);
            break;
        case END:
            result = (ssize_t)rd.total;
            more = 0;
            break;
        case WAIT:
            oe_io_wait_handshake(s, fd, &rd.report);
            break;
        }
    }
    oe_report_emit(&rd.report);
    return oe_io_stale(s, fd, result);
}
