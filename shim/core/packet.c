#include "packet.h"

const char *oe_mqtt_name(enum oe_mqtt version)
{
    switch (version) {
    case OE_MQTT_31:
        return "3.1";
    case OE_MQTT_311:
        return "3.1.1";
    case OE_MQTT_5:
        return "5.0";
    case OE_MQTT_NONE:
        break;
    }
    return "-";
}

/* ---- reading from the front of a span ---------------------------------------------------------------------------------------------- */

static enum oe_status take(struct oe_span *from, size_t n, struct oe_span *out)
{
    if (n > from->n)
        return OE_MALFORMED;
    *out = (struct oe_span){from->p, n};
    from->p += n;
    from->n -= n;
    return OE_OK;
}

/* A big-endian integer of n (1, 2 or 4) bytes. */
static enum oe_status take_integer(struct oe_span *from, size_t n, uint32_t *out)
{
    struct oe_span s;
    if (take(from, n, &s) != OE_OK)
        return OE_MALFORMED;
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | s.p[i];
    *out = v;
    return OE_OK;
}

static enum oe_status take_byte(struct oe_span *from, uint8_t *out)
{
    uint32_t v;
    if (take_integer(from, 1, &v) != OE_OK)
        return OE_MALFORMED;
    *out = (uint8_t)v;
    return OE_OK;
}

static enum oe_status take_id(struct oe_span *from, uint16_t *out)
{
    uint32_t v;
    if (take_integer(from, 2, &v) != OE_OK)
        return OE_MALFORMED;
    *out = (uint16_t)v;
    return OE_OK;
}

/* A two-byte length and that many bytes [MQTT-1.5.4, 1.5.6]. */
static enum oe_status take_string(struct oe_span *from, struct oe_span *out)
{
    uint32_t n;
    if (take_integer(from, 2, &n) != OE_OK)
        return OE_MALFORMED;
    return take(from, n, out);
}

static enum oe_status take_varint(struct oe_span *from, uint32_t *out)
{
    size_t used;
    struct oe_span s;
    if (oe_varint_get(from->p, from->n, out, &used) != OE_OK)
        return OE_MALFORMED;
    return take(from, used, &s);
}

/* A property list with its length; in versions before 5 there is none and it is empty. */
static enum oe_status take_properties(struct oe_span *from, enum oe_mqtt version, struct oe_span *out)
{
    uint32_t n;
    *out = (struct oe_span){NULL, 0};
    if (version != OE_MQTT_5)
        return OE_OK;
    if (take_varint(from, &n) != OE_OK)
        return OE_MALFORMED;
    return take(from, n, out);
}

/* The body of a packet of the given type behind its fixed header. */
static enum oe_status body(struct oe_span packet, enum oe_type type, struct oe_span *out)
{
    struct oe_header h;
    if (oe_frame_header(packet.p, packet.n, &h) != OE_OK || h.total_n != packet.n || oe_header_type(h.first) != (unsigned)type)
        return OE_MALFORMED;
    if (type != OE_TYPE_PUBLISH && (h.first & 0x0F) != (type == OE_TYPE_UNSUBSCRIBE ? 2 : 0))
        return OE_MALFORMED; /* reserved bits [MQTT-2.1.3-1] */
    *out = (struct oe_span){packet.p + h.header_n, packet.n - h.header_n};
    return OE_OK;
}

/* ---- properties ----------------------------------------------------------------------------------------------------------------------- */

enum form { NONE, BYTE, TWO, FOUR, VARINT, STRING, PAIR };

/* [MQTT-2.2.2.2], table 2-4; binary data has the form of a string */
static const uint8_t property_form[] = {
    [0x01] = BYTE,   [0x02] = FOUR,   [0x03] = STRING, [0x08] = STRING, [0x09] = STRING, [0x0B] = VARINT, [0x11] = FOUR,
    [0x12] = STRING, [0x13] = TWO,    [0x15] = STRING, [0x16] = STRING, [0x17] = BYTE,   [0x18] = FOUR,   [0x19] = BYTE,
    [0x1A] = STRING, [0x1C] = STRING, [0x1F] = STRING, [0x21] = TWO,    [0x22] = TWO,    [0x23] = TWO,    [0x24] = BYTE,
    [0x25] = BYTE,   [0x26] = PAIR,   [0x27] = FOUR,   [0x28] = BYTE,   [0x29] = BYTE,   [0x2A] = BYTE,
};

