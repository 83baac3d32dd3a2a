#include "io_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "fdtab.h"
#include "life.h"
#include "pool.h"
#include "real.h"
#include "show.h"
#include "sys.h"
#include "trust.h"

size_t oe_vec_front(struct oe_vec *v, uint8_t **p)
{
    while (v->n != 0 && v->at == v->iov[0].iov_len) {
        v->iov++;
        v->n--;
        v->at = 0;
    }
    if (v->n == 0)
        return 0;
    *p = (uint8_t *)v->iov[0].iov_base + v->at;
    return v->iov[0].iov_len - v->at;
}

void oe_vec_advance(struct oe_vec *v, size_t n)
{
    uint8_t *p;
    while (n != 0) {
        size_t room = oe_vec_front(v, &p);
        size_t k = n < room ? n : room;
        v->at += k;
        n -= k;
    }
}

/* ---- locks ---------------------------------------------------------------------------------------------------------------------------- */

/* The socket whose locks this thread takes or holds. A mutex alone cannot tell: it is nobody's for some instructions before and after. */
static __thread struct oe_sock *inside;

void oe_io_unlock(struct oe_sock *s, const struct oe_held *held)
{
    if (held->locks & OE_LOCK_TX)
        pthread_mutex_unlock(&s->tx);
    if (held->locks & OE_LOCK_RX)
        pthread_mutex_unlock(&s->rx);
    inside = held->outer;
}

static void lock(struct oe_sock *s, int want, struct oe_held *held)
{
    if (want & OE_LOCK_RX)
        pthread_mutex_lock(&s->rx);
    if (want & OE_LOCK_TX)
        pthread_mutex_lock(&s->tx);
    held->locks = want;
}

static int claim(struct oe_sock *s, int locks)
{
    int ok = 1;
    if (locks & OE_LOCK_RX)
        ok &= oe_share_next(&s->claim, OE_FROM_PEER);
    if (locks & OE_LOCK_TX)
        ok &= oe_share_next(&s->claim, OE_FROM_APP);
    return ok;
}

/* Another process moved on. What is not MQTT may be shared by many; of a connection of ours only one has the state that fits. */
static int lost_to_another(struct oe_sock *s)
{
    if (s->conn.phase != OE_PHASE_RECORDS && atomic_load(&s->claim.share->mqtt) == 0 && s->raw == 0 && oe_buf_n(&s->owed) == 0 &&
        oe_buf_n(&s->pending) == 0 && oe_conn_abandon(&s->conn))
        return 0;
    atomic_store(&s->broken, 1);
    return -ECONNRESET;
}

int oe_io_lock(struct oe_sock *s, enum oe_dir dir, struct oe_held *held)
{
    if (inside == s)
        return -EAGAIN;
    held->outer = inside;
    inside = s;
    lock(s, dir == OE_FROM_PEER ? OE_LOCK_RX : OE_LOCK_TX, held);
    /* Once in OE_PHASE_RECORDS always there; the phase changes under both locks only, so one is enough to read it. */
    if (s->conn.phase != OE_PHASE_RECORDS) {
        oe_io_unlock(s, held);
        inside = s;
        lock(s, OE_LOCK_RX | OE_LOCK_TX, held);
    }
    int e = claim(s, held->locks) ? 0 : lost_to_another(s);
    if (e != 0)
        oe_io_unlock(s, held);
    return e;
}

int oe_io_settle(struct oe_sock *s, enum oe_dir dir, enum oe_status st, struct oe_report *report)
{
    if (st == OE_INVALID) {
        report->refused = 1;
        oe_show_refused();
        report->role = s->conn.role;
        report->address = s->address;
        atomic_store(&s->broken, 1);
        return -EACCES;
    }
    if (st != OE_OK) {
        oe_report_take(s, report); /* what it was before it broke */
        oe_report_broken(s, oe_conn_why(&s->conn, dir), report);
        return -ECONNRESET;
    }
    if (s->conn.version != OE_MQTT_NONE && s->conn.phase != OE_PHASE_RECORDS)
        atomic_store(&s->claim.share->mqtt, 1);
    oe_report_take(s, report);
    oe_show_moved(s, dir);
    return 0;
}

/* ---- the kernel ----------------------------------------------------------------------------------------------------------------------- */

int oe_io_is_nonblocking(int fd, int flags)
{
    if (flags & MSG_DONTWAIT)
        return 1;
    long mode = OE_SYS3(SYS_fcntl, fd, F_GETFL, 0);
    return mode >= 0 && (mode & O_NONBLOCK) != 0;
}

ssize_t oe_io_stale(struct oe_sock *s, int fd, ssize_t result)
{
    if (result != -ENOTSOCK)
        return result;
    oe_fdtab_drop(fd, s);
    return OE_IO_PASS;
}

