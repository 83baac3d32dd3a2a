#!/usr/bin/python3
"""Makes link.txt, the project's own vectors of PROTOCOL.md, from fixed keys with the Python implementation in tests/lib.

generate.py            writes link.txt beside this file
generate.py --stdout   writes to standard output
"""

import hashlib
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

import mqtt  # noqa: E402
import noise  # noqa: E402
import oewire  # noqa: E402

HEAD = """\
# Vectors of docs/PROTOCOL.md, version 1. Made by tests/vectors/generate.py: do not edit.
#
# Line-oriented ASCII, for readers without a parser. A line is `#` comment, empty, or KEY SPACE VALUE. A block begins with its line
# `block NAME` and ends at the next empty line. Values are lower-case hex without separators; `-` is the empty byte string; version, counter,
# plain_n, rekey and direction are words or decimal numbers. No line is longer than 1,024 bytes. Order of the lines is fixed.
#
# block handshake: one for each MQTT version. Secrets and ephemerals are secret keys.
#   version 3, 4 or 5 (the protocol level), initiator_secret, initiator_public, initiator_ephemeral, responder_secret, responder_public,
#   responder_ephemeral, probe, message2, answer, message3, abort (whole packets), handshake_hash, key_initiator (the initiator sends
#   with it), key_responder
# block record: one record; successive ones of one direction belong to one CipherState, counter says which.
#   version, direction (`initiator`: sent by the initiator), rekey (records between two changes of the key; 1048576 is the protocol's), key
#   (the direction's first key, whatever counter is), counter, plain_n (bytes of plaintext), then either plain and record (whole), or for
#   long ones record_n (bytes), record_head (its first 32 bytes), record_tail (its last 32), record_sha256.
#   Plaintext byte i of every record is (i + 7 * (i / 256) + 13 * counter) mod 256, integer division.
# block refused: a packet that differs from the one encoding. A first packet that is `probe` of this kind is none; a `record` of this kind,
#   the first of its direction under key 0101...01, breaks the connection; `message2` and `message3` of this kind never lead to
#   records, in whatever handshake.
#   version, what, why (a word), packet
"""

SIZES = (1, 2, 100, 16363, 16364)
REKEY_SMALL = 4
WHOLE_MAX = 256


def key(label):
    return hashlib.sha256(b"OE-MQTT test vector: " + label.encode()).digest()


