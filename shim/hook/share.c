#include "share.h"

#include <stddef.h>
#include <sys/mman.h>

#include "sys.h"

/* Shares come in blocks that live as long as the process. The list of free ones is each process' own. */
#define BLOCK_BYTES 16384
#define PER_BLOCK (BLOCK_BYTES / sizeof(struct oe_share))
#define BLOCKS_MAX 4096

static struct oe_share *blocks[BLOCKS_MAX];
static unsigned blocks_n;
static unsigned own_from;   /* blocks before this one are the parent's: their free shares are not ours to hand out */
static uint32_t first_free; /* index + 1, 0: none */
static uint32_t first_lent; /* given back here, but a child had a copy */

static struct oe_share *at(uint32_t index)
{
    return &blocks[index / PER_BLOCK][index % PER_BLOCK];
}

static void put(uint32_t *list, uint32_t index)
{
    at(index)->next = *list;
    *list = index + 1;
}

static int grow(void)
{
    if (blocks_n == BLOCKS_MAX)
        return -1;
    struct oe_share *p = oe_sys_mmap(BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED);
    if (p == NULL)
        return -1;
    blocks[blocks_n++] = p;
    for (uint32_t i = 0; i < PER_BLOCK; i++)
        put(&first_free, (uint32_t)((blocks_n - 1) * PER_BLOCK) + i);
    return 0;
}

/* Children end without a word: their shares come back when nobody has that process id any more. */
static void take_back_lent(void)
{
    uint32_t list = first_lent;

    first_lent = 0;
    while (list != 0) {
        uint32_t index = list - 1;
        struct oe_share *s = at(index);
        list = s->next;
        int32_t child = atomic_load(&s->child);
        int dead = child != 0 && atomic_load(&s->holders) == 1 && OE_SYS3(SYS_kill, child, 0, 0) == -ESRCH;
        put(dead || atomic_load(&s->holders) == 0 ? &first_free : &first_lent, index);
    }
}

/* The sequence never goes back, so that a stale copy in a child that fork's handlers did not see cannot fit by chance: the next connection begins
 * far beyond. */
#define REUSE_DISTANCE (UINT64_C(1) << 32)

int oe_share_take(struct oe_claim *claim)
{
    if (first_free == 0)
        take_back_lent();
    if (first_free == 0 && grow() != 0)
        return -1;
    struct oe_share *s = at(first_free - 1);
    first_free = s->next;
    for (int dir = 0; dir < 2; dir++)
        claim->seq[dir] = atomic_fetch_add(&s->seq[dir], REUSE_DISTANCE) + REUSE_DISTANCE;
    atomic_store(&s->holders, 1);
    atomic_store(&s->child, 0);
    atomic_store(&s->mqtt, 0);
    claim->share = s;
    return 0;
}

void oe_share_give(struct oe_claim *claim)
{
    struct oe_share *s = claim->share;
    if (s == NULL)
        return;
    claim->share = NULL;
    uint32_t left = atomic_fetch_sub(&s->holders, 1) - 1;
    for (uint32_t b = own_from; b < blocks_n; b++)
        if (s >= blocks[b] && s < blocks[b] + PER_BLOCK)
            put(left == 0 ? &first_free : &first_lent, (uint32_t)(b * PER_BLOCK + (size_t)(s - blocks[b])));
}

void oe_share_fork(struct oe_claim *claim)
{
    if (claim->share != NULL)
        atomic_fetch_add(&claim->share->holders, 1);
}

void oe_share_forked(struct oe_claim *claim, int32_t pid)
{
    if (claim->share != NULL)
        atomic_store(&claim->share->child, atomic_load(&claim->share->holders) == 2 ? pid : 0);
}

void oe_share_child(void)
{
    own_from = blocks_n;
    first_free = first_lent = 0;
}

int oe_share_others(const struct oe_claim *claim)
{
    return claim->share != NULL && atomic_load(&claim->share->holders) > 1;
}
