/* Views of packets: every field, every truncation in memory of exactly that size, properties, the front of CONNECT. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/core/packet.h"
#include "run.h"

static const enum oe_mqtt versions[] = {OE_MQTT_31, OE_MQTT_311, OE_MQTT_5};
#define VERSIONS 3

static uint8_t *exact(const void *p, size_t n)
{
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    ck_assert_ptr_nonnull(copy);
    if (n != 0)
        memcpy(copy, p, n);
    return copy;
}

static void ck_span(struct oe_span s, const char *text)
{
    ck_assert_uint_eq(s.n, strlen(text));
    ck_assert(oe_span_is(s, text, strlen(text)));
}

/* ---- making packets ------------------------------------------------------------------------------------------------------------------- */

struct out {
    uint8_t p[512];
    size_t n;
};

static void put(struct out *o, const void *p, size_t n)
{
    ck_assert_uint_le(o->n + n, sizeof(o->p));
    memcpy(o->p + o->n, p, n);
    o->n += n;
}

static void put_byte(struct out *o, unsigned v)
{
    uint8_t b = (uint8_t)v;
    put(o, &b, 1);
}

static void put_text(struct out *o, const char *text)
{
    uint8_t n[2];
    oe_bytes_put16(n, (uint16_t)strlen(text));
    put(o, n, 2);
    put(o, text, strlen(text));
}

/* A property list with one Payload Format Indicator; nothing before MQTT 5. */
static void put_list(struct out *o, enum oe_mqtt version)
{
    if (version == OE_MQTT_5)
        put(o, "\x02\x01\x01", 3);
}

static struct out wrap(unsigned first, const struct out *body)
{
    struct out o = {.n = 0};
    uint8_t length[4];
    put_byte(&o, first);
    put(&o, length, oe_varint_put(length, (uint32_t)body->n));
    put(&o, body->p, body->n);
    return o;
}

static struct out make_connect(enum oe_mqtt version, unsigned flags, unsigned bridge)
{
    struct out b = {.n = 0};
    put_text(&b, version == OE_MQTT_31 ? "MQIsdp" : "MQTT");
    put_byte(&b, (unsigned)version | bridge);
    put_byte(&b, flags);
    put(&b, "\x01\x2C", 2);
    put_list(&b, version);
    put_text(&b, "client");
    if (flags & 0x04) {
        put_list(&b, version);
        put_text(&b, "will/topic");
        put_text(&b, "gone");
    }
    if (flags & 0x80)
        put_text(&b, "user");
    if (flags & 0x40)
        put_text(&b, "secret");
    return wrap(0x10, &b);
}

static struct out make_connack(enum oe_mqtt version)
{
    struct out b = {.n = 0};
    put(&b, "\x01\x00", 2);
    put_list(&b, version);
    return wrap(0x20, &b);
}

static struct out make_publish(enum oe_mqtt version, unsigned first)
{
    struct out b = {.n = 0};
    put_text(&b, "a/b");
    if (first & 6)
        put(&b, "\x12\x34", 2);
    put_list(&b, version);
    put(&b, "payload", 7);
    return wrap(first, &b);
}

static struct out make_unsubscribe(enum oe_mqtt version)
{
    struct out b = {.n = 0};
    put(&b, "\xFF\xFF", 2);
    put_list(&b, version);
    put_text(&b, "first/#");
    put_text(&b, "second");
    return wrap(0xA2, &b);
}

static struct out make_unsuback(enum oe_mqtt version)
{
    struct out b = {.n = 0};
    put(&b, "\x12\x34", 2);
    put_list(&b, version);
    if (version == OE_MQTT_5)
        put(&b, "\x00\x11", 2);
    return wrap(0xB0, &b);
}

/* ---- reading any of them -------------------------------------------------------------------------------------------------------------- */

typedef enum oe_status reader(struct oe_span packet, enum oe_mqtt version);

static enum oe_status read_connect(struct oe_span packet, enum oe_mqtt version)
{
    struct oe_connect out;
    (void)version;
    return oe_connect_read(packet, &out);
}

static enum oe_status read_connack(struct oe_span packet, enum oe_mqtt version)
{
    struct oe_connack out;
    return oe_connack_read(packet, version, &out);
}

