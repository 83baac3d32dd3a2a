/* The two directions of a connection in OE_PHASE_RECORDS: PROTOCOL.md section 4. */
#include "conn_private.h"

static enum oe_reason reason_of(enum oe_status st)
{
    switch (st) {
    case OE_LIMIT:
        return OE_REASON_COUNTER;
    case OE_NOMEM:
        return OE_REASON_MEMORY;
    case OE_CRYPTO:
        return OE_REASON_BAD_TAG;
    case OE_MALFORMED:
    case OE_OK:
    case OE_MORE:
    case OE_INVALID:
    case OE_SYSTEM:
        break;
    }
    return OE_REASON_NOT_A_RECORD;
}

enum oe_status oe_conn_fail(struct oe_conn *c, enum oe_dir dir, enum oe_reason reason, enum oe_status st)
{
    c->failed[dir] = reason;
    return st;
}

enum oe_status oe_conn_seal(struct oe_conn *c, struct oe_span in, struct oe_sink *to)
{
    size_t max = oe_record_plain_max(c->wire);

    while (in.n != 0) {
        size_t n = in.n < max ? in.n : max;
        size_t size = oe_record_bytes(c->wire, n);
        uint8_t *at = oe_sink_reserve(to, size);
        if (at == NULL)
            return oe_conn_fail(c, OE_FROM_APP, OE_REASON_MEMORY, OE_NOMEM);
        enum oe_status st = oe_record_seal(&c->send, c->wire, in.p, n, at);
        if (st != OE_OK)
            return oe_conn_fail(c, OE_FROM_APP, reason_of(st), st);
        oe_sink_wrote(to, at, size);
        in.p += n;
        in.n -= n;
    }
    return OE_OK;
}

/* Opens the record at p, header_n and sealed_n bytes long, to forward. */
static enum oe_status open_one(struct oe_conn *c, const uint8_t *sealed, size_t sealed_n, struct oe_sink *forward)
{
    size_t n = sealed_n - OE_TAG_BYTES;
    uint8_t *at = oe_sink_reserve(forward, n);
    if (at == NULL)
        return OE_NOMEM;
    enum oe_status st = oe_record_open(&c->receive, sealed, sealed_n, at);
    if (st == OE_OK)
        oe_sink_wrote(forward, at, n);
    return st;
}

/* Completes the record whose front is in c->part with bytes of in. */
static enum oe_status open_part(struct oe_conn *c, struct oe_span *in, struct oe_sink *forward)
{
    size_t header_n, sealed_n;
    enum oe_status st;

    for (;;) {
        struct oe_span part = oe_buf_span(&c->part);
        size_t missing = 1;
        st = oe_record_header(part.p, part.n, c->wire, &header_n, &sealed_n);
        if (st == OE_OK) {
            if (part.n == header_n + sealed_n)
                break;
            missing = header_n + sealed_n - part.n;
        } else if (st != OE_MORE) {
            return st;
        }
        if (in->n == 0)
            return OE_OK;
        size_t n = missing < in->n ? missing : in->n;
        if (oe_buf_reserve(&c->part, missing) == NULL)
            return OE_NOMEM;
        if ((st = oe_buf_put(&c->part, in->p, n)) != OE_OK)
            return st;
        in->p += n;
        in->n -= n;
    }
    st = open_one(c, oe_buf_span(&c->part).p + header_n, sealed_n, forward);
    oe_buf_free(&c->part);
    return st;
}

enum oe_status oe_conn_open(struct oe_conn *c, struct oe_span in, struct oe_sink *forward)
{
    enum oe_status st = OE_OK;

    if (oe_buf_n(&c->part) != 0)
        st = open_part(c, &in, forward);
    while (st == OE_OK && in.n != 0) {
        size_t header_n, sealed_n;
        st = oe_record_header(in.p, in.n, c->wire, &header_n, &sealed_n);
        if (st == OE_MORE || (st == OE_OK && in.n < header_n + sealed_n)) {
            /* one allocation for the whole record if its size is known */
            if (st == OE_OK && oe_buf_reserve(&c->part, header_n + sealed_n) == NULL)
                return oe_conn_fail(c, OE_FROM_PEER, OE_REASON_MEMORY, OE_NOMEM);
            st = oe_buf_put(&c->part, in.p, in.n);
            break;
        }
        if (st == OE_OK)
            st = open_one(c, in.p + header_n, sealed_n, forward);
        if (st == OE_OK) {
            in.p += header_n + sealed_n;
            in.n -= header_n + sealed_n;
        }
    }
    if (st == OE_MALFORMED && c->role == OE_INITIATOR && c->receive.cipher.n == 0 && in.n != 0 &&
        oe_header_type(in.p[0]) == OE_TYPE_CONNACK)
        return oe_conn_fail(c, OE_FROM_PEER, OE_REASON_NOT_ADMITTED_THERE, st); /* 8.1: a refusal behind message 3 */
    return st == OE_OK ? OE_OK : oe_conn_fail(c, OE_FROM_PEER, reason_of(st), st);
}
