#include "track.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fdtab.h"
#include "guard.h"
#include "io.h"
#include "life.h"
#include "names.h"
#include "report.h"
#include "show.h"
#include "sys.h"
#include "tag.h"
#include "trust.h"

static long socket_option(int fd, int name, void *out, unsigned n)
{
    socklen_t size = n;
    return OE_SYS6(SYS_getsockopt, fd, SOL_SOCKET, name, out, &size, 0);
}

/* An inode's number is another open socket's never, and comes again after 4 billion others. Cookies count up from 1: the two are never the same. */
int oe_track_id(int fd, uint64_t *id)
{
    int saved = errno;
    struct stat st;
    long r = socket_option(fd, SO_COOKIE, id, sizeof(*id));

    if (r != -ENOPROTOOPT && r != -EOPNOTSUPP && r != -EINVAL) /* the kernel has it, or the reason is another one; EINVAL: qemu-user 7.2 */
        return (int)r;
    r = fstat(fd, &st) != 0 ? -errno : S_ISSOCK(st.st_mode) ? 0 : -ENOTSOCK;
    errno = saved;
    *id = r == 0 ? (uint64_t)st.st_ino | OE_TRACK_BY_INODE : 0;
    return (int)r;
}

int oe_track_is_tcp(int fd)
{
    int protocol = 0;
    long r = socket_option(fd, SO_PROTOCOL, &protocol, sizeof(protocol));
    return r == 0 ? protocol == IPPROTO_TCP
                  : r != -ENOTSOCK && r != -EBADF; /* where one may not ask (SELinux, seccomp) it may well be TCP */
}

/* Of several names the strictest policy counts: one that was looked up later must not weaken another. */
static void connect_policy(const struct oe_sock *s, struct oe_conn_setup *setup)
{
    char ip[INET6_ADDRSTRLEN];
    oe_names_ip(&s->address, ip, sizeof(ip));
    if (s->hosts_n == 0)
        setup->policy = oe_policy_connect(&oe_life.env.conf, NULL, ip, s->address.port);
    for (unsigned i = 0; i < s->hosts_n; i++) {
        enum oe_policy policy = oe_policy_connect(&oe_life.env.conf, s->hosts[i], ip, s->address.port);
        setup->policy = i == 0 || policy > setup->policy ? policy : setup->policy;
    }
}

static void accept_policy(int fd, struct oe_conn_setup *setup)
{
    struct sockaddr_storage own = {0};
    struct oe_address a = {0};
    socklen_t n = sizeof(own);
    if (OE_SYS3(SYS_getsockname, fd, &own, &n) == 0)
        (void)oe_names_address((const struct sockaddr *)&own, n, &a);
    setup->policy = oe_policy_accept(&oe_life.env.conf, a.port);
}

static const struct oe_conn_memory guarded = {.get = oe_guard_get, .put = oe_guard_put};

/* Fills a new socket object. -1: out of memory. */
static int fill(struct oe_sock *s, int fd, enum oe_role role, const struct oe_address *peer)
{
    struct oe_conn_setup setup = {.role = role,
                                  .handshake_ms = oe_life.env.conf.handshake_ms,
                                  .identity = oe_life.identity,
                                  .calls = &oe_trust_calls,
                                  .memory = &guarded};

    s->address = *peer;
    if (role == OE_INITIATOR) {
        s->hosts_n = oe_names_find(peer, s->hosts);
        connect_policy(s, &setup);
    } else {
        accept_policy(fd, &setup);
    }
    randombytes_buf(setup.ephemeral, sizeof(setup.ephemeral));
    enum oe_status st = oe_conn_init(&s->conn, &setup);
    sodium_memzero(setup.ephemeral, sizeof(setup.ephemeral));
    return st == OE_OK ? 0 : -1;
}

/* It cannot be tracked. Where MQTT must not pass in plain, and to a broker that is known, nothing may pass at all. */
static int untracked(int fd, enum oe_role role, const struct oe_address *peer, enum oe_log_level level, const char *why)
{
    struct oe_sock s = {.address = *peer};
    struct oe_conn_setup setup = {0};
    int known = 0;

    if (role == OE_INITIATOR) {
        s.hosts_n = oe_names_find(peer, s.hosts);
        connect_policy(&s, &setup);
        known = setup.policy == OE_POLICY_PREFER && oe_trust_may_know(&s);
        for (unsigned i = 0; i < s.hosts_n; i++)
            free(s.hosts[i]);
    } else {
        accept_policy(fd, &setup);
    }
    int strict = setup.policy == OE_POLICY_REQUIRE || setup.policy == OE_POLICY_REFUSE || known;
    oe_log_write(&oe_life.env.log, strict ? OE_LOG_ERROR : level, "%s: %s, the connection %s", role == OE_INITIATOR ? "connect" : "accept",
                 why, strict ? "is shut down" : "stays plain");
    if (strict)
        OE_SYS3(SYS_shutdown, fd, SHUT_RDWR, 0);
    return strict ? -1 : 0;
}

