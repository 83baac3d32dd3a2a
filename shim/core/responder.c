/* The responder's side of the handshake: PROTOCOL.md 2.2, 2.3 and state table 3.2. */
#include "conn_private.h"

void oe_responder_app_packet(struct oe_conn *c)
{
    struct oe_framer *f = &c->hs->app;

    if (c->phase != OE_PHASE_R_FIRST || oe_header_type(f->header.first) != OE_TYPE_CONNACK)
        return;
    /* the code is the second byte behind the fixed header */
    if (f->kept_n >= f->header.header_n + 2 && f->kept[f->header.header_n + 1] == 0)
        c->hs->connack_sent = 1;
    else
        oe_conn_go_plain(c, OE_REASON_CONNACK_REFUSED);
}

/* What came cannot be a probe, or there must be none: the packet passes and nothing is looked at any more. */
static void not_probed(struct oe_conn *c, enum oe_verdict *verdict)
{
    *verdict = OE_VERDICT_PASS;
    oe_conn_go_plain(c, OE_REASON_NOT_PROBED);
}

enum oe_status oe_responder_answer(struct oe_conn *c, uint64_t now_ms, struct oe_sink *to)
{
    struct oe_handshake *hs = c->hs;

    if (!oe_framer_boundary(&hs->app))
        return OE_OK;
    if (oe_sink_put(to, hs->answer, hs->answer_n) != OE_OK)
        return oe_conn_go_broken(c, OE_REASON_MEMORY, OE_NOMEM);
    hs->deadline_ms = now_ms + OE_RESPONDER_HELD_MS_MAX;
    c->phase = OE_PHASE_R_MESSAGE3;
    return OE_OK;
}

/* Steps 4 of 2.2: prepares message 2 and UNSUBACK. Not OE_OK: message 1 is none. */
static enum oe_status prepare_answer(struct oe_conn *c, const uint8_t message1[OE_MESSAGE1_BYTES])
{
    struct oe_handshake *hs = c->hs;
    uint8_t none[1], message2[OE_MESSAGE2_BYTES];
    size_t none_n, n;

    oe_link_noise(&hs->noise, 0, hs->identity, &hs->ephemeral[0]);
    oe_secret_wipe(&hs->ephemeral[0]);
    enum oe_status st = oe_noise_read(&hs->noise, (struct oe_span){message1, OE_MESSAGE1_BYTES}, none, 0, &none_n);
    if (st == OE_OK)
        st = oe_noise_write(&hs->noise, (struct oe_span){NULL, 0}, message2, sizeof(message2), &n);
    if (st != OE_OK)
        return st;
    hs->answer_n = oe_link_write_handshake(c->version, message2, n, hs->answer);
    hs->answer_n += oe_link_write_unsuback(c->version, hs->answer + hs->answer_n);
    return OE_OK;
}

/* R_FIRST: the first packet after CONNECT, AUTH packets aside. */
static enum oe_status decide_first(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_span kept = oe_buf_span(&c->hs->kept);
    uint8_t message1[OE_MESSAGE1_BYTES];
    struct oe_header h;

    if (c->version == OE_MQTT_5 && oe_header_type(kept.p[0]) == OE_TYPE_AUTH) {
        enum oe_status st = oe_frame_header(kept.p, kept.n, &h);
        if (st == OE_OK)
            *verdict = OE_VERDICT_PASS;
        else if (st != OE_MORE)
            not_probed(c, verdict);
        return OE_OK;
    }
    switch (oe_link_read_probe(kept.p, kept.n, c->version, message1)) {
    case OE_MORE:
        return OE_OK;
    case OE_OK:
        if (!c->hs->connack_sent || prepare_answer(c, message1) != OE_OK)
            break;
        *verdict = OE_VERDICT_GONE;
        c->phase = OE_PHASE_R_ANSWER;
        return oe_responder_answer(c, now_ms, &(struct oe_sink){.rest = flow->answer});
    case OE_MALFORMED:
    case OE_NOMEM:
    case OE_CRYPTO:
    case OE_LIMIT:
    case OE_INVALID:
    case OE_SYSTEM:
        break;
    }
    not_probed(c, verdict);
    return OE_OK;
}

/* The initiator gave up: what was held goes to the wire as it is. */
static enum oe_status gave_up(struct oe_conn *c, struct oe_flow *flow)
{
    oe_conn_go_plain(c, OE_REASON_INITIATOR_GAVE_UP);
    return c->phase == OE_PHASE_PLAIN ? oe_conn_move(&c->hs->held, &(struct oe_sink){.rest = flow->answer}) : OE_OK;
}

/* Step 7 of 2.2: what was held goes to the wire in records. */
static enum oe_status finish(struct oe_conn *c, struct oe_span message3, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    uint8_t none[1];
    size_t none_n;

    if (message3.n != OE_MESSAGE3_BYTES || oe_noise_read(&hs->noise, message3, none, 0, &none_n) != OE_OK)
        return oe_conn_go_broken(c, OE_REASON_BAD_MESSAGE3, OE_CRYPTO);
    enum oe_reason reason;
    enum oe_security security = oe_responder_judge(c, &reason);
    if (security == OE_SEC_REFUSED)
        return OE_OK;
    c->wire = c->version;
    oe_conn_go_records(c, security, reason);
    enum oe_status st = oe_conn_seal(c, oe_buf_span(&hs->held), &(struct oe_sink){.rest = flow->answer});
    oe_buf_free(&hs->held);
    return st;
}