static enum oe_status read_publish(struct oe_span packet, enum oe_mqtt version)
{
    struct oe_publish out;
    return oe_publish_read(packet, version, &out);
}

static enum oe_status read_unsubscribe(struct oe_span packet, enum oe_mqtt version)
{
    struct oe_unsubscribe out;
    return oe_unsubscribe_read(packet, version, &out);
}

static enum oe_status read_unsuback(struct oe_span packet, enum oe_mqtt version)
{
    struct oe_unsuback out;
    return oe_unsuback_read(packet, version, &out);
}

static enum oe_status read_auth(struct oe_span packet, enum oe_mqtt version)
{
    struct oe_auth out;
    (void)version;
    return oe_auth_read(packet, &out);
}

static enum oe_status read_exact(reader *read, const uint8_t *p, size_t n, enum oe_mqtt version)
{
    uint8_t *copy = exact(p, n);
    enum oe_status st = read((struct oe_span){copy, n}, version);
    free(copy);
    return st;
}

/*
 * Cut short as it is, and cut short with the remaining length made to fit: the first is MALFORMED always, the second where something that
 * must be there is missing. may_end(n): whether n bytes of the body are a whole packet of that type too.
 */
static void ck_truncations(reader *read, const struct out *packet, enum oe_mqtt version,
                           int (*may_end)(size_t body_n, enum oe_mqtt version))
{
    struct oe_header h;
    ck_assert_int_eq(read_exact(read, packet->p, packet->n, version), OE_OK);
    for (size_t n = 0; n < packet->n; n++)
        ck_assert_int_eq(read_exact(read, packet->p, n, version), OE_MALFORMED);
    ck_assert_int_eq(oe_frame_header(packet->p, packet->n, &h), OE_OK);
    for (size_t n = 0; n < packet->n - h.header_n; n++) {
        struct out body = {.n = 0};
        put(&body, packet->p + h.header_n, n);
        struct out cut = wrap(packet->p[0], &body);
        enum oe_status expected = may_end != NULL && may_end(n, version) ? OE_OK : OE_MALFORMED;
        ck_assert_msg(read_exact(read, cut.p, cut.n, version) == expected, "first %02x version %d body %zu", packet->p[0], (int)version, n);
    }
    /* one byte more inside the packet */
    struct out body = {.n = 0};
    put(&body, packet->p + h.header_n, packet->n - h.header_n);
    put_byte(&body, 0);
    struct out longer = wrap(packet->p[0], &body);
    ck_assert_int_eq(read_exact(read, longer.p, longer.n, version), may_end != NULL && may_end(body.n, version) ? OE_OK : OE_MALFORMED);
    /* one byte more behind the packet */
    uint8_t *more = malloc(packet->n + 1);
    memcpy(more, packet->p, packet->n);
    more[packet->n] = 0;
    ck_assert_int_eq(read((struct oe_span){more, packet->n + 1}, version), OE_MALFORMED);
    /* each other type */
    for (unsigned type = 0; type < 16; type++) {
        more[0] = (uint8_t)(type << 4 | (packet->p[0] & 0x0F));
        if (type != packet->p[0] >> 4)
            ck_assert_int_eq(read((struct oe_span){more, packet->n}, version), OE_MALFORMED);
    }
    free(more);
}

static int ends_connack(size_t n, enum oe_mqtt version)
{
    (void)version;
    return n == 2; /* MQTT 5: a server that knows no MQTT 5 answers so */
}

static int ends_publish0(size_t n, enum oe_mqtt version)
{
    return n >= (version == OE_MQTT_5 ? 8 : 5);
}

static int ends_publish1(size_t n, enum oe_mqtt version)
{
    return n >= (version == OE_MQTT_5 ? 10 : 7);
}

static int ends_unsubscribe(size_t n, enum oe_mqtt version)
{
    return n == (version == OE_MQTT_5 ? 14 : 11);
}

static int ends_unsuback(size_t n, enum oe_mqtt version)
{
    return version == OE_MQTT_5 && n >= 5;
}

static int ends_auth(size_t n, enum oe_mqtt version)
{
    (void)version;
    return n == 0 || n == 1;
}

