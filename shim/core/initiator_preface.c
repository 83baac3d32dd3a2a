/* The initiator's side of the preface: PROTOCOL.md 8.2 and state table 8.4. */
#include "conn_private.h"

#include <sodium.h>

int oe_initiator_wants_preface(const struct oe_conn *c)
{
    const struct oe_handshake *hs = c->hs;

    if (c->role != OE_INITIATOR || hs == NULL || c->policy == OE_POLICY_OFF || c->policy == OE_POLICY_REFUSE)
        return 0;
    return c->policy == OE_POLICY_REQUIRE || hs->undecided || (hs->known_n != 0 && hs->downgrade == OE_DOWNGRADE_REFUSE);
}

enum oe_security oe_initiator_judge(const struct oe_conn *c, const struct oe_public *key, enum oe_reason *reason)
{
    const struct oe_handshake *hs = c->hs;

    for (size_t i = 0; i < hs->known_n; i++) {
        if (memcmp(hs->known[i].key.b, key->b, sizeof(key->b)) == 0) {
            *reason = hs->known[i].pinned ? OE_REASON_KEY_PINNED : OE_REASON_KEY_KNOWN;
            return hs->known[i].pinned ? OE_SEC_PINNED : OE_SEC_TOFU;
        }
    }
    *reason = hs->known_n == 0 ? OE_REASON_HANDSHAKE_DONE : OE_REASON_KEY_CHANGED;
    return hs->known_n == 0 || hs->downgrade == OE_DOWNGRADE_WARN ? OE_SEC_UNAUTHENTICATED : OE_SEC_REFUSED;
}

/* ---- from the application ------------------------------------------------------------------------------------------------------------- */

/* Message 1 of XX, in the preface or, after retry, in AUTH. */
static enum oe_status send_xx(struct oe_conn *c, enum oe_type type, const struct oe_secret *ephemeral, struct oe_sink *to)
{
    struct oe_handshake *hs = c->hs;
    uint8_t message[OE_MESSAGE1_BYTES];
    size_t n;

    oe_preface_noise(&hs->noise, OE_NOISE_XX, 1, hs->identity, ephemeral, NULL);
    enum oe_status st = oe_noise_write(&hs->noise, (struct oe_span){NULL, 0}, message, sizeof(message), &n);
    if (st == OE_OK)
        st = oe_preface_put(to, type, OE_PREFACE_XX, (struct oe_span){message, n});
    if (st == OE_OK)
        c->phase = OE_PHASE_I_PREFACE_XX;
    return st;
}

/* Message 1 of IK with the CONNECT, if it fits. */
static enum oe_status send_ik(struct oe_conn *c, struct oe_sink *to)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span connect = oe_buf_span(&hs->connect);
    struct oe_buf payload = {0}, message = {0};
    uint8_t level = (uint8_t)c->version;
    size_t n, room;

    hs->connect_sent = !sodium_is_zero(hs->epoch, sizeof(hs->epoch)) && connect.n <= OE_PREFACE_CONNECT_BYTES_MAX &&
                       oe_conn_may_be_early(connect, c->version);
    if (!hs->connect_sent)
        connect.n = 0;
    room = OE_PREFACE_MESSAGE1_BYTES + connect.n;
    oe_preface_noise(&hs->noise, OE_NOISE_IK, 1, hs->identity, &hs->ephemeral[0], &hs->known[0].key);
    enum oe_status st = oe_buf_put(&payload, &level, 1);
    if (st == OE_OK)
        st = oe_buf_put(&payload, hs->epoch, sizeof(hs->epoch));
    if (st == OE_OK && connect.n != 0)
        st = oe_buf_put(&payload, connect.p, connect.n);
    uint8_t *p = st == OE_OK ? oe_buf_reserve(&message, room) : NULL;
    if (st == OE_OK && p == NULL)
        st = OE_NOMEM;
    if (st == OE_OK)
        st = oe_noise_write(&hs->noise, oe_buf_span(&payload), p, room, &n);
    if (st == OE_OK)
        st = oe_preface_put(to, OE_TYPE_CONNECT, OE_PREFACE_IK, (struct oe_span){p, n});
    oe_buf_free(&payload);
    oe_buf_free(&message);
    if (st == OE_OK)
        c->phase = OE_PHASE_I_PREFACE_IK;
    return st;
}

/* The CONNECT is whole: step 1 of 8.2. */
static enum oe_status send_preface(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    int ik = hs->known_n != 0 && hs->downgrade == OE_DOWNGRADE_REFUSE;

    enum oe_status st = ik ? send_ik(c, flow->forward) : send_xx(c, OE_TYPE_CONNECT, &hs->ephemeral[0], flow->forward);
    oe_secret_wipe(&hs->ephemeral[0]);
    hs->deadline_ms = now_ms + (uint64_t)hs->handshake_ms * OE_PREFACE_TIMEOUTS;
    if (st == OE_CRYPTO) {
        /* the key that is known is none that anybody can have */
        oe_conn_go_refused(c, OE_REASON_KEY_CHANGED);
        return OE_OK;
    }
    return st;
}

enum oe_status oe_initiator_keep_connect(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow, size_t *taken)
{
    struct oe_handshake *hs = c->hs;

