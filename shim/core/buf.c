#include "buf.h"

#include <sodium.h>
#include <stdlib.h>

uint8_t *oe_buf_reserve(struct oe_buf *b, size_t n)
{
    if (b->pos == b->len)
        b->pos = b->len = 0;
    if (n <= b->cap - b->len)
        return b->p + b->len;
    size_t have = b->len - b->pos;
    if (b->pos != 0 && n <= b->cap - have && b->pos >= have) {
        memcpy(b->p, b->p + b->pos, have);
        b->pos = 0;
        b->len = have;
        return b->p + have;
    }
    if (n > SIZE_MAX / 4 - have)
        return NULL;
    /* The first allocation is exact; a buffer that has to grow doubles. */
    size_t cap = have + n;
    if (b->cap != 0 && cap < 2 * b->cap)
        cap = 2 * b->cap;
    uint8_t *p = malloc(cap);
    if (p == NULL)
        return NULL;
    if (have != 0)
        memcpy(p, b->p + b->pos, have);
    oe_buf_free(b);
    *b = (struct oe_buf){.p = p, .len = have, .cap = cap};
    return p + have;
}

enum oe_status oe_buf_put(struct oe_buf *b, const void *p, size_t n)
{
    if (n == 0)
        return OE_OK;
    uint8_t *at = oe_buf_reserve(b, n);
    if (at == NULL)
        return OE_NOMEM;
    memcpy(at, p, n);
    b->len += n;
    return OE_OK;
}

void oe_buf_drop(struct oe_buf *b, size_t n)
{
    b->pos += n;
    if (b->pos == b->len)
        b->pos = b->len = 0;
}

void oe_buf_free(struct oe_buf *b)
{
    if (b->p != NULL)
        sodium_memzero(b->p, b->cap);
    free(b->p);
    *b = (struct oe_buf){0};
}

uint8_t *oe_sink_reserve(struct oe_sink *s, size_t n)
{
    if (oe_buf_n(s->rest) == 0 && n <= s->n_max - s->n)
        return s->p + s->n;
    return oe_buf_reserve(s->rest, n);
}

void oe_sink_wrote(struct oe_sink *s, const uint8_t *at, size_t n)
{
    /* rest may lie directly behind the caller's bytes */
    if (s->n < s->n_max && at == s->p + s->n)
        s->n += n;
    else
        oe_buf_wrote(s->rest, n);
}

enum oe_status oe_sink_put(struct oe_sink *s, const void *p, size_t n)
{
    const uint8_t *from = p;
    if (oe_buf_n(s->rest) == 0 && s->n < s->n_max && n != 0) {
        size_t k = n < s->n_max - s->n ? n : s->n_max - s->n;
        memcpy(s->p + s->n, from, k);
        s->n += k;
        from += k;
        n -= k;
    }
    return oe_buf_put(s->rest, from, n);
}