/* A connection with this tag can be carried on by the process that began it only. */
static int used(enum oe_tag tag)
{
    return tag == OE_TAG_USED_INITIATOR || tag == OE_TAG_USED_RESPONDER;
}

/* was: the tag that the socket came with. The process is not a stranger. */
static int track(int fd, enum oe_role role, const struct sockaddr *sa, socklen_t sa_n, enum oe_tag was)
{
    struct oe_address peer;
    uint64_t cookie;
    int found;

    if (!atomic_load_explicit(&oe_life.ready, memory_order_acquire) || oe_names_address(sa, sa_n, &peer) != 0 || !oe_track_is_tcp(fd))
        return 0;
    if (oe_track_id(fd, &cookie) != 0)
        return untracked(fd, role, &peer, OE_LOG_ERROR, "the socket has neither cookie nor inode");
    if (oe_life_crypto() != 0)
        return untracked(fd, role, &peer, OE_LOG_ERROR, "there is no cryptography");
    if (oe_fdtab_has_stdio(fd))
        return untracked(fd, role, &peer, OE_LOG_DEBUG, "a stdio stream is over it");
    struct oe_sock *s = oe_fdtab_add(cookie, &found);
    int ok = s != NULL && (found || fill(s, fd, role, &peer) == 0) && oe_fdtab_set(fd, s) == 0;
    if (ok && !found)
        oe_tag_begin(s, fd, was);
    if (ok && used(was)) {
        atomic_store(&s->inherited, 1);
        atomic_store(&s->broken, 1);
    }
    if (s != NULL)
        oe_fdtab_unref(s);
    return ok ? 0 : untracked(fd, role, &peer, OE_LOG_ERROR, "out of memory or descriptor too large");
}

/* A slot whose socket is not fd's any more: it was closed by a way that is not hooked. */
static void purge(int fd)
{
    struct oe_sock *s = oe_fdtab_take(fd);
    if (s != NULL)
        oe_fdtab_unref(s);
    oe_fdtab_unmark(fd);
}

static int same_address(const struct oe_address *a, const struct oe_address *b)
{
    return memcmp(a->ip, b->ip, sizeof(a->ip)) == 0 && a->port == b->port && a->v6 == b->v6;
}

int oe_track_connect(int fd, const struct sockaddr *peer, socklen_t peer_n, int began)
{
    int saved = errno;
    struct oe_sock *s;
    uint64_t cookie = 0;
    int result = 0;

    if (oe_life_foreign())
        return 0;
    int cancel = oe_life_no_cancel();
    s = oe_fdtab_get(fd);
    if (s != NULL) {
        /* A connect that is under way is asked for again; or the last one failed and this one goes elsewhere; or the slot is stale. */
        struct oe_address to;
        int same = !began && oe_track_id(fd, &cookie) == 0 && cookie == s->cookie && oe_names_address(peer, peer_n, &to) == 0 &&
                   same_address(&to, &s->address);
        if (same)
            goto out;
        oe_fdtab_unlist(s);
        purge(fd);
    } else if (!oe_fdtab_has_stdio(fd)) {
        oe_fdtab_unmark(fd);
    }
    result = track(fd, OE_INITIATOR, peer, peer_n, OE_TAG_NONE);
    if (s != NULL)
        oe_fdtab_rebind(s, fd); /* its other descriptors are the new connection's, too */
out:
    if (s != NULL)
        oe_fdtab_unref(s);
    oe_life_cancel(cancel);
    errno = saved;
    return result;
}

void oe_track_listen(int fd)
{
    int saved = errno;
    if (atomic_load_explicit(&oe_life.ready, memory_order_acquire) && !oe_life_foreign() && oe_track_is_tcp(fd))
        oe_show_listen();
    errno = saved;
}

int oe_track_accept(int fd)
{
    int saved = errno, result = 0;
    struct sockaddr_storage peer = {0};
    socklen_t n = sizeof(peer);

    if (oe_life_foreign())
        return 0;
    int cancel = oe_life_no_cancel();
    purge(fd);
    long r = OE_SYS3(SYS_getpeername, fd, &peer, &n);
    if (r == 0)
        result = track(fd, OE_RESPONDER, (const struct sockaddr *)&peer, n, OE_TAG_NONE);
    else if (r != -ENOTCONN && atomic_load_explicit(&oe_life.ready, memory_order_acquire) &&
             oe_track_is_tcp(fd)) /* ENOTCONN: it has ended */
        result = untracked(fd, OE_RESPONDER, &(struct oe_address){0}, OE_LOG_ERROR, "the kernel does not tell the address");
    oe_life_cancel(cancel);
    errno = saved;
    return result;
}