/* R_MESSAGE3: message 3, abort, or a sign that the initiator gave up. */
static enum oe_status decide_message3(struct oe_conn *c, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept), message;
    struct oe_header h;

    switch (oe_link_kind(kept.p, kept.n, &h)) {
    case OE_LINK_UNKNOWN:
        return OE_OK;
    case OE_LINK_RECORD:
    case OE_LINK_MALFORMED:
        return oe_conn_go_broken(c, OE_REASON_BAD_MESSAGE3, OE_CRYPTO);
    case OE_LINK_HANDSHAKE:
        if (h.total_n > OE_HANDSHAKE_PACKET_BYTES_MAX)
            return oe_conn_go_broken(c, OE_REASON_BAD_MESSAGE3, OE_CRYPTO);
        if (kept.n < h.total_n) {
            hs->want = h.total_n;
            return OE_OK;
        }
        if (oe_link_read_handshake(kept, c->version, &message) != OE_OK)
            return oe_conn_go_broken(c, OE_REASON_BAD_MESSAGE3, OE_CRYPTO);
        *verdict = OE_VERDICT_GONE;
        return message.n == 0 ? gave_up(c, flow) : finish(c, message, flow);
    case OE_LINK_UNSUBACK:
    case OE_LINK_OTHER:
        break;
    }
    *verdict = OE_VERDICT_PASS;
    return gave_up(c, flow);
}

/* A plain CONNECT where MQTT must not pass in plain: the probe may still come, but nothing may be published before. */
static enum oe_status decide_required(struct oe_conn *c, struct oe_span kept, enum oe_verdict *verdict)
{
    struct oe_header h;
    int will;
    enum oe_status st = oe_connect_prefix(kept.p, kept.n, &c->version);
    enum oe_status framed = oe_frame_header(kept.p, kept.n, &h);

    if (st == OE_OK)
        st = oe_connect_will(kept.p, kept.n, &will);
    if (st == OE_MORE && (framed == OE_MORE || kept.n < h.total_n))
        return OE_OK;
    *verdict = OE_VERDICT_PASS;
    if (st != OE_OK)
        oe_conn_go_refused(c, OE_REASON_MALFORMED);
    else if (will)
        oe_conn_go_refused(c, OE_REASON_WILL_IN_PLAIN);
    else
        c->phase = OE_PHASE_R_FIRST;
    return OE_OK;
}

/* What the first bytes turned out to be, as far as they say: a CONNECT whose rest passes, or nothing of ours. OE_MORE: not yet. */
static enum oe_status judge_front(struct oe_conn *c, const uint8_t *p, size_t n)
{
    enum oe_status st = oe_connect_prefix(p, n, &c->version);

    if (st == OE_OK && c->policy == OE_POLICY_OFF)
        oe_conn_go_plain(c, OE_REASON_POLICY_OFF);
    else if (st == OE_OK)
        c->phase = OE_PHASE_R_FIRST;
    else if (st == OE_MALFORMED)
        oe_conn_go_plain(c, p[0] == OE_FIRST_TLS ? OE_REASON_TLS : OE_REASON_NOT_MQTT);
    return st;
}

enum oe_status oe_responder_watch(struct oe_conn *c, struct oe_span in, struct oe_flow *flow, size_t *taken)
{
    struct oe_framer *f = &c->hs->front;
    enum oe_status st = oe_framer_push(f, in, taken);

    if (judge_front(c, f->kept, f->kept_n) == OE_OK)
        c->hs->left = f->left; /* the rest of the CONNECT passes */
    else if (st == OE_OK && c->phase == OE_PHASE_R_CONNECT)
        oe_conn_go_plain(c, OE_REASON_MALFORMED);
    return oe_sink_put(flow->forward, in.p, *taken);
}

/* It cannot be a preface any more, but is not known to be a CONNECT: it may be a protocol that waits for an answer to its first two bytes. */
static enum oe_status begin_watch(struct oe_conn *c, struct oe_span kept, struct oe_flow *flow)
{
    size_t taken;

    c->hs->watching = 1;
    return oe_responder_watch(c, kept, flow, &taken);
}

/* R_CONNECT: a preface, the application's CONNECT, or something else. */
static enum oe_status decide_connect(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept), message;
    enum oe_preface_id id;
    enum oe_status st = OE_MALFORMED;

    if (c->policy == OE_POLICY_PREFER || c->policy == OE_POLICY_REQUIRE)
        st = oe_preface_read(OE_TYPE_CONNECT, kept.p, kept.n, &id, &message, &hs->want);
    if (st == OE_MORE)
        return OE_OK;
    if (st == OE_OK || st == OE_INVALID) {
        *verdict = OE_VERDICT_GONE;
        hs->preface_seen = 1;
        if (st == OE_OK)
            return oe_responder_preface(c, id, message, now_ms, flow);
        oe_conn_go_refused(c, OE_REASON_BAD_PREFACE);
        return OE_OK;
    }
    if (c->policy == OE_POLICY_REQUIRE && kept.p[0] == OE_FIRST_CONNECT) {
        hs->want = kept.n + 1;
        return decide_required(c, kept, verdict);
    }
    *verdict = OE_VERDICT_GONE;
    return begin_watch(c, kept, flow);
}

enum oe_status oe_responder_decide(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict)
{
    if (c->phase == OE_PHASE_R_CONNECT)
        return decide_connect(c, now_ms, flow, verdict);
    if (c->phase == OE_PHASE_R_RETRY || c->phase == OE_PHASE_R_PREFACE)
        return oe_responder_decide_preface(c, now_ms, flow, verdict);
    if (c->phase == OE_PHASE_R_FIRST)
        return decide_first(c, now_ms, flow, verdict);
    if (c->phase == OE_PHASE_R_MESSAGE3)
        return decide_message3(c, flow, verdict);
    *verdict = OE_VERDICT_PASS; /* R_ANSWER: the initiator did not wait for its answer */
    oe_conn_go_plain(c, OE_REASON_INITIATOR_GAVE_UP);
    return OE_OK;
}
