/* The initiator's side of the handshake: PROTOCOL.md 2.2, 2.3 and state table 3.1. */
#include "conn_private.h"

void oe_initiator_app_front(struct oe_conn *c)
{
    struct oe_framer *f = &c->hs->app;

    if (c->phase == OE_PHASE_I_CONNECT) {
        enum oe_status st = oe_connect_prefix(f->kept, f->kept_n, &c->version);
        if (st == OE_MALFORMED)
            oe_conn_go_plain(c, f->kept[0] == OE_FIRST_TLS ? OE_REASON_TLS : OE_REASON_NOT_MQTT);
        else if (st == OE_OK && c->policy == OE_POLICY_OFF)
            oe_conn_go_plain(c, OE_REASON_POLICY_OFF);
    } else if (c->phase == OE_PHASE_I_CONNACK) {
        /* Only an AUTH may come between CONNECT and CONNACK and leave a probe possible. */
        if (c->version != OE_MQTT_5 || oe_header_type(f->kept[0]) != OE_TYPE_AUTH)
            oe_conn_go_plain(c, OE_REASON_PIPELINED);
    }
}

void oe_initiator_app_packet(struct oe_conn *c)
{
    if (c->phase != OE_PHASE_I_CONNECT)
        return;
    if (c->version == OE_MQTT_NONE)
        oe_conn_go_plain(c, OE_REASON_MALFORMED);
    else
        c->phase = OE_PHASE_I_CONNACK;
}

enum oe_status oe_initiator_give_up(struct oe_conn *c, enum oe_reason reason, struct oe_flow *flow)
{
    c->phase = OE_PHASE_I_LATE;
    c->security = OE_SEC_PLAIN;
    c->reason = reason;
    c->downgraded = c->hs->known_n != 0;
    /* What is kept is the front of a packet; I_LATE decides on it again, with the same wants. */
    return oe_conn_move(&c->hs->held, flow->forward);
}

/* Why a whole CONNACK is not followed by a probe; OE_REASON_NONE: it is. */
static enum oe_reason why_not_probe(const struct oe_conn *c, struct oe_span packet)
{
    struct oe_connack connack;
    struct oe_property size;

    if (oe_connack_read(packet, c->version, &connack) != OE_OK)
        return OE_REASON_MALFORMED;
    if (connack.code != 0)
        return OE_REASON_CONNACK_REFUSED;
    if (!oe_framer_boundary(&c->hs->app))
        return OE_REASON_PIPELINED;
    switch (oe_property_find(connack.properties, OE_PROP_MAXIMUM_PACKET_SIZE, &size)) {
    case OE_OK:
        return size.number < oe_link_probe_bytes(c->version) ? OE_REASON_PACKET_SIZE : c->no_probe;
    case OE_MORE: /* it is not there */
        return c->no_probe;
    case OE_MALFORMED:
    case OE_NOMEM:
    case OE_CRYPTO:
    case OE_LIMIT:
    case OE_INVALID:
    case OE_SYSTEM:
        break;
    }
    return OE_REASON_MALFORMED;
}

/* Step 3 of 2.2: the CONNACK is held, the probe goes out. */
static enum oe_status send_probe(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    uint8_t probe[OE_PROBE_BYTES_MAX];
    size_t n;

    oe_link_noise(&hs->noise, 1, hs->identity, &hs->ephemeral[0]);
    oe_secret_wipe(&hs->ephemeral[0]);
    enum oe_status st = oe_link_write_probe(&hs->noise, c->version, probe, &n);
    if (st == OE_OK)
        st = oe_conn_move(&hs->kept, &(struct oe_sink){.rest = &hs->held});
    if (st == OE_OK)
        st = oe_buf_put(flow->answer, probe, n);
    if (st != OE_OK)
        return oe_conn_go_broken(c, OE_REASON_MEMORY, st);
    hs->deadline_ms = now_ms + hs->handshake_ms;
    c->phase = OE_PHASE_I_PROBE;
    return OE_OK;
}

static enum oe_status decide_connack(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept);
    struct oe_header h;

    if (oe_header_type(kept.p[0]) != OE_TYPE_CONNACK) {
        *verdict = OE_VERDICT_PASS;
        /* Its length has to be known, so that it can pass whole. */
        enum oe_status st = oe_frame_header(kept.p, kept.n, &h);
        if (st == OE_MORE)
            *verdict = OE_VERDICT_MORE;
        else if (st != OE_OK)
            oe_conn_go_plain(c, OE_REASON_MALFORMED);
        return OE_OK;
    }
    enum oe_status st = oe_frame_header(kept.p, kept.n, &h);
    enum oe_reason reason = OE_REASON_NONE;
    if (st == OE_MORE)
        return OE_OK;
    if (st != OE_OK)
        reason = OE_REASON_MALFORMED;
    else if (h.total_n > OE_CONNACK_BYTES_MAX)
        reason = OE_REASON_CONNACK_LARGE;
    else if (kept.n < h.total_n) {
        hs->want = h.total_n;
        return OE_OK;
    } else
        reason = why_not_probe(c, kept);
    if (reason == OE_REASON_NONE) {
        *verdict = OE_VERDICT_GONE;
        return send_probe(c, now_ms, flow);
    }
    *verdict = OE_VERDICT_PASS;
    oe_conn_go_plain(c, reason);
    return OE_OK;
}

/* Whether what is kept is a handshake packet with as many bytes as message 2. */
static int is_message2(const struct oe_conn *c, struct oe_span *message)
{
    return oe_link_read_handshake(oe_buf_span(&c->hs->kept), c->version, message) == OE_OK && message->n == OE_MESSAGE2_BYTES;
}

