/* Views of complete MQTT packets: spans into the caller's bytes, valid as long as those are. Nothing is copied or allocated.
 * Each function takes one whole packet (fixed header included) and returns OE_OK or OE_MALFORMED. */
#ifndef OE_CORE_PACKET_H
#define OE_CORE_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "frame.h"
#include "status.h"

/* Protocol level as in CONNECT [MQTT-3.1.2.2]; a bridge's 0x80 is taken off. */
enum oe_mqtt {
    OE_MQTT_NONE = 0,
    OE_MQTT_31 = 3,
    OE_MQTT_311 = 4,
    OE_MQTT_5 = 5,
};

/* "3.1", "3.1.1", "5.0", or "-". */
const char *oe_mqtt_name(enum oe_mqtt version);

/* Property identifiers [MQTT-2.2.2.2] that this project reads. */
enum oe_property_id {
    OE_PROP_PAYLOAD_FORMAT = 0x01,
    OE_PROP_AUTH_METHOD = 0x15,
    OE_PROP_AUTH_DATA = 0x16,
    OE_PROP_TOPIC_ALIAS = 0x23,
    OE_PROP_MAXIMUM_PACKET_SIZE = 0x27,
};

/* One property. For integers number is set, for strings and binary data value, for a User Property value (name) and value2. */
struct oe_property {
    uint32_t id;
    uint32_t number;
    struct oe_span value;
    struct oe_span value2;
};

/* Takes the next property off the front of list. OE_MORE: the list is at its end. OE_MALFORMED: unknown identifier or wrong length. */
enum oe_status oe_property_next(struct oe_span *list, struct oe_property *out);

/* The first property id of list. OE_MORE: it is not there. */
enum oe_status oe_property_find(struct oe_span list, uint32_t id, struct oe_property *out);

/* The first bytes of a stream: are they those of a CONNECT? OE_OK: yes, *version; OE_MORE: they may be; OE_MALFORMED: no. At most 14 bytes are
 * looked at. */
enum oe_status oe_connect_prefix(const uint8_t *p, size_t n, enum oe_mqtt *version);

/* The same bytes, known to be those of a CONNECT, and one more: whether it has a Will. OE_MORE. */
enum oe_status oe_connect_will(const uint8_t *p, size_t n, int *will);

struct oe_connect {
    enum oe_mqtt version;
    uint8_t flags; /* [MQTT-3.1.2.3] */
    uint16_t keep_alive_s;
    struct oe_span properties;
    struct oe_span client_id;
    struct oe_span will_properties; /* these four: empty if absent */
    struct oe_span will_topic;
    struct oe_span will_payload;
    struct oe_span user_name;
    struct oe_span password;
};
enum oe_status oe_connect_read(struct oe_span packet, struct oe_connect *out);
int oe_connect_has_will(const struct oe_connect *connect);

struct oe_connack {
    int session_present;
    uint8_t code; /* 0: accepted */
    struct oe_span properties;
};
enum oe_status oe_connack_read(struct oe_span packet, enum oe_mqtt version, struct oe_connack *out);

struct oe_publish {
    int dup, retain;
    unsigned qos;
    struct oe_span topic;
    uint16_t id; /* 0 with QoS 0 */
    struct oe_span properties;
    struct oe_span payload;
};
enum oe_status oe_publish_read(struct oe_span packet, enum oe_mqtt version, struct oe_publish *out);

struct oe_unsubscribe {
    uint16_t id;
    struct oe_span properties;
    struct oe_span filter; /* the first one */
    unsigned filters_n;
};
enum oe_status oe_unsubscribe_read(struct oe_span packet, enum oe_mqtt version, struct oe_unsubscribe *out);

struct oe_unsuback {
    uint16_t id;
    struct oe_span properties;
    struct oe_span codes; /* empty before MQTT 5 */
};
enum oe_status oe_unsuback_read(struct oe_span packet, enum oe_mqtt version, struct oe_unsuback *out);

struct oe_auth {
    uint8_t code;
    struct oe_span properties;
};
enum oe_status oe_auth_read(struct oe_span packet, struct oe_auth *out);

#endif
