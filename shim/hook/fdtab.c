#include "fdtab.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "guard.h"
#include "lock.h"
#include "pool.h"
#include "show.h"
#include "sys.h"

_Atomic(struct oe_fd_page *) oe_fd_pages[OE_FD_PAGES];

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct oe_sock *table;          /* under table_lock */
static struct oe_sock *free_list;      /* under table_lock */
static _Atomic(struct oe_sock *) dead; /* sockets without references, not yet cleaned up */

static void *map(size_t n)
{
    return oe_sys_mmap(n, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

/* ---- references ----------------------------------------------------------------------------------------------------------------------- */

static int ref_live(struct oe_sock *s)
{
    uint32_t n = atomic_load_explicit(&s->refs, memory_order_relaxed);
    while (n != 0)
        if (atomic_compare_exchange_weak_explicit(&s->refs, &n, n + 1, memory_order_acquire, memory_order_relaxed))
            return 1;
    return 0;
}

static _Atomic(struct oe_sock *) *slot_of(int fd)
{
    if ((unsigned)fd >= OE_FD_PAGE * OE_FD_PAGES)
        return NULL;
    struct oe_fd_page *page = atomic_load_explicit(&oe_fd_pages[(unsigned)fd / OE_FD_PAGE], memory_order_acquire);
    return page == NULL ? NULL : &page->slot[(unsigned)fd % OE_FD_PAGE];
}

struct oe_sock *oe_fdtab_ref(int fd)
{
    _Atomic(struct oe_sock *) *slot = slot_of(fd);
    struct oe_sock *s;

    /* The object may die and be used again between the load and the reference: look again whether it is still the slot's. */
    while ((s = atomic_load_explicit(slot, memory_order_acquire)) != NULL) {
        if (!ref_live(s))
            continue;
        if (atomic_load_explicit(slot, memory_order_acquire) == s)
            return s;
        oe_fdtab_unref(s);
    }
    return NULL;
}

void oe_fdtab_unref(struct oe_sock *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    /* Nobody can find it any more. No allocator here: close may be called in a signal handler. */
    struct oe_stats_slot *shown = atomic_exchange(&s->slot, NULL);
    if (shown != NULL)
        oe_show_let_go(shown);
    oe_conn_forget(&s->conn);
    struct oe_sock *head = atomic_load(&dead);
    do
        s->next = head;
    while (!atomic_compare_exchange_weak(&dead, &head, s));
}

/* ---- objects: under table_lock -------------------------------------------------------------------------------------------------------- */

static void reap(void)
{
    struct oe_sock *s = atomic_exchange(&dead, NULL);

    while (s != NULL) {
        struct oe_sock *next = s->next;
        if (!s->unlisted)
            HASH_DEL(table, s);
        oe_conn_wipe(&s->conn);
        oe_pool_put(&s->owed);
        oe_pool_put(&s->pending);
        oe_share_give(&s->claim);
        for (unsigned i = 0; i < s->hosts_n; i++)
            free(s->hosts[i]);
        free(s->trusted);
        pthread_mutex_destroy(&s->rx);
        pthread_mutex_destroy(&s->tx);
        s->next = free_list;
        free_list = s;
        s = next;
    }
}

#define SLAB_BYTES (64U << 10)

static struct oe_sock *new_object(void)
{
    if (free_list == NULL) {
        struct oe_sock *slab = oe_guard_map(SLAB_BYTES); /* the keys of records are inside */
        if (slab == NULL)
            return NULL;
        for (size_t i = 0; i < SLAB_BYTES / sizeof(*slab); i++) {
            slab[i].next = free_list;
            free_list = &slab[i];
        }
    }
    struct oe_sock *s = free_list;
    free_list = s->next;
    /* Everything but refs, which others may look at: it stays 0 until the object is complete. */
    memset((char *)s + sizeof(s->refs), 0, sizeof(*s) - sizeof(s->refs));
    return s;
}

static struct oe_sock *create(uint64_t cookie)
{
    struct oe_sock *s = new_object(), *added = NULL;

    if (s == NULL)
        return NULL;
    s->cookie = cookie;
    if (oe_share_take(&s->claim) == 0) {
        HASH_ADD(hh, table, cookie, sizeof(s->cookie), s);
        HASH_FIND(hh, table, &cookie, sizeof(cookie), added);
    }
    if (added != s) {
        oe_share_give(&s->claim);
        s->next = free_list;
        free_list = s;
        return NULL;
    }
    pthread_mutex_init(&s->rx, NULL);
    pthread_mutex_init(&s->tx, NULL);
    atomic_store_explicit(&s->refs, 1, memory_order_release);
    return s;
}

struct oe_sock *oe_fdtab_add(uint64_t cookie, int *found)
{
    struct oe_sock *s;

    *found = 0;
    oe_pool_fill();
    uint64_t signals = oe_lock(&table_lock);
    reap();
    HASH_FIND(hh, table, &cookie, sizeof(cookie), s);
    if (s != NULL && ref_live(s))
        *found = 1;
    else
        s = s == NULL ? create(cookie) : NULL;
    oe_unlock(&table_lock, signals);
    return s;
}

struct oe_sock *oe_fdtab_find(uint64_t cookie)
{
    struct oe_sock *s;

    uint64_t signals = oe_lock(&table_lock);
    HASH_FIND(hh, table, &cookie, sizeof(cookie), s);
    if (s != NULL && !ref_live(s))
        s = NULL;
    oe_unlock(&table_lock, signals);
    return s;
}

/* ---- slots ---------------------------------------------------------------------------------------------------------------------------- */

static struct oe_fd_page *page_for(int fd)
{
    _Atomic(struct oe_fd_page *) *at = &oe_fd_pages[(unsigned)fd / OE_FD_PAGE];
    struct oe_fd_page *page = atomic_load_explicit(at, memory_order_acquire), *none = NULL;

    if (page != NULL)
        return page;
    page = map(sizeof(*page));
    if (page == NULL || atomic_compare_exchange_strong(at, &none, page))
        return page;
    OE_SYS3(SYS_munmap, page, sizeof(*page), 0);
    return none;
}

int oe_fdtab_set(int fd, struct oe_sock *s)
{
    if ((unsigned)fd >= OE_FD_PAGE * OE_FD_PAGES || page_for(fd) == NULL)
        return -1;
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    struct oe_sock *old = atomic_exchange(slot_of(fd), s);
    if (old != NULL)
        oe_fdtab_unref(old);
    oe_fdtab_unmark(fd);
    return 0;
}

struct oe_sock *oe_fdtab_take(int fd)
{
    _Atomic(struct oe_sock *) *slot = slot_of(fd);
    return slot == NULL ? NULL : atomic_exchange(slot, NULL);
}

int oe_fdtab_holds(int fd, const struct oe_sock *s)
{
    _Atomic(struct oe_sock *) *slot = slot_of(fd);
    return slot != NULL && atomic_load(slot) == s;
}

int oe_fdtab_next(int fd)
{
    for (unsigned at = (unsigned)fd; at < OE_FD_PAGE * OE_FD_PAGES; at++) {
        struct oe_fd_page *page = atomic_load_explicit(&oe_fd_pages[at / OE_FD_PAGE], memory_order_acquire);
        if (page == NULL)
            at |= OE_FD_PAGE - 1; /* the last of its page */
        else if (atomic_load_explicit(&page->slot[at % OE_FD_PAGE], memory_order_relaxed) != NULL ||
                 atomic_load_explicit(&page->mark[at % OE_FD_PAGE], memory_order_relaxed) != NULL)
            return (int)at;
    }
    return -1;
}

void oe_fdtab_drop(int fd, struct oe_sock *s)
{
    _Atomic(struct oe_sock *) *slot = slot_of(fd);
    struct oe_sock *expected = s;
    if (slot != NULL && atomic_compare_exchange_strong(slot, &expected, NULL))
        oe_fdtab_unref(s);
}

void oe_fdtab_unlist(struct oe_sock *s)
{
    uint64_t signals = oe_lock(&table_lock);
    if (!s->unlisted)
        HASH_DEL(table, s);
    s->unlisted = 1;
    oe_unlock(&table_lock, signals);
}

void oe_fdtab_rebind(struct oe_sock *old, int fd)
{
    for (unsigned p = 0; p < OE_FD_PAGES; p++) {
        struct oe_fd_page *page = atomic_load_explicit(&oe_fd_pages[p], memory_order_acquire);
        for (unsigned i = 0; page != NULL && i < OE_FD_PAGE; i++) {
            struct oe_sock *expected = old, *to = NULL;
            if (atomic_load_explicit(&page->slot[i], memory_order_relaxed) != old)
                continue;
            to = oe_fdtab_ref(fd);
            if (atomic_compare_exchange_strong(&page->slot[i], &expected, to))
                oe_fdtab_unref(old); /* the slot has to's reference now */
            else if (to != NULL)
                oe_fdtab_unref(to);
        }
    }
}

/* ---- marks ---------------------------------------------------------------------------------------------------------------------------- */

/* Stands among the marks for a stdio stream. */
static struct oe_stats_slot stdio;

static struct oe_stats_slot *mark_of(int fd)
{
    return oe_fdtab_marked(fd) ? atomic_load(&oe_fd_pages[(unsigned)fd / OE_FD_PAGE]->mark[(unsigned)fd % OE_FD_PAGE]) : NULL;
}

static void mark(int fd, struct oe_stats_slot *shown)
{
    struct oe_stats_slot *old =
        atomic_exchange(&oe_fd_pages[(unsigned)fd / OE_FD_PAGE]->mark[(unsigned)fd % OE_FD_PAGE], shown); /* its page is there */
    if (old != NULL && old != &stdio)
        oe_show_let_go(old);
}

void oe_fdtab_mark_stdio(int fd)
{
    if ((unsigned)fd < OE_FD_PAGE * OE_FD_PAGES && page_for(fd) != NULL)
        mark(fd, &stdio);
}

int oe_fdtab_has_stdio(int fd)
{
    return mark_of(fd) == &stdio;
}

void oe_fdtab_release(int fd, struct oe_sock *s)
{
    _Atomic(struct oe_sock *) *slot = slot_of(fd);
    struct oe_sock *expected = s;
    struct oe_stats_slot *shown = atomic_load(&s->slot);

    if (slot == NULL || !atomic_compare_exchange_strong(slot, &expected, NULL))
        return;
    if (shown != NULL && oe_show_hold(shown))
        mark(fd, shown);
    oe_fdtab_unref(s);
}

void oe_fdtab_unmark(int fd)
{
    if (oe_fdtab_marked(fd))
        mark(fd, NULL);
}

void oe_fdtab_mark_dup(int fd, int newfd)
{
    struct oe_stats_slot *shown;

    shown = mark_of(fd);
    if (shown == NULL || shown == &stdio || (unsigned)newfd >= OE_FD_PAGE * OE_FD_PAGES || page_for(newfd) == NULL)
        return;
    if (oe_show_hold(shown))
        mark(newfd, shown);
}

/* ---- fork ----------------------------------------------------------------------------------------------------------------------------- */

void oe_fdtab_fork_prepare(void)
{
    pthread_mutex_lock(&table_lock);
    /* Those that nobody refers to are not the child's. They are not cleaned up here: a handler may fork while its thread is in the allocator. */
    for (struct oe_sock *s = table; s != NULL; s = s->hh.next) {
        s->unshared = atomic_load(&s->refs) == 0;
        if (!s->unshared)
            oe_share_fork(&s->claim);
    }
}

void oe_fdtab_fork_parent(void)
{
    pthread_mutex_unlock(&table_lock);
}

/* A lock that another thread held at the fork: what it guards may be half changed, and nobody will ever unlock it. */
static int lock_lost(pthread_mutex_t *m)
{
    if (pthread_mutex_trylock(m) == 0) {
        pthread_mutex_unlock(m);
        return 0;
    }
    pthread_mutex_init(m, NULL);
    return 1;
}

void oe_fdtab_fork_child(void)
{
    int32_t pid = (int32_t)OE_SYS3(SYS_getpid, 0, 0, 0);

    oe_share_child();
    for (unsigned i = 0; i < OE_FD_PAGES; i++) {
        struct oe_fd_page *page = atomic_load(&oe_fd_pages[i]);
        for (unsigned k = 0; page != NULL && k < OE_FD_PAGE; k++)
            if (atomic_load_explicit(&page->mark[k], memory_order_relaxed) != &stdio)
                atomic_store_explicit(&page->mark[k], NULL, memory_order_relaxed);
    }
    for (struct oe_sock *s = table; s != NULL; s = s->hh.next) {
        atomic_store(&s->slot, NULL); /* it is the parent's; the child shows the connection when it goes on with it */
        atomic_store(&s->shown, 0);
        if (s->unshared)
            s->claim.share = NULL;
        oe_share_forked(&s->claim, pid);
        if (lock_lost(&s->rx) | lock_lost(&s->tx))
            atomic_store(&s->broken, 1);
    }
    pthread_mutex_unlock(&table_lock);
}
