#include "varint.h"

enum oe_status oe_varint_get(const uint8_t *p, size_t n, uint32_t *value, size_t *used)
{
    uint32_t v = 0;
    for (size_t i = 0; i < 4; i++) {
        if (i == n)
            return OE_MORE;
        v |= (uint32_t)(p[i] & 0x7F) << (7 * i);
        if ((p[i] & 0x80) == 0) {
            if (i > 0 && p[i] == 0)
                return OE_MALFORMED;
            *value = v;
            *used = i + 1;
            return OE_OK;
        }
    }
    return OE_MALFORMED;
}

size_t oe_varint_put(uint8_t out[4], uint32_t value)
{
    size_t n = 0;
    do {
        uint8_t byte = value & 0x7F;
        value >>= 7;
        out[n++] = value != 0 ? (uint8_t)(byte | 0x80) : byte;
    } while (value != 0 && n < 4);
    return n;
}
