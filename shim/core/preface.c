#include "preface.h"

static const char prologue[] = "OE-MQTT/1 preface";

#define METHOD_BYTES 10U /* identifier, length, "OE-MQTT" */
static const uint8_t method[METHOD_BYTES] = {OE_PROP_AUTH_METHOD, 0, 7, 'O', 'E', '-', 'M', 'Q', 'T', 'T'};
static const uint8_t refusal[] = {
    OE_TYPE_CONNACK << 4, 3 + METHOD_BYTES, 0, 0x87, METHOD_BYTES, OE_PROP_AUTH_METHOD, 0, 7, 'O', 'E', '-', 'M', 'Q', 'T', 'T'};

/* CONNECT's variable header up to its properties: name, level 5, Clean Start, keep alive 60 s. */
static const uint8_t connect_head[] = {0, 4, 'M', 'Q', 'T', 'T', OE_MQTT_5, 0x02, 0, 60};
static const uint8_t auth_head[] = {0x18}; /* continue authentication */

#define FRONT_BYTES_MAX (1 + 4 + sizeof(connect_head) + 4 + METHOD_BYTES + 3)
#define DATA_BYTES_MAX (1 + OE_PREFACE_MESSAGE_BYTES_MAX)

static_assert(DATA_BYTES_MAX <= UINT16_MAX, "Authentication Data has a length of two bytes");
static_assert(OE_PREFACE_MESSAGE1_BYTES == 113, "PROTOCOL.md section 8");

/* What differs between the two packets. */
struct form {
    uint8_t first;
    const uint8_t *head;
    size_t head_n;
    size_t tail_n; /* zero bytes behind the properties: the empty client identifier */
};

static struct form form_of(enum oe_type type)
{
    if (type == OE_TYPE_CONNECT)
        return (struct form){OE_TYPE_CONNECT << 4, connect_head, sizeof(connect_head), 2};
    return (struct form){OE_TYPE_AUTH << 4, auth_head, sizeof(auth_head), 0};
}

static size_t varint_n(size_t v)
{
    uint8_t out[4];
    return oe_varint_put(out, (uint32_t)v);
}

static size_t properties_n(size_t data_n)
{
    return METHOD_BYTES + 3 + data_n;
}

static size_t remaining_n(const struct form *f, size_t data_n)
{
    size_t n = properties_n(data_n);
    return f->head_n + varint_n(n) + n + f->tail_n;
}

/* Everything in front of the data, of which there will be data_n bytes; returns its size. */
static size_t front(const struct form *f, size_t data_n, uint8_t out[FRONT_BYTES_MAX])
{
    size_t n = 0;

    out[n++] = f->first;
    n += oe_varint_put(out + n, (uint32_t)remaining_n(f, data_n));
    memcpy(out + n, f->head, f->head_n);
    n += f->head_n;
    n += oe_varint_put(out + n, (uint32_t)properties_n(data_n));
    memcpy(out + n, method, sizeof(method));
    n += sizeof(method);
    out[n++] = OE_PROP_AUTH_DATA;
    oe_bytes_put16(out + n, (uint16_t)data_n);
    return n + 2;
}

void oe_preface_noise(struct oe_noise *ns, enum oe_noise_pattern pattern, int initiator, const struct oe_secret *s,
                      const struct oe_secret *e, const struct oe_public *rs)
{
    oe_noise_init(ns, &(struct oe_noise_setup){
                          .pattern = pattern,
                          .initiator = initiator,
                          .prologue = {(const uint8_t *)prologue, sizeof(prologue) - 1},
                          .s = s,
                          .e = e,
                          .rs = rs,
                      });
}

enum oe_status oe_preface_put(struct oe_sink *to, enum oe_type type, enum oe_preface_id id, struct oe_span message)
{
    static const uint8_t zeros[2];
    struct form f = form_of(type);
    uint8_t start[FRONT_BYTES_MAX + 1];
    size_t n = front(&f, 1 + message.n, start);

    start[n++] = (uint8_t)id;
    enum oe_status st = oe_sink_put(to, start, n);
    if (st == OE_OK && message.n != 0)
        st = oe_sink_put(to, message.p, message.n);
    return st == OE_OK && f.tail_n != 0 ? oe_sink_put(to, zeros, f.tail_n) : st;
}

/* Bytes of data in a packet with this remaining length, 0: no number of them gives it. */
static size_t data_n_of(const struct form *f, size_t remaining)
{
    for (size_t v = 1; v <= 4; v++) {
        size_t fixed = f->head_n + v + properties_n(0) + f->tail_n;
        size_t data_n = remaining > fixed ? remaining - fixed : 0;
        if (data_n != 0 && data_n <= DATA_BYTES_MAX && remaining_n(f, data_n) == remaining)
            return data_n;
    }
    return 0;
}

enum oe_status oe_preface_read(enum oe_type type, const uint8_t *p, size_t n, enum oe_preface_id *id, struct oe_span *message, size_t *want)
{
    struct form f = form_of(type);
    uint8_t expected[FRONT_BYTES_MAX];
    struct oe_header h;

    *want = n + 1;
    if (n == 0)
        return OE_MORE;
    if (p[0] != f.first)
        return OE_MALFORMED;
    enum oe_status st = oe_frame_header(p, n, &h);
    if (st != OE_OK)
        return st;
    size_t data_n = data_n_of(&f, h.total_n - h.header_n);
    if (data_n == 0)
        return OE_MALFORMED;
    size_t front_n = front(&f, data_n, expected);
    size_t method_end = front_n - 3; /* up to here it is somebody else's packet, from here on a wrong one of ours */
    if (memcmp(p, expected, n < method_end ? n : method_end) != 0)
        return OE_MALFORMED;
    if (n > method_end && memcmp(p + method_end, expected + method_end, (n < front_n ? n : front_n) - method_end) != 0)
        return OE_INVALID;
    if (n >= front_n)
        *want = h.total_n;
    if (n < h.total_n)
        return OE_MORE;
    for (size_t i = h.total_n - f.tail_n; i < h.total_n; i++)
        if (p[i] != 0)
            return OE_INVALID;
    if (p[front_n] < OE_PREFACE_XX || p[front_n] > OE_PREFACE_RETRY)
        return OE_INVALID;
    *id = (enum oe_preface_id)p[front_n];
    *message = (struct oe_span){p + front_n + 1, data_n - 1};
    return OE_OK;
}

enum oe_status oe_preface_put_refusal(struct oe_sink *to)
{
    return oe_sink_put(to, refusal, sizeof(refusal));
}

enum oe_status oe_preface_read_refusal(const uint8_t *p, size_t n)
{
    if (n > sizeof(refusal) || memcmp(p, refusal, n) != 0)
        return OE_MALFORMED;
    return n < sizeof(refusal) ? OE_MORE : OE_OK;
}

enum oe_status oe_preface_put_connack(struct oe_sink *to, enum oe_mqtt version, int why)
{
    static const uint8_t codes[2][2] = {{3, 0x88}, {5, 0x87}}; /* before MQTT 5, and in it */
    int five = version == OE_MQTT_5;
    uint8_t packet[5] = {OE_TYPE_CONNACK << 4, five ? 3 : 2, 0, codes[why][five], 0};
    return oe_sink_put(to, packet, five ? 5 : 4);
}
