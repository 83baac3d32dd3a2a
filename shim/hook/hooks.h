/* What the files of exported functions share. */
#ifndef OE_HOOK_HOOKS_H
#define OE_HOOK_HOOKS_H

#include <sys/socket.h>

#include "fdtab.h"

#define EXPORT __attribute__((visibility("default")))

/* Whether there is anything to forget when fd is closed or is a new one. */
static inline int oe_hook_known(int fd)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    if (s != NULL)
        oe_fdtab_unref(s);
    return s != NULL || oe_fdtab_marked(fd);
}

/* What connect and accept do behind the real call, and whether a close_range closes what is in the table: for syscall(), too. */
int oe_hook_connected(int r, int fd, const struct sockaddr *address, socklen_t n);
int oe_hook_accepted(int fd);
int oe_hook_closes_range(unsigned first, unsigned last, int flags);

#endif
