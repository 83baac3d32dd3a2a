/*
 * The funnel: every hooked call that moves data on a tracked socket ends here. INTERPOSITION.md section 2 is the scheme: readiness stays the
 * kernel's, poll, select and epoll are not hooked.
 *
 * Results are those of the system call: bytes, or -errno; OE_IO_PASS: the connection is no longer tracked, the caller makes the real call.
 */
#ifndef OE_HOOK_IO_H
#define OE_HOOK_IO_H

#include <limits.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "sock.h"

#define OE_IO_PASS ((ssize_t)INT_MIN)

/* A position in the application's buffers. */
struct oe_vec {
    const struct iovec *iov;
    size_t n;  /* of iov, from the one at the position on */
    size_t at; /* bytes of iov[0] that are done */
};

/* The rest of the first buffer that has any room; *p, returns bytes, 0: all is done. */
size_t oe_vec_front(struct oe_vec *v, uint8_t **p);
void oe_vec_advance(struct oe_vec *v, size_t n);

/* The caller holds a reference to s. */
ssize_t oe_io_read(struct oe_sock *s, int fd, struct oe_vec to, int flags);
ssize_t oe_io_write(struct oe_sock *s, int fd, struct oe_vec from, int flags);

/* Bytes that can be read at once, at least 1 if there are any; OE_IO_PASS. An error is kept for the next read. */
ssize_t oe_io_count(struct oe_sock *s, int fd);

/* An error that came behind what a call returns: told by the next read. */
void oe_io_keep_error(struct oe_sock *s, int error);

/* The application is about to use fd in a way that cannot be followed: 1: it may, the connection is plain (it goes plain if nothing of it was decided) as far
 * as direction dir is concerned; 0: it must not. */
int oe_io_leave(struct oe_sock *s, int fd, enum oe_dir dir, enum oe_reason reason);

/* 1: what direction dir of a plain connection moves can go past the library. */
int oe_io_passes(struct oe_sock *s, enum oe_dir dir);

/* It must not, and might leak what it writes: the connection is broken and shut down, and that is logged. */
void oe_io_poison(struct oe_sock *s, int fd, enum oe_reason reason);

/* 1: fd is not the socket of s any more, it was closed behind the library's back; its slot is emptied. */
int oe_io_is_stale(struct oe_sock *s, int fd);

/* Before shutdown of the output: what is pending goes out, as far as the socket's blocking mode allows. */
void oe_io_shutdown(struct oe_sock *s, int fd);

/* Before the last close: nothing of ours may turn the peer's end of stream into a reset. Never blocks. */
void oe_io_closing(struct oe_sock *s, int fd);

/* Whether a call is the library's own look at the kernel's queue, which came back by way of another preload. */
int oe_io_is_look(const void *p, size_t n, int flags);

#endif
