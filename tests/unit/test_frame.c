/* Variable byte integers, fixed headers and the framer; buffers and sinks. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/core/buf.h"
#include "../../shim/core/frame.h"
#include "run.h"

/* A copy in memory of exactly n bytes, so that a sanitizer sees every byte read outside. */
static uint8_t *exact(const void *p, size_t n)
{
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    ck_assert_ptr_nonnull(copy);
    if (n != 0)
        memcpy(copy, p, n);
    return copy;
}

/* ---- varint --------------------------------------------------------------------------------------------------------------------------- */

static enum oe_status get(const char *bytes, size_t n, uint32_t *value, size_t *used)
{
    uint8_t *p = exact(bytes, n);
    enum oe_status st = oe_varint_get(p, n, value, used);
    free(p);
    return st;
}

START_TEST(varint_known)
{
    static const struct {
        uint32_t value;
        size_t n;
        const char *bytes;
    } known[] = {
        {0, 1, "\x00"},
        {1, 1, "\x01"},
        {127, 1, "\x7F"},
        {128, 2, "\x80\x01"},
        {321, 2, "\xC1\x02"},
        {16383, 2, "\xFF\x7F"},
        {16384, 3, "\x80\x80\x01"},
        {2097151, 3, "\xFF\xFF\x7F"},
        {2097152, 4, "\x80\x80\x80\x01"},
        {268435455, 4, "\xFF\xFF\xFF\x7F"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint8_t out[5] = {0xEE, 0xEE, 0xEE, 0xEE, 0xEE};
        uint32_t value = 0;
        size_t used = 0;
        ck_assert_uint_eq(oe_varint_put(out, known[i].value), known[i].n);
        ck_assert_mem_eq(out, known[i].bytes, known[i].n);
        ck_assert_uint_eq(out[known[i].n], 0xEE);
        ck_assert_int_eq(get(known[i].bytes, known[i].n, &value, &used), OE_OK);
        ck_assert_uint_eq(value, known[i].value);
        ck_assert_uint_eq(used, known[i].n);
        for (size_t n = 0; n < known[i].n; n++)
            ck_assert_int_eq(get(known[i].bytes, n, &value, &used), OE_MORE);
    }
}
END_TEST

START_TEST(varint_round_trip)
{
    for (uint32_t v = 0; v <= OE_MQTT_REMAINING_MAX; v += v < 40000 ? 1 : v < 3000000 ? 97 : 65537) {
        uint8_t out[4];
        uint32_t value;
        size_t used, n = oe_varint_put(out, v);
        ck_assert_int_eq(oe_varint_get(out, n, &value, &used), OE_OK);
        ck_assert(value == v && used == n);
    }
}
END_TEST

START_TEST(varint_not_minimal)
{
    uint32_t value;
    size_t used;
    ck_assert_int_eq(get("\x80\x00", 2, &value, &used), OE_MALFORMED);
    ck_assert_int_eq(get("\xFF\x00", 2, &value, &used), OE_MALFORMED);
    ck_assert_int_eq(get("\x80\x80\x00", 3, &value, &used), OE_MALFORMED);
    ck_assert_int_eq(get("\xFF\xFF\x00", 3, &value, &used), OE_MALFORMED);
    ck_assert_int_eq(get("\x80\x80\x80\x00", 4, &value, &used), OE_MALFORMED);
}
END_TEST

START_TEST(varint_five_bytes)
{
    uint32_t value;
    size_t used;
    ck_assert_int_eq(get("\x80\x80\x80\x80", 4, &value, &used), OE_MALFORMED);
    ck_assert_int_eq(get("\xFF\xFF\xFF\xFF\x01", 5, &value, &used), OE_MALFORMED);
    ck_assert_int_eq(get("\x80\x80\x80\x80\x80", 5, &value, &used), OE_MALFORMED);
}
END_TEST

/* ---- fixed header --------------------------------------------------------------------------------------------------------------------- */

START_TEST(header_every_length)
{
    static const uint32_t lengths[] = {0, 1, 127, 128, 16383, 16384, 2097151, 2097152, OE_MQTT_REMAINING_MAX};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint8_t bytes[5] = {0x32};
        struct oe_header h;
        size_t n = 1 + oe_varint_put(bytes + 1, lengths[i]);
        for (size_t k = 0; k < n; k++) {
            uint8_t *p = exact(bytes, k);
            ck_assert_int_eq(oe_frame_header(p, k, &h), OE_MORE);
            free(p);
        }
        ck_assert_int_eq(oe_frame_header(bytes, n, &h), OE_OK);
        ck_assert_uint_eq(h.first, 0x32);
        ck_assert_uint_eq(h.header_n, n);
        ck_assert_uint_eq(h.total_n, n + lengths[i]);
        ck_assert_uint_eq(oe_header_type(h.first), OE_TYPE_PUBLISH);
    }
}
END_TEST

START_TEST(header_malformed)
{
    struct oe_header h;
    ck_assert_int_eq(oe_frame_header((const uint8_t *)"\x30\x80\x80\x80\x80", 5, &h), OE_MALFORMED);
    ck_assert_int_eq(oe_frame_header((const uint8_t *)"\x30\x80\x00", 3, &h), OE_MALFORMED);
}
END_TEST

