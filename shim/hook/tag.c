#include "tag.h"

#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "sys.h"

/* "oeM" and the tag; as a number of bytes nearly 2 GiB. */
#define BASE 0x6f654d00

static int get(int fd, int level, int name, int *value)
{
    socklen_t n = sizeof(*value);
    return OE_SYS6(SYS_getsockopt, fd, level, name, value, &n, 0) == 0 && n == sizeof(*value) ? 0 : -1;
}

static int set(int fd, int level, int name, int value)
{
    return OE_SYS6(SYS_setsockopt, fd, level, name, &value, sizeof(value), 0) == 0 ? 0 : -1;
}

enum oe_tag oe_tag_of(int fd)
{
    int value = 0;

    if (get(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &value) != 0 || value <= BASE || value > BASE + OE_TAG_USED_RESPONDER)
        return OE_TAG_NONE;
    return (enum oe_tag)(value - BASE);
}

static void put(struct oe_sock *s, int fd, enum oe_tag tag)
{
    s->tag = set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, BASE + (int)tag) == 0 ? tag : OE_TAG_NONE;
}

void oe_tag_begin(struct oe_sock *s, int fd, enum oe_tag was)
{
    int value = 0;

    s->tag = (uint8_t)was;
    if (was != OE_TAG_NONE)
        return;
    if (get(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &value) == 0 && (value < BASE || value > BASE + OE_TAG_USED_RESPONDER))
        atomic_store(&s->notsent, value);
    put(s, fd, s->conn.role == OE_INITIATOR ? OE_TAG_FRESH_INITIATOR : OE_TAG_FRESH_RESPONDER);
}

void oe_tag_use(struct oe_sock *s, int fd)
{
    int value = 1;

    if (s->tag != OE_TAG_FRESH_INITIATOR && s->tag != OE_TAG_FRESH_RESPONDER)
        return;
    put(s, fd, s->conn.role == OE_INITIATOR ? OE_TAG_USED_INITIATOR : OE_TAG_USED_RESPONDER);
    if (get(fd, SOL_SOCKET, SO_RCVLOWAT, &value) != 0 || value != 1)
        (void)set(fd, SOL_SOCKET, SO_RCVLOWAT, 1);
    atomic_store(&s->lowat, value);
}

void oe_tag_end(struct oe_sock *s, int fd)
{
    int lowat = atomic_exchange(&s->lowat, 0);

    if (s->tag == OE_TAG_NONE)
        return;
    s->tag = OE_TAG_NONE;
    (void)set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, atomic_load(&s->notsent));
    if (lowat > 1)
        (void)set(fd, SOL_SOCKET, SO_RCVLOWAT, lowat);
}

int oe_tag_get_option(const struct oe_sock *s, int level, int name, int *value)
{
    if (level == IPPROTO_TCP && name == TCP_NOTSENT_LOWAT && s->tag != OE_TAG_NONE)
        *value = atomic_load(&s->notsent);
    else if (level == SOL_SOCKET && name == SO_RCVLOWAT && atomic_load(&s->lowat) != 0)
        *value = atomic_load(&s->lowat);
    else
        return 0;
    return 1;
}

int oe_tag_set_option(struct oe_sock *s, int level, int name, int value)
{
    if (level == IPPROTO_TCP && name == TCP_NOTSENT_LOWAT && s->tag != OE_TAG_NONE)
        atomic_store(&s->notsent, value);
    else if (level == SOL_SOCKET && name == SO_RCVLOWAT && atomic_load(&s->lowat) != 0)
        atomic_store(&s->lowat, value < 0 ? INT_MAX : value == 0 ? 1 : value);
    else
        return 0;
    return 1;
}
