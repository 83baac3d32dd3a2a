#include "track.h"

#include <netinet/in.h>
#include <sodium.h>
#include <stdlib.h>

#include "fdtab.h"
#include "io.h"
#include "life.h"
#include "names.h"
#include "report.h"
#include "show.h"
#include "sys.h"

static long socket_option(int fd, int name, void *out, unsigned n)
{
    socklen_t size = n;
    return OE_SYS6(SYS_getsockopt, fd, SOL_SOCKET, name, out, &size, 0);
}

static int is_tcp(int fd)
{
    int protocol = 0;
    return socket_option(fd, SO_PROTOCOL, &protocol, sizeof(protocol)) == 0 && protocol == IPPROTO_TCP;
}

static void connect_policy(const struct oe_sock *s, struct oe_conn_setup *setup)
{
    char ip[INET6_ADDRSTRLEN];
    oe_names_ip(&s->address, ip, sizeof(ip));
    setup->policy = oe_policy_connect(&oe_life.env.conf, s->host, ip, s->address.port);
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

/* Fills a new socket object. -1: out of memory. */
static int fill(struct oe_sock *s, int fd, enum oe_role role, const struct oe_address *peer)
{
    struct oe_conn_setup setup = {.role = role, .handshake_ms = oe_life.env.conf.handshake_ms, .identity = &oe_life.identity};

    s->address = *peer;
    if (role == OE_INITIATOR) {
        s->host = oe_names_find(peer);
        connect_policy(s, &setup);
    } else {
        accept_policy(fd, &setup);
    }
    randombytes_buf(setup.ephemeral.b, sizeof(setup.ephemeral.b));
    enum oe_status st = oe_conn_init(&s->conn, &setup);
    oe_secret_wipe(&setup.ephemeral);
    return st == OE_OK ? 0 : -1;
}

static void track(int fd, enum oe_role role, const struct sockaddr *sa, socklen_t sa_n)
{
    struct oe_address peer;
    uint64_t cookie;
    int found;

    if (!atomic_load_explicit(&oe_life.ready, memory_order_acquire) || oe_life_foreign() || oe_names_address(sa, sa_n, &peer) != 0 ||
        !is_tcp(fd) || socket_option(fd, SO_COOKIE, &cookie, sizeof(cookie)) != 0)
        return;
    if (oe_life_crypto() != 0)
        return;
    struct oe_sock *s = oe_fdtab_add(cookie, &found);
    if (s == NULL || (!found && fill(s, fd, role, &peer) != 0) || oe_fdtab_set(fd, s) != 0)
        oe_log_write(&oe_life.env.log, OE_LOG_ERROR, "%s: out of memory or descriptor too large, the connection stays plain",
                     role == OE_INITIATOR ? "connect" : "accept");
    if (s != NULL)
        oe_fdtab_unref(s);
}

/* A slot whose socket is not fd's any more: it was closed by a way that is not hooked. */
static void purge(int fd)
{
    struct oe_sock *s = oe_fdtab_take(fd);
    if (s != NULL)
        oe_fdtab_unref(s);
    oe_fdtab_unmark(fd);
}

void oe_track_connect(int fd, const struct sockaddr *peer, socklen_t peer_n)
{
    int saved = errno;
    struct oe_sock *s = oe_fdtab_get(fd);
    uint64_t cookie = 0;

    if (s != NULL) {
        /* A connect that is under way is asked for again; or the last one failed and this one goes elsewhere; or the slot is stale. */
        struct oe_address to;
        int same = socket_option(fd, SO_COOKIE, &cookie, sizeof(cookie)) == 0 && cookie == s->cookie &&
                   oe_names_address(peer, peer_n, &to) == 0 && memcmp(&to, &s->address, sizeof(to)) == 0;
        oe_fdtab_unref(s);
        if (same)
            goto out;
        purge(fd);
    } else if (!oe_life_foreign()) {
        oe_fdtab_unmark(fd);
    }
    track(fd, OE_INITIATOR, peer, peer_n);
out:
    errno = saved;
}

void oe_track_listen(int fd)
{
    int saved = errno;
    if (atomic_load_explicit(&oe_life.ready, memory_order_acquire) && !oe_life_foreign() && is_tcp(fd))
        oe_show_listen();
    errno = saved;
}

void oe_track_accept(int fd)
{
    int saved = errno;
    struct sockaddr_storage peer = {0};
    socklen_t n = sizeof(peer);

    if (oe_life_foreign())
        return;
    purge(fd);
    if (OE_SYS3(SYS_getpeername, fd, &peer, &n) == 0)
        track(fd, OE_RESPONDER, (const struct sockaddr *)&peer, n);
    errno = saved;
}

void oe_track_dup(int fd, int newfd)
{
    int saved = errno;

    if (fd == newfd || oe_life_foreign())
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
    struct oe_sock *s = oe_life_foreign() ? NULL : oe_fdtab_take(fd);
    if (s != NULL)
        oe_io_closing(s, fd);
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
    struct oe_sock *s;

    if (!oe_life_foreign()) {
        oe_fdtab_unmark(fd);
        if ((s = oe_fdtab_take(fd)) != NULL) {
            oe_io_closing(s, fd);
            oe_fdtab_unref(s);
        }
    }
    errno = saved;
}
