/* What the files of exported functions share. */
#ifndef OE_HOOK_HOOKS_H
#define OE_HOOK_HOOKS_H

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

#endif
