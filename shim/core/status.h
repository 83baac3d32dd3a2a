/* What the functions of the core return. OE_MORE is not an error: it asks for more input. */
#ifndef OE_CORE_STATUS_H
#define OE_CORE_STATUS_H

enum oe_status {
    OE_OK = 0,
    OE_MORE,      /* the input ends before the thing that was asked for is complete */
    OE_NOMEM,     /* an allocation failed; nothing was changed */
    OE_MALFORMED, /* the input breaks MQTT's or PROTOCOL.md's encoding */
    OE_CRYPTO,    /* a tag, a key or a handshake message did not verify */
    OE_LIMIT,     /* a limit of limits.h or a record counter is at its end */
    OE_INVALID,   /* a configuration or file says something that is not allowed */
    OE_SYSTEM,    /* a system call failed; errno says why */
};

#endif