/* What stayed would be taken for the peer's next bytes. With bytes in the queue the kernel hardly fails, but at an urgent mark a signal may do it. */
#define DISCARD_TRIES 4

size_t oe_io_discard(int fd, size_t n)
{
    int tries = DISCARD_TRIES;

    while (n != 0) {
        long r = oe_sys_recv(fd, NULL, n, MSG_TRUNC | MSG_DONTWAIT); /* on TCP: nothing is copied */
        if (r < 0 && --tries != 0)
            continue;
        if (r <= 0)
            break;
        n -= (size_t)r < n ? (size_t)r : n;
    }
    return n;
}

long oe_io_sleep(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return oe_sys_poll(&p, fd >= 0, ms);
}

int oe_io_flush(struct oe_sock *s, int fd, int flags)
{
    int keep = flags & (MSG_NOSIGNAL | MSG_MORE | MSG_DONTROUTE);

    while (oe_buf_n(&s->pending) != 0) {
        struct oe_span p = oe_buf_span(&s->pending);
        long r = oe_sys_send(fd, p.p, p.n, keep | MSG_DONTWAIT);
        if (r == -EINTR)
            continue;
        if (r == -EAGAIN)
            return 0;
        if (r < 0) {
            if (s->conn.phase == OE_PHASE_RECORDS && (r == -ENOBUFS || r == -ENOMEM))
                atomic_store(&s->broken, 1); /* it passes, but the peer cannot open what would come behind the gap */
            oe_pool_put(&s->pending);
            return (int)r;
        }
        oe_buf_drop(&s->pending, (size_t)r);
    }
    oe_pool_put(&s->pending);
    return 0;
}

enum oe_status oe_io_ask_trust(struct oe_sock *s, uint8_t first)
{
    enum oe_policy policy = s->conn.policy;

    if (s->conn.role != OE_INITIATOR || s->conn.phase != OE_PHASE_I_CONNECT || s->trust_asked || first != OE_TYPE_CONNECT << 4 ||
        (policy != OE_POLICY_PREFER && policy != OE_POLICY_REQUIRE))
        return OE_OK;
    s->trust_asked = 1;
    return oe_trust_ask(s);
}

void oe_io_refuse(struct oe_sock *s, int fd)
{
    if (s->conn.phase != OE_PHASE_REFUSED || s->shut)
        return;
    s->shut = 1;
    oe_show_refused();
    (void)oe_io_flush(s, fd, MSG_NOSIGNAL);
    OE_SYS3(SYS_shutdown, fd, SHUT_RDWR, 0);
}

enum oe_status oe_io_owe(struct oe_sock *s)
{
    return s->owed.p != NULL ? OE_OK : oe_pool_get(&s->owed);
}

enum oe_status oe_io_pend(struct oe_sock *s)
{
    return s->pending.p != NULL ? OE_OK : oe_pool_get(&s->pending);
}

/* ---- the end of a socket -------------------------------------------------------------------------------------------------------------- */

void oe_io_shutdown(struct oe_sock *s, int fd)
{
    struct oe_held held;
    int nonblocking = oe_io_is_nonblocking(fd, 0);

    for (;;) {
        if (oe_io_lock(s, OE_FROM_APP, &held) != 0)
            return;
        int failed = oe_io_flush(s, fd, MSG_NOSIGNAL) != 0;
        int full = oe_buf_n(&s->pending) != 0;
        oe_io_unlock(s, &held);
        if (failed || !full || nonblocking || oe_io_sleep(fd, -1) < 0)
            return;
    }
}

void oe_io_closing(struct oe_sock *s, int fd)
{
    struct oe_held held;

    /* Another descriptor, another call or another process goes on with it. */
    if (atomic_load(&s->refs) != 1 || oe_share_others(&s->claim))
        return;
    if (oe_io_lock(s, OE_FROM_APP, &held) == 0) {
        (void)oe_io_flush(s, fd, MSG_NOSIGNAL);
        oe_io_unlock(s, &held);
    }
    if (oe_io_lock(s, OE_FROM_PEER, &held) != 0)
        return;
    enum oe_phase phase = s->conn.phase;
    if (oe_buf_n(&s->owed) == 0 && s->raw != 0)
        (void)oe_io_discard(fd, s->raw);
    else if (phase == OE_PHASE_I_LATE || phase == OE_PHASE_R_ANSWER || phase == OE_PHASE_R_MESSAGE3 || phase == OE_PHASE_REFUSED)
        (void)oe_io_discard(fd, OE_READ_BYTES);
    oe_io_unlock(s, &held);
}
