#include "conn_private.h"

#include <sodium.h>
#include <stdlib.h>

enum oe_status oe_conn_init(struct oe_conn *c, const struct oe_conn_setup *setup)
{
    *c = (struct oe_conn){
        .role = setup->role,
        .phase = setup->role == OE_INITIATOR ? OE_PHASE_I_CONNECT : OE_PHASE_R_CONNECT,
        .policy = setup->policy,
        .send.rekey_records = OE_REKEY_RECORDS,
        .receive.rekey_records = OE_REKEY_RECORDS,
    };
    c->hs = setup->memory != NULL ? setup->memory->get(sizeof(*c->hs)) : calloc(1, sizeof(*c->hs));
    if (c->hs == NULL)
        return OE_NOMEM;
    c->hs->handshake_ms = setup->handshake_ms;
    c->hs->identity = setup->identity;
    c->hs->ephemeral[0] = setup->ephemeral[0];
    c->hs->ephemeral[1] = setup->ephemeral[1];
    c->hs->calls = setup->calls;
    c->hs->memory = setup->memory;
    c->hs->want = 1;
    return OE_OK;
}

enum oe_status oe_conn_trust(struct oe_conn *c, const struct oe_trust *trust)
{
    struct oe_handshake *hs = c->hs;
    struct oe_known *known = trust->n == 0 ? NULL : calloc(trust->n, sizeof(*known));

    if (trust->n != 0 && known == NULL)
        return OE_NOMEM;
    if (trust->n != 0)
        memcpy(known, trust->known, trust->n * sizeof(*known));
    free(hs->known);
    hs->known = known;
    hs->known_n = trust->n;
    hs->downgrade = trust->downgrade;
    hs->undecided = trust->undecided;
    memcpy(hs->epoch, trust->epoch, sizeof(hs->epoch));
    return OE_OK;
}

static void free_handshake(struct oe_conn *c)
{
    if (c->hs == NULL)
        return;
    oe_buf_free(&c->hs->kept);
    oe_buf_free(&c->hs->held);
    oe_buf_free(&c->hs->connect);
    free(c->hs->known);
    const struct oe_conn_memory *memory = c->hs->memory;
    sodium_memzero(c->hs, sizeof(*c->hs));
    if (memory != NULL)
        memory->put(c->hs);
    else
        free(c->hs);
    c->hs = NULL;
}

void oe_conn_forget(struct oe_conn *c)
{
    oe_secret_wipe(&c->send.cipher.k);
    oe_secret_wipe(&c->receive.cipher.k);
    if (c->hs != NULL) {
        oe_noise_wipe(&c->hs->noise);
        oe_secret_wipe(&c->hs->ephemeral[0]);
        oe_secret_wipe(&c->hs->ephemeral[1]);
    }
}

void oe_conn_wipe(struct oe_conn *c)
{
    free_handshake(c);
    oe_buf_free(&c->part);
    sodium_memzero(c, sizeof(*c));
}

/* ---- changes of state ----------------------------------------------------------------------------------------------------------------- */

int oe_conn_may_be_early(struct oe_span connect, enum oe_mqtt version)
{
    struct oe_connect view;
    return oe_connect_read(connect, &view) == OE_OK && view.version == version && !oe_connect_has_will(&view);
}

int oe_conn_strict(const struct oe_conn *c)
{
    return c->policy == OE_POLICY_REFUSE || c->policy == OE_POLICY_REQUIRE || oe_initiator_wants_preface(c);
}

void oe_conn_go_refused(struct oe_conn *c, enum oe_reason reason)
{
    c->phase = OE_PHASE_REFUSED;
    c->security = OE_SEC_REFUSED;
    c->reason = reason;
}

