#!/usr/bin/python3
"""Makes preface.txt, the project's own vectors of PROTOCOL.md section 8, from fixed keys with tests/lib/oepreface.py.

preface.py            writes preface.txt beside this file
preface.py --stdout   writes to standard output
"""

import hashlib
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

import attacker  # noqa: E402
import generate as link  # noqa: E402
import mqtt  # noqa: E402
import noise  # noqa: E402
import oepreface  # noqa: E402
from oepreface import IK, RETRY, XX, auth, preface  # noqa: E402

HEAD = """\
# Vectors of docs/PROTOCOL.md, section 8. Made by tests/vectors/preface.py: do not edit.
#
# The form is link.txt's: a line is `#` comment, empty, or KEY SPACE VALUE; a block begins with its line `block NAME` and ends at the next empty
# line; values are lower-case hex, `-` is the empty string; version, early, fresh and numbers are decimal. No line is longer than 1,024 bytes.
#
# block preface: one whole connection up to the first two records in each direction.
#   kind: what happens:
#     xx          the initiator knows no key
#     ik          it knows the key and the epoch: the CONNECT of message 1 is handed on, early is 1
#     ik-none     it knows the key and no epoch: message 1 has no CONNECT, early is 0, the CONNECT is the first record
#     ik-epoch    it knows the key and another epoch: the CONNECT is in message 1, not handed on, and comes again as the first record
#     ik-will     as ik, with a Will: message 1 has no CONNECT
#     ik-seen     the preface of the ik block of the same version comes again, in a new connection to the same process: early is 0
#     ik-large    the CONNECT has more than 16,384 bytes: message 1 has none
#     retry       it knows another key (initiator_believes): retry, then XX
#   version 3, 4 or 5 (level), initiator_secret, initiator_public, initiator_ephemeral (secret, of its first message 1), [retry:
#   initiator_ephemeral_xx (secret, of the second)], initiator_believes (public key it takes for the responder's; `-`: none), initiator_epoch,
#   responder_secret, responder_public, responder_ephemeral, responder_epoch,
#   connect (the application's CONNECT; of ik-large its first 32 bytes only) and connect_n (its bytes). Byte i of a CONNECT behind those 32 is
#   (i + 7 * (i / 256)) mod 256, integer division, i counted from the beginning of the CONNECT.
#   The packets, whole, in the order in which they go over the wire: preface (up), [retry: retry (down), message1 (up)], message2 (down),
#   [xx, retry: message3 (up)]. Then handshake_hash, key_initiator (the initiator sends with it), key_responder, early (the responder has handed
#   on the CONNECT of message 1), and records, counters from 0: up_plain_0, up_record_0, up_plain_1, up_record_1, down_plain_0, down_record_0,
#   down_plain_1, down_record_1. Where early is 0, up_plain_0 is the CONNECT; for ik-large there is neither up_plain_0 nor up_record_0: the
#   CONNECT fills up_records records of together up_records_n bytes, SHA-256 of all up_records_sha256; up_plain_1, up_record_1 come behind them.
# block refusal: packet (8.1). block refuse: version, initiator (what an initiator that refuses gives its application), responder (what a
#   responder that refuses sends to a client that came without preface).
# block refused: a packet that differs from the one encoding, or does not verify.
#   what preface: the first packet of a connection; it is never answered with message 2 or retry, and nothing of it is handed on out of a
#   Noise payload. what payload: a preface that verifies for the responder of the ik block before; it is answered with a refusal and nothing
#   else, and the application sees nothing. what message2-ik, message2-xx, message3, retry: in place of that packet of the block before, it
#   never leads to records.
#   what, why (a word), packet
"""


KINDS = ("xx", "ik", "ik-none", "ik-epoch", "ik-seen", "ik-will", "ik-large", "retry")


def key(label):
    return hashlib.sha256(b"OE-MQTT preface vector: " + label.encode()).digest()


def epoch(label):
    return key(label)[:16]


