/* Data out: encrypt from the application's memory, write until done or the kernel is full; what was taken but not sent is owed as one byte. */
#include "io_private.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "../os/clock.h"
#include "fdtab.h"
#include "pool.h"
#include "real.h"
#include "sys.h"
#include "tag.h"

/* What a responder may hold in the handshake without asking its application to come back, if the kernel will take it in one piece. */
#define HELD_QUIET_BYTES (64U << 10)

/* While the handshake is open a writer that has to wait looks again this often, or its event loop would spin: the socket is writable. */
#define NAP_MS 1

/* One write call on its way. */
struct writing {
    struct oe_sock *s;
    int fd;
    int flags;
    struct oe_vec from;
    size_t total; /* bytes taken in this call, a debt that was skipped included */
    int error;    /* FAILED: an errno */
    int nagle;    /* Nagle's algorithm is to be switched on again */
    struct oe_held held;
    struct oe_report report;
};

enum outcome {
    TAKEN,  /* progress: go on */
    DONE,   /* the call can return total */
    PASS,   /* the connection is no longer tracked */
    FULL,   /* the kernel is full */
    OPEN,   /* the handshake is open, the application's bytes have to wait */
    WAIT,   /* the same, and this call does the waiting */
    FAILED, /* error says why */
};

/* The next bytes, at most a batch: from the application's memory if they lie in one piece, else gathered in scratch. */
static enum oe_status next_batch(struct writing *wr, struct oe_buf *scratch, struct oe_span *batch)
{
    struct oe_vec v = wr->from;
    uint8_t *p = NULL;
    size_t max = OE_WRITE_BYTES;
    size_t n = oe_vec_front(&v, &p);

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

static void set_nodelay(int fd, int on)
{
    OE_SYS6(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on), 0);
}

/* For the rest of this call TCP_NODELAY is on; the application's setting comes back at its end. Nagle's algorithm would keep back
 * - the first record behind message 3, until the peer's kernel acknowledges that, which it delays for 40 ms;
 * - the end of a write that takes more than one batch, which in one piece it would not. */
static void no_delay(struct writing *wr)
{
    int was = 1;
    socklen_t n = sizeof(was);

    if (OE_SYS6(SYS_getsockopt, wr->fd, IPPROTO_TCP, TCP_NODELAY, &was, &n, 0) == 0 && was == 0) {
        set_nodelay(wr->fd, 1);
        wr->nagle = 1;
    }
}

static int flush(struct writing *wr, size_t batch_n)
{
    struct oe_sock *s = wr->s;
    uint8_t *p;
    int first_of_several = wr->total == batch_n && oe_vec_front(&wr->from, &p) != 0;

    if (s->conn.phase == OE_PHASE_RECORDS && (s->first_record || first_of_several))
        no_delay(wr);
    s->first_record = 0;
    return oe_io_flush(s, wr->fd, wr->flags);
}

/* The application's bytes wait for the end of the handshake. Not for ever. */
static enum outcome handshake_open(struct writing *wr)
{
    int e = oe_io_settle(wr->s, OE_FROM_APP, oe_conn_overdue(&wr->s->conn, oe_clock_monotonic_ms()), &wr->report);
    return e != 0 ? failed(wr, -e) : OPEN;
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

    if (next_batch(wr, &scratch, &batch) != OE_OK || oe_io_pend(s) != OE_OK || (batch.n != 0 && oe_io_ask_trust(s, batch.p[0]) != OE_OK)) {
        oe_pool_put(&scratch);
        return failed(wr, ENOBUFS);
    }
    enum oe_status st = oe_conn_push(&s->conn, OE_FROM_APP, batch, records ? 0 : oe_clock_monotonic_ms(), &flow);
    oe_pool_put(&scratch);
    int e = oe_io_settle(s, OE_FROM_APP, st, &wr->report);
    if (!records && !oe_conn_transparent(&s->conn))
        oe_tag_use(s, wr->fd);
    if (e != 0)
        return failed(wr, -e);
    oe_vec_advance(&wr->from, flow.taken);
    wr->total += flow.taken;
    if ((e = flush(wr, flow.taken)) != 0) {
        wr->total -= flow.taken; /* they did not reach the kernel */
        return failed(wr, -e);
    }
    oe_io_refuse(s, wr->fd);
    if (oe_io_empty(s))
        oe_io_release(s, wr->fd);
    else if (!records)
        oe_tag_use(s, wr->fd);
    if (oe_conn_prefaced(&s->conn) && !oe_io_waits_here(s))
        return WAIT; /* what the application writes next, and the end it may then make, must find the handshake done */
    return flow.taken != 0 || batch.n == 0 ? TAKEN : handshake_open(wr);
}

/* Whether a responder holds more than the kernel would take from it in one piece. */
static int holds_much(const struct oe_sock *s, int fd)
{
    int size = 0;
    socklen_t n = sizeof(size);
    size_t held = oe_conn_held(&s->conn);

    if (held == 0 || OE_SYS6(SYS_getsockopt, fd, SOL_SOCKET, SO_SNDBUF, &size, &n, 0) != 0)
        return held != 0;
    return held > HELD_QUIET_BYTES || held > (size_t)size / 4;
}

