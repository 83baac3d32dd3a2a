/* Data out: encrypt from the application's memory, write until done or the kernel is full; what was taken but not sent is owed as one byte. */
#include "io_private.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "../os/clock.h"
#include "fdtab.h"
#include "pool.h"
#include "real.h"
#include "sys.h"

/* What a responder may hold in the handshake without asking its application to come back: the kernel will take it in one piece. */
#define HELD_QUIET_BYTES (16U << 10)

/* While another thread's read finishes the handshake a blocking writer looks again this often. */
#define NAP_MS 1

/* One write call on its way. */
struct writing {
    struct oe_sock *s;
    int fd;
    int flags;
    struct oe_vec from;
    size_t total; /* bytes taken in this call, a debt that was skipped included */
    int error;    /* FAILED: an errno */
    int held;
    struct oe_report report;
};

enum outcome {
    TAKEN,  /* progress: go on */
    DONE,   /* the call can return total */
    PASS,   /* the connection is no longer tracked */
    FULL,   /* the kernel is full */
    OPEN,   /* the handshake is open, the application's bytes have to wait */
    FAILED, /* error says why */
};

/* The next bytes, at most a batch: from the application's memory if they lie in one piece, else gathered in scratch. */
static enum oe_status next_batch(struct writing *wr, struct oe_buf *scratch, struct oe_span *batch)
{
    struct oe_vec v = wr->from;
    uint8_t *p = NULL;
    size_t max = 4 * (OE_RECORD_PLAIN_BYTES_MAX - 1); /* whole records in every version */
    size_t n = oe_vec_front(&v, &p);

    static_assert(4 * (OE_RECORD_PLAIN_BYTES_MAX - 1) <= OE_BATCH_BYTES, "a batch is what a buffer of the pool is made for");
    *batch = (struct oe_span){p, n < max ? n : max};
    if (n >= max || n == 0 || v.n == 1)
        return OE_OK;
    if (oe_pool_get(scratch) != OE_OK)
        return OE_NOMEM;
    while (n != 0 && oe_buf_n(scratch) < max) {
        size_t room = max - oe_buf_n(scratch);
        size_t k = n < room ? n : room;
        (void)oe_buf_put(scratch, p, k); /* it has the room */
        oe_vec_advance(&v, k);
        n = oe_vec_front(&v, &p);
    }
    *batch = oe_buf_span(scratch);
    return OE_OK;
}

static enum outcome failed(struct writing *wr, int error)
{
    wr->error = error;
    return FAILED;
}

/* Message 3 gets no answer but an acknowledgement, which the peer's kernel delays for 40 ms, and Nagle's algorithm would keep the first record
 * back for as long. TCP_NODELAY for this one write gets it out; the application's setting stays. */
static int flush_first(struct oe_sock *s, int fd, int flags)
{
    int on = 1, was = 1;
    socklen_t n = sizeof(was);

    s->first_record = 0;
    if (OE_SYS6(SYS_getsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &was, &n, 0) != 0)
        was = 1;
    if (was == 0)
        OE_SYS6(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on), 0);
    int e = oe_io_flush(s, fd, flags);
    if (was == 0)
        OE_SYS6(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &was, sizeof(was), 0);
    return e;
}

/* Pushes the next bytes into the connection and what comes out into the kernel. */
static enum outcome push(struct writing *wr)
{
    struct oe_sock *s = wr->s;
    struct oe_buf scratch = {0};
    struct oe_span batch;
    struct oe_sink forward = {.rest = &s->pending};
    struct oe_flow flow = {.forward = &forward};
    int records = s->conn.phase == OE_PHASE_RECORDS;

    if (next_batch(wr, &scratch, &batch) != OE_OK || oe_io_pend(s) != OE_OK) {
        oe_pool_put(&scratch);
        return failed(wr, ENOBUFS);
    }
    enum oe_status st = oe_conn_push(&s->conn, OE_FROM_APP, batch, records ? 0 : oe_clock_monotonic_ms(), &flow);
    oe_pool_put(&scratch);
    int e = oe_io_settle(s, OE_FROM_APP, st, &wr->report);
    if (e != 0)
        return failed(wr, -e);
    oe_vec_advance(&wr->from, flow.taken);
    wr->total += flow.taken;
    e = s->first_record ? flush_first(s, wr->fd, wr->flags) : oe_io_flush(s, wr->fd, wr->flags);
    if (e != 0)
        return failed(wr, -e);
    return flow.taken != 0 || batch.n == 0 ? TAKEN : OPEN;
}

/* Everything was taken but the kernel, or the handshake, has not: the last byte is reported as not taken, so that the application waits for
 * writability and comes back. */
static int leaves_debt(const struct oe_sock *s)
{
    return oe_buf_n(&s->pending) != 0 || oe_conn_held(&s->conn) > HELD_QUIET_BYTES;
}

/* One round under the lock. */
static enum outcome step(struct writing *wr)
{
    struct oe_sock *s = wr->s;
    uint8_t *p;
    int e;