START_TEST(connect_fields)
{
    static const uint8_t flags[] = {0x02, 0x06, 0x82, 0xC2, 0xC6, 0xEE, 0x42};
    for (int v = 0; v < VERSIONS; v++) {
        for (size_t i = 0; i < sizeof(flags) * 2; i++) {
            struct oe_connect c;
            struct out o = make_connect(versions[v], flags[i / 2], i % 2 ? 0x80 : 0);
            uint8_t *p = exact(o.p, o.n);
            ck_assert_int_eq(oe_connect_read((struct oe_span){p, o.n}, &c), OE_OK);
            ck_assert_int_eq(c.version, versions[v]);
            ck_assert_uint_eq(c.flags, flags[i / 2]);
            ck_assert_uint_eq(c.keep_alive_s, 300);
            ck_span(c.client_id, "client");
            ck_span(c.will_topic, c.flags & 0x04 ? "will/topic" : "");
            ck_span(c.will_payload, c.flags & 0x04 ? "gone" : "");
            ck_span(c.user_name, c.flags & 0x80 ? "user" : "");
            ck_span(c.password, c.flags & 0x40 ? "secret" : "");
            ck_assert_uint_eq(c.properties.n, versions[v] == OE_MQTT_5 ? 2 : 0);
            ck_assert_uint_eq(c.will_properties.n, versions[v] == OE_MQTT_5 && (c.flags & 0x04) ? 2 : 0);
            free(p);
            ck_truncations(read_connect, &o, versions[v], NULL);
            for (unsigned reserved = 1; reserved < 16; reserved++) { /* [MQTT-2.1.3-1] */
                o.p[0] = (uint8_t)(0x10 | reserved);
                ck_assert_int_eq(read_exact(read_connect, o.p, o.n, versions[v]), OE_MALFORMED);
            }
        }
    }
}
END_TEST

START_TEST(connect_wrong_names)
{
    for (unsigned level = 0; level < 256; level++) {
        for (int name = 0; name < 2; name++) {
            struct oe_connect c;
            struct out o = make_connect(name ? OE_MQTT_31 : OE_MQTT_311, 2, 0);
            enum oe_mqtt version;
            o.p[name ? 10 : 8] = (uint8_t)level;
            unsigned l = level & 0x7F;
            int known = name ? l == 3 : l == 4;
            if (!name && l == 5)
                continue; /* its form differs */
            ck_assert_int_eq(oe_connect_read((struct oe_span){o.p, o.n}, &c), known ? OE_OK : OE_MALFORMED);
            ck_assert_int_eq(oe_connect_prefix(o.p, o.n, &version), known ? OE_OK : OE_MALFORMED);
        }
    }
}
END_TEST

START_TEST(connack_fields)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct oe_connack c;
        struct out o = make_connack(versions[v]);
        ck_assert_int_eq(oe_connack_read((struct oe_span){o.p, o.n}, versions[v], &c), OE_OK);
        ck_assert(c.session_present == 1 && c.code == 0);
        ck_assert_uint_eq(c.properties.n, versions[v] == OE_MQTT_5 ? 2 : 0);
        ck_truncations(read_connack, &o, versions[v], ends_connack);
        ck_assert_int_eq(oe_connack_read((struct oe_span){(const uint8_t *)"\x20\x02\x00\x05", 4}, versions[v], &c), OE_OK);
        ck_assert(c.session_present == 0 && c.code == 5);
    }
}
END_TEST

START_TEST(publish_fields)
{
    for (int v = 0; v < VERSIONS; v++) {
        for (unsigned flags = 0; flags < 16; flags++) {
            struct oe_publish p;
            struct out o = make_publish(versions[v], 0x30 | flags);
            enum oe_status st = oe_publish_read((struct oe_span){o.p, o.n}, versions[v], &p);
            if ((flags & 6) == 6) {
                ck_assert_int_eq(st, OE_MALFORMED);
                continue;
            }
            ck_assert_int_eq(st, OE_OK);
            ck_assert(p.dup == (int)(flags >> 3) && p.retain == (int)(flags & 1) && p.qos == (flags >> 1 & 3));
            ck_span(p.topic, "a/b");
            ck_span(p.payload, "payload");
            ck_assert_uint_eq(p.id, flags & 6 ? 0x1234 : 0);
            ck_assert_uint_eq(p.properties.n, versions[v] == OE_MQTT_5 ? 2 : 0);
            ck_truncations(read_publish, &o, versions[v], flags & 6 ? ends_publish1 : ends_publish0);
        }
    }
}
END_TEST

