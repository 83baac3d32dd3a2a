"""The tests' own peers (tests/lib/oewire.py) against each other, without the library: every version, every split position."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import mqtt
import noise
import oewire

KEYS = [bytes([i]) * 32 for i in range(1, 5)]


def pair(rekey=oewire.REKEY):
    return (oewire.Initiator(KEYS[0], KEYS[1], rekey=rekey), oewire.Responder(KEYS[2], KEYS[3], rekey=rekey))


def deliver(data, receive, cuts):
    """data in pieces cut at the offsets of cuts"""
    last = 0
    for cut in [c for c in sorted(cuts) if 0 < c < len(data)] + [len(data)]:
        receive(data[last:cut])
        last = cut


def converse(version, cuts=(), rekey=oewire.REKEY, queued=b"", records=3):
    """A whole connection: everything the two applications got, and the wire in both directions."""
    i, r = pair(rekey)
    wire = {"up": b"", "down": b""}

    def pump():
        while i.to_wire or r.to_wire:
            up, down = i.take_wire(), r.take_wire()
            wire["up"] += up
            wire["down"] += down
            deliver(up, r.peer_data, cuts)
            deliver(down, i.peer_data, cuts)

    connect = mqtt.connect(version, "peer")
    deliver(connect, i.app_write, cuts)
    pump()
    deliver(mqtt.connack(version) + queued, r.app_write, cuts)
    pump()
    assert (i.state, r.state) == ("RECORDS", "RECORDS")
    up = b"".join(mqtt.publish(version, "up", b"x" * n) for n in range(records))
    down = b"".join(mqtt.publish(version, "down", b"y" * n) for n in range(records))
    for n in range(records):
        i.app_write(mqtt.publish(version, "up", b"x" * n))
        r.app_write(mqtt.publish(version, "down", b"y" * n))
        pump()
    assert bytes(r.to_app) == connect + up
    assert bytes(i.to_app) == mqtt.connack(version) + queued + down
    assert i.handshake.handshake_hash == r.handshake.handshake_hash
    assert i.peer_fingerprint == r.fingerprint and r.peer_fingerprint == i.fingerprint
    return wire


@pytest.mark.parametrize("version", mqtt.VERSIONS)
def test_round_trip(version):
    wire = converse(version, queued=mqtt.publish(version, "queued", b"q"))
    for data in wire.values():
        packets, rest = mqtt.split_packets(data)
        assert rest == b"" and len(packets) > 3  # the wire is well-formed MQTT throughout
    assert b"down" not in wire["down"] and b"up" not in wire["up"].replace(b"UNSUB", b"")


@pytest.mark.parametrize("version", mqtt.VERSIONS)
def test_packet_sizes_of_the_document(version):
    five = version == mqtt.V5
    assert len(oewire.probe(version, bytes(32))) == 2 + (58 if five else 57)
    assert len(oewire.handshake_packet(version, bytes(96))) == (110 if five else 109)
    assert len(oewire.abort(version)) == 2 + (12 if five else 11)
    assert oewire.record_plain_max(version) == (16363 if five else 16364)
    sealer = oewire.Sealer(version, noise.CipherState(bytes(32)))
    assert len(sealer.record(b"x")) == (23 if five else 22)
    assert len(sealer.record(bytes(oewire.record_plain_max(version)))) == 16386


@pytest.mark.parametrize("version", mqtt.VERSIONS)
def test_every_split(version):
    whole = converse(version)
    longest = 4 + len(oewire.handshake_packet(version, bytes(96)) + oewire.answer(version))  # no piece of the wire is longer
    for cut in range(1, longest):
        assert converse(version, cuts=(cut,)) == whole
    assert converse(version, cuts=range(400)) == whole


@pytest.mark.parametrize("version", mqtt.VERSIONS)
def test_rekey(version):
    assert converse(version, rekey=4, records=13) != converse(version, records=13)


def test_rekey_is_at_the_multiples_of_its_limit():
    a, b = (oewire.Sealer(4, noise.CipherState(bytes(32)), rekey) for rekey in (4, oewire.REKEY))
    same = [a.record(b"x") == b.record(b"x") for _ in range(6)]
    assert same == [True] * 4 + [False] * 2


@pytest.mark.parametrize("version", mqtt.VERSIONS)
@pytest.mark.parametrize("step", [1, 7, 100000])
def test_stock_server(version, step):
    """UNSUBACK alone: plain, everything in order, nothing of ours to be seen."""
    i = oewire.Initiator()
    i.app_write(mqtt.connect(version, "x"))
    i.take_wire()
    queued = mqtt.publish(version, "q", b"1") + mqtt.publish(version, "q", bytes(500), qos=1)
    tail = mqtt.publish(version, "oe-mqtt/1", b"not ours any more")
    stream = mqtt.connack(version) + queued + mqtt.unsuback(version, 65535) + tail
    for at in range(0, len(stream), step):
        i.peer_data(stream[at:at + step])
    assert i.state == "PLAIN" and oewire.parse_probe(version, i.take_wire())
    assert i.take_app() == mqtt.connack(version) + queued + tail


@pytest.mark.parametrize("version", mqtt.VERSIONS)
def test_late(version):
    i, r = pair()
    i.app_write(mqtt.connect(version, "x"))
    r.peer_data(i.take_wire())
    r.app_write(mqtt.connack(version))
    i.peer_data(r.take_wire())
    i.timeout()
    assert i.state == "I_LATE" and i.take_app() == mqtt.connack(version)
    r.peer_data(i.take_wire())
    answered = r.take_wire()
    i.peer_data(answered)
    assert i.state == "PLAIN" and i.take_app() == b"" and bytes(i.to_wire) == oewire.abort(version)
    r.peer_data(i.take_wire())
    assert r.state == "PLAIN" and r.take_app() == mqtt.connect(version, "x")


@pytest.mark.parametrize("version", mqtt.VERSIONS)
def test_flipped_bits(version):
    """Message 2, UNSUBACK, message 3: never RECORDS on the side that was lied to."""
    for which in ("message2", "unsuback", "message3"):
        n = {"message2": 110 if version == 5 else 109, "unsuback": len(oewire.answer(version)),
             "message3": 78 if version == 5 else 77}[which]
        for bit in range(0, 8 * n, 1 if which == "unsuback" else 5):
            i, r = pair()
            i.app_write(mqtt.connect(version, "x"))
            r.peer_data(i.take_wire())
            r.app_write(mqtt.connack(version))
            i.peer_data(r.take_wire())
            r.peer_data(i.take_wire())
            down = bytearray(r.take_wire())
            if which != "message3":
                down[bit // 8 + (len(r.message2) if which == "unsuback" else 0)] ^= 1 << bit % 8
            i.peer_data(bytes(down))
            if which != "message3":
                assert i.state != "RECORDS", (which, bit)
                continue
            up = bytearray(i.take_wire())
            up[bit // 8] ^= 1 << bit % 8
            r.peer_data(bytes(up))
            assert r.state != "RECORDS" and b"oe-mqtt/1" not in r.to_app.replace(bytes(up), b"")


@pytest.mark.parametrize("version", mqtt.VERSIONS)
def test_flipped_record(version):
    plain = mqtt.publish(version, "t", b"payload")
    good = oewire.Sealer(version, noise.CipherState(bytes(32))).record(plain)
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        opener = oewire.Opener(version, noise.CipherState(bytes(32)))
        try:
            out = opener.push(bytes(bad))
        except oewire.Broken:
            out = b""
        assert out == b""


def test_forged_message_2_costs_nothing():
    i, r = pair()
    i.app_write(mqtt.connect(4, "x"))
    r.peer_data(i.take_wire())
    r.app_write(mqtt.connack(4))
    i.peer_data(r.take_wire())
    i.peer_data(oewire.handshake_packet(4, os.urandom(96)) + oewire.handshake_packet(4, b"short"))
    r.peer_data(i.take_wire())
    i.peer_data(r.take_wire())
    r.peer_data(i.take_wire())
    assert (i.state, r.state) == ("RECORDS", "RECORDS")


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_low_order_keys(point):
    r = oewire.Responder()
    r.peer_data(mqtt.connect(4, "x"))
    r.app_write(mqtt.connack(4))
    r.peer_data(oewire.probe(4, point))
    assert r.state == "PLAIN" and r.take_app().endswith(oewire.probe(4, point))