void oe_conn_go_plain(struct oe_conn *c, enum oe_reason reason)
{
    if (c->policy == OE_POLICY_REQUIRE && c->version != OE_MQTT_NONE) {
        oe_conn_go_refused(c, reason);
        return;
    }
    c->phase = OE_PHASE_PLAIN;
    /* An initiator in I_LATE has said that it is plain, and why, already. */
    if (c->security == OE_SEC_UNDECIDED) {
        c->security = OE_SEC_PLAIN;
        c->reason = reason;
        c->downgraded = c->hs != NULL && c->hs->known_n != 0 && reason != OE_REASON_NOT_MQTT && reason != OE_REASON_TLS;
    }
}

void oe_conn_go_records(struct oe_conn *c, enum oe_security security, enum oe_reason reason)
{
    oe_noise_split(&c->hs->noise, &c->send.cipher, &c->receive.cipher);
    c->peer = c->hs->noise.rs;
    c->peer_seen = 1;
    c->phase = OE_PHASE_RECORDS;
    c->security = security;
    c->reason = reason;
    c->downgraded = reason == OE_REASON_KEY_CHANGED;
}

enum oe_status oe_conn_go_broken(struct oe_conn *c, enum oe_reason reason, enum oe_status st)
{
    c->phase = OE_PHASE_BROKEN;
    c->reason = reason;
    return st;
}

enum oe_status oe_conn_move(struct oe_buf *b, struct oe_sink *to)
{
    struct oe_span s = oe_buf_span(b);
    enum oe_status st = oe_sink_put(to, s.p, s.n);
    if (st == OE_OK)
        oe_buf_free(b);
    return st;
}

/* ---- the end of a handshake ----------------------------------------------------------------------------------------------------------- */

/* The connection has just been refused: what each side is told. The initiator's application gets its part with the peer's direction. */
enum oe_status oe_conn_refusal(struct oe_conn *c, struct oe_sink *wire)
{
    struct oe_handshake *hs = c->hs;
    struct oe_sink app = oe_conn_sink(&hs->held);
    enum oe_status st = OE_OK;

    oe_buf_free(&hs->held);
    oe_buf_free(&hs->kept);
    oe_buf_free(&hs->connect);
    /* Its application has said nothing yet, or there is nobody who refused: the end of the stream is all it gets, and it may try again. */
    if (c->role == OE_INITIATOR && (oe_framer_boundary(&hs->app) || c->reason == OE_REASON_PREFACE_ENDED))
        return OE_OK;
    if (c->role == OE_INITIATOR)
        st = oe_preface_put_connack(&app, c->version, OE_REFUSE_UNAVAILABLE);
    else if (hs->preface_seen)
        st = oe_preface_put_refusal(wire);
    else if (oe_framer_boundary(&hs->app) && !hs->connack_sent && c->reason != OE_REASON_CONNACK_REFUSED)
        st = oe_preface_put_connack(wire, c->version, OE_REFUSE_NOT_AUTHORISED);
    return st;
}

/* The handshake is over: what is still kept of it goes on or away. */
enum oe_status oe_conn_release(struct oe_conn *c, struct oe_flow *flow)
{
    enum oe_status st = OE_OK;

    if (c->hs != NULL && c->phase == OE_PHASE_PLAIN)
        st = oe_conn_move(&c->hs->kept, flow->forward);
    free_handshake(c);
    return st;
}

/* Refused: the initiator's application gets its CONNACK, everything else is over. */
enum oe_status oe_conn_farewell(struct oe_conn *c, struct oe_flow *flow)
{
    enum oe_status st = OE_OK;

    if (c->hs != NULL && c->role == OE_INITIATOR)
        st = oe_conn_move(&c->hs->held, flow->forward);
    if (st == OE_OK)
        free_handshake(c);
    return st;
}

/* ---- the calls ------------------------------------------------------------------------------------------------------------------------ */

/* With an unusable configuration nothing that may be a CONNECT passes, in either direction. */
static int refused(struct oe_conn *c, enum oe_dir dir, struct oe_span in)
{
    if (c->policy != OE_POLICY_REFUSE || in.n == 0 || in.p[0] != OE_FIRST_CONNECT)
        return 0;
    if (!(c->phase == OE_PHASE_I_CONNECT && dir == OE_FROM_APP) && !(c->phase == OE_PHASE_R_CONNECT && dir == OE_FROM_PEER))
        return 0;
    c->reason = OE_REASON_POLICY_REFUSE;
    return 1;
}

