/* The responder's side of the preface: PROTOCOL.md 8.2 to 8.4. */
#include "conn_private.h"

enum oe_security oe_responder_judge(struct oe_conn *c, enum oe_reason *reason)
{
    c->peer = c->hs->noise.rs;
    c->peer_seen = 1;
    switch (c->hs->calls->admit(&c->peer, c->policy)) {
    case OE_ADMIT_ANY:
        *reason = OE_REASON_HANDSHAKE_DONE;
        return OE_SEC_UNAUTHENTICATED;
    case OE_ADMIT_LISTED:
        *reason = OE_REASON_CLIENT_LISTED;
        return OE_SEC_PINNED;
    case OE_ADMIT_NOT:
        break;
    }
    *reason = OE_REASON_NOT_ADMITTED;
    oe_conn_go_refused(c, *reason);
    return OE_SEC_REFUSED;
}

static void bad(struct oe_conn *c)
{
    oe_conn_go_refused(c, OE_REASON_BAD_PREFACE);
}

/* The application's version as the initiator tells it; OE_MQTT_NONE: no such level. */
static enum oe_mqtt version_of(uint8_t level)
{
    return level == OE_MQTT_31 || level == OE_MQTT_311 || level == OE_MQTT_5 ? (enum oe_mqtt)level : OE_MQTT_NONE;
}

/* Step 4 of 8.2. */
static enum oe_status answer_xx(struct oe_conn *c, struct oe_span message1, uint64_t now_ms, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    struct oe_sink wire = oe_conn_sink(flow->answer);
    uint8_t epoch[OE_EPOCH_BYTES], message2[OE_MESSAGE2_BYTES + OE_EPOCH_BYTES];
    size_t n;

    oe_preface_noise(&hs->noise, OE_NOISE_XX, 0, hs->identity, &hs->ephemeral[0], NULL);
    oe_secret_wipe(&hs->ephemeral[0]);
    hs->calls->epoch(epoch);
    if (oe_noise_read(&hs->noise, message1, epoch, 0, &n) != OE_OK ||
        oe_noise_write(&hs->noise, (struct oe_span){epoch, sizeof(epoch)}, message2, sizeof(message2), &n) != OE_OK) {
        bad(c);
        return OE_OK;
    }
    hs->deadline_ms = now_ms + OE_RESPONDER_HELD_MS_MAX;
    c->phase = OE_PHASE_R_PREFACE;
    return oe_preface_put(&wire, OE_TYPE_AUTH, OE_PREFACE_XX, (struct oe_span){message2, n});
}

/* Step 3 of 8.2, message 1 verified; payload is what it carried. */
static enum oe_status answer_ik(struct oe_conn *c, struct oe_span payload, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    struct oe_sink wire = oe_conn_sink(flow->answer);
    uint8_t hello[OE_PREFACE_HELLO_BYTES], message2[OE_MESSAGE3_BYTES + 1];
    struct oe_public ephemeral = hs->noise.re;
    size_t n;

    c->version = payload.n < sizeof(hello) ? OE_MQTT_NONE : version_of(payload.p[0]);
    if (c->version == OE_MQTT_NONE) {
        bad(c);
        return OE_OK;
    }
    struct oe_span connect = {payload.p + sizeof(hello), payload.n - sizeof(hello)};
    if (connect.n != 0 && !oe_conn_may_be_early(connect, c->version)) {
        bad(c);
        return OE_OK;
    }
    enum oe_reason reason;
    enum oe_security security = oe_responder_judge(c, &reason);
    if (security == OE_SEC_REFUSED)
        return OE_OK;
    hello[0] = connect.n != 0 && hs->calls->fresh(payload.p + 1, &ephemeral);
    hs->calls->epoch(hello + 1);
    if (oe_noise_write(&hs->noise, (struct oe_span){hello, sizeof(hello)}, message2, sizeof(message2), &n) != OE_OK) {
        bad(c);
        return OE_OK;
    }
    enum oe_status st = oe_preface_put(&wire, OE_TYPE_AUTH, OE_PREFACE_IK, (struct oe_span){message2, n});
    if (st == OE_OK && hello[0])
        st = oe_sink_put(flow->forward, connect.p, connect.n);
    if (st == OE_OK) {
        c->wire = OE_MQTT_5;
        oe_conn_go_records(c, security, reason);
    }
    return st;
}

static enum oe_status read_ik(struct oe_conn *c, struct oe_span message1, uint64_t now_ms, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    struct oe_sink wire = oe_conn_sink(flow->answer);
    struct oe_buf payload = {0};
    size_t n;

    uint8_t *p = oe_buf_reserve(&payload, message1.n);
    if (p == NULL)
        return OE_NOMEM;
    oe_preface_noise(&hs->noise, OE_NOISE_IK, 0, hs->identity, &hs->ephemeral[0], NULL);
    enum oe_status st = oe_noise_read(&hs->noise, message1, p, message1.n, &n);
    if (st == OE_OK) {
        oe_secret_wipe(&hs->ephemeral[0]);
        st = answer_ik(c, (struct oe_span){p, n}, flow);
        oe_buf_wrote(&payload, n);
    } else {
        hs->deadline_ms = now_ms + OE_RESPONDER_HELD_MS_MAX;
        c->phase = OE_PHASE_R_RETRY;
        st = oe_preface_put(&wire, OE_TYPE_AUTH, OE_PREFACE_RETRY, (struct oe_span){NULL, 0});
    }
    oe_buf_free(&payload);
    return st;
}

enum oe_status oe_responder_preface(struct oe_conn *c, enum oe_preface_id id, struct oe_span message, uint64_t now_ms, struct oe_flow *flow)
{
    if (id == OE_PREFACE_IK && message.n >= OE_PREFACE_MESSAGE1_BYTES)
        return read_ik(c, message, now_ms, flow);
    if (id == OE_PREFACE_XX)
        return answer_xx(c, message, now_ms, flow);
    bad(c);
    return OE_OK;
}

/* R_PREFACE: message 3. */
static enum oe_status read_message3(struct oe_conn *c, struct oe_span message)
{
    enum oe_reason reason;
    uint8_t level;
    size_t n;

    if (oe_noise_read(&c->hs->noise, message, &level, 1, &n) != OE_OK || n != 1 || version_of(level) == OE_MQTT_NONE)
        return oe_conn_go_broken(c, OE_REASON_BAD_MESSAGE3, OE_CRYPTO);
    c->version = version_of(level);
    enum oe_security security = oe_responder_judge(c, &reason);
    if (security != OE_SEC_REFUSED) {
        c->wire = OE_MQTT_5;
        oe_conn_go_records(c, security, reason);
    }
    return OE_OK;
}

enum oe_status oe_responder_decide_preface(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept), message;
    enum oe_preface_id id;

    enum oe_status st = oe_preface_read(OE_TYPE_AUTH, kept.p, kept.n, &id, &message, &hs->want);
    if (st == OE_MORE)
        return OE_OK;
    if (st != OE_OK || id != OE_PREFACE_XX)
        return oe_conn_go_broken(c, OE_REASON_BAD_PREFACE, OE_CRYPTO);
    *verdict = OE_VERDICT_GONE;
    return c->phase == OE_PHASE_R_RETRY ? answer_xx(c, message, now_ms, flow) : read_message3(c, message);
}