START_TEST(unsubscribe_fields)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct oe_unsubscribe u;
        struct out o = make_unsubscribe(versions[v]);
        ck_assert_int_eq(oe_unsubscribe_read((struct oe_span){o.p, o.n}, versions[v], &u), OE_OK);
        ck_assert_uint_eq(u.id, 65535);
        ck_assert_uint_eq(u.filters_n, 2);
        ck_span(u.filter, "first/#");
        ck_truncations(read_unsubscribe, &o, versions[v], ends_unsubscribe);
        for (unsigned flags = 0; flags < 16; flags++) {
            o.p[0] = (uint8_t)(0xA0 | flags);
            ck_assert_int_eq(oe_unsubscribe_read((struct oe_span){o.p, o.n}, versions[v], &u), flags == 2 ? OE_OK : OE_MALFORMED);
        }
    }
}
END_TEST

START_TEST(unsuback_fields)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct oe_unsuback u;
        struct out o = make_unsuback(versions[v]);
        ck_assert_int_eq(oe_unsuback_read((struct oe_span){o.p, o.n}, versions[v], &u), OE_OK);
        ck_assert_uint_eq(u.id, 0x1234);
        ck_assert(versions[v] == OE_MQTT_5 ? oe_span_is(u.codes, "\x00\x11", 2) : u.codes.n == 0);
        ck_truncations(read_unsuback, &o, versions[v], ends_unsuback);
    }
}
END_TEST

START_TEST(auth_fields)
{
    static const char full[] = "\xF0\x0F\x18\x0D\x15\x00\x04SCRM\x16\x00\x03xyz";
    struct oe_auth a;
    struct oe_property property;
    struct out o = {.n = 0};
    put(&o, full, sizeof(full) - 1);
    o.p[1] = (uint8_t)(o.n - 2);
    o.p[3] = (uint8_t)(o.n - 4);
    ck_assert_int_eq(oe_auth_read((struct oe_span){o.p, o.n}, &a), OE_OK);
    ck_assert_uint_eq(a.code, 0x18);
    ck_assert_int_eq(oe_property_find(a.properties, OE_PROP_AUTH_METHOD, &property), OE_OK);
    ck_span(property.value, "SCRM");
    ck_assert_int_eq(oe_property_find(a.properties, OE_PROP_AUTH_DATA, &property), OE_OK);
    ck_span(property.value, "xyz");
    ck_assert_int_eq(oe_property_find(a.properties, OE_PROP_TOPIC_ALIAS, &property), OE_MORE);
    ck_truncations(read_auth, &o, OE_MQTT_5, ends_auth);
    ck_assert_int_eq(oe_auth_read((struct oe_span){(const uint8_t *)"\xF0\x00", 2}, &a), OE_OK);
    ck_assert(a.code == 0 && a.properties.n == 0);
    ck_assert_int_eq(oe_auth_read((struct oe_span){(const uint8_t *)"\xF0\x02\x18\x00", 4}, &a), OE_OK);
}
END_TEST

/* Every byte of every packet set to every value: no reading outside (the sanitizer's or valgrind's oracle), and a known status. */
START_TEST(any_byte)
{
    static reader *const readers[] = {read_connect, read_connack, read_publish, read_unsubscribe, read_unsuback, read_auth};
    for (int v = 0; v < VERSIONS; v++) {
        struct out packets[] = {
            make_connect(versions[v], 0xC6, 0), make_connack(versions[v]),  make_publish(versions[v], 0x32),
            make_unsubscribe(versions[v]),      make_unsuback(versions[v]),
        };
        for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
            uint8_t *p = exact(packets[i].p, packets[i].n);
            for (size_t at = 0; at < packets[i].n; at++) {
                for (unsigned value = 0; value < 256; value++) {
                    p[at] = (uint8_t)value;
                    for (size_t r = 0; r < sizeof(readers) / sizeof(readers[0]); r++) {
                        enum oe_status st = readers[r]((struct oe_span){p, packets[i].n}, versions[v]);
                        ck_assert(st == OE_OK || st == OE_MALFORMED);
                    }
                }
                p[at] = packets[i].p[at];
            }
            free(p);
        }
    }
}
END_TEST