/* The end of every call: without memory the connection cannot go on. */
static enum oe_status done(struct oe_conn *c, enum oe_dir dir, enum oe_status st)
{
    if (st != OE_NOMEM)
        return st;
    return c->phase == OE_PHASE_RECORDS ? oe_conn_fail(c, dir, OE_REASON_MEMORY, st) : oe_conn_go_broken(c, OE_REASON_MEMORY, st);
}

enum oe_status oe_conn_push(struct oe_conn *c, enum oe_dir dir, struct oe_span in, uint64_t now_ms, struct oe_flow *flow)
{
    flow->taken = 0;
    if (refused(c, dir, in))
        return OE_INVALID;
    return done(c, dir, dir == OE_FROM_APP ? oe_conn_push_app(c, in, now_ms, flow) : oe_conn_push_peer(c, in, now_ms, flow));
}

/* Refused by something else than a push. */
static enum oe_status refused_now(struct oe_conn *c, struct oe_flow *flow)
{
    struct oe_sink wire = oe_conn_sink(flow->answer);
    enum oe_status st = oe_conn_refusal(c, &wire);
    return st == OE_OK ? oe_conn_farewell(c, flow) : st;
}

static enum oe_status peer_end(struct oe_conn *c, struct oe_flow *flow)
{
    switch (c->phase) {
    case OE_PHASE_I_PROBE:
        c->remember = OE_REMEMBER_CLOSED;
        if (oe_conn_move(&c->hs->held, flow->forward) != OE_OK)
            return OE_NOMEM;
        oe_buf_free(&c->hs->kept); /* the front of an answer is nothing for the application */
        oe_conn_go_plain(c, OE_REASON_PROBE_CLOSED);
        return oe_conn_release(c, flow);
    case OE_PHASE_I_PREFACE_IK:
    case OE_PHASE_I_PREFACE_XX:
        oe_conn_go_refused(c, OE_REASON_PREFACE_ENDED);
        return refused_now(c, flow);
    case OE_PHASE_REFUSED:
        return oe_conn_farewell(c, flow);
    case OE_PHASE_I_UNSUBACK:
    case OE_PHASE_R_MESSAGE3:
        return oe_conn_go_broken(c, OE_REASON_HANDSHAKE_ENDED, OE_CRYPTO);
    case OE_PHASE_RECORDS:
        if (c->failed[OE_FROM_PEER] != OE_REASON_NONE)
            return OE_CRYPTO;
        return oe_buf_n(&c->part) == 0 ? OE_OK : oe_conn_fail(c, OE_FROM_PEER, OE_REASON_TRUNCATED, OE_CRYPTO);
    case OE_PHASE_I_CONNECT:
    case OE_PHASE_R_CONNECT:
        if (oe_conn_strict(c))
            return OE_OK; /* what the application writes is still to be looked at */
        oe_conn_go_plain(c, OE_REASON_HANDSHAKE_ENDED);
        return oe_conn_release(c, flow);
    case OE_PHASE_I_CONNACK:
    case OE_PHASE_I_LATE:
    case OE_PHASE_R_FIRST:
    case OE_PHASE_R_ANSWER:
        oe_conn_go_plain(c, OE_REASON_HANDSHAKE_ENDED);
        return c->phase == OE_PHASE_REFUSED ? refused_now(c, flow) : oe_conn_release(c, flow);
    case OE_PHASE_R_RETRY:
    case OE_PHASE_R_PREFACE:
        oe_buf_free(&c->hs->kept); /* the same */
        oe_conn_go_plain(c, OE_REASON_HANDSHAKE_ENDED);
        return oe_conn_release(c, flow);
    case OE_PHASE_PLAIN:
        return c->hs == NULL ? OE_OK : oe_conn_release(c, flow);
    case OE_PHASE_BROKEN:
        break;
    }
    return OE_CRYPTO;
}