    if (oe_buf_n(&hs->connect) == 0 && in.p[0] != OE_FIRST_CONNECT) {
        *taken = in.n;
        oe_conn_go_plain(c, in.p[0] == OE_FIRST_TLS ? OE_REASON_TLS : OE_REASON_NOT_MQTT);
        return oe_sink_put(flow->forward, in.p, in.n);
    }
    enum oe_status st = oe_framer_push(&hs->app, in, taken);
    enum oe_status prefix = oe_connect_prefix(hs->app.kept, hs->app.kept_n, &c->version); /* first: a refusal is made in this version */
    if (st == OE_MALFORMED || prefix == OE_MALFORMED || (st == OE_OK && prefix != OE_OK))
        oe_conn_go_refused(c, OE_REASON_MALFORMED);
    else if (prefix == OE_OK && hs->app.header.total_n > OE_PREFACE_KEPT_BYTES_MAX)
        oe_conn_go_refused(c, OE_REASON_CONNECT_LARGE);
    else if (oe_buf_put(&hs->connect, in.p, *taken) != OE_OK)
        return OE_NOMEM;
    else if (st == OE_OK && hs->peer_spoke)
        oe_conn_go_refused(c, OE_REASON_PEER_FIRST);
    else if (st == OE_OK && hs->undecided)
        oe_conn_go_refused(c, OE_REASON_TRUST_UNDECIDED);
    else if (st == OE_OK)
        return send_preface(c, now_ms, flow);
    return OE_OK;
}

/* ---- from the peer -------------------------------------------------------------------------------------------------------------------- */

void oe_initiator_preface_failed(struct oe_conn *c)
{
    oe_conn_go_refused(c, c->hs->known_n != 0 ? OE_REASON_OE_MQTT_GONE : OE_REASON_REQUIRED);
}

static void keep_epoch(struct oe_conn *c, const uint8_t epoch[OE_EPOCH_BYTES])
{
    memcpy(c->epoch, epoch, sizeof(c->epoch));
    c->epoch_seen = 1;
}

/* The handshake is through: the CONNECT goes out in records, if it has not arrived yet. */
static enum oe_status finish(struct oe_conn *c, enum oe_security security, enum oe_reason reason, int early, struct oe_flow *flow)
{
    struct oe_sink wire = oe_conn_sink(flow->answer);

    c->wire = OE_MQTT_5;
    oe_conn_go_records(c, security, reason);
    enum oe_status st = early ? OE_OK : oe_conn_seal(c, oe_buf_span(&c->hs->connect), &wire);
    oe_buf_free(&c->hs->connect);
    return st;
}

static enum oe_status message2_ik(struct oe_conn *c, struct oe_span message, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    uint8_t payload[OE_PREFACE_HELLO_BYTES];
    enum oe_reason reason;
    size_t n;

    if (oe_noise_read(&hs->noise, message, payload, sizeof(payload), &n) != OE_OK || n != sizeof(payload) ||
        payload[0] > hs->connect_sent) {
        oe_initiator_preface_failed(c);
        return OE_OK;
    }
    keep_epoch(c, payload + 1);
    enum oe_security security = oe_initiator_judge(c, &hs->noise.rs, &reason);
    return finish(c, security, reason, payload[0], flow);
}

static enum oe_status message2_xx(struct oe_conn *c, struct oe_span message, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    uint8_t epoch[OE_EPOCH_BYTES], level = (uint8_t)c->version, message3[OE_MESSAGE3_BYTES + 1];
    enum oe_reason reason;
    size_t n;

    if (oe_noise_read(&hs->noise, message, epoch, sizeof(epoch), &n) != OE_OK || n != sizeof(epoch)) {
        oe_initiator_preface_failed(c);
        return OE_OK;
    }
    enum oe_security security = oe_initiator_judge(c, &hs->noise.rs, &reason);
    c->peer = hs->noise.rs;
    c->peer_seen = 1;
    if (security == OE_SEC_REFUSED) {
        oe_conn_go_refused(c, reason);
        return OE_OK;
    }
    keep_epoch(c, epoch);
    enum oe_status st = oe_noise_write(&hs->noise, (struct oe_span){&level, 1}, message3, sizeof(message3), &n);
    if (st != OE_OK) {
        oe_initiator_preface_failed(c);
        return OE_OK;
    }
    struct oe_sink wire = oe_conn_sink(flow->answer);
    st = oe_preface_put(&wire, OE_TYPE_AUTH, OE_PREFACE_XX, (struct oe_span){message3, n});
    return st == OE_OK ? finish(c, security, reason, 0, flow) : st;
}

/* What came is not the answer to a preface: who refused? */
static enum oe_status not_an_answer(struct oe_conn *c, struct oe_span kept, enum oe_verdict *verdict)
{
    enum oe_status st = oe_preface_read_refusal(kept.p, kept.n);

    if (st == OE_MORE)
        return OE_OK;
    *verdict = OE_VERDICT_GONE;
    if (st == OE_OK)
        oe_conn_go_refused(c, OE_REASON_NOT_ADMITTED_THERE);
    else
        oe_initiator_preface_failed(c);
    return OE_OK;
}

enum oe_status oe_initiator_decide_preface(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept), message;
    enum oe_preface_id id;
    int ik = c->phase == OE_PHASE_I_PREFACE_IK;

    (void)now_ms;
    enum oe_status st = oe_preface_read(OE_TYPE_AUTH, kept.p, kept.n, &id, &message, &hs->want);
    if (st == OE_MORE)
        return OE_OK;
    if (st != OE_OK) {
        hs->want = kept.n + 1;
        return not_an_answer(c, kept, verdict);
    }
    *verdict = OE_VERDICT_GONE;
    if (ik && id == OE_PREFACE_IK)
        return message2_ik(c, message, flow);
    if (ik && id == OE_PREFACE_RETRY && message.n == 0) {
        struct oe_sink wire = oe_conn_sink(flow->answer);
        return send_xx(c, OE_TYPE_AUTH, &hs->ephemeral[1], &wire);
    }
    if (!ik && id == OE_PREFACE_XX)
        return message2_xx(c, message, flow);
    oe_initiator_preface_failed(c);
    return OE_OK;
}
