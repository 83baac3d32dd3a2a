/* A read-only run of bytes and MQTT's two-byte integers. */
#ifndef OE_CORE_BYTES_H
#define OE_CORE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct oe_span {
    const uint8_t *p;
    size_t n; /* bytes */
};

static inline uint16_t oe_bytes_get16(const uint8_t p[2])
{
    return (uint16_t)((unsigned)p[0] << 8 | p[1]);
}

static inline void oe_bytes_put16(uint8_t p[2], uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline uint32_t oe_bytes_get32(const uint8_t p[4])
{
    return (uint32_t)oe_bytes_get16(p) << 16 | oe_bytes_get16(p + 2);
}

/* Whether span s is the n bytes at p. */
static inline int oe_span_is(struct oe_span s, const void *p, size_t n)
{
    return s.n == n && (n == 0 || memcmp(s.p, p, n) == 0);
}

#endif
