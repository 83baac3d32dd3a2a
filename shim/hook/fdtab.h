/*
 * From descriptor to tracked socket. A fixed two-level index answers with two atomic loads and never owns a descriptor; behind it every socket is one
 * object in a uthash table keyed by SO_COOKIE, which finds descriptors of one socket and tells stale entries.
 *
 * References: each slot and each call under way holds one. Taking one is lock-free and safe in a signal handler, as is giving it back: the last
 * one wipes the keys and leaves the rest to the next oe_fdtab_add.
 */
#ifndef OE_HOOK_FDTAB_H
#define OE_HOOK_FDTAB_H

#include "sock.h"

#define OE_FD_PAGE 1024U
#define OE_FD_PAGES 1024U /* descriptors from 1,048,576 on are not tracked */

struct oe_fd_page {
    _Atomic(struct oe_sock *) slot[OE_FD_PAGE];
    _Atomic(struct oe_stats_slot *) mark[OE_FD_PAGE]; /* shows a plain connection that has been let go, until it is closed */
};
extern _Atomic(struct oe_fd_page *) oe_fd_pages[OE_FD_PAGES];

/* The slower half of oe_fdtab_get. */
struct oe_sock *oe_fdtab_ref(int fd);

/* The socket of fd with a reference for the caller, or NULL if fd is not tracked. */
static inline struct oe_sock *oe_fdtab_get(int fd)
{
    if ((unsigned)fd >= OE_FD_PAGE * OE_FD_PAGES)
        return NULL;
    struct oe_fd_page *page = atomic_load_explicit(&oe_fd_pages[(unsigned)fd / OE_FD_PAGE], memory_order_acquire);
    if (page == NULL || atomic_load_explicit(&page->slot[(unsigned)fd % OE_FD_PAGE], memory_order_relaxed) == NULL)
        return NULL;
    return oe_fdtab_ref(fd);
}

void oe_fdtab_unref(struct oe_sock *s);

/* A new socket object for cookie, or the live one that has it (*found is 1 then); with a reference for the caller. NULL: out of memory. The
 * mutexes are ready, the rest of a new one is zero. */
struct oe_sock *oe_fdtab_add(uint64_t cookie, int *found);

/* Puts s into fd's slot, with a reference of the slot's own; drops whatever stood there. -1: fd is too large or there is no memory. */
int oe_fdtab_set(int fd, struct oe_sock *s);

/* Empties fd's slot and hands its reference to the caller; NULL if there was nothing. */
struct oe_sock *oe_fdtab_take(int fd);

/* Whether s is in fd's slot. */
int oe_fdtab_holds(int fd, const struct oe_sock *s);

/* A connection whose socket begins another one: it can no longer be found by its cookie. */
void oe_fdtab_unlist(struct oe_sock *s);

/* The live connection of that cookie, with a reference for the caller, or NULL. */
struct oe_sock *oe_fdtab_find(uint64_t cookie);

/* The first descriptor from fd on that is tracked or marked; -1: there is none. */
int oe_fdtab_next(int fd);

/* Descriptors that still are old's become those of what fd has now. */
void oe_fdtab_rebind(struct oe_sock *old, int fd);

/* Empties fd's slot if s is in it. */
void oe_fdtab_drop(int fd, struct oe_sock *s);

/* The same for a connection that is plain from now on: it is shown until the descriptor is closed. */
void oe_fdtab_release(int fd, struct oe_sock *s);

/* Whether fd has such a mark; takes it away; gives newfd the same. */
static inline int oe_fdtab_marked(int fd)
{
    if ((unsigned)fd >= OE_FD_PAGE * OE_FD_PAGES)
        return 0;
    struct oe_fd_page *page = atomic_load_explicit(&oe_fd_pages[(unsigned)fd / OE_FD_PAGE], memory_order_acquire);
    return page != NULL && atomic_load_explicit(&page->mark[(unsigned)fd % OE_FD_PAGE], memory_order_relaxed) != NULL;
}
/* Whether anything stands at fd, a socket or a mark. */
static inline int oe_fdtab_used(int fd)
{
    if ((unsigned)fd >= OE_FD_PAGE * OE_FD_PAGES)
        return 0;
    struct oe_fd_page *page = atomic_load_explicit(&oe_fd_pages[(unsigned)fd / OE_FD_PAGE], memory_order_acquire);
    return page != NULL && (atomic_load_explicit(&page->slot[(unsigned)fd % OE_FD_PAGE], memory_order_relaxed) != NULL ||
                            atomic_load_explicit(&page->mark[(unsigned)fd % OE_FD_PAGE], memory_order_relaxed) != NULL);
}
void oe_fdtab_unmark(int fd);

/* A stdio stream was put over fd before it was connected: another kind of mark, which lasts until fd is closed, and is not a duplicate's. */
void oe_fdtab_mark_stdio(int fd);
int oe_fdtab_has_stdio(int fd);
void oe_fdtab_mark_dup(int fd, int newfd);

/* fork: before, and after in parent and child. The child makes locks that other threads held usable and gives up what they guarded. */
void oe_fdtab_fork_prepare(void);
void oe_fdtab_fork_parent(void);
void oe_fdtab_fork_child(void);

#endif