enum oe_status oe_property_next(struct oe_span *list, struct oe_property *out)
{
    *out = (struct oe_property){0};
    if (list->n == 0)
        return OE_MORE;
    if (take_varint(list, &out->id) != OE_OK || out->id >= sizeof(property_form))
        return OE_MALFORMED;
    switch ((enum form)property_form[out->id]) {
    case BYTE:
        return take_integer(list, 1, &out->number);
    case TWO:
        return take_integer(list, 2, &out->number);
    case FOUR:
        return take_integer(list, 4, &out->number);
    case VARINT:
        return take_varint(list, &out->number);
    case STRING:
        return take_string(list, &out->value);
    case PAIR:
        if (take_string(list, &out->value) != OE_OK)
            return OE_MALFORMED;
        return take_string(list, &out->value2);
    case NONE:
        break;
    }
    return OE_MALFORMED;
}

enum oe_status oe_property_find(struct oe_span list, uint32_t id, struct oe_property *out)
{
    enum oe_status st;
    while ((st = oe_property_next(&list, out)) == OE_OK)
        if (out->id == id)
            return OE_OK;
    return st;
}

/* ---- packets -------------------------------------------------------------------------------------------------------------------------- */

static enum oe_mqtt version_of(struct oe_span name, uint8_t level)
{
    level &= 0x7F;
    if (oe_span_is(name, "MQTT", 4) && (level == OE_MQTT_311 || level == OE_MQTT_5))
        return (enum oe_mqtt)level;
    if (oe_span_is(name, "MQIsdp", 6) && level == OE_MQTT_31)
        return OE_MQTT_31;
    return OE_MQTT_NONE;
}

enum oe_status oe_connect_prefix(const uint8_t *p, size_t n, enum oe_mqtt *version)
{
    struct oe_header h;

    if (n == 0)
        return OE_MORE;
    if (p[0] != OE_TYPE_CONNECT << 4)
        return OE_MALFORMED;
    enum oe_status st = oe_frame_header(p, n, &h);
    if (st != OE_OK)
        return st;
    const uint8_t *b = p + h.header_n;
    size_t have = n - h.header_n;
    if (have >= 1 && b[0] != 0)
        return OE_MALFORMED;
    if (have >= 2 && b[1] != 4 && b[1] != 6)
        return OE_MALFORMED;
    if (have < 2)
        return OE_MORE;
    size_t name_n = b[1];
    size_t seen = have - 2 < name_n ? have - 2 : name_n;
    if (memcmp(b + 2, name_n == 4 ? "MQTT" : "MQIsdp", seen) != 0 || h.total_n < h.header_n + 2 + name_n + 1)
        return OE_MALFORMED;
    if (have < 2 + name_n + 1)
        return OE_MORE;
    *version = version_of((struct oe_span){b + 2, name_n}, b[2 + name_n]);
    return *version == OE_MQTT_NONE ? OE_MALFORMED : OE_OK;
}

enum { FLAG_WILL = 0x04, FLAG_PASSWORD = 0x40, FLAG_USER_NAME = 0x80 };

/* What CONNECT's flags announce, behind the client identifier [MQTT-3.1.3]. */
static enum oe_status connect_payload(struct oe_span *b, struct oe_connect *out)
{
    if (out->flags & FLAG_WILL) {
        if (take_properties(b, out->version, &out->will_properties) != OE_OK || take_string(b, &out->will_topic) != OE_OK ||
            take_string(b, &out->will_payload) != OE_OK)
            return OE_MALFORMED;
    }
    if ((out->flags & FLAG_USER_NAME) && take_string(b, &out->user_name) != OE_OK)
        return OE_MALFORMED;
    if ((out->flags & FLAG_PASSWORD) && take_string(b, &out->password) != OE_OK)
        return OE_MALFORMED;
    return b->n == 0 ? OE_OK : OE_MALFORMED;
}

enum oe_status oe_connect_read(struct oe_span packet, struct oe_connect *out)
{
    struct oe_span b, name;
    uint8_t level;

    *out = (struct oe_connect){0};
    if (body(packet, OE_TYPE_CONNECT, &b) != OE_OK || take_string(&b, &name) != OE_OK || take_byte(&b, &level) != OE_OK)
        return OE_MALFORMED;
    out->version = version_of(name, level);
    if (out->version == OE_MQTT_NONE || take_byte(&b, &out->flags) != OE_OK || take_id(&b, &out->keep_alive_s) != OE_OK ||
        take_properties(&b, out->version, &out->properties) != OE_OK || take_string(&b, &out->client_id) != OE_OK)
        return OE_MALFORMED;
    return connect_payload(&b, out);
}

