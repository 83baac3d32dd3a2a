#include "frame.h"

enum oe_status oe_frame_header(const uint8_t *p, size_t n, struct oe_header *out)
{
    uint32_t remaining;
    size_t used;

    if (n == 0)
        return OE_MORE;
    enum oe_status st = oe_varint_get(p + 1, n - 1, &remaining, &used);
    if (st != OE_OK)
        return st;
    *out = (struct oe_header){.first = p[0], .header_n = 1 + used, .total_n = 1 + used + remaining};
    return OE_OK;
}

/* Copies what of in belongs to the first bytes of the packet and may be kept. */
static void keep(struct oe_framer *f, const uint8_t *p, size_t n)
{
    size_t room = OE_FRAME_KEEP_MAX - f->kept_n;
    if (n > room)
        n = room;
    memcpy(f->kept + f->kept_n, p, n);
    f->kept_n = (uint8_t)(f->kept_n + n);
}

enum oe_status oe_framer_push(struct oe_framer *f, struct oe_span in, size_t *taken)
{
    static_assert(OE_FRAME_KEEP_MAX > OE_MQTT_HEADER_BYTES_MAX, "the fixed header is kept whole");
    *taken = 0;
    while (f->header.header_n == 0) {
        if (*taken == in.n)
            return OE_MORE;
        keep(f, in.p + *taken, 1);
        *taken += 1;
        enum oe_status st = oe_frame_header(f->kept, f->kept_n, &f->header);
        if (st == OE_OK)
            f->left = f->header.total_n - f->header.header_n;
        else if (st != OE_MORE)
            return st;
    }
    size_t n = in.n - *taken;
    if (n > f->left)
        n = f->left;
    keep(f, in.p + *taken, n);
    *taken += n;
    f->left -= n;
    return f->left == 0 ? OE_OK : OE_MORE;
}

void oe_framer_next(struct oe_framer *f)
{
    *f = (struct oe_framer){0};
}
