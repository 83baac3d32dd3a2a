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
static unsigned own_from; /* blocks before this one are the parent's: their free shares are not ours to hand out */
static uint32_t first_free; /* index + 1, 0: none */

static struct oe_share *at(uint32_t index)
{
    return &blocks[index / PER_BLOCK][index % PER_BLOCK];
}

static int grow(void)
{
    if (blocks_n == BLOCKS_MAX)
        return -1;
    long p = OE_SYS6(SYS_mmap, 0, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p < 0 && p > -4096)
        return -1;
    blocks[blocks_n] = (struct oe_share *)p;
    for (uint32_t i = 0; i < PER_BLOCK; i++) {
        uint32_t index = (uint32_t)(blocks_n * PER_BLOCK) + i;
        blocks[blocks_n][i].next_free = first_free;
        first_free = index + 1;
    }
    blocks_n++;
    return 0;
}

/* A share that is given back is used again only when no other process holds it. Its sequence never goes back, so that a stale copy in a
 * child that fork's handlers did not see cannot fit by chance: the new connection begins far beyond. */
#define REUSE_DISTANCE (UINT64_C(1) << 32)

int oe_share_take(struct oe_claim *claim)
{
    if (first_free == 0 && grow() != 0)
        return -1;
    struct oe_share *s = at(first_free - 1);
    first_free = s->next_free;
    for (int dir = 0; dir < 2; dir++)
        claim->seq[dir] = atomic_fetch_add(&s->seq[dir], REUSE_DISTANCE) + REUSE_DISTANCE;
    atomic_store(&s->holders, 1);
    claim->share = s;
    return 0;
}

void oe_share_give(struct oe_claim *claim)
{
    struct oe_share *s = claim->share;
    claim->share = NULL;
    if (s == NULL || atomic_fetch_sub(&s->holders, 1) != 1)
        return;
    for (uint32_t b = own_from; b < blocks_n; b++) {
        if (s >= blocks[b] && s < blocks[b] + PER_BLOCK) {
            s->next_free = first_free;
            first_free = (uint32_t)(b * PER_BLOCK + (size_t)(s - blocks[b])) + 1;
        }
    }
}

void oe_share_fork(struct oe_claim *claim)
{
    if (claim->share != NULL)
        atomic_fetch_add(&claim->share->holders, 1);
}

void oe_share_child(void)
{
    own_from = blocks_n;
    first_free = 0;
}

int oe_share_others(const struct oe_claim *claim)
{
    return claim->share != NULL && atomic_load(&claim->share->holders) > 1;
}