/* Everything was taken but the kernel, or the handshake, has not: the last byte is reported as not taken, so that the application waits for
 * writability and comes back. */
static int leaves_debt(const struct oe_sock *s, int fd)
{
    return oe_buf_n(&s->pending) != 0 || holds_much(s, fd);
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
    if (atomic_load(&s->broken)) {
        oe_report_inherited(s, &wr->report);
        return failed(wr, ECONNRESET);
    }
    if (s->conn.phase == OE_PHASE_REFUSED)
        return wr->total != 0 ? DONE : failed(wr, ECONNRESET);
    if ((e = oe_io_flush(s, wr->fd, wr->flags)) != 0)
        return failed(wr, -e);
    if (oe_buf_n(&s->pending) != 0)
        return FULL;
    if (s->debt != 0 && oe_conn_held(&s->conn) != 0)
        return handshake_open(wr);
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
        if (oe_io_empty(s))
            oe_io_release(s, wr->fd);
        return PASS;
    }
    return push(wr);
}

static void give_back_on_cancel(void *arg)
{
    struct writing *wr = arg;
    if (wr->nagle)
        set_nodelay(wr->fd, 0);
    oe_fdtab_unref(wr->s);
}

/* Whether the kernel would go on with an interrupted call. Which signal it was cannot be told; if any handler of the program interrupts calls, it
 * may count on that. */
static int restarts(void)
{
    struct sigaction sa;

    for (int n = 1; n < NSIG; n++)
        if (sigaction(n, NULL, &sa) == 0 && sa.sa_handler != SIG_DFL && sa.sa_handler != SIG_IGN && (sa.sa_flags & SA_RESTART) == 0)
            return 0;
    return 1;
}

/* Blocking sockets: waits until the kernel has room, or SO_SNDTIMEO ends. 0, or -errno. Nothing is held. */
static int wait_writable(struct writing *wr)
{
    struct pollfd p = {.fd = wr->fd, .events = POLLOUT};
    int64_t limit = oe_sys_timeout_ms(wr->fd, OE_SYS_SNDTIMEO);
    int r, ms = limit == 0 ? -1 : limit < INT_MAX ? (int)limit : INT_MAX;

    pthread_cleanup_push(give_back_on_cancel, wr);
    r = poll(&p, 1, ms);
    pthread_cleanup_pop(0);
    if (r < 0)
        return errno == EINTR && restarts() ? 0 : -errno;
    if (r > 0 && !oe_fdtab_holds(wr->fd, wr->s) && !atomic_load(&wr->s->released))
        return -EBADF; /* closed by another thread */
    return r == 0 ? -EAGAIN : 0;
}

/* A wait ended without room while everything has been taken: the last byte is owed. */
static void owe_last(struct writing *wr, int error, ssize_t *result)
{
    struct oe_sock *s = wr->s;
    uint8_t *p;

    if (wr->total == 0 || oe_vec_front(&wr->from, &p) != 0 || oe_io_lock(s, OE_FROM_APP, &wr->held) != 0)
        return;
    if (oe_buf_n(&s->pending) != 0 && s->debt == 0) {
        s->debt = 1;
        *result = wr->total > 1 ? (ssize_t)wr->total - 1 : error;
    }
    oe_io_unlock(s, &wr->held);
}

/* The call cannot go on at once: 1: it waited and goes on, 0: *result is the call's. */
static int wait_or_return(struct writing *wr, enum outcome outcome, ssize_t *result)
{
    int nonblocking = oe_io_is_nonblocking(wr->fd, wr->flags), e = 0;

    *result = wr->total != 0 ? (ssize_t)wr->total : -EAGAIN;
    if (outcome == OPEN) {
        if (oe_io_waits_here(wr->s))
            return 0; /* a signal handler: the wait below it on the stack cannot end before it returns */
        (void)oe_io_sleep(-1, NAP_MS);
        return !nonblocking;
    }
    if (nonblocking)
        return 0;
    e = wait_writable(wr);
    if (e != 0 && wr->total == 0)
        *result = e;
    else if (e != 0)
        owe_last(wr, e, result);
    return e == 0;
}

/* After a round that took bytes: the last byte becomes a debt if what was taken cannot leave. 1: go on, 0: *result is the call's. */
static int taken(struct writing *wr, ssize_t *result)
{
    struct oe_sock *s = wr->s;
    uint8_t *p;

    if (oe_vec_front(&wr->from, &p) != 0 || wr->total == 0 || !leaves_debt(s, wr->fd))
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
        oe_io_unlock(s, &wr.held);
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
        case WAIT:
            oe_io_wait_handshake(s, fd, &wr.report);
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
    if (wr.nagle)
        set_nodelay(fd, 0);
    oe_report_emit(&wr.report);
    return oe_io_stale(s, fd, result);
}
