/* Framer and packet views, from the bytes of a stream. First byte: the sizes of pieces. What must hold for any bytes:
 * - the framer finds the same packets in one piece and in any pieces;
 * - no view reads outside its packet (each stands in memory of exactly its size), and its spans lie inside;
 * - what is no CONNECT, probe or record by its first bytes is none by more of them. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/core/link.h"
#include "../../shim/core/packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int holds, const char *what)
{
    if (!holds) {
        (void)fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

#define REQUIRE(x) require(!!(x), #x)

static uint8_t *exact(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    REQUIRE(copy != NULL);
    if (n != 0)
        memcpy(copy, p, n);
    return copy;
}

static void inside(struct oe_span packet, struct oe_span s)
{
    REQUIRE(s.n == 0 || (s.p >= packet.p && s.n <= packet.n && (size_t)(s.p - packet.p) <= packet.n - s.n));
}

static void properties(struct oe_span packet, struct oe_span list)
{
    struct oe_property p;
    inside(packet, list);
    for (;;) {
        size_t before = list.n;
        if (oe_property_next(&list, &p) != OE_OK)
            return;
        REQUIRE(list.n < before);
        inside(packet, p.value);
        inside(packet, p.value2);
    }
}

static void views(struct oe_span s)
{
    struct oe_connect connect;
    struct oe_connack connack;
    struct oe_publish publish;
    struct oe_unsubscribe unsubscribe;
    struct oe_unsuback unsuback;
    struct oe_auth auth;
    struct oe_span message;

    if (oe_connect_read(s, &connect) == OE_OK) {
        properties(s, connect.properties);
        properties(s, connect.will_properties);
        inside(s, connect.client_id);
        inside(s, connect.will_topic);
        inside(s, connect.will_payload);
        inside(s, connect.user_name);
        inside(s, connect.password);
        enum oe_mqtt version;
        REQUIRE(oe_connect_prefix(s.p, s.n, &version) == OE_OK && version == connect.version);
    }
    if (oe_auth_read(s, &auth) == OE_OK)
        properties(s, auth.properties);
    for (int v = OE_MQTT_31; v <= OE_MQTT_5; v++) {
        enum oe_mqtt version = (enum oe_mqtt)v;
        if (oe_connack_read(s, version, &connack) == OE_OK)
            properties(s, connack.properties);
        if (oe_publish_read(s, version, &publish) == OE_OK) {
            properties(s, publish.properties);
            inside(s, publish.topic);
            inside(s, publish.payload);
        }
        if (oe_unsubscribe_read(s, version, &unsubscribe) == OE_OK) {
            properties(s, unsubscribe.properties);
            inside(s, unsubscribe.filter);
            REQUIRE(unsubscribe.filters_n > 0);
        }
        if (oe_unsuback_read(s, version, &unsuback) == OE_OK) {
            properties(s, unsuback.properties);
            inside(s, unsuback.codes);
        }
        if (oe_link_read_handshake(s, version, &message) == OE_OK)
            inside(s, message);
    }
}

/* Statuses of the front of a stream, for one byte more each time: once it is decided, it stays. */
static void prefixes(const uint8_t *data, size_t n)
{
    enum oe_status connect = OE_MORE, probe[6] = {OE_MORE, OE_MORE, OE_MORE, OE_MORE, OE_MORE, OE_MORE}, record[6];
    enum oe_link_kind kind = OE_LINK_UNKNOWN;
    memcpy(record, probe, sizeof(record));
    for (size_t k = 1; k <= n && k <= 70; k++) {
        uint8_t *p = exact(data, k), message1[OE_MESSAGE1_BYTES];
        struct oe_header h;
        enum oe_mqtt version;
        size_t a, b;
        enum oe_status st = oe_connect_prefix(p, k, &version);
        REQUIRE(connect == OE_MORE || connect == st);
        connect = st;
        enum oe_link_kind now = oe_link_kind(p, k, &h);
        REQUIRE(kind == OE_LINK_UNKNOWN || kind == now);
        kind = now;
        for (int v = OE_MQTT_31; v <= OE_MQTT_5; v++) {
            st = k <= oe_link_probe_bytes((enum oe_mqtt)v) ? oe_link_read_probe(p, k, (enum oe_mqtt)v, message1) : probe[v];
            REQUIRE(probe[v] == OE_MORE || probe[v] == st);
            probe[v] = st;
            st = oe_record_header(p, k, (enum oe_mqtt)v, &a, &b);
            REQUIRE(record[v] == OE_MORE || record[v] == st);
            if (st == OE_OK)
                REQUIRE(b > OE_TAG_BYTES && a + b <= OE_RECORD_BYTES_MAX);
            record[v] = st;
        }
        free(p);
    }
}

/* Where packets end, in pieces of size; returns how many ended, *at the bytes that were taken. */
static size_t ends(const uint8_t *data, size_t n, size_t size, size_t *out, size_t out_max, size_t *at)
{
    struct oe_framer f = {0};
    size_t found = 0;
    *at = 0;
    while (*at < n) {
        size_t taken, k = n - *at < size ? n - *at : size;
        enum oe_status st = oe_framer_push(&f, (struct oe_span){data + *at, k}, &taken);
        REQUIRE(taken >= 1 && taken <= k);
        *at += taken;
        if (st == OE_MALFORMED)
            break;
        if (st == OE_OK) {
            if (found < out_max)
                out[found] = *at;
            found++;
            oe_framer_next(&f);
        }
    }
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    size_t whole[64], pieces[64], at, at_pieces;
    if (n < 1)
        return 0;
    size_t size = 1 + data[0] % 40;
    data++;
    n--;
    prefixes(data, n);
    size_t found = ends(data, n, SIZE_MAX, whole, 64, &at);
    REQUIRE(ends(data, n, size, pieces, 64, &at_pieces) == found && at == at_pieces);
    REQUIRE(ends(data, n, 1, pieces, 64, &at_pieces) == found && at == at_pieces);
    for (size_t i = 0, begin = 0; i < found && i < 64; begin = whole[i++]) {
        REQUIRE(whole[i] == pieces[i]);
        uint8_t *p = exact(data + begin, whole[i] - begin);
        views((struct oe_span){p, whole[i] - begin});
        free(p);
    }
    return 0;
}