/* ---- framer --------------------------------------------------------------------------------------------------------------------------- */

/* Packets of all header sizes up to three bytes, around the size of what is kept. */
static const uint32_t remaining[] = {0, 3, 13, 14, 15, 40, 127, 128, 0, 1};
#define PACKETS (sizeof(remaining) / sizeof(remaining[0]))
static uint8_t stream[1024];
static size_t stream_n, starts[PACKETS + 1];

static void make_stream(void)
{
    stream_n = 0;
    for (size_t i = 0; i < PACKETS; i++) {
        starts[i] = stream_n;
        stream[stream_n++] = (uint8_t)((i + 1) << 4 | i);
        stream_n += oe_varint_put(stream + stream_n, remaining[i]);
        for (uint32_t k = 0; k < remaining[i]; k++)
            stream[stream_n++] = (uint8_t)(0x80 | k); /* looks like a length that goes on */
    }
    starts[PACKETS] = stream_n;
    ck_assert_uint_lt(stream_n, sizeof(stream));
}

/* Feeds n bytes; *packet is how many packets were complete before. */
static void feed(struct oe_framer *f, size_t *at, size_t n, size_t *packet)
{
    while (n != 0) {
        size_t taken = 0;
        uint8_t *p = exact(stream + *at, n);
        enum oe_status st = oe_framer_push(f, (struct oe_span){p, n}, &taken);
        free(p);
        ck_assert(taken >= 1 && taken <= n);
        *at += taken;
        n -= taken;
        size_t size = starts[*packet + 1] - starts[*packet];
        if (st == OE_OK) {
            ck_assert_uint_eq(*at, starts[*packet + 1]);
            ck_assert_uint_eq(f->header.total_n, size);
            ck_assert_uint_eq(f->header.first, stream[starts[*packet]]);
            ck_assert_uint_eq(f->kept_n, size < OE_FRAME_KEEP_MAX ? size : OE_FRAME_KEEP_MAX);
            ck_assert_mem_eq(f->kept, stream + starts[*packet], f->kept_n);
            ck_assert(!oe_framer_boundary(f));
            oe_framer_next(f);
            *packet += 1;
            ck_assert(oe_framer_boundary(f));
        } else {
            ck_assert_int_eq(st, OE_MORE);
            ck_assert_uint_eq(n, 0);
            ck_assert_uint_lt(*at, starts[*packet + 1]);
            ck_assert(!oe_framer_boundary(f));
        }
    }
}

START_TEST(framer_every_two_splits)
{
    make_stream();
    for (size_t a = 0; a <= stream_n; a++) {
        for (size_t b = a; b <= stream_n; b += a % 7 == 0 ? 1 : 13) {
            struct oe_framer f = {0};
            size_t at = 0, packet = 0;
            feed(&f, &at, a, &packet);
            feed(&f, &at, b - a, &packet);
            feed(&f, &at, stream_n - b, &packet);
            ck_assert_uint_eq(packet, PACKETS);
        }
    }
}
END_TEST

START_TEST(framer_equal_pieces)
{
    make_stream();
    for (size_t size = 1; size <= stream_n; size++) {
        struct oe_framer f = {0};
        size_t at = 0, packet = 0;
        while (at < stream_n)
            feed(&f, &at, stream_n - at < size ? stream_n - at : size, &packet);
        ck_assert_uint_eq(packet, PACKETS);
    }
}
END_TEST

START_TEST(framer_empty_push)
{
    struct oe_framer f = {0};
    size_t taken = 9;
    ck_assert_int_eq(oe_framer_push(&f, (struct oe_span){NULL, 0}, &taken), OE_MORE);
    ck_assert_uint_eq(taken, 0);
    ck_assert(oe_framer_boundary(&f));
}
END_TEST

START_TEST(framer_malformed_at_every_split)
{
    static const char *const bad[] = {"\x30\x80\x80\x80\x80\x01", "\x30\xFF\x80\x00\x00\x00"};
    static const size_t bad_at[] = {5, 4}; /* bytes by which it is known */
    for (size_t i = 0; i < 2; i++) {
        for (size_t cut = 0; cut <= 6; cut++) {
            struct oe_framer f = {0};
            size_t taken, total = 0;
            enum oe_status st = oe_framer_push(&f, (struct oe_span){(const uint8_t *)bad[i], cut}, &taken);
            total += taken;
            if (st == OE_MORE)
                st = oe_framer_push(&f, (struct oe_span){(const uint8_t *)bad[i] + cut, 6 - cut}, &taken), total += taken;
            ck_assert_int_eq(st, OE_MALFORMED);
            ck_assert_uint_eq(total, bad_at[i]);
        }
    }
}
END_TEST

