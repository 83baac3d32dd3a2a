/* What is asked of a tracked socket besides reading and writing: to let go of it, to give it up, to count what can be read. */
#include "io_private.h"

#include <errno.h>
#include <sys/socket.h>

#include "fdtab.h"
#include "pool.h"
#include "sys.h"
#include "tag.h"
#include "track.h"

void oe_io_release(struct oe_sock *s, int fd)
{
    atomic_store(&s->released, 1);
    oe_tag_end(s, fd);
    oe_fdtab_release(fd, s);
}

int oe_io_empty(const struct oe_sock *s)
{
    return oe_conn_transparent(&s->conn) && s->raw == 0 && oe_buf_n(&s->owed) == 0 && s->rx_error == 0 && oe_buf_n(&s->pending) == 0 &&
           s->debt == 0;
}

int oe_io_is_stale(struct oe_sock *s, int fd)
{
    uint64_t id = 0;
    int e = oe_track_id(fd, &id);

    /* who may not ask (a sandbox, by now), or gets the other kind of answer, has learned nothing */
    if (e == 0 ? id == s->cookie || ((id ^ s->cookie) & OE_TRACK_BY_INODE) != 0 : e != -EBADF && e != -ENOTSOCK)
        return 0;
    oe_fdtab_drop(fd, s);
    return 1;
}

static int passes(const struct oe_sock *s, enum oe_dir dir)
{
    /* what the application has not read yet does not stand in the way of what it writes */
    return oe_io_empty(s) || (dir == OE_FROM_APP && oe_conn_transparent(&s->conn) && oe_buf_n(&s->pending) == 0 && s->debt == 0);
}

int oe_io_passes(struct oe_sock *s, enum oe_dir dir)
{
    struct oe_held held;

    if (oe_io_lock(s, OE_FROM_PEER, &held) != 0)
        return 0;
    int r = s->conn.phase != OE_PHASE_RECORDS && !atomic_load(&s->broken) && passes(s, dir);
    oe_io_unlock(s, &held);
    return r;
}

int oe_io_leave(struct oe_sock *s, int fd, enum oe_dir dir, enum oe_reason reason)
{
    struct oe_report report = {0};
    struct oe_held held;
    int left;

    if (oe_io_lock(s, OE_FROM_PEER, &held) != 0)
        return 0;
    left = s->conn.phase != OE_PHASE_RECORDS && !atomic_load(&s->broken) && oe_io_ask_trust(s, OE_TYPE_CONNECT << 4) == OE_OK &&
           oe_conn_leave(&s->conn, reason) && passes(s, dir);
    if (left)
        (void)oe_io_settle(s, dir, OE_OK, &report);
    if (left && oe_io_empty(s))
        oe_io_release(s, fd);
    oe_io_unlock(s, &held);
    oe_report_emit(&report);
    return left;
}

void oe_io_poison(struct oe_sock *s, int fd, enum oe_reason reason)
{
    struct oe_report report = {0};
    struct oe_held held;

    if (oe_io_lock(s, OE_FROM_PEER, &held) != 0)
        return;
    oe_report_broken(s, reason, &report);
    if (!oe_share_others(&s->claim))
        OE_SYS3(SYS_shutdown, fd, SHUT_RDWR, 0);
    oe_io_unlock(s, &held);
    oe_report_emit(&report);
}

void oe_io_keep_error(struct oe_sock *s, int error)
{
    struct oe_held held;

    if (error == EAGAIN || error == EINTR || oe_io_lock(s, OE_FROM_PEER, &held) != 0)
        return;
    s->rx_error = error;
    oe_io_unlock(s, &held);
}

/* rx held, something is owed: opens what has come behind it, as far as one look at the kernel's queue shows. */
static void look_ahead(struct oe_sock *s, int fd, struct oe_report *report)
{
    struct oe_buf scratch = {0};
    struct oe_sink forward = {.rest = &s->owed};
    struct oe_flow flow = {.forward = &forward, .answer = &s->pending};

    if (s->conn.phase != OE_PHASE_RECORDS || s->raw >= OE_READ_BYTES || oe_pool_get(&scratch) != OE_OK)
        return;
    long r = oe_sys_recv(fd, scratch.p, OE_READ_BYTES, MSG_PEEK | MSG_DONTWAIT);
    if (r > (long)s->raw) {
        struct oe_span behind = {scratch.p + s->raw, (size_t)r - s->raw};
        (void)oe_io_settle(s, OE_FROM_PEER, oe_conn_push(&s->conn, OE_FROM_PEER, behind, 0, &flow), report);
        s->raw = (size_t)r;
    }
    oe_pool_put(&scratch);
}

/* A look is a read of one byte that leaves it there: if anything can be read it is in s->owed then. */
ssize_t oe_io_count(struct oe_sock *s, int fd)
{
    struct oe_report report = {0};
    struct oe_held held;
    uint8_t byte;
    struct iovec one = {.iov_base = &byte, .iov_len = 1};
    ssize_t r = oe_io_read(s, fd, (struct oe_vec){.iov = &one, .n = 1}, MSG_PEEK | MSG_DONTWAIT);

    if (r == OE_IO_PASS)
        return r;
    if (r < 0)
        oe_io_keep_error(s, (int)-r);
    if (r <= 0 || oe_io_lock(s, OE_FROM_PEER, &held) != 0)
        return 0;
    look_ahead(s, fd, &report);
    r = (ssize_t)oe_buf_n(&s->owed);
    oe_io_unlock(s, &held);
    oe_report_emit(&report);
    return r;
}