def plaintext(n, counter):
    return bytes((i + 7 * (i // 256) + 13 * counter) % 256 for i in range(n))


def hexed(value):
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else value.hex() or "-"


def block(name, **lines):
    return f"block {name}\n" + "".join(f"{k} {hexed(v)}\n" for k, v in lines.items()) + "\n"


def handshake(version):
    """(initiator, responder) after the handshake, and the packets that went over the wire."""
    names = ("initiator_secret", "initiator_ephemeral", "responder_secret", "responder_ephemeral")
    secrets = {n: key(f"{n} {version}") for n in names}
    i = oewire.Initiator(secrets["initiator_secret"], secrets["initiator_ephemeral"])
    r = oewire.Responder(secrets["responder_secret"], secrets["responder_ephemeral"])
    i.app_write(mqtt.connect(version, "vectors"))
    r.peer_data(i.take_wire())
    r.app_write(mqtt.connack(version))
    i.peer_data(r.take_wire())
    probe = i.take_wire()
    r.peer_data(probe)
    down = r.take_wire()
    i.peer_data(down)
    message3 = i.take_wire()
    r.peer_data(message3)
    assert (i.state, r.state) == ("RECORDS", "RECORDS")
    (message2, answer), _ = mqtt.split_packets(down)
    lines = {"initiator_secret": secrets["initiator_secret"], "initiator_public": noise.public_key(secrets["initiator_secret"]),
             "initiator_ephemeral": secrets["initiator_ephemeral"], "responder_secret": secrets["responder_secret"],
             "responder_public": noise.public_key(secrets["responder_secret"]),
             "responder_ephemeral": secrets["responder_ephemeral"], "probe": probe, "message2": message2, "answer": answer,
             "message3": message3, "abort": oewire.abort(version), "handshake_hash": i.handshake.handshake_hash,
             "key_initiator": i.sealer.cipher.k, "key_responder": i.opener.cipher.k}
    assert r.sealer.cipher.k == i.opener.cipher.k and r.handshake.handshake_hash == i.handshake.handshake_hash
    return lines


def records(version, direction, k, sizes, rekey):
    sealer = oewire.Sealer(version, noise.CipherState(k), rekey)
    out = ""
    for counter, n in enumerate(sizes):
        plain = plaintext(n, counter)
        raw = sealer.record(plain)
        if n <= WHOLE_MAX:
            rest = {"plain": plain, "record": raw}
        else:
            rest = {"record_n": len(raw), "record_head": raw[:32], "record_tail": raw[-32:],
                    "record_sha256": hashlib.sha256(raw).digest()}
        out += block("record", version=version, direction=direction, rekey=rekey, key=k, counter=counter, plain_n=n, **rest)
    return out


def refused(version, lines):
    """(what, why, packet)"""
    probe, message2, message3 = lines["probe"], lines["message2"], lines["message3"]
    body = mqtt.body(probe)
    yield "probe", "flags", b"\xa0" + probe[1:]
    yield "probe", "identifier", probe[:2] + b"\xff\xfe" + probe[4:]
    yield "probe", "two-filters", mqtt.packet(0xA2, body + mqtt.string("x"))
    yield "probe", "short-filter", mqtt.unsubscribe(version, 65535, probe[-53:-1])
    yield "probe", "padded", mqtt.unsubscribe(version, 65535, probe[-53:] + b"=")
    yield "probe", "standard-base64", probe[:-5] + b"+" + probe[-4:]
    yield "probe", "spare-bits", probe[:-1] + spare_bits(probe[-1:])
    yield "probe", "version-2", probe.replace(b"oe-mqtt/1/", b"oe-mqtt/2/")
    yield "probe", "long-length", b"\xa2" + bytes([probe[1] | 128, 0]) + probe[2:]
    for what, packet in (("message2", message2), ("message3", message3)):
        payload = oewire.parse_handshake_packet(version, packet)
        yield what, "tag", packet[:-1] + bytes([packet[-1] ^ 1])
        yield what, "short", oewire.handshake_packet(version, payload[:-1])
        yield what, "long", oewire.handshake_packet(version, payload + b"\0")
        yield what, "retain", b"\x31" + packet[1:]
        yield what, "long-length", b"\x30" + bytes([packet[1] | 128, 0]) + packet[2:]
    k = noise.CipherState(bytes([1]) * 32)
    good = oewire.Sealer(version, k).record(b"x")
    empty = noise.CipherState(bytes([1]) * 32).encrypt_with_ad(b"", b"")
    yield "record", "empty", mqtt.packet(0x30, oewire.record_head(version) + empty)
    yield "record", "long-length", b"\x30" + bytes([good[1] | 128, 0]) + good[2:]
    yield "record", "tag", good[:-1] + bytes([good[-1] ^ 128])
    yield "record", "counter-1", good_at(version, 1)
    yield "record", "big-endian-counter", mqtt.packet(0x30, oewire.record_head(version) + big_endian_one())
    yield "record", "retain", b"\x31" + good[1:]
    yield "record", "qos-1", b"\x32" + good[1:]
    yield "record", "dup", b"\x38" + good[1:]
    yield "record", "topic", good.replace(b"\0\1$", b"\0\1%", 1)
    yield "record", "plain-packet", mqtt.publish(version, "a/b", b"plain")
    yield "record", "other-packet", mqtt.pingreq()
    if version == mqtt.V5:
        yield "record", "no-properties", mqtt.packet(0x30, mqtt.body(good)[:3] + mqtt.body(good)[4:])
        yield "record", "a-property", mqtt.packet(0x30, b"\0\1$\2\1\0" + mqtt.body(good)[4:])


def spare_bits(char):
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(char) ^ 1:][:1]


def good_at(version, counter):
    cipher = noise.CipherState(bytes([1]) * 32)
    cipher.n = counter
    return oewire.Sealer(version, cipher).record(b"x")


def big_endian_one():
    """counter 0 sealed as if it were 2^56: what a wrong byte order makes of counter 1"""
    cipher = noise.CipherState(bytes([1]) * 32)
    cipher.n = 1 << 56
    return cipher.encrypt_with_ad(b"", b"x")


def generate():
    out = HEAD + "\n"
    for version in mqtt.VERSIONS:
        lines = handshake(version)
        out += block("handshake", version=version, **lines)
        sizes = [n for n in SIZES if n <= oewire.record_plain_max(version)]
        for direction in ("initiator", "responder"):
            out += records(version, direction, lines["key_" + direction], sizes, oewire.REKEY)
        for direction in ("initiator", "responder"):
            out += records(version, direction, lines["key_" + direction], [1 + n % 5 for n in range(13)], REKEY_SMALL)
        for what, why, packet in refused(version, lines):
            out += block("refused", version=version, what=what, why=why, packet=packet)
    return out


if __name__ == "__main__":
    if sys.argv[1:] == ["--stdout"]:
        sys.stdout.write(generate())
    elif not sys.argv[1:]:
        with open(os.path.join(HERE, "link.txt"), "w", encoding="ascii") as f:
            f.write(generate())
    else:
        sys.exit(__doc__)