START_TEST(framer_largest_packet)
{
    static uint8_t block[1 << 20];
    struct oe_framer f = {0};
    size_t left = OE_MQTT_REMAINING_MAX, taken;
    ck_assert_int_eq(oe_framer_push(&f, (struct oe_span){(const uint8_t *)"\x30\xFF\xFF\xFF\x7F", 5}, &taken), OE_MORE);
    while (left != 0) {
        size_t n = left < sizeof(block) ? left : sizeof(block);
        ck_assert_int_eq(oe_framer_push(&f, (struct oe_span){block, n}, &taken), n == left ? OE_OK : OE_MORE);
        ck_assert_uint_eq(taken, n);
        left -= n;
    }
    ck_assert_uint_eq(f.header.total_n, 5 + (size_t)OE_MQTT_REMAINING_MAX);
}
END_TEST

/* ---- buffers and sinks ---------------------------------------------------------------------------------------------------------------- */

START_TEST(buf_is_a_queue)
{
    struct oe_buf b = {0};
    uint8_t in = 0, out = 0, block[50];
    unsigned seed = 1;
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1103515245 + 12345;
        size_t n = seed >> 16 & 31;
        if (seed >> 24 & 1) {
            for (size_t k = 0; k < n; k++)
                block[k] = in++;
            if (seed >> 25 & 1) {
                ck_assert_int_eq(oe_buf_put(&b, block, n), OE_OK);
            } else if (n != 0) {
                uint8_t *at = oe_buf_reserve(&b, n + 9);
                ck_assert_ptr_nonnull(at);
                memcpy(at, block, n);
                oe_buf_wrote(&b, n);
            }
        } else {
            struct oe_span s = oe_buf_span(&b);
            n = n < s.n ? n : s.n;
            for (size_t k = 0; k < n; k++)
                ck_assert_uint_eq(s.p[k], out++);
            oe_buf_drop(&b, n);
        }
        ck_assert_uint_eq((uint8_t)(in - out), (uint8_t)oe_buf_n(&b));
    }
    oe_buf_free(&b);
    ck_assert(b.p == NULL && b.cap == 0 && oe_buf_n(&b) == 0);
}
END_TEST

START_TEST(buf_too_large)
{
    struct oe_buf b = {0};
    ck_assert_int_eq(oe_buf_put(&b, "x", 1), OE_OK);
    ck_assert_ptr_null(oe_buf_reserve(&b, SIZE_MAX));
    ck_assert_ptr_null(oe_buf_reserve(&b, SIZE_MAX - 1));
    ck_assert_uint_eq(oe_buf_n(&b), 1);
    ck_assert_uint_eq(oe_buf_span(&b).p[0], 'x');
    oe_buf_free(&b);
}
END_TEST

/* A sink gives its caller's memory first, and keeps the order whatever is put or reserved. */
START_TEST(sink_keeps_order)
{
    for (size_t room = 0; room < 40; room++) {
        uint8_t expected[64], *mine = exact("", 0);
        struct oe_buf rest = {0};
        struct oe_sink s = {.p = NULL, .n_max = room, .rest = &rest};
        free(mine);
        mine = malloc(room == 0 ? 1 : room);
        ck_assert_ptr_nonnull(mine);
        s.p = mine;
        size_t n = 0;
        for (size_t k = 1; n + k <= sizeof(expected); k++) {
            for (size_t i = 0; i < k; i++)
                expected[n + i] = (uint8_t)(n + i);
            if (k % 2) {
                ck_assert_int_eq(oe_sink_put(&s, expected + n, k), OE_OK);
            } else {
                uint8_t *at = oe_sink_reserve(&s, k);
                ck_assert_ptr_nonnull(at);
                memcpy(at, expected + n, k);
                oe_sink_wrote(&s, at, k);
            }
            n += k;
        }
        ck_assert_uint_le(s.n, room);
        ck_assert_uint_eq(s.n + oe_buf_n(&rest), n);
        ck_assert_mem_eq(mine, expected, s.n);
        if (oe_buf_n(&rest) != 0)
            ck_assert_mem_eq(oe_buf_span(&rest).p, expected + s.n, oe_buf_n(&rest));
        oe_buf_free(&rest);
        free(mine);
    }
}
END_TEST

/* The caller's memory may end exactly where the buffer's begins (allocators without headers place blocks so). */
START_TEST(sink_before_its_buffer)
{
    uint8_t memory[32];
    struct oe_buf rest = {.p = memory + 16, .cap = 16};
    struct oe_sink s = {.p = memory, .n_max = 16, .n = 16, .rest = &rest};
    uint8_t *at = oe_sink_reserve(&s, 5);
    ck_assert_ptr_eq(at, memory + 16);
    oe_sink_wrote(&s, at, 5);
    ck_assert_uint_eq(s.n, 16);
    ck_assert_uint_eq(oe_buf_n(&rest), 5);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        varint_known,          varint_round_trip,       varint_not_minimal,  varint_five_bytes, header_every_length,
        header_malformed,      framer_every_two_splits, framer_equal_pieces, framer_empty_push, framer_malformed_at_every_split,
        framer_largest_packet, buf_is_a_queue,          buf_too_large,       sink_keeps_order,  sink_before_its_buffer,
    };
    return RUN_TESTS("frame", tests);
}
