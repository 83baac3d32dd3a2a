"""{publisher, broker, subscriber} each with and without the library x protocol x QoS x payloads, on the programs' output and on the wire.

One case is one subscriber and a publisher for each payload. The two brokers (with, without the library) live as long as the worker.
Every case has all payloads; 32 MiB is met by each of the 8 combinations in each protocol and in each QoS (see HUGE).
"""
import collections
import os
import random

import pytest

import harness as h

COMBINATIONS = [(p, b, s) for p in (True, False) for b in (True, False) for s in (True, False)]
CASES = [(c, v, q) for c in COMBINATIONS for v in h.PROTOCOLS for q in (0, 1, 2)]
# each combination in each protocol, and in each QoS
HUGE = {(c, v, (i + j) % 3) for i, c in enumerate(COMBINATIONS) for j, v in enumerate(h.PROTOCOLS)}

HUGE_BYTES = 32 << 20
NON_ASCII = "größer als die Schlüssellänge · температура 21,5 °C · 温度 · 🌡 · \u00a0\ufeff\U0001f512".encode() * 2


def payloads(huge):
    made = {"empty": b"", "one": b"\x30", "nonascii": NON_ASCII + os.urandom(16)}
    for n in (200, 16383, 16384, 16385, 300 << 10):
        made[str(n)] = os.urandom(n)
    if huge:
        block = os.urandom(1 << 20)
        made[str(HUGE_BYTES)] = b"".join(bytes([i]) + block[1:] for i in range(HUGE_BYTES >> 20))
    return made


def name_of(case):
    (p, b, s), version, qos = case
    return f"{'pub' if p else '-'}+{'broker' if b else '-'}+{'sub' if s else '-'}-{version}-qos{qos}"


@pytest.fixture(scope="module")
def brokers():
    pair = {}
    try:
        for library in (True, False):
            pair[library] = h.Broker(library)
        yield pair
    finally:
        for b in pair.values():
            b.close()


def needles(payload):
    """Pieces of a payload to look for on the wire."""
    if len(payload) < 16:
        return []
    return [payload[at:at + 24] for at in {0, len(payload) // 2, max(0, len(payload) - 24)}]


def check_link(link_name, relay, broker, said_before, has_library, broker_has, lines, state, topics, sent):
    """One link of the case: what the wire shows and what both ends said."""
    accepted = collections.defaultdict(list)
    # of this case only: the kernel hands out ports again
    h.wait_until(lambda: {c.upstream_port for c in relay.connections} <= {x.port for x in broker.oe()[said_before:]} or not (broker_has and not h.NATIVE),
                 lambda: f"the broker's lines about {link_name}: {[x.text for x in broker.oe()][-5:]}")
    for line in broker.oe()[said_before:]:
        accepted[line.port].append(line)
    if has_library and not h.NATIVE:
        assert len(lines) == len(relay.connections), [x.text for x in lines]
    for connection in relay.connections:
        if has_library and broker_has and not h.NATIVE:
            h.check_encrypted(connection)
        else:
            h.check_plain(connection, probed=has_library)
    recording = relay.recording()
    encrypted = has_library and broker_has
    for needle in [*topics, *(n for p in sent for n in needles(p))]:
        found = h.wire_contains(recording, needle)
        if encrypted:
            assert not found, f"{link_name}: {needle[:30]!r} crossed the wire ({found})"
        else:
            assert "raw" in found, f"{link_name}: the plain wire does not show {needle[:30]!r}"
    if h.NATIVE:
        return
    for line in lines:
        assert line.role == "connect" and line.port == relay.port and line.reason, line.text
        assert line.state == ("unauthenticated" if encrypted else "plain"), line.text
        if encrypted:
            assert line.peer == h.fingerprint(broker.state), line.text
        else:
            assert not (line.peer or "-").startswith("oe1:"), line.text
    if broker_has:
        for c in relay.connections:
            mine = accepted[c.upstream_port]
            assert len(mine) == 1, [x.text for x in mine]
            assert mine[0].role == "accept" and mine[0].reason, mine[0].text
            assert mine[0].state == ("unauthenticated" if encrypted else "plain"), mine[0].text
            if encrypted:
                assert mine[0].peer == h.fingerprint(state), mine[0].text


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_matrix(case, brokers):
    (pub_has, broker_has, sub_has), version, qos = case
    if h.NATIVE:
        pub_has = broker_has = sub_has = False
    broker = brokers[broker_has]
    said_before = len(broker.oe())
    sent = payloads(huge=case in HUGE)
    root = "oe/" + os.urandom(8).hex()
    with h.World(True) as w:
        to_pub, to_sub = w.relay(broker), w.relay(broker)
        sub = w.sub(to_sub.port, root + "/#", library=sub_has, qos=qos, protocol=version, count=len(sent), broker=broker)
        order = list(sent)
        random.shuffle(order)
        lines = []
        for name in order:
            pub = w.pub(to_pub.port, f"{root}/{name}", payload=sent[name], library=pub_has, qos=qos, protocol=version)
            lines += pub.oe()
            assert pub.stdout() == b"" and h.without_oe(pub.stderr()) == ""
        assert sub.wait() == 0, sub.stderr()
        assert h.without_oe(sub.stderr()) == ""
        got = {}
        for m in sub.messages():
            assert m.topic not in got and m.qos == qos and not m.retain
            got[m.topic] = m.payload
        assert sorted(got) == sorted(f"{root}/{name}" for name in sent)
        for name, payload in sent.items():
            assert got[f"{root}/{name}"] == payload, f"payload {name} arrived altered"
        for relay in (to_pub, to_sub):
            relay.wait_closed()
        assert len(to_pub.connections) == len(sent) and len(to_sub.connections) == 1
        for relay, has, said, who in ((to_pub, pub_has, lines, "pub"), (to_sub, sub_has, sub.oe(), "sub")):
            check_link(who, relay, broker, said_before, has, broker_has, said, w.state(who), [root], sent.values())
