/*
 * The initiator's wait for the answer to its probe: the only time the library waits inside a call. The held CONNACK stays in the kernel's queue, so
 * poll() would return at once: a temporary epoll instance in edge-triggered mode tells when more comes.
 */
#include "io_private.h"

#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "../os/clock.h"
#include "fdtab.h"
#include "pool.h"
#include "sys.h"

/* Without an epoll instance (no descriptor left) the queue is looked at this often. */
#define NAP_MS 5

/* How much that has been seen stays in the kernel's queue. Of more one byte stays: it keeps the socket readable for an application that takes a
 * packet at a time after a time-out. */
#define SEEN_BYTES_MAX 4096U

/* The socket whose handshake this thread waits for. */
static __thread struct oe_sock *waits;

int oe_io_waits_here(const struct oe_sock *s)
{
    return waits == s;
}

static int open_epoll(int fd)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLET};
    long ep = OE_SYS3(SYS_epoll_create1, EPOLL_CLOEXEC, 0, 0);

    if (ep >= 0 && OE_SYS6(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, fd, &ev, 0, 0) != 0) {
        OE_SYS3(SYS_close, ep, 0, 0);
        return -1;
    }
    return (int)ep;
}

/* One wait for the end of a handshake. */
struct waiting {
    struct oe_sock *s, *outer;
    struct oe_buf scratch;
    int ep;
};

static void leave(struct waiting *w)
{
    oe_pool_put(&w->scratch);
    if (w->ep >= 0)
        OE_SYS3(SYS_close, w->ep, 0, 0);
    waits = w->outer;
}

static void leave_on_cancel(void *arg)
{
    struct waiting *w = arg;
    leave(w);
    oe_fdtab_unref(w->s);
}

/* Waits up to ms; returns the events, 0 if none is known. A cancellation point, with nothing held: read and write are, too. */
static uint32_t wait_epoll(struct waiting *w, uint64_t ms)
{
    struct epoll_event ev = {0};
    int n = 0;

    pthread_cleanup_push(leave_on_cancel, w);
    if (w->ep < 0) {
        (void)oe_io_sleep(-1, NAP_MS);
        pthread_testcancel();
    } else {
        n = epoll_wait(w->ep, &ev, 1, (int)ms);
    }
    pthread_cleanup_pop(0);
    return n == 1 ? ev.events : 0;
}

/* One byte of a large segment keeps the whole of it in the receive buffer, and on loopback, where a segment is as large as the window, the window
 * closed. A low-water mark makes the kernel grow the buffer and, unlike SO_RCVBUF, leaves its autotuning on. */
static void grow_window(int fd)
{
    int was = 1, much = 1 << 20;
    socklen_t n = sizeof(was);

    if (OE_SYS6(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVLOWAT, &was, &n, 0) != 0)
        return;
    OE_SYS6(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVLOWAT, &much, sizeof(much), 0);
    OE_SYS6(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVLOWAT, &was, sizeof(was), 0);
}

/* Both locks held: pushes what is new in the kernel's queue. Returns whether there was anything. */
static int push_new(struct oe_sock *s, int fd, struct oe_buf *scratch, struct oe_flow *flow, enum oe_status *st, int *gone)
{
    if (s->raw > SEEN_BYTES_MAX) {
        grow_window(fd);
        s->raw = 1 + oe_io_discard(fd, s->raw - 1);
    }
    long r = oe_sys_recv(fd, scratch->p, OE_READ_BYTES, MSG_PEEK | MSG_DONTWAIT);
    *gone = r == 0 || (r < 0 && r != -EAGAIN && r != -EINTR);
    if (r < 0 && *gone) {
        s->rx_error = (int)-r;
        s->raw = 0;
    }
    if (r <= (long)s->raw)
        return 0;
    *st = oe_conn_push(&s->conn, OE_FROM_PEER, (struct oe_span){scratch->p + s->raw, (size_t)r - s->raw}, oe_clock_monotonic_ms(), flow);
    s->raw = (size_t)r;
    return 1;
}

/* Message 3 or CONNECT is lost, and what comes behind it would wait for ever for an answer. */
static void give_up(struct oe_sock *s, int fd, int error)
{
    s->rx_error = s->tx_error = error;
    atomic_store(&s->broken, 1);
    OE_SYS3(SYS_shutdown, fd, SHUT_RDWR, 0);
}

/* One step of the wait, under both locks. Returns 1 while it goes on, and then *ms to wait at the most (0: look again at once). */
static int step(struct oe_sock *s, int fd, uint32_t events, struct oe_buf *scratch, struct oe_report *report, uint64_t *ms)
{
    struct oe_sink forward = {.rest = &s->owed};
    struct oe_flow flow = {.forward = &forward, .answer = &s->pending};
    enum oe_status st = OE_OK;
    uint64_t deadline, now = oe_clock_monotonic_ms();
    int gone;

    *ms = 0;
    if (!oe_conn_waiting(&s->conn, &deadline))
        return 0;
    if (oe_io_owe(s) != OE_OK)
        st = oe_conn_expire(&s->conn, &flow);
    else if (!push_new(s, fd, scratch, &flow, &st, &gone)) {
        if (gone || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
            st = oe_conn_peer_end(&s->conn, &flow);
        else if (now >= deadline)
            st = oe_conn_expire(&s->conn, &flow);
        else
            *ms = deadline - now;
    }
    (void)oe_io_settle(s, OE_FROM_PEER, st, report);
    int e = oe_io_flush(s, fd, MSG_NOSIGNAL);
    oe_io_refuse(s, fd);
    if (e != 0 && s->conn.phase == OE_PHASE_RECORDS)
        give_up(s, fd, -e);
    s->first_record = s->conn.phase == OE_PHASE_RECORDS;
    return oe_conn_waiting(&s->conn, &deadline) && !atomic_load(&s->broken);
}

void oe_io_wait_handshake(struct oe_sock *s, int fd, struct oe_report *report)
{
    struct waiting w = {.s = s, .outer = waits, .ep = open_epoll(fd)};
    struct oe_held held;
    int more = 1;
    uint32_t events = 0;
    uint64_t ms;

    waits = s;
    int memory = oe_pool_get(&w.scratch) == OE_OK;
    while (more) {
        if (oe_io_lock(s, OE_FROM_PEER, &held) != 0)
            break;
        if (!memory || atomic_load(&s->broken)) {
            oe_report_broken(s, OE_REASON_MEMORY, report);
            more = 0;
        } else {
            more = step(s, fd, events, &w.scratch, report, &ms);
        }
        oe_io_unlock(s, &held);
        if (more && ms != 0)
            events |= wait_epoll(&w, ms); /* an end of stream is told once */
    }
    leave(&w);
}
