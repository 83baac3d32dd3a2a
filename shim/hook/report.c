#include "report.h"

#include "life.h"
#include "names.h"
#include "show.h"

void oe_report_take(struct oe_sock *s, struct oe_report *r)
{
    if (s->reported || s->conn.security == OE_SEC_UNDECIDED)
        return;
    s->reported = 1;
    r->state = 1;
    r->role = s->conn.role;
    r->version = s->conn.version;
    r->security = s->conn.security;
    r->reason = s->conn.reason;
    r->address = s->address;
    r->peer = s->conn.peer;
    r->remember = s->conn.remember;
    r->host = s->host;
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

static const char *role_name(enum oe_role role)
{
    return role == OE_INITIATOR ? "connect" : "accept";
}

static void emit_state(const struct oe_report *r, const char *endpoint)
{
    char peer[OE_FINGERPRINT_CHARS + 1] = "-";
    /* What is not MQTT is nobody's business unless he debugs; TLS may be MQTT inside, and an operator should know. */
    enum oe_log_level level = r->version == OE_MQTT_NONE && r->reason != OE_REASON_TLS ? OE_LOG_DEBUG : OE_LOG_INFO;

    if (r->security == OE_SEC_UNAUTHENTICATED)
        oe_public_fingerprint(&r->peer, peer);
    oe_log_write(&oe_life.env.log, level, "%s %s state=%s protocol=%s peer=%s reason=\"%s\"", role_name(r->role), endpoint,
                 oe_security_name(r->security), oe_mqtt_name(r->version), peer, oe_reason_text(r->reason));
}

void oe_report_emit(const struct oe_report *r)
{
    static _Atomic int refusal_said;
    char endpoint[OE_ENDPOINT_CHARS_MAX];
    int saved = errno;

    if (!r->state && !r->broken && !r->refused)
        return;
    oe_names_endpoint(&r->address, NULL, endpoint, sizeof(endpoint));
    if (r->state)
        emit_state(r, endpoint);
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
