/* Bytes of the two directions on their way through a connection: PROTOCOL.md sections 2, 3 and 8. */
#include "conn_private.h"

/* ---- from the application ------------------------------------------------------------------------------------------------------------- */

static struct oe_span rest_of(struct oe_span in, size_t taken)
{
    return (struct oe_span){in.p + taken, in.n - taken};
}

/* Holds what a responder's application writes between message 2 and message 3, and before that where nothing may pass in plain. */
static enum oe_status hold_output(struct oe_conn *c, struct oe_span in, uint64_t now_ms, size_t *taken)
{
    if (c->hs->deadline_ms == 0)
        c->hs->deadline_ms = now_ms + OE_RESPONDER_HELD_MS_MAX;
    size_t room = OE_RESPONDER_HELD_BYTES_MAX - oe_buf_n(&c->hs->held);
    size_t n = in.n < room ? in.n : room;

    if (oe_buf_put(&c->hs->held, in.p, n) != OE_OK)
        return oe_conn_go_broken(c, OE_REASON_MEMORY, OE_NOMEM);
    *taken = n;
    return OE_OK;
}

/* Watches bytes of the application pass, up to the end of the packet they belong to. */
static enum oe_status watch_app(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow, size_t *taken)
{
    struct oe_handshake *hs = c->hs;
    enum oe_status st = OE_MORE;

    if (c->phase == OE_PHASE_I_LATE) {
        /* only the peer's stream is still of interest */
        hs->app_spoke = 1;
        *taken = in.n;
    } else {
        st = oe_framer_push(&hs->app, in, taken);
    }
    if (oe_sink_put(flow->forward, in.p, *taken) != OE_OK)
        return oe_conn_go_broken(c, OE_REASON_MEMORY, OE_NOMEM);
    if (c->role == OE_INITIATOR)
        oe_initiator_app_front(c);
    if (st == OE_MALFORMED && c->phase != OE_PHASE_PLAIN)
        oe_conn_go_plain(c, OE_REASON_MALFORMED);
    if (st != OE_OK || c->phase == OE_PHASE_PLAIN)
        return OE_OK;
    if (c->role == OE_INITIATOR)
        oe_initiator_app_packet(c);
    else
        oe_responder_app_packet(c);
    oe_framer_next(&hs->app);
    return c->phase == OE_PHASE_R_ANSWER ? oe_responder_answer(c, now_ms, flow->forward) : OE_OK;
}

/* The side that should wait for a CONNECT has something to say: no MQTT. Where no MQTT may pass a CONNECT could still follow: the watch goes on. */
static enum oe_status spoke_first(struct oe_conn *c, struct oe_span in, struct oe_flow *flow, size_t *taken)
{
    c->hs->peer_spoke = 1;
    int known = c->hs->known_n != 0 && c->hs->downgrade == OE_DOWNGRADE_REFUSE;
    if (known || oe_buf_n(&c->hs->connect) != 0) { /* nothing but the answer to a preface may come in front of the handshake */
        *taken = in.n;
        oe_conn_go_refused(c, OE_REASON_PEER_FIRST);
        return OE_OK;
    }
    if (!oe_conn_strict(c))
        oe_conn_go_plain(c, OE_REASON_PEER_FIRST);
    *taken = in.n;
    return oe_sink_put(flow->forward, in.p, in.n);
}

enum oe_status oe_conn_push_app(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow)
{
    enum oe_status st = OE_OK;

    while (st == OE_OK && flow->taken < in.n) {
        struct oe_span rest = rest_of(in, flow->taken);
        size_t taken = 0;
        switch (c->phase) {
        case OE_PHASE_I_PROBE:
        case OE_PHASE_I_UNSUBACK:
        case OE_PHASE_I_PREFACE_IK:
        case OE_PHASE_I_PREFACE_XX:
        case OE_PHASE_R_RETRY:
        case OE_PHASE_R_PREFACE:
            return OE_OK;
        case OE_PHASE_R_CONNECT:
            st = spoke_first(c, rest, flow, &taken);
            break;
        case OE_PHASE_I_CONNECT:
            st = oe_initiator_wants_preface(c) ? oe_initiator_keep_connect(c, rest, now_ms, flow, &taken)
                                               : watch_app(c, rest, now_ms, flow, &taken);
            break;
        case OE_PHASE_R_FIRST:
            if (c->policy == OE_POLICY_REQUIRE && c->hs->connack_sent) {
                st = hold_output(c, rest, now_ms, &taken);
                flow->taken += taken;
                return st;
            }
            st = watch_app(c, rest, now_ms, flow, &taken);
            break;
        case OE_PHASE_I_CONNACK:
        case OE_PHASE_I_LATE:
        case OE_PHASE_R_ANSWER:
            st = watch_app(c, rest, now_ms, flow, &taken);
            break;
        case OE_PHASE_R_MESSAGE3:
            st = hold_output(c, rest, now_ms, &taken);
            flow->taken += taken;
            return st;
        case OE_PHASE_RECORDS:
            if (c->failed[OE_FROM_APP] != OE_REASON_NONE)
                return OE_CRYPTO;
            st = oe_conn_seal(c, rest, flow->forward);
            taken = rest.n;
            break;
        case OE_PHASE_PLAIN:
            st = oe_sink_put(flow->forward, rest.p, rest.n);
            taken = rest.n;
            break;
        case OE_PHASE_REFUSED:
        case OE_PHASE_BROKEN:
            return OE_CRYPTO;
        }
        flow->taken += taken;
        if (c->phase == OE_PHASE_REFUSED)
            return st == OE_OK ? oe_conn_refusal(c, flow->forward) : st;
    }
    return st;
}