void oe_track_dup(int fd, int newfd)
{
    int saved = errno;

    /* Of nothing that is followed onto nothing: most calls need not ask the kernel whose process this is. */
    if (fd == newfd || (!oe_fdtab_used(fd) && !oe_fdtab_used(newfd)) || oe_life_foreign())
        return;
    struct oe_sock *s = oe_fdtab_get(fd);
    if (s == NULL) {
        purge(newfd);
        oe_fdtab_mark_dup(fd, newfd);
    } else {
        if (oe_fdtab_set(newfd, s) != 0)
            oe_log_write(&oe_life.env.log, OE_LOG_ERROR, "dup: descriptor %d is too large to be followed", newfd);
        oe_fdtab_unref(s);
    }
    errno = saved;
}

struct oe_sock *oe_track_replace(int fd)
{
    int saved = errno;
    int cancel = oe_life_no_cancel();
    struct oe_sock *s = oe_life_foreign() ? NULL : oe_fdtab_take(fd);
    if (s != NULL)
        oe_io_closing(s, fd);
    oe_life_cancel(cancel);
    errno = saved;
    return s;
}

void oe_track_replaced(int fd, struct oe_sock *s, int call_failed)
{
    int saved = errno;
    if (call_failed)
        (void)oe_fdtab_set(fd, s); /* its page is there */
    oe_fdtab_unref(s);
    errno = saved;
}

void oe_track_close(int fd)
{
    int saved = errno;
    int cancel = oe_life_no_cancel();
    struct oe_sock *s;

    if (!oe_life_foreign()) {
        oe_fdtab_unmark(fd);
        if ((s = oe_fdtab_take(fd)) != NULL) {
            oe_io_closing(s, fd);
            oe_fdtab_unref(s);
        }
    }
    oe_life_cancel(cancel);
    errno = saved;
}

void oe_track_new(int fd)
{
    int saved = errno;
    if (!oe_life_foreign())
        purge(fd);
    errno = saved;
}

void oe_track_close_range(unsigned first, unsigned last)
{
    int saved = errno;
    int fd = first > INT_MAX ? -1 : oe_fdtab_next((int)first);

    for (; fd >= 0 && (unsigned)fd <= last; fd = oe_fdtab_next(fd + 1))
        oe_track_close(fd);
    errno = saved;
}

void oe_track_before_connect(int fd)
{
    int on = 0;
    socklen_t n = sizeof(on);

    /* It would begin the handshake of TCP with the first write only. */
    if (OE_SYS6(SYS_getsockopt, fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, &n, 0) != 0 || on == 0)
        return;
    on = 0;
    OE_SYS6(SYS_setsockopt, fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on), 0);
}

/* ---- sockets that came from elsewhere ------------------------------------------------------------------------------------------------- */

void oe_track_received(int fd)
{
    int saved = errno;
    struct sockaddr_storage peer = {0};
    socklen_t n = sizeof(peer);
    uint64_t cookie;

    if (!atomic_load_explicit(&oe_life.ready, memory_order_acquire) || oe_life_foreign())
        return;
    purge(fd);
    if (!oe_track_is_tcp(fd) || oe_track_id(fd, &cookie) != 0)
        goto out;
    struct oe_sock *own = oe_fdtab_find(cookie);
    enum oe_tag tag = oe_tag_of(fd);
    if (own != NULL) { /* it has been all the way round, or was one of ours at the fork */
        (void)oe_fdtab_set(fd, own);
        oe_fdtab_unref(own);
    } else if (tag != OE_TAG_NONE && (OE_SYS3(SYS_getpeername, fd, &peer, &n) == 0 || used(tag))) {
        enum oe_role role = tag == OE_TAG_FRESH_INITIATOR || tag == OE_TAG_USED_INITIATOR ? OE_INITIATOR : OE_RESPONDER;
        (void)track(fd, role, (const struct sockaddr *)&peer, n, tag);
        if (used(tag) && (own = oe_fdtab_get(fd)) == NULL)
            OE_SYS3(SYS_shutdown, fd, SHUT_RDWR, 0); /* it cannot be kept from writing in plain otherwise */
        if (own != NULL)
            oe_fdtab_unref(own);
    }
out:
    errno = saved;
}

void oe_track_rights(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            oe_track_received(fd);
        }
    }
}

/* Without libc: its opendir is hooked, and this runs in a constructor. */
struct entry {
    uint64_t ino, off;
    uint16_t n;
    uint8_t type;
    char name[];
};

void oe_track_inherited(void)
{
    char buffer[2048];
    long dir = OE_SYS6(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0, 0), n;

    if (dir < 0)
        return;
    while ((n = OE_SYS3(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0)
        for (long at = 0; at < n;) {
            uint16_t size;
            int fd = atoi(buffer + at + offsetof(struct entry, name));
            memcpy(&size, buffer + at + offsetof(struct entry, n), sizeof(size));
            if (fd != dir && oe_tag_of(fd) != OE_TAG_NONE)
                oe_track_received(fd);
            at += size;
        }
    OE_SYS3(SYS_close, dir, 0, 0);
}