    if (s->tx_error != 0) {
        e = s->tx_error;
        s->tx_error = 0;
        return failed(wr, e);
    }
    if (atomic_load(&s->broken))
        return failed(wr, ECONNRESET);
    if ((e = oe_io_flush(s, wr->fd, wr->flags)) != 0)
        return failed(wr, -e);
    if (oe_buf_n(&s->pending) != 0)
        return FULL;
    if (s->debt != 0 && oe_conn_held(&s->conn) > HELD_QUIET_BYTES)
        return OPEN;
    if (s->debt != 0 && oe_vec_front(&wr->from, &p) != 0) {
        s->debt = 0;
        oe_vec_advance(&wr->from, 1);
        wr->total += 1;
    }
    if (oe_vec_front(&wr->from, &p) == 0)
        return DONE;
    if (oe_conn_transparent(&s->conn)) {
        if (wr->total != 0)
            return DONE;
        /* What the application has not read yet keeps the socket under watch; writing goes past it. */
        if (s->raw == 0 && oe_buf_n(&s->owed) == 0 && s->rx_error == 0)
            oe_fdtab_drop(wr->fd, s);
        return PASS;
    }
    return push(wr);
}

static void unref_on_cancel(void *s)
{
    oe_fdtab_unref(s);
}

/* Blocking sockets: waits until the kernel has room, or SO_SNDTIMEO ends. 0, or -errno. Nothing is held. */
static int wait_writable(struct writing *wr, int ms)
{
    struct pollfd p = {.fd = wr->fd, .events = POLLOUT};
    struct timeval limit = {0};
    socklen_t n = sizeof(limit);
    int r;

    if (ms < 0 && OE_SYS6(SYS_getsockopt, wr->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, &n, 0) == 0 && (limit.tv_sec | limit.tv_usec) != 0)
        ms = limit.tv_sec > INT_MAX / 1000 - 1 ? INT_MAX : (int)(limit.tv_sec * 1000 + (limit.tv_usec + 999) / 1000);
    pthread_cleanup_push(unref_on_cancel, wr->s);
    r = poll(&p, 1, ms);
    pthread_cleanup_pop(0);
    if (r < 0)
        return -errno;
    return r == 0 ? -EAGAIN : 0;
}

/* The call cannot go on at once: returns its result, or 1 if it waited and goes on. */
static int wait_or_return(struct writing *wr, enum outcome outcome, ssize_t *result)
{
    struct pollfd nothing;
    int e = 0;

    *result = wr->total != 0 ? (ssize_t)wr->total : -EAGAIN;
    if (oe_io_is_nonblocking(wr->fd, wr->flags))
        return 0;
    if (outcome == OPEN)
        (void)poll(&nothing, 0, NAP_MS);
    else
        e = wait_writable(wr, -1);
    if (e != 0 && wr->total == 0)
        *result = e;
    return e == 0;
}

/* After a round that took bytes: the last byte becomes a debt if what was taken cannot leave. 1: go on, 0: *result is the call's. */
static int taken(struct writing *wr, ssize_t *result)
{
    struct oe_sock *s = wr->s;
    uint8_t *p;

    if (oe_vec_front(&wr->from, &p) != 0 || !leaves_debt(s) || wr->total == 0)
        return 1;
    if (!oe_io_is_nonblocking(wr->fd, wr->flags))
        return 1; /* the next round waits for the kernel */
    s->debt = 1;
    *result = wr->total > 1 ? (ssize_t)wr->total - 1 : -EAGAIN;
    return 0;
}

static ssize_t result_of(struct writing *wr)
{
    if (wr->total == 0)
        return -wr->error;
    wr->s->tx_error = wr->error; /* under the lock: told by the next call */
    return (ssize_t)wr->total;
}

ssize_t oe_io_write(struct oe_sock *s, int fd, struct oe_vec from, int flags)
{
    struct writing wr = {.s = s, .fd = fd, .flags = flags, .from = from};
    ssize_t result = 0;
    int more = 1;

    while (more) {
        int e = oe_io_lock(s, OE_FROM_APP, &wr.held);
        if (e != 0) {
            result = wr.total != 0 ? (ssize_t)wr.total : e;
            break;
        }
        enum outcome outcome = step(&wr);
        if (outcome == TAKEN)
            more = taken(&wr, &result);
        else if (outcome == FAILED)
            result = result_of(&wr);
        oe_io_unlock(s, wr.held);
        switch (outcome) {
        case TAKEN:
            break;
        case DONE:
            result = (ssize_t)wr.total;
            more = 0;
            break;
        case PASS:
            result = OE_IO_PASS;
            more = 0;
            break;
        case FULL:
        case OPEN:
            more = wait_or_return(&wr, outcome, &result);
            break;
        case FAILED:
            more = 0;
            break;
        }
    }
    oe_report_emit(&wr.report);
    return oe_io_stale(s, fd, result);
}