/* ---- from the peer -------------------------------------------------------------------------------------------------------------------- */

/* Hands bytes of the peer on, or keeps them in their order behind a CONNACK that is held. */
static enum oe_status emit(struct oe_conn *c, const uint8_t *p, size_t n, struct oe_flow *flow)
{
    if (c->phase != OE_PHASE_I_PROBE && c->phase != OE_PHASE_I_UNSUBACK)
        return oe_sink_put(flow->forward, p, n);
    enum oe_status st = oe_buf_put(&c->hs->held, p, n);
    if (st == OE_OK && c->phase == OE_PHASE_I_PROBE && oe_buf_n(&c->hs->held) > OE_INITIATOR_HELD_BYTES_MAX)
        st = oe_initiator_give_up(c, OE_REASON_HELD_TOO_MUCH, flow);
    return st;
}

/* Acts on a verdict about what is kept. */
static enum oe_status obey(struct oe_conn *c, enum oe_verdict verdict, struct oe_flow *flow)
{
    struct oe_handshake *hs = c->hs;
    struct oe_span kept = oe_buf_span(&hs->kept);
    struct oe_header h;
    enum oe_status st = OE_OK;

    if (c->phase == OE_PHASE_REFUSED)
        verdict = OE_VERDICT_GONE;
    switch (verdict) {
    case OE_VERDICT_MORE:
        return OE_OK;
    case OE_VERDICT_PASS:
    case OE_VERDICT_DROP:
        hs->dropping = verdict == OE_VERDICT_DROP;
        hs->left = oe_frame_header(kept.p, kept.n, &h) == OE_OK ? h.total_n - kept.n : 0;
        if (!hs->dropping)
            st = emit(c, kept.p, kept.n, flow);
        break;
    case OE_VERDICT_GONE:
        break;
    }
    oe_buf_free(&hs->kept);
    hs->want = 1;
    return st;
}

/* One step through a packet of the peer: bytes that pass, or bytes that are kept until there is a verdict. */
static enum oe_status gate(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow, size_t *taken)
{
    struct oe_handshake *hs = c->hs;
    enum oe_verdict verdict = OE_VERDICT_MORE;

    if (hs->left != 0) {
        *taken = in.n < hs->left ? in.n : hs->left;
        hs->left -= *taken;
        return hs->dropping ? OE_OK : emit(c, in.p, *taken, flow);
    }
    size_t missing = hs->want - oe_buf_n(&hs->kept);
    *taken = in.n < missing ? in.n : missing;
    if (oe_buf_put(&hs->kept, in.p, *taken) != OE_OK)
        return OE_NOMEM;
    if (*taken < missing)
        return OE_OK;
    hs->want++; /* unless the verdict asks for more at once */
    enum oe_status st =
        c->role == OE_INITIATOR ? oe_initiator_decide(c, now_ms, flow, &verdict) : oe_responder_decide(c, now_ms, flow, &verdict);
    return st == OE_OK ? obey(c, verdict, flow) : st;
}

enum oe_status oe_conn_push_peer(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow)
{
    enum oe_status st = OE_OK;

    while (st == OE_OK && flow->taken < in.n) {
        struct oe_span rest = rest_of(in, flow->taken);
        enum oe_phase before = c->phase;
        size_t taken = 0;
        switch (c->phase) {
        case OE_PHASE_I_CONNECT:
            st = spoke_first(c, rest, flow, &taken);
            break;
        case OE_PHASE_R_CONNECT:
            st = c->hs->watching ? oe_responder_watch(c, rest, flow, &taken) : gate(c, rest, now_ms, flow, &taken);
            break;
        case OE_PHASE_R_RETRY:
        case OE_PHASE_R_PREFACE:
        case OE_PHASE_I_PREFACE_IK:
        case OE_PHASE_I_PREFACE_XX:
        case OE_PHASE_I_CONNACK:
        case OE_PHASE_I_PROBE:
        case OE_PHASE_I_UNSUBACK:
        case OE_PHASE_I_LATE:
        case OE_PHASE_R_FIRST:
        case OE_PHASE_R_ANSWER:
        case OE_PHASE_R_MESSAGE3:
            st = gate(c, rest, now_ms, flow, &taken);
            break;
        case OE_PHASE_RECORDS:
            if (c->failed[OE_FROM_PEER] != OE_REASON_NONE)
                return OE_CRYPTO;
            if (c->hs != NULL)
                st = oe_conn_release(c, flow);
            if (st == OE_OK)
                st = oe_conn_open(c, rest, flow->forward);
            taken = rest.n;
            break;
        case OE_PHASE_PLAIN:
            if (c->hs != NULL)
                st = oe_conn_release(c, flow);
            if (st == OE_OK)
                st = oe_sink_put(flow->forward, rest.p, rest.n);
            taken = rest.n;
            break;
        case OE_PHASE_REFUSED:
            st = oe_conn_farewell(c, flow);
            taken = rest.n;
            break;
        case OE_PHASE_BROKEN:
            return OE_CRYPTO;
        }
        flow->taken += taken;
        if (st == OE_OK && c->phase == OE_PHASE_REFUSED && before != OE_PHASE_REFUSED) {
            struct oe_sink wire = oe_conn_sink(flow->answer);
            st = oe_conn_refusal(c, &wire);
            if (st == OE_OK)
                st = oe_conn_farewell(c, flow);
        }
    }
    if (st == OE_OK && c->hs != NULL && (c->phase == OE_PHASE_RECORDS || c->phase == OE_PHASE_PLAIN))
        st = oe_conn_release(c, flow);
    return st;
}