/* ---- properties ----------------------------------------------------------------------------------------------------------------------- */

/* [MQTT-2.2.2.2], table 2-4, written down once more: identifier and the bytes of its value. */
static const struct {
    uint32_t id;
    const char *form; /* b byte, 2, 4, v varint, s string or binary, p pair */
} table[] = {
    {1, "b"},  {2, "4"},  {3, "s"},  {8, "s"},  {9, "s"},  {11, "v"}, {17, "4"}, {18, "s"}, {19, "2"},
    {21, "s"}, {22, "s"}, {23, "b"}, {24, "4"}, {25, "b"}, {26, "s"}, {28, "s"}, {31, "s"}, {33, "2"},
    {34, "2"}, {35, "2"}, {36, "b"}, {37, "b"}, {38, "p"}, {39, "4"}, {40, "b"}, {41, "b"}, {42, "b"},
};

static const char *form_of(uint32_t id)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].id == id)
            return table[i].form;
    return "?";
}

START_TEST(property_table)
{
    for (unsigned id = 0; id < 256; id++) {
        static const char value[] = "\x00\x03"
                                    "abc"
                                    "\x00\x02"
                                    "de";
        struct out o = {.n = 0};
        uint8_t length[4];
        char form = form_of(id)[0];
        size_t n = form == 'b' || form == 'v' ? 1 : form == '2' ? 2 : form == '4' ? 4 : form == 's' ? 5 : 9;
        put(&o, length, oe_varint_put(length, id));
        size_t id_n = o.n;
        put(&o, value, n);
        for (size_t cut = 0; cut <= o.n; cut++) {
            struct oe_property p;
            uint8_t *copy = exact(o.p, cut);
            struct oe_span list = {copy, cut};
            enum oe_status st = oe_property_next(&list, &p);
            enum oe_status expected = form == '?' ? OE_MALFORMED : cut == o.n ? OE_OK : OE_MALFORMED;
            ck_assert_msg(st == (cut == 0 ? OE_MORE : expected), "property %u cut %zu: %d", id, cut, (int)st);
            if (st == OE_OK) {
                ck_assert_uint_eq(p.id, id);
                ck_assert_uint_eq(list.n, 0);
                ck_span(p.value, form == 's' || form == 'p' ? "abc" : "");
                ck_span(p.value2, form == 'p' ? "de" : "");
                ck_assert_uint_eq(p.number, form == '2' ? 3 : form == '4' ? 0x36162U : 0);
            }
            free(copy);
        }
        ck_assert_uint_ge(o.n, id_n);
    }
}
END_TEST

START_TEST(property_lists)
{
    static const char list[] = "\x27\x00\x00\x00\x3C\x26\x00\x01k\x00\x01v\x0B\xFF\x7F\x21\x00\x0A";
    struct oe_span s = {(const uint8_t *)list, sizeof(list) - 1};
    struct oe_property p;
    ck_assert_int_eq(oe_property_find(s, OE_PROP_MAXIMUM_PACKET_SIZE, &p), OE_OK);
    ck_assert_uint_eq(p.number, 60);
    ck_assert_int_eq(oe_property_find(s, 0x0B, &p), OE_OK);
    ck_assert_uint_eq(p.number, 16383);
    ck_assert_int_eq(oe_property_find(s, 0x26, &p), OE_OK);
    ck_span(p.value, "k");
    ck_span(p.value2, "v");
    ck_assert_int_eq(oe_property_find(s, 0x21, &p), OE_OK);
    ck_assert_uint_eq(p.number, 10);
    ck_assert_int_eq(oe_property_find(s, OE_PROP_TOPIC_ALIAS, &p), OE_MORE);
    s.n--;
    ck_assert_int_eq(oe_property_find(s, OE_PROP_TOPIC_ALIAS, &p), OE_MALFORMED);
    ck_assert_int_eq(oe_property_find((struct oe_span){(const uint8_t *)"\x80\x01", 2}, 1, &p), OE_MALFORMED);
}
END_TEST