enum oe_status oe_connect_will(const uint8_t *p, size_t n, int *will)
{
    struct oe_header h;
    enum oe_status st = oe_frame_header(p, n, &h);

    if (st != OE_OK)
        return st;
    size_t at = h.header_n + 2U + p[h.header_n + 1] + 1U; /* behind the name and the level */
    if (at >= h.total_n)
        return OE_MALFORMED;
    if (at >= n)
        return OE_MORE;
    *will = (p[at] & FLAG_WILL) != 0;
    return OE_OK;
}

int oe_connect_has_will(const struct oe_connect *connect)
{
    return (connect->flags & FLAG_WILL) != 0;
}

enum oe_status oe_connack_read(struct oe_span packet, enum oe_mqtt version, struct oe_connack *out)
{
    struct oe_span b;
    uint8_t flags;

    *out = (struct oe_connack){0};
    if (body(packet, OE_TYPE_CONNACK, &b) != OE_OK || take_byte(&b, &flags) != OE_OK || take_byte(&b, &out->code) != OE_OK)
        return OE_MALFORMED;
    out->session_present = flags & 1;
    /* A server that refuses the protocol version answers a 5.0 client in the form of 3.1.1. */
    if (b.n == 0)
        return OE_OK;
    if (take_properties(&b, version, &out->properties) != OE_OK)
        return OE_MALFORMED;
    return b.n == 0 ? OE_OK : OE_MALFORMED;
}

enum oe_status oe_publish_read(struct oe_span packet, enum oe_mqtt version, struct oe_publish *out)
{
    struct oe_span b;

    *out = (struct oe_publish){0};
    if (body(packet, OE_TYPE_PUBLISH, &b) != OE_OK)
        return OE_MALFORMED;
    out->dup = packet.p[0] >> 3 & 1;
    out->qos = packet.p[0] >> 1 & 3;
    out->retain = packet.p[0] & 1;
    if (out->qos == 3 || take_string(&b, &out->topic) != OE_OK)
        return OE_MALFORMED;
    if (out->qos != 0 && take_id(&b, &out->id) != OE_OK)
        return OE_MALFORMED;
    if (take_properties(&b, version, &out->properties) != OE_OK)
        return OE_MALFORMED;
    out->payload = b;
    return OE_OK;
}

enum oe_status oe_unsubscribe_read(struct oe_span packet, enum oe_mqtt version, struct oe_unsubscribe *out)
{
    struct oe_span b, filter;

    *out = (struct oe_unsubscribe){0};
    if (body(packet, OE_TYPE_UNSUBSCRIBE, &b) != OE_OK || take_id(&b, &out->id) != OE_OK ||
        take_properties(&b, version, &out->properties) != OE_OK)
        return OE_MALFORMED;
    do {
        if (take_string(&b, &filter) != OE_OK)
            return OE_MALFORMED;
        if (out->filters_n++ == 0)
            out->filter = filter;
    } while (b.n != 0);
    return OE_OK;
}

enum oe_status oe_unsuback_read(struct oe_span packet, enum oe_mqtt version, struct oe_unsuback *out)
{
    struct oe_span b;

    *out = (struct oe_unsuback){0};
    if (body(packet, OE_TYPE_UNSUBACK, &b) != OE_OK || take_id(&b, &out->id) != OE_OK ||
        take_properties(&b, version, &out->properties) != OE_OK)
        return OE_MALFORMED;
    if (version != OE_MQTT_5 && b.n != 0)
        return OE_MALFORMED;
    out->codes = b;
    return OE_OK;
}

enum oe_status oe_auth_read(struct oe_span packet, struct oe_auth *out)
{
    struct oe_span b;

    *out = (struct oe_auth){0};
    if (body(packet, OE_TYPE_AUTH, &b) != OE_OK)
        return OE_MALFORMED;
    if (b.n == 0)
        return OE_OK; /* code 0 and no properties [MQTT-3.15.2.1] */
    if (take_byte(&b, &out->code) != OE_OK)
        return OE_MALFORMED;
    if (b.n != 0 && (take_properties(&b, OE_MQTT_5, &out->properties) != OE_OK || b.n != 0))
        return OE_MALFORMED;
    return OE_OK;
}
