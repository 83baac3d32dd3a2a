/* The words for what is said about a connection. */
#include "conn.h"

const char *oe_security_name(enum oe_security security)
{
    switch (security) {
    case OE_SEC_UNDECIDED:
        return "undecided";
    case OE_SEC_PLAIN:
        return "plain";
    case OE_SEC_UNAUTHENTICATED:
        return "unauthenticated";
    case OE_SEC_TOFU:
        return "tofu";
    case OE_SEC_PINNED:
        return "pinned";
    case OE_SEC_REFUSED:
        return "refused";
    }
    return "";
}

const char *oe_reason_text(enum oe_reason reason)
{
    switch (reason) {
    case OE_REASON_NONE:
        return "";
    case OE_REASON_HANDSHAKE_DONE:
        return "encrypted; the peer's key is not verified";
    case OE_REASON_KEY_KNOWN:
        return "encrypted; the peer has the key of the first contact";
    case OE_REASON_KEY_PINNED:
        return "encrypted; the peer has the key that was pinned";
    case OE_REASON_CLIENT_LISTED:
        return "encrypted; the client is listed in allowed_peers";
    case OE_REASON_NOT_MQTT:
        return "not MQTT";
    case OE_REASON_TLS:
        return "TLS, passed through";
    case OE_REASON_POLICY_OFF:
        return "policy off";
    case OE_REASON_POLICY_REFUSE:
        return "the configuration cannot be used, so no MQTT is carried";
    case OE_REASON_SHARED:
        return "used by more than one process";
    case OE_REASON_PEER_FIRST:
        return "not MQTT: the other side spoke first";
    case OE_REASON_MALFORMED:
        return "malformed MQTT";
    case OE_REASON_PIPELINED:
        return "the application sent more before CONNACK";
    case OE_REASON_CONNACK_REFUSED:
        return "the broker refused the connection";
    case OE_REASON_CONNACK_LARGE:
        return "CONNACK is too large to be held";
    case OE_REASON_PACKET_SIZE:
        return "the broker's Maximum Packet Size is too small for the probe";
    case OE_REASON_REMEMBERED_CLOSED:
        return "not probed: this broker closed on a probe less than a day ago";
    case OE_REASON_REMEMBERED_TIMEOUT:
        return "not probed: this broker did not answer a probe less than a day ago";
    case OE_REASON_NO_OE_MQTT:
        return "the broker has no OE-MQTT";
    case OE_REASON_TIMEOUT:
        return "no answer to the probe in time";
    case OE_REASON_PROBE_CLOSED:
        return "the broker closed on the probe";
    case OE_REASON_HELD_TOO_MUCH:
        return "too much came before the answer to the probe";
    case OE_REASON_NOT_PROBED:
        return "the client has no OE-MQTT";
    case OE_REASON_INITIATOR_GAVE_UP:
        return "the client gave up the handshake";
    case OE_REASON_BAD_MESSAGE3:
        return "handshake message 3 is wrong";
    case OE_REASON_BAD_UNSUBACK:
        return "the handshake's UNSUBACK is wrong or missing";
    case OE_REASON_HANDSHAKE_ENDED:
        return "the connection ended in mid-handshake";
    case OE_REASON_NOT_A_RECORD:
        return "something else than a record came after the handshake";
    case OE_REASON_BAD_TAG:
        return "a record was altered, repeated or left out";
    case OE_REASON_TRUNCATED:
        return "the stream ended inside a record";
    case OE_REASON_COUNTER:
        return "the record counter is at its end";
    case OE_REASON_MEMORY:
        return "out of memory";
    case OE_REASON_KEY_CHANGED:
        return "the broker has another key than the one that is known";
    case OE_REASON_OE_MQTT_GONE:
        return "this broker had OE-MQTT before and does not answer with it now";
    case OE_REASON_REQUIRED:
        return "the policy is require and the broker does not answer with OE-MQTT";
    case OE_REASON_TRUST_UNDECIDED:
        return "it cannot be told whether this broker is known";
    case OE_REASON_CONNECT_LARGE:
        return "CONNECT is too large to be kept for the handshake";
    case OE_REASON_PREFACE_ENDED:
        return "the connection ended before the broker answered the preface";
    case OE_REASON_PREFACE_TIMEOUT:
        return "no answer to the preface in time";
    case OE_REASON_NOT_ADMITTED_THERE:
        return "the answer says that the broker does not admit this client's key";
    case OE_REASON_NOT_ADMITTED:
        return "the client's key is not in allowed_peers";
    case OE_REASON_WILL_IN_PLAIN:
        return "the policy is require and a CONNECT with a Will came in plain";
    case OE_REASON_BAD_PREFACE:
        return "the preface is wrong";
    case OE_REASON_STDIO:
        return "the application uses stdio on it, which cannot be encrypted";
    case OE_REASON_KERNEL_COPY:
        return "the application has the kernel copy its bytes";
    case OE_REASON_INHERITED:
        return "it was encrypted by another program, which handed it on";
    }
    return "";
}