/* ---- the front of CONNECT ------------------------------------------------------------------------------------------------------------- */

START_TEST(prefix_every_length)
{
    for (int v = 0; v < VERSIONS; v++) {
        for (int i = 0; i < 4; i++) {
            struct out o = make_connect(versions[v], 0x02, i & 1 ? 0x80 : 0);
            if (i & 2) { /* a remaining length of four bytes: 14 bytes are looked at with MQIsdp */
                struct out big = {.n = 0};
                put(&big, "\x10\x80\x80\x80\x01", 5);
                put(&big, o.p + 2, o.n - 2);
                o = big;
            }
            size_t needed = (i & 2 ? 5 : 2) + 2 + (versions[v] == OE_MQTT_31 ? 6 : 4) + 1;
            ck_assert_uint_le(needed, OE_FRAME_KEEP_MAX);
            for (size_t n = 0; n <= o.n; n++) {
                enum oe_mqtt version = OE_MQTT_NONE;
                uint8_t *p = exact(o.p, n);
                ck_assert_int_eq(oe_connect_prefix(p, n, &version), n < needed ? OE_MORE : OE_OK);
                ck_assert_int_eq(version, n < needed ? OE_MQTT_NONE : versions[v]);
                free(p);
            }
        }
    }
}
END_TEST

/* Once a prefix is no CONNECT, no longer one is; every byte up to the level matters. */
START_TEST(prefix_every_byte)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct out o = make_connect(versions[v], 0x02, 0);
        size_t needed = versions[v] == OE_MQTT_31 ? 11 : 9;
        for (size_t at = 0; at < needed; at++) {
            for (unsigned value = 0; value < 256; value++) {
                struct out x = o;
                int malformed = 0;
                x.p[at] = (uint8_t)value;
                for (size_t n = 1; n <= x.n; n++) {
                    enum oe_mqtt version;
                    uint8_t *p = exact(x.p, n);
                    enum oe_status st = oe_connect_prefix(p, n, &version);
                    free(p);
                    ck_assert(!malformed || st == OE_MALFORMED);
                    ck_assert(st != OE_OK || n >= 9);
                    malformed = st == OE_MALFORMED;
                }
                if (value == o.p[at])
                    ck_assert(!malformed);
                else if (at == 0 || (at >= 2 && at + 1 < needed))
                    ck_assert_msg(malformed, "version %d byte %zu value %u", (int)versions[v], at, value);
            }
        }
    }
}
END_TEST

START_TEST(prefix_other_protocols)
{
    static const struct {
        const char *bytes;
        size_t n;
    } others[] = {
        {"\x16\x03\x01\x02\x00\x01", 6}, {"GET / HTTP/1.1", 14},          {"\x00", 1},
        {"\x10\x02\x00\x04", 4},         {"\x10\x0A\x00\x05", 4},         {"\x10\x80\x80\x80\x80", 5},
        {"\x11\x10\x00\x04MQTT\x04", 9}, {"\x10\x8A\x00\x00\x04MQTT", 9},
    };
    enum oe_mqtt version;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        ck_assert_int_eq(oe_connect_prefix((const uint8_t *)others[i].bytes, others[i].n, &version), OE_MALFORMED);
}
END_TEST

START_TEST(names_of_versions)
{
    ck_assert_str_eq(oe_mqtt_name(OE_MQTT_31), "3.1");
    ck_assert_str_eq(oe_mqtt_name(OE_MQTT_311), "3.1.1");
    ck_assert_str_eq(oe_mqtt_name(OE_MQTT_5), "5.0");
    ck_assert_str_eq(oe_mqtt_name(OE_MQTT_NONE), "-");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        connect_fields,         connect_wrong_names, connack_fields,      publish_fields,
        unsubscribe_fields,     unsuback_fields,     auth_fields,         any_byte,
        property_table,         property_lists,      prefix_every_length, prefix_every_byte,
        prefix_other_protocols, names_of_versions,
    };
    return RUN_TESTS("packet", tests);
}
