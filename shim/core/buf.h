/* A growing byte queue: bytes are put at the end and taken from the front. Freed memory is wiped. */
#ifndef OE_CORE_BUF_H
#define OE_CORE_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "status.h"

/* Zero-initialised is empty. The content is p[pos] to p[len - 1]. */
struct oe_buf {
    uint8_t *p; /* owned */
    size_t pos;
    size_t len;
    size_t cap;
};

static inline size_t oe_buf_n(const struct oe_buf *b)
{
    return b->len - b->pos;
}

static inline struct oe_span oe_buf_span(const struct oe_buf *b)
{
    return (struct oe_span){b->p == NULL ? NULL : b->p + b->pos, b->len - b->pos};
}

/* Room for n more bytes at the returned address; NULL: out of memory, nothing changed. Written bytes count after oe_buf_wrote. */
uint8_t *oe_buf_reserve(struct oe_buf *b, size_t n);

static inline void oe_buf_wrote(struct oe_buf *b, size_t n)
{
    b->len += n;
}

enum oe_status oe_buf_put(struct oe_buf *b, const void *p, size_t n); /* OE_OK, OE_NOMEM */

/* Drops n bytes (at most oe_buf_n) from the front. */
void oe_buf_drop(struct oe_buf *b, size_t n);

/* Wipes, frees and empties. */
void oe_buf_free(struct oe_buf *b);

/* Where output goes: the caller's n_max bytes at p first, what does not fit into rest. rest may not be NULL. */
struct oe_sink {
    uint8_t *p;
    size_t n_max;
    size_t n; /* bytes of p that are filled */
    struct oe_buf *rest;
};

/* The address of n contiguous bytes to be written next, then counted by oe_sink_wrote; NULL: out of memory. */
uint8_t *oe_sink_reserve(struct oe_sink *s, size_t n);
void oe_sink_wrote(struct oe_sink *s, const uint8_t *at, size_t n);
enum oe_status oe_sink_put(struct oe_sink *s, const void *p, size_t n); /* OE_OK, OE_NOMEM */

#endif
