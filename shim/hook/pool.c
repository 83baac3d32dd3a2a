#include "pool.h"

#include <stdatomic.h>
#include <stdlib.h>

#define KEPT 8

static _Atomic(uint8_t *) kept[KEPT];

#define FILLED 4 /* scratch and owed or pending, twice */

static int keep(uint8_t *p)
{
    for (unsigned i = 0; i < KEPT; i++) {
        uint8_t *empty = NULL;
        if (atomic_load_explicit(&kept[i], memory_order_relaxed) == NULL && atomic_compare_exchange_strong(&kept[i], &empty, p))
            return 1;
    }
    return 0;
}

void oe_pool_fill(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < KEPT; i++)
        n += atomic_load_explicit(&kept[i], memory_order_relaxed) != NULL;
    for (; n < FILLED; n++) {
        uint8_t *p = malloc(OE_POOL_BYTES);
        if (p == NULL || !keep(p)) {
            free(p);
            return;
        }
    }
}

enum oe_status oe_pool_get(struct oe_buf *b)
{
    uint8_t *p = NULL;

    for (unsigned i = 0; i < KEPT && p == NULL; i++)
        if (atomic_load_explicit(&kept[i], memory_order_relaxed) != NULL)
            p = atomic_exchange(&kept[i], NULL);
    if (p == NULL)
        p = malloc(OE_POOL_BYTES);
    if (p == NULL)
        return OE_NOMEM;
    *b = (struct oe_buf){.p = p, .cap = OE_POOL_BYTES};
    return OE_OK;
}

void oe_pool_put(struct oe_buf *b)
{
    uint8_t *p = b->cap == OE_POOL_BYTES ? b->p : NULL;

    if (p == NULL) {
        oe_buf_free(b);
        return;
    }
    *b = (struct oe_buf){0};
    if (!keep(p))
        free(p);
}