def connect(version, kind):
    if kind == "ik-large":
        password = 17000
        raw = mqtt.connect(version, "big", user="u", password=bytes(password))
        return raw[:32] + bytes((i + 7 * (i // 256)) % 256 for i in range(32, len(raw)))
    if kind == "ik-will":
        return attacker.connect_with_will(version, "preface-vector", "will/topic", "payload", user="user", password="password")
    return mqtt.connect(version, "preface-vector", user="user", password="password")


def pair(kind, version):
    label = f"{'ik' if kind == 'ik-seen' else kind} {version}"
    s = {n: key(f"{n} {label}") for n in ("initiator_secret", "initiator_ephemeral", "initiator_ephemeral_xx", "responder_secret",
                                          "responder_ephemeral", "other_secret")}
    if kind == "ik-seen":
        s["responder_ephemeral"] = key(f"responder_ephemeral {kind} {version}")
    now = epoch("responder_epoch " + label)
    believes = {"xx": b"", "retry": noise.public_key(s["other_secret"])}.get(kind, noise.public_key(s["responder_secret"]))
    known = {"xx": oepreface.NO_EPOCH, "ik-none": oepreface.NO_EPOCH, "ik-epoch": epoch("another " + label),
             "retry": epoch("another " + label)}.get(kind, now)
    freshness = oepreface.Freshness(now)
    if kind == "ik-seen":
        freshness.seen.add(noise.public_key(s["initiator_ephemeral"]))
    i = oepreface.Initiator(s["initiator_secret"], s["initiator_ephemeral"], s["initiator_ephemeral_xx"], [believes] if believes else [],
                            known)
    if kind == "retry":
        i.keys.append(noise.public_key(s["responder_secret"]))  # known too, but seen longer ago
    r = oepreface.Responder(s["responder_secret"], s["responder_ephemeral"], freshness=freshness)
    lines = {"kind": kind, "version": version, "initiator_secret": s["initiator_secret"],
             "initiator_public": noise.public_key(s["initiator_secret"]), "initiator_ephemeral": s["initiator_ephemeral"]}
    if kind == "retry":
        lines["initiator_ephemeral_xx"] = s["initiator_ephemeral_xx"]
    lines.update({"initiator_believes": believes, "initiator_epoch": known, "responder_secret": s["responder_secret"],
                  "responder_public": noise.public_key(s["responder_secret"]), "responder_ephemeral": s["responder_ephemeral"],
                  "responder_epoch": now})
    return i, r, lines


def connection(kind, version):
    i, r, lines = pair(kind, version)
    app = connect(version, kind)
    lines.update({"connect": app[:32] if kind == "ik-large" else app, "connect_n": len(app)})
    i.app_write(app)
    lines["preface"] = i.take_wire()
    r.peer_data(lines["preface"])
    if kind == "retry":
        lines["retry"] = r.take_wire()
        i.peer_data(lines["retry"])
        lines["message1"] = i.take_wire()
        r.peer_data(lines["message1"])
    lines["message2"] = r.take_wire()
    i.peer_data(lines["message2"])
    up, _ = mqtt.split_packets(i.take_wire())
    if kind in ("xx", "retry"):
        lines["message3"] = up.pop(0)
        r.peer_data(lines["message3"])
    assert (i.state, r.state, r.level or i.version) == ("RECORDS", "RECORDS", version)
    lines.update({"handshake_hash": i.handshake.handshake_hash, "key_initiator": i.sealer.cipher.k, "key_responder": i.opener.cipher.k,
                  "early": r.early})
    assert r.early == int(kind == "ik") == i.early and r.handshake.handshake_hash == i.handshake.handshake_hash
    if kind == "ik-large":
        lines.update({"up_records": len(up), "up_records_n": sum(map(len, up)), "up_records_sha256": hashlib.sha256(b"".join(up)).digest()})
        r.peer_data(b"".join(up))
    elif r.early:
        first(lines, "up", 0, i, r, mqtt.pingreq())
    else:
        lines.update({"up_plain_0": app, "up_record_0": b"".join(up)})
        r.peer_data(b"".join(up))
    first(lines, "up", 1, i, r, mqtt.publish(version, "a/b", b"payload"))
    first(lines, "down", 0, r, i, mqtt.connack(version))
    first(lines, "down", 1, r, i, mqtt.pingresp())
    assert bytes(r.to_app) == app + (lines["up_plain_0"] if r.early else b"") + lines["up_plain_1"]
    assert bytes(i.to_app) == lines["down_plain_0"] + lines["down_plain_1"]
    return lines


def first(lines, way, n, sender, receiver, plain):
    sender.app_write(plain)
    raw = sender.take_wire()
    receiver.peer_data(raw)
    lines.update({f"{way}_plain_{n}": plain, f"{way}_record_{n}": raw})


def two_properties(swap=False, method=oepreface.METHOD, data=bytes(33), more=b""):
    m, d = b"\x15" + mqtt.string(method), b"\x16" + mqtt.string(data)
    return (d + m if swap else m + d) + more


def odd_preface(props, identifier=b"", tail=b""):
    return mqtt.packet(0x10, b"\0\4MQTT\5\2\0\x3c" + mqtt.properties(5, props) + mqtt.string(identifier) + tail)


def refused_prefaces(lines):
    good = lines["preface"]
    kind, message = oepreface.parse_preface(good)
    data = bytes([kind]) + message
    yield "client-id", odd_preface(two_properties(data=data), b"x")
    yield "trailing", odd_preface(two_properties(data=data), tail=b"\0")
    yield "order", odd_preface(two_properties(True, data=data))
    yield "a-property", odd_preface(two_properties(data=data, more=b"\x21\0\x14"))
    yield "method", odd_preface(two_properties(method=b"OE-MQTS", data=data))
    yield "id-0", preface(0, message)
    yield "id-3", preface(3, message)
    yield "other-id", preface(XX + IK - kind, message)
    yield "short", preface(kind, message[:-1] if kind == XX else message[:112])
    yield "no-data", odd_preface(two_properties(data=b""))
    yield "no-message", preface(kind, b"")
    yield "keep-alive", good.replace(b"MQTT\5\2\0\x3c", b"MQTT\5\2\0\x3d")
    yield "flags", good.replace(b"MQTT\5\2\0\x3c", b"MQTT\5\0\0\x3c")
    yield "level", good.replace(b"MQTT\5\2\0\x3c", b"MQTT\4\2\0\x3c")
    if kind == XX:
        yield "long", preface(kind, message + b"\0")
        yield "low-order", preface(kind, bytes(32))


def refused_payloads(lines, version):
    """Message 1 of IK that verifies, with something else than one whole CONNECT behind the epoch (8.3): answered with a refusal."""
    now, good = lines["responder_epoch"], connect(version, "ik")
    other = mqtt.V311 if version == mqtt.V5 else mqtt.V5
    for why, level, inside in (("level-0", 0, good), ("level-other", other, good), ("level-bridge", version | 128, good),
                               ("short-connect", version, good[:-1]), ("two-connects", version, good + good),
                               ("publish-behind", version, good + mqtt.publish(version, "a/b", b"x")), ("will", version, connect(version, "ik-will")),
                               ("no-connect", version, mqtt.publish(version, "a/b", b"x")), ("one-byte", version, b"\x10")):
        state = noise.HandshakeState("IK", True, oepreface.PROLOGUE, s=lines["initiator_secret"], e=key("payload " + why),
                                     rs=lines["responder_public"])
        yield why, preface(IK, state.write_message(bytes([level]) + now + inside))


def refused_auths(packet):
    kind, message = oepreface.parse_auth(packet)
    data = bytes([kind]) + message
    if message:
        yield "tag", packet[:-1] + bytes([packet[-1] ^ 1])
        yield "ephemeral", auth(kind, bytes([message[0] ^ 1]) + message[1:])
        yield "short", auth(kind, message[:-1])
        yield "no-message", auth(kind)
    yield "long", auth(kind, message + b"\0")
    yield "id-0", auth(0, message)
    yield "other-id", auth(XX + IK - kind if kind != RETRY else XX, message)
    yield "reason-0", mqtt.packet(0xF0, b"\0" + mqtt.properties(5, two_properties(data=data)))
    yield "reason-19", mqtt.packet(0xF0, b"\x19" + mqtt.properties(5, two_properties(data=data)))
    yield "flags", b"\xf2" + packet[1:]
    yield "order", mqtt.packet(0xF0, b"\x18" + mqtt.properties(5, two_properties(True, data=data)))
    yield "a-property", mqtt.packet(0xF0, b"\x18" + mqtt.properties(5, two_properties(data=data, more=b"\x1f\0\0")))
    yield "method", mqtt.packet(0xF0, b"\x18" + mqtt.properties(5, two_properties(method=b"OE-MQTS", data=data)))
    yield "trailing", mqtt.packet(0xF0, mqtt.body(packet) + b"\0")
    header = mqtt.parse_header(packet)[1]
    yield "long-length", packet[:header - 1] + bytes([packet[header - 1] | 128, 0]) + packet[header:]
    yield "connack", mqtt.connack(5, props=two_properties(data=data))
    yield "nothing", mqtt.packet(0xF0, b"")


def blocks():
    for kind in KINDS:
        for version in mqtt.VERSIONS:
            lines = connection(kind, version)
            yield "preface", lines
            if version == mqtt.V311 and kind in ("xx", "ik"):
                yield from ({"what": "preface", "why": why, "packet": p} for why, p in refused_prefaces(lines))
            if kind == "ik":
                yield from ({"what": "payload", "why": why, "packet": p} for why, p in refused_payloads(lines, version))
            if version == mqtt.V5 and kind in ("xx", "ik", "retry"):
                name = "message2-ik" if kind == "ik" else "message2-xx"
                for what in (name, "message3", "retry"):
                    if what[:8] in lines:
                        yield from ({"what": what, "why": why, "packet": p} for why, p in refused_auths(lines[what[:8]]))
    yield "refusal", {"packet": oepreface.REFUSAL}
    for version in mqtt.VERSIONS:
        yield "refuse", {"version": version, "initiator": oepreface.refused_by_initiator(version),
                         "responder": oepreface.refused_by_responder(version)}


def generate():
    out = HEAD + "\n"
    for found in blocks():
        name, lines = found if isinstance(found, tuple) else ("refused", found)
        out += link.block(name, **lines)
    return out


if __name__ == "__main__":
    if sys.argv[1:] == ["--stdout"]:
        sys.stdout.write(generate())
    elif not sys.argv[1:]:
        with open(os.path.join(HERE, "preface.txt"), "w", encoding="ascii") as f:
            f.write(generate())
    else:
        sys.exit(__doc__)