/* A whole packet on the handshake's topic while the probe is open: message 2, or somebody's imitation, which is withheld. */
static enum oe_status try_message2(struct oe_conn *c, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    uint8_t none[1], message3[OE_MESSAGE3_BYTES], packet[OE_HANDSHAKE_PACKET_BYTES_MAX];
    struct oe_span message;
    size_t none_n, message3_n;

    if (!is_message2(c, &message) || oe_noise_read(&hs->noise, message, none, 0, &none_n) != OE_OK)
        return OE_OK;
    enum oe_status st = oe_noise_write(&hs->noise, (struct oe_span){NULL, 0}, message3, sizeof(message3), &message3_n);
    if (st != OE_OK)
        return oe_conn_go_broken(c, OE_REASON_BAD_MESSAGE3, st);
    st = oe_buf_put(flow->answer, packet, oe_link_write_handshake(c->version, message3, message3_n, packet));
    if (st != OE_OK)
        return oe_conn_go_broken(c, OE_REASON_MEMORY, st);
    hs->answer_n = oe_link_write_unsuback(c->version, hs->answer);
    c->phase = OE_PHASE_I_UNSUBACK;
    return OE_OK;
}

/* Late message 2: the responder waits for message 3 and must be told that there will be none. */
static enum oe_status abort_late(struct oe_conn *c, struct oe_flow *flow)
{
    uint8_t packet[OE_HANDSHAKE_PACKET_BYTES_MAX];

    if (c->hs->app_spoke)
        return OE_OK; /* a plain packet says the same, and a responder that is plain by it would take abort for its application's */
    return oe_buf_put(flow->answer, packet, oe_link_write_handshake(c->version, NULL, 0, packet));
}

/* A whole small packet on the handshake's topic. */
static enum oe_status decide_handshake(struct oe_conn *c, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_span message;

    *verdict = OE_VERDICT_DROP;
    if (c->phase == OE_PHASE_I_PROBE)
        return try_message2(c, flow);
    if (is_message2(c, &message))
        return abort_late(c, flow);
    *verdict = OE_VERDICT_PASS;
    return OE_OK;
}

/* The end of a probe that met no responder. */
static enum oe_status finish_plain(struct oe_conn *c, struct oe_flow *flow)
{
    enum oe_status st = oe_conn_move(&c->hs->held, flow->forward);
    oe_buf_free(&c->hs->kept);
    oe_conn_go_plain(c, OE_REASON_NO_OE_MQTT);
    return st;
}

/* I_PROBE and I_LATE: the answer to the probe among whatever else the broker sends. */
static enum oe_status decide_answer(struct oe_conn *c, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept);
    struct oe_header h;

    switch (oe_link_kind(kept.p, kept.n, &h)) {
    case OE_LINK_UNKNOWN:
        return OE_OK;
    case OE_LINK_MALFORMED:
        if (c->phase == OE_PHASE_I_PROBE)
            return oe_conn_go_broken(c, OE_REASON_MALFORMED, OE_MALFORMED);
        *verdict = OE_VERDICT_PASS;
        oe_conn_go_plain(c, OE_REASON_MALFORMED);
        return OE_OK;
    case OE_LINK_OTHER:
    case OE_LINK_RECORD:
        *verdict = OE_VERDICT_PASS;
        return OE_OK;
    case OE_LINK_UNSUBACK:
        if (kept.n < h.total_n && h.total_n <= OE_CONNACK_BYTES_MAX) {
            hs->want = h.total_n;
            return OE_OK;
        }
        *verdict = kept.n < h.total_n ? OE_VERDICT_PASS : OE_VERDICT_GONE;
        return *verdict == OE_VERDICT_GONE ? finish_plain(c, flow) : OE_OK;
    case OE_LINK_HANDSHAKE:
        if (h.total_n > OE_HANDSHAKE_PACKET_BYTES_MAX) {
            *verdict = c->phase == OE_PHASE_I_PROBE ? OE_VERDICT_DROP : OE_VERDICT_PASS;
            return OE_OK;
        }
        if (kept.n < h.total_n) {
            hs->want = h.total_n;
            return OE_OK;
        }
        return decide_handshake(c, flow, verdict);
    }
    return OE_OK;
}

/* I_UNSUBACK: the very next bytes are the UNSUBACK of 2.1. */
static enum oe_status decide_unsuback(struct oe_conn *c, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept);

    if (memcmp(kept.p, hs->answer, kept.n) != 0)
        return oe_conn_go_broken(c, OE_REASON_BAD_UNSUBACK, OE_CRYPTO);
    if (kept.n < hs->answer_n)
        return OE_OK;
    *verdict = OE_VERDICT_GONE;
    enum oe_status st = oe_conn_move(&hs->held, flow->forward);
    if (st == OE_OK) {
        enum oe_reason reason;
        enum oe_security security = oe_initiator_judge(c, &hs->noise.rs, &reason);
        c->wire = c->version;
        oe_conn_go_records(c, security, reason);
    }
    return st;
}

enum oe_status oe_initiator_decide(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict)
{
    if (oe_conn_prefaced(c))
        return oe_initiator_decide_preface(c, now_ms, flow, verdict);
    if (c->phase == OE_PHASE_I_CONNACK)
        return decide_connack(c, now_ms, flow, verdict);
    if (c->phase == OE_PHASE_I_UNSUBACK)
        return decide_unsuback(c, flow, verdict);
    return decide_answer(c, flow, verdict);
}
