#include "report.h"

#include "life.h"
#include "names.h"
#include "show.h"
#include "trust.h"

void oe_report_take(struct oe_sock *s, struct oe_report *r)
{
    if (s->reported || s->conn.security == OE_SEC_UNDECIDED)
        return;
    s->reported = 1;
    r->state = 1;
    r->sock = s;
    r->role = s->conn.role;
    r->version = s->conn.version;
    r->security = s->conn.security;
    r->reason = s->conn.reason;
    r->address = s->address;
    r->peer = s->conn.peer;
    r->remember = s->conn.remember;
    r->peer_seen = s->conn.peer_seen;
    r->downgraded = s->conn.downgraded;
    r->epoch_seen = s->conn.epoch_seen;
    memcpy(r->epoch, s->conn.epoch, sizeof(r->epoch));
    r->trusted = s->trusted;
    r->host = s->hosts_n != 0 ? s->hosts[0] : NULL;
}

void oe_report_broken(struct oe_sock *s, enum oe_reason reason, struct oe_report *r)
{
    if (atomic_exchange(&s->broken, 1))
        return;
    oe_show_broken();
    r->broken = 1;
    r->role = s->conn.role;
    r->address = s->address;
    r->broken_reason = reason;
}

void oe_report_inherited(struct oe_sock *s, struct oe_report *r)
{
    if (!atomic_exchange(&s->inherited, 0))
        return;
    r->broken = 1;
    r->role = s->conn.role;
    r->address = s->address;
    r->broken_reason = OE_REASON_INHERITED;
}

static const char *role_name(enum oe_role role)
{
    return role == OE_INITIATOR ? "connect" : "accept";
}

static void emit_state(const struct oe_report *r, const char *endpoint)
{
    char peer[OE_FINGERPRINT_CHARS + 1] = "-";
    /* What is not MQTT is nobody's business unless he debugs; TLS may be MQTT inside, and an operator should know. */
    int quiet = r->version == OE_MQTT_NONE && r->reason != OE_REASON_TLS && r->security != OE_SEC_REFUSED;
    enum oe_log_level level = quiet ? OE_LOG_DEBUG : OE_LOG_INFO;

    if (r->peer_seen)
        oe_public_fingerprint(&r->peer, peer);
    oe_log_write(&oe_life.env.log, level, "%s %s state=%s protocol=%s peer=%s reason=\"%s\"", role_name(r->role), endpoint,
                 oe_security_name(r->security), oe_mqtt_name(r->version), peer, oe_reason_text(r->reason));
}

/* What an operator must do something about: a broker that is refused, or would be. Clients that are refused are told of for those who look. */
static void emit_explanation(const struct oe_report *r, const char *endpoint)
{
    enum oe_log_level level = r->role == OE_INITIATOR ? OE_LOG_ERROR : OE_LOG_INFO;
    char text[900];

    if (r->security != OE_SEC_REFUSED && !r->downgraded)
        return;
    oe_trust_explain(r->trusted, r->reason, r->peer_seen ? &r->peer : NULL, text, sizeof(text));
    if (text[0] != '\0' || r->role == OE_INITIATOR)
        oe_log_write(&oe_life.env.log, level, "%s %s %s: %s%s%s", role_name(r->role), endpoint,
                     r->security == OE_SEC_REFUSED ? "refused" : "warning", oe_reason_text(r->reason), text[0] != '\0' ? "; " : "", text);
}

/* A broker that had OE-MQTT is known from now on. */
static void remember_peer(const struct oe_report *r)
{
    if (r->role == OE_INITIATOR && r->trusted != NULL && r->peer_seen && r->security != OE_SEC_REFUSED &&
        r->reason != OE_REASON_KEY_CHANGED)
        if (oe_trust_contact(r->trusted, &r->peer, r->epoch_seen ? r->epoch : NULL) != OE_OK)
            atomic_store(&r->sock->broken, 1);
}

void oe_report_emit(const struct oe_report *r)
{
    static _Atomic int refusal_said;
    char endpoint[OE_ENDPOINT_CHARS_MAX];
    int saved = errno;

    if (!r->state && !r->broken && !r->refused)
        return;
    oe_names_endpoint(&r->address, NULL, endpoint, sizeof(endpoint));
    if (r->state) {
        emit_state(r, endpoint);
        emit_explanation(r, r->trusted != NULL ? r->trusted->endpoint : endpoint);
        remember_peer(r);
    }
    if (r->broken)
        oe_log_write(&oe_life.env.log, OE_LOG_ERROR, "%s %s broken: %s", role_name(r->role), endpoint, oe_reason_text(r->broken_reason));
    if (r->refused && !atomic_exchange(&refusal_said, 1))
        oe_log_write(&oe_life.env.log, OE_LOG_ERROR, "%s %s refused: %s: %s", role_name(r->role), endpoint,
                     oe_reason_text(OE_REASON_POLICY_REFUSE), oe_life.why);
    if (r->state && r->remember != OE_REMEMBER_NOTHING) {
        oe_names_endpoint(&r->address, r->host, endpoint, sizeof(endpoint));
        oe_names_remember(endpoint, r->remember);
    }
    errno = saved;
}
