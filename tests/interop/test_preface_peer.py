"""The tests' own preface (tests/lib/oepreface.py): against itself at every split and with every bit flipped, and against stock brokers, which
must refuse it and make no session. Without the library."""

import os
import re
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import attacker
import fakes
import harness
import mqtt
import noise
import oepreface
import oewire
import test_edges
from oepreface import IK, RETRY, XX

KEYS = [bytes([i]) * 32 for i in range(1, 5)]
CLIENT, SERVER, OTHER = (noise.public_key(k) for k in (KEYS[0], KEYS[2], KEYS[3]))
each_version = pytest.mark.parametrize("version", mqtt.VERSIONS, ids=[mqtt.NAME[v] for v in mqtt.VERSIONS])
kinds = {"xx": [], "ik": [SERVER], "retry": [OTHER, SERVER]}
each_kind = pytest.mark.parametrize("kind", kinds)


def pair(kind, freshness=None, keys=None, **kw):
    freshness = freshness or oepreface.Freshness()
    epoch = freshness.epoch if kind == "ik" else oepreface.NO_EPOCH
    return (oepreface.Initiator(KEYS[0], keys=kinds[kind] if keys is None else keys, epoch=epoch),
            oepreface.Responder(KEYS[2], freshness=freshness, **kw))


def pump(i, r, cut=None):
    wire = {"up": b"", "down": b""}
    while i.to_wire or r.to_wire:
        for way, sender, receiver in (("up", i, r), ("down", r, i)):
            data = sender.take_wire()
            wire[way] += data
            for piece in [data] if cut is None else [data[:cut], data[cut:]] if cut else [data[n:n + 1] for n in range(len(data))]:
                receiver.peer_data(piece)
    return wire


def parsed(wire):
    up = harness.WireParser("client").feed(wire["up"])
    return up.finish(), harness.WireParser("server", up.version).feed(wire["down"]).finish()


@each_version
@each_kind
def test_round_trip_at_every_split(version, kind):
    connect = mqtt.connect(version, "preface", user="name-of-user", password="secret-of-user")
    pipelined = mqtt.publish(version, "up", b"pipelined behind CONNECT")
    down = mqtt.connack(version) + mqtt.publish(version, "down", b"payload")
    for cut in (None, 0, *range(1, 150)):
        i, r = pair(kind)
        for n in range(len(connect) if cut == 0 else 0):
            i.app_write(connect[n:n + 1])
        i.app_write(connect + pipelined if cut != 0 else pipelined)
        first = pump(i, r, cut)
        assert (i.state, r.state, r.version, r.early) == ("RECORDS", "RECORDS", version, int(kind == "ik"))
        r.app_write(down)
        i.app_write(mqtt.pingreq())
        second = pump(i, r, cut)
        assert r.take_app() == connect + pipelined + mqtt.pingreq() and i.take_app() == down
        assert i.handshake.rs == SERVER and r.handshake.rs == CLIENT and i.epoch == r.freshness.epoch
        ups, downs = parsed({way: first[way] + second[way] for way in first})
        names = {"xx": ("CONNECT AUTH", "AUTH"), "ik": ("CONNECT", "AUTH"), "retry": ("CONNECT 2*AUTH", "2*AUTH")}[kind]
        assert (harness.describe([p for p in ups if p.topic != "$"]), harness.describe([p for p in downs if p.topic != "$"])) == names
        assert all(harness.is_record(p, 5) for p in ups + downs if p.topic is not None)
        for needle in (b"name-of-user", b"secret-of-user", b"pipelined behind"):
            assert not harness.wire_contains(first["up"] + second["up"], needle)


def test_sizes_of_the_document():
    i, r = pair("ik")
    i.app_write(mqtt.connect(4, "x"))
    up = i.take_wire()
    assert len(oepreface.parse_preface(up)[1]) == 113 + len(mqtt.connect(4, "x"))
    r.peer_data(up)
    assert len(oepreface.parse_auth(r.take_wire())[1]) == 65
    i, r = pair("xx")
    i.app_write(mqtt.connect(4, "x"))
    r.peer_data(i.take_wire())
    message2 = r.take_wire()
    assert len(oepreface.parse_auth(message2)[1]) == 112
    i.peer_data(message2)
    message3, record = mqtt.split_packets(i.take_wire())[0]
    assert len(oepreface.parse_auth(message3)[1]) == 65 and record[0] == 0x30
    assert len(oepreface.REFUSAL) == 15 and oepreface.PREFACE_MAX == 16530


