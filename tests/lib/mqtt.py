"""A tiny MQTT codec for tests: 3.1, 3.1.1 and 5. Version is the protocol level: 3, 4 or 5."""

V31, V311, V5 = 3, 4, 5
VERSIONS = (V31, V311, V5)
NAME = {V31: "3.1", V311: "3.1.1", V5: "5"}
MOSQUITTO_V = {V31: "mqttv31", V311: "mqttv311", V5: "mqttv5"}

(CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT,
 AUTH) = range(1, 16)


class Malformed(Exception):
    pass


def varint(n):
    out = bytearray()
    while True:
        n, low = n >> 7, n & 127
        out.append(low | (128 if n else 0))
        if not n:
            return bytes(out)


def read_varint(data, at=0):
    """(value, next offset), None if the data ends inside it. Malformed: more than four bytes, or not minimal."""
    value = 0
    for i in range(4):
        if at + i >= len(data):
            return None
        value |= (data[at + i] & 127) << (7 * i)
        if not data[at + i] & 128:
            if i and not data[at + i]:
                raise Malformed("length is not minimal")
            return value, at + i + 1
    raise Malformed("remaining length of more than four bytes")


def u16(n):
    return n.to_bytes(2, "big")


def string(text):
    raw = text.encode() if isinstance(text, str) else text
    return u16(len(raw)) + raw


def packet(first, body):
    return bytes([first]) + varint(len(body)) + body


def properties(version, raw=b""):
    return varint(len(raw)) + raw if version == V5 else b""


def connect(version, client_id="", keepalive=60, clean=True, user=None, password=None, props=b""):
    flags = (2 if clean else 0) | (128 if user is not None else 0) | (64 if password is not None else 0)
    body = string("MQIsdp" if version == V31 else "MQTT") + bytes([version, flags]) + u16(keepalive) + properties(version, props)
    body += string(client_id)
    for field in (user, password):
        body += string(field) if field is not None else b""
    return packet(0x10, body)


def connack(version, code=0, present=0, props=b""):
    return packet(0x20, bytes([present, code]) + properties(version, props))


def publish(version, topic, payload=b"", qos=0, ident=1, retain=False, dup=False, props=b""):
    body = string(topic) + (u16(ident) if qos else b"") + properties(version, props) + payload
    return packet(0x30 | (8 if dup else 0) | qos << 1 | (1 if retain else 0), body)


def puback(ident):
    return packet(0x40, u16(ident))


def subscribe(version, ident, *filters, qos=0):
    return packet(0x82, u16(ident) + properties(version) + b"".join(string(f) + bytes([qos]) for f in filters))


def suback(version, ident, *codes):
    return packet(0x90, u16(ident) + properties(version) + bytes(codes or (0,)))


def unsubscribe(version, ident, *filters):
    return packet(0xA2, u16(ident) + properties(version) + b"".join(string(f) for f in filters))


def unsuback(version, ident, *codes):
    return packet(0xB0, u16(ident) + (properties(version) + bytes(codes or (0x11,)) if version == V5 else b""))


def pingreq():
    return b"\xc0\x00"


def pingresp():
    return b"\xd0\x00"


def disconnect():
    return b"\xe0\x00"


def auth(reason, props=b""):
    return packet(0xF0, bytes([reason]) + properties(V5, props))


def auth_properties(method, data=b""):
    return b"\x15" + string(method) + b"\x16" + string(data)


def parse_header(data):
    """(first, header bytes, total bytes) or None. Malformed: see read_varint."""
    if len(data) < 2:
        return None
    length = read_varint(data, 1)
    return None if length is None else (data[0], length[1], length[1] + length[0])


def body(raw):
    return bytes(raw[parse_header(raw)[1]:])


def parse_publish(version, raw):
    """(topic bytes, payload, packet id or None) of a whole packet; Malformed if it is not consistent."""
    data, qos = body(raw), raw[0] >> 1 & 3
    if len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big") + (2 if qos else 0):
        raise Malformed("topic")
    at = 2 + int.from_bytes(data[:2], "big")
    topic, ident = data[2:at], None
    if qos:
        ident, at = int.from_bytes(data[at:at + 2], "big"), at + 2
    if version == V5:
        length = read_varint(data, at)
        if length is None or length[1] + length[0] > len(data):
            raise Malformed("properties")
        at = length[1] + length[0]
    return topic, data[at:], ident


def parse_connect(raw):
    """A dictionary of a CONNECT's fields, enough for a fake broker."""
    data = body(raw)
    n = int.from_bytes(data[:2], "big")
    version, flags, at = data[2 + n], data[3 + n], 6 + n
    props = b""
    if version & 127 == V5:
        length, at = read_varint(data, at)
        props, at = data[at:at + length], at + length
    n = int.from_bytes(data[at:at + 2], "big")
    return {"name": data[2:2 + int.from_bytes(data[:2], "big")], "version": version, "flags": flags, "props": props,
            "client_id": data[at + 2:at + 2 + n].decode("utf-8", "replace")}


def split_packets(data):
    """(list of whole packets, rest)."""
    out, data = [], bytes(data)
    while True:
        header = parse_header(data)
        if header is None or len(data) < header[2]:
            return out, data
        out.append(data[:header[2]])
        data = data[header[2]:]
