#include "guard.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "lock.h"
#include "sys.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#define OE_LSAN
#endif

#define BLOCKS_EACH 40U /* blocks that are mapped at a time */

/* Blocks that are free, linked by their first bytes. */
static struct block {
    struct block *next;
} * blocks;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;

static size_t page_bytes(void)
{
    return getauxval(AT_PAGESZ);
}

static size_t rounded(size_t n)
{
    return (n + page_bytes() - 1) / page_bytes() * page_bytes();
}

void *oe_guard_map(size_t n)
{
    size_t inside = rounded(n), guard = page_bytes();
    uint8_t *p = oe_sys_mmap(inside + 2 * guard, PROT_NONE, MAP_PRIVATE);

    if (p == NULL)
        return NULL;
    if (OE_SYS3(SYS_mprotect, p + guard, inside, PROT_READ | PROT_WRITE) != 0) {
        OE_SYS3(SYS_munmap, p, inside + 2 * guard, 0);
        return NULL;
    }
    OE_SYS3(SYS_madvise, p + guard, inside, MADV_DONTDUMP);
#ifdef OE_LSAN
    __lsan_register_root_region(p + guard, inside); /* what objects in it own is no leak */
#endif
    return p + guard;
}

void oe_guard_seal(void *p, size_t n)
{
    OE_SYS3(SYS_mlock, p, rounded(n), 0);
    OE_SYS3(SYS_mprotect, p, rounded(n), PROT_READ);
}

/* Under blocks_lock. */
static void grow(void)
{
    uint8_t *p = oe_guard_map((size_t)BLOCKS_EACH * OE_GUARD_BLOCK_BYTES);

    for (unsigned i = 0; p != NULL && i < BLOCKS_EACH; i++) {
        struct block *b = (struct block *)(void *)(p + (size_t)i * OE_GUARD_BLOCK_BYTES);
        b->next = blocks;
        blocks = b;
    }
}

void *oe_guard_get(size_t n)
{
    struct block *b = NULL;

    if (n > OE_GUARD_BLOCK_BYTES)
        return NULL;
    uint64_t signals = oe_lock(&blocks_lock);
    if (blocks == NULL)
        grow();
    if (blocks != NULL) {
        b = blocks;
        blocks = b->next;
    }
    oe_unlock(&blocks_lock, signals);
    if (b != NULL)
        memset(b, 0, n);
    return b;
}

void oe_guard_put(void *p)
{
    struct block *b = p;

    uint64_t signals = oe_lock(&blocks_lock);
    b->next = blocks;
    blocks = b;
    oe_unlock(&blocks_lock, signals);
}

void oe_guard_fork_prepare(void)
{
    pthread_mutex_lock(&blocks_lock);
}

void oe_guard_fork_done(void)
{
    pthread_mutex_unlock(&blocks_lock);
}