enum oe_status oe_conn_peer_end(struct oe_conn *c, struct oe_flow *flow)
{
    return done(c, OE_FROM_PEER, peer_end(c, flow));
}

enum oe_reason oe_conn_why(const struct oe_conn *c, enum oe_dir dir)
{
    return c->phase == OE_PHASE_RECORDS ? c->failed[dir] : c->reason;
}

int oe_conn_waiting(const struct oe_conn *c, uint64_t *deadline_ms)
{
    if (c->phase != OE_PHASE_I_PROBE && c->phase != OE_PHASE_I_UNSUBACK && !oe_conn_prefaced(c))
        return 0;
    *deadline_ms = c->hs->deadline_ms;
    return 1;
}

int oe_conn_prefaced(const struct oe_conn *c)
{
    return c->phase == OE_PHASE_I_PREFACE_IK || c->phase == OE_PHASE_I_PREFACE_XX;
}

enum oe_status oe_conn_expire(struct oe_conn *c, struct oe_flow *flow)
{
    if (c->phase == OE_PHASE_I_UNSUBACK)
        return oe_conn_go_broken(c, OE_REASON_BAD_UNSUBACK, OE_CRYPTO);
    if (oe_conn_prefaced(c)) {
        oe_conn_go_refused(c, OE_REASON_PREFACE_TIMEOUT);
        return done(c, OE_FROM_PEER, refused_now(c, flow));
    }
    if (c->phase != OE_PHASE_I_PROBE)
        return OE_OK;
    c->remember = OE_REMEMBER_TIMEOUT;
    return done(c, OE_FROM_PEER, oe_initiator_give_up(c, OE_REASON_TIMEOUT, flow));
}

enum oe_status oe_conn_overdue(struct oe_conn *c, uint64_t now_ms)
{
    int open = c->phase == OE_PHASE_R_MESSAGE3 || c->phase == OE_PHASE_R_RETRY || c->phase == OE_PHASE_R_PREFACE || oe_conn_held(c) != 0;
    if (!open || now_ms < c->hs->deadline_ms)
        return OE_OK;
    return oe_conn_go_broken(c, OE_REASON_HELD_TOO_MUCH, OE_LIMIT);
}

/* Nothing of the application's has been decided about. */
static int undecided(const struct oe_conn *c)
{
    return c->phase == OE_PHASE_I_CONNECT || c->phase == OE_PHASE_R_CONNECT || (c->phase == OE_PHASE_R_FIRST && c->hs->left != 0);
}

int oe_conn_abandon(struct oe_conn *c)
{
    if (!undecided(c) && c->phase != OE_PHASE_PLAIN)
        return 0;
    if (!oe_conn_strict(c))
        oe_conn_go_plain(c, OE_REASON_SHARED);
    return 1;
}

int oe_conn_leave(struct oe_conn *c, enum oe_reason reason)
{
    int fresh = undecided(c) && oe_conn_kept(c) == 0 && !c->hs->watching && !c->hs->peer_spoke && oe_framer_boundary(&c->hs->app) &&
                c->phase != OE_PHASE_R_FIRST;
    if (fresh && !oe_conn_strict(c))
        oe_conn_go_plain(c, reason);
    return c->phase == OE_PHASE_PLAIN;
}

int oe_conn_transparent(const struct oe_conn *c)
{
    return c->phase == OE_PHASE_PLAIN && (c->hs == NULL || oe_buf_n(&c->hs->kept) == 0);
}

size_t oe_conn_kept(const struct oe_conn *c)
{
    size_t n = oe_buf_n(&c->part);
    if (c->hs != NULL)
        n += oe_buf_n(&c->hs->kept) + (c->role == OE_INITIATOR ? oe_buf_n(&c->hs->held) : 0);
    return n;
}

size_t oe_conn_held(const struct oe_conn *c)
{
    return c->phase == OE_PHASE_R_MESSAGE3 || c->phase == OE_PHASE_R_FIRST ? oe_buf_n(&c->hs->held) : 0;
}