@each_version
@pytest.mark.parametrize("password,early", [(16000, 1), (16384, 0), (60000, 0)])
def test_big_connect(version, password, early):
    connect = mqtt.connect(version, "big", user="u", password=b"p" * password)
    i, r = pair("ik")
    i.app_write(connect)
    pump(i, r)
    assert r.early == early and r.take_app() == connect


@each_version
def test_connect_of_exactly_the_limit(version):
    for more, early in ((0, 1), (1, 0)):
        short = len(mqtt.connect(version, "", user="u", password=b"p" * 16000)) - 16000
        connect = mqtt.connect(version, "", user="u", password=b"p" * (16384 + more - short))
        assert len(connect) == 16384 + more
        i, r = pair("ik")
        i.app_write(connect)
        pump(i, r)
        assert r.early == early and r.take_app() == connect


def flipped(version, kind, bit):
    """A conversation in which one bit of the wire is flipped: the two ends, and whether there was such a bit."""
    i, r = pair(kind)
    i.app_write(mqtt.connect(version, "preface"))
    there = False
    while i.to_wire or r.to_wire:
        for sender, receiver in ((i, r), (r, i)):
            data = bytearray(sender.take_wire())
            if 0 <= bit < 8 * len(data):
                data[bit // 8] ^= 1 << bit % 8
                there = True
            bit -= 8 * len(data)
            receiver.peer_data(bytes(data))
    return i, r, there


@each_version
@each_kind
def test_flipped_bits(version, kind):
    """Each bit of each packet of the handshake and of the first record: what the applications get is what was sent, or nothing."""
    connect, down = mqtt.connect(version, "preface"), mqtt.connack(version)
    bit, records, step = 0, 0, 3 if version == 4 else 11  # the library is met by every bit in test_attacker.py
    while True:
        i, r, there = flipped(version, kind, bit)
        if not there:
            break
        if r.state == "RECORDS":
            r.app_write(down)
            i.peer_data(r.take_wire())
        for e in (i, r):
            e.peer_eof()
        got, said = r.take_app(), i.take_app()
        if r.by_preface or r.state != "PLAIN":
            assert got in (b"", connect), bit
        else:
            assert b"preface" not in got, bit  # no longer a preface: it is the application's, and has nothing of the CONNECT in plain
        assert said in (b"", down) if i.state in ("RECORDS", "BROKEN") else said == oepreface.refused_by_initiator(version), bit
        if got == connect and said == down:  # an altered message 1 of IK is answered with retry, and XX finds the known key
            records += 1
            assert (i.handshake.rs, r.handshake.rs, r.early) == (SERVER, CLIENT, 0), bit
        bit += step
    assert bit > 8 * 240 and (records == 0) == (kind == "xx")


@pytest.mark.parametrize("stage", ["epoch", "seen", "hour", "restart", "other client"])
def test_message_1_again(stage):
    """8.3: the second delivery of message 1 never hands the CONNECT on."""
    freshness = oepreface.Freshness()
    i, r = pair("ik", freshness)
    i.app_write(mqtt.connect(4, "x"))
    message1 = i.take_wire()
    r.peer_data(message1)
    assert r.early == 1 and r.take_app() == mqtt.connect(4, "x")
    if stage == "epoch":
        freshness.epoch = os.urandom(16)
        freshness.seen.clear()
    elif stage == "hour":
        freshness.since -= 3601
    elif stage == "restart":
        freshness = oepreface.Freshness()
    again = oepreface.Responder(KEYS[2], freshness=freshness, allowed=(lambda public: False) if stage == "other client" else None)
    again.peer_data(message1)
    assert again.take_app() == b"" and again.early in (0, None)
    assert again.state == ("REFUSED" if stage == "other client" else "RECORDS")


def test_epoch_ends_with_its_ephemerals():
    freshness = oepreface.Freshness(limit=3)
    epochs = set()
    for n in range(7):
        i, r = pair("ik", freshness)
        i.app_write(mqtt.connect(4, f"c{n}"))
        pump(i, r)
        assert r.early == 1 and i.epoch == freshness.epoch
        epochs.add(freshness.epoch)
    assert len(epochs) == 3 and len(freshness.seen) == 1


@each_version
def test_refusals(version):
    connect = mqtt.connect(version, "x")
    i, r = pair("xx", allowed=lambda public: public != CLIENT)
    i.app_write(connect)
    r.peer_data(i.take_wire())
    i.peer_data(r.take_wire())
    r.peer_data(i.take_wire())
    assert r.state == "REFUSED" and r.take_wire() == oepreface.REFUSAL and r.take_app() == b"" and r.app_eof
    i, r = pair("ik", allowed=lambda public: public != CLIENT)
    i.app_write(connect)
    pump(i, r)
    assert (r.state, i.state, i.reason) == ("REFUSED", "REFUSED", "refused by the peer's OE-MQTT") and r.take_app() == b""
    assert i.take_app() == oepreface.refused_by_initiator(version) and i.app_eof
    with pytest.raises(oewire.Broken):
        i.app_write(b"x")
    i, r = pair("xx", keys=[OTHER])  # another key than the known one: its message 3 never goes out
    i.app_write(connect)
    wire = pump(i, r)
    assert i.state == "REFUSED" and i.reason == "another key" and r.state == "R_PREFACE"
    assert harness.describe(parsed(wire)[0]) == "CONNECT AUTH"
    for event in ("timeout", "peer_eof"):
        i, r = pair("ik")
        i.app_write(connect)
        getattr(i, event)()
        assert i.state == "REFUSED" and i.take_app() == oepreface.refused_by_initiator(version)


@each_version
def test_second_retry(version):
    i, r = pair("retry")
    i.app_write(mqtt.connect(version, "x"))
    r.peer_data(i.take_wire())
    i.peer_data(r.take_wire())
    i.peer_data(oepreface.auth(RETRY))
    assert i.state == "REFUSED"
    r.peer_data(oepreface.preface(IK, bytes(113)))
    assert r.state == "BROKEN" and r.take_app() == b""


@each_version
def test_refusal_in_place_of_the_first_record(version):
    i, r = pair("xx", allowed=lambda public: False)
    i.app_write(mqtt.connect(version, "x"))
    wire = pump(i, r)
    assert (i.state, i.reason, r.state) == ("BROKEN", "refused by the peer's OE-MQTT", "REFUSED")
    assert wire["down"].endswith(oepreface.REFUSAL) and r.take_app() + i.take_app() == b""


@each_version
def test_peer_that_speaks_first(version):
    connect, forged = mqtt.connect(version, "x"), mqtt.connack(version) + mqtt.publish(version, "forged", b"forged")
    for cut in range(len(connect)):
        i, _ = pair("ik")
        i.app_write(connect[:cut])
        i.peer_data(forged)
        if not cut:
            assert i.state == "I_CONNECT" and i.take_app() == forged
            i.app_write(connect)
        assert i.state == "REFUSED" and i.take_app()[:1] == b"\x20" and i.take_wire() == b""


@each_version
def test_nothing_early_that_must_not_be(version):
    """8.3: no epoch, a Will, too large: message 1 has no CONNECT."""
    plain = mqtt.connect(version, "x")
    for epoch, connect, inside in ((bytes(16), plain, 0), (os.urandom(16), plain, len(plain)),
                                   (os.urandom(16), attacker.connect_with_will(version, "x", "w", b"w"), 0),
                                   (os.urandom(16), mqtt.connect(version, "x", user="u", password=b"p" * 16384), 0)):
        i = oepreface.Initiator(KEYS[0], keys=[SERVER], epoch=epoch)
        i.app_write(connect)
        assert len(oepreface.parse_preface(i.take_wire())[1]) == 113 + inside


@each_version
def test_require_without_preface(version):
    """8.4, last paragraph: a Will never passes, nothing behind CONNACK leaves before the handshake is through."""
    _, r = pair("xx", require=True)
    will = attacker.connect_with_will(version, "with-will", "will/topic", b"last will")
    for n in range(len(will)):
        r.peer_data(will[n:n + 1])
    assert r.state == "REFUSED" and r.take_app() == b"" and r.take_wire() == oepreface.refused_by_responder(version)
    _, r = pair("xx", require=True)
    r.peer_data(mqtt.connect(version, "x"))
    r.app_write(mqtt.connack(version) + mqtt.publish(version, "q", b"queued"))
    assert r.take_wire() == mqtt.connack(version)
    r.peer_data(mqtt.subscribe(version, 1, "#"))
    assert r.state == "REFUSED" and r.take_wire() == b"" and r.take_app() == mqtt.connect(version, "x")
    for listed in (True, False):
        i, r = oewire.Initiator(KEYS[0]), pair("xx", require=True, allowed=lambda public: listed)[1]
        i.app_write(mqtt.connect(version, "x"))
        r.peer_data(i.take_wire())
        r.app_write(mqtt.connack(version) + mqtt.publish(version, "q", b"queued"))
        wire = pump(i, r)
        assert b"queued" not in wire["down"] and r.state == ("RECORDS" if listed else "REFUSED")
        assert i.take_app() == mqtt.connack(version) + (mqtt.publish(version, "q", b"queued") if listed else b"")


# ---- stock brokers -----------------------------------------------------------------------------------------------------------------------

def prefaces():
    made = {}
    for name, keys, size in (("xx", [], 1), ("ik", [SERVER], 1), ("ik-16k", [SERVER], 16000)):
        i = oepreface.Initiator(keys=keys)
        i.app_write(mqtt.connect(4, "client-of-the-preface", user="u", password=b"p" * size))
        made[name] = i.take_wire()
    made["xx-and-more"] = made["xx"] + mqtt.publish(5, "leak/topic", b"x")
    return made


CONFIGS = {"anonymous": ({}, 0x8C), "not-anonymous": ({"anonymous": False}, 0x8C), "password": ({"anonymous": False, "users": {"u": "p"}}, 0x8C),
           "max_keepalive": ({"config": "max_keepalive 30\n"}, 0x8C), "max_packet_size": ({"config": "max_packet_size 100\n"}, None),
           "no-empty-id": ({"config": "allow_zero_length_clientid false\n"}, 0x80),
           "prefixes": ({"config": "clientid_prefixes secure-\n"}, 0x87)}


@pytest.mark.parametrize("name", CONFIGS)
def test_stock_mosquitto_refuses_it(name):
    """A CONNACK with a code, the end, and no session; never the packet of a refusal by OE-MQTT."""
    config, code = CONFIGS[name]
    with harness.Broker(False, **config) as broker:
        for kind, raw in prefaces().items():
            with fakes.connect(broker.port) as wire:
                wire.send(raw)
                got, end = wire.recv_all()
            assert end in ("eof", "reset") and len(got) in (0, 5) and got != oepreface.REFUSAL
            assert got == (bytes([0x20, 3, 0, code, 0]) if code else got), kind
            i = oepreface.Initiator(keys=[SERVER])
            i.app_write(mqtt.connect(4, "x"))
            i.peer_data(got)
            i.peer_eof()
            assert i.state == "REFUSED" and "OE-MQTT" not in i.reason
        broker.wait_log(r"^Client <unknown> disconnected", 4)
        assert not re.search(r"as \S+ \(p\d", broker.log()), broker.log()  # "New client connected from ... as ID (p5, ...)"


def test_stock_tls_listener_refuses_it(tmp_path):
    pem = test_edges.certificate(str(tmp_path))
    config = f"cafile {pem}\ncertfile {pem}\nkeyfile {pem}\nrequire_certificate true\n"
    with harness.Broker(False, config=config) as broker:
        for raw in prefaces().values():
            with fakes.connect(broker.port) as wire:
                wire.send(raw)
                got, end = wire.recv_all(10)
            assert end in ("eof", "reset") and got[:1] in (b"", b"\x15")  # a TLS alert
        assert not re.search(r"as \S+ \(p\d", broker.log()), broker.log()


@pytest.mark.parametrize("answer", [mqtt.connack(4, 1), mqtt.connack(5), mqtt.auth(0x18, mqtt.auth_properties("OE-MQTT")),
                                    oepreface.auth(XX, bytes(112)),
                                    oepreface.auth(IK, bytes(65)), oepreface.REFUSAL[:-1] + b"U", mqtt.publish(5, "t", b"plain"), b"\xff" * 20,
                                    b"HTTP/1.1 400 Bad Request\r\n"])
@pytest.mark.parametrize("kind", ["xx", "ik"])
def test_other_servers(kind, answer):
    """Whatever a server that is none of ours answers, in whatever pieces: refused, nothing of it for the application."""
    for step in (1, 1000):
        i, _ = pair(kind)
        i.app_write(mqtt.connect(4, "x"))
        i.take_wire()
        for at in range(0, len(answer), step):
            i.peer_data(answer[at:at + step])
        i.peer_eof()
        assert i.state == "REFUSED" and i.take_app() == oepreface.refused_by_initiator(4) and i.take_wire() == b""
