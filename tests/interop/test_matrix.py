"""{publisher, broker, subscriber} each with and without the library x protocol x QoS x payloads, on the programs' output and on the wire.

test_matrix: each client meets the broker for the first time; test_later: both have met it before, and CONNECT has user name, password and, of
the subscriber, a Will. One case is one subscriber and a publisher for each payload. The two brokers (with, without the library) live as long as
the worker.
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
# a broker with the library, and somebody who can know it
LATER = [((p, b, s), v, q) for (p, b, s), v, q in CASES if b and (p or s)]

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


def check_wire(link_name, relay, clients, known, has_library, encrypted, needles_sent, secrets):
    """What crossed one link. known: after its first connection, the introduction, each is a later contact, of which the wire shows nothing."""
    introduced = None
    assert len(clients) == len(relay.connections)
    for number, (client, connection) in enumerate(zip(clients, relay.connections)):
        if not encrypted:
            h.check_plain(connection, probed=has_library)
        elif not (known and number):
            introduced = h.check_encrypted(connection)
        else:
            # only who has met the broker by preface knows its epoch; a CONNECT with a Will never goes early
            early = introduced.up[0].end if number > 1 and link_name == "pub" else 0
            assert h.check_encrypted(connection, preface="IK", hidden=[client.id, *secrets]).early == early, f"connection {number} of {link_name}"
    recording = relay.recording()
    for needle in needles_sent:
        found = h.wire_contains(recording, needle)
        if encrypted:
            assert not found, f"{link_name}: {needle[:30]!r} crossed the wire ({found})"
        else:
            assert "raw" in found, f"{link_name}: the plain wire does not show {needle[:30]!r}"
    for needle in [clients[0].id, *secrets]:   # the search finds them where they are: in the first contact, in plain
        assert "raw" in h.wire_contains(recording, needle), needle


def check_link(link_name, relay, broker, said_before, has_library, clients, version, needles_sent, known=False, secrets=()):
    """One link of the case: what the wire shows and what both ends said. clients: the programs of all connections, in order."""
    accepted = collections.defaultdict(list)
    # of this case only: the kernel hands out ports again
    h.wait_until(lambda: {c.upstream_port for c in relay.connections} <= {x.port for x in broker.oe()[said_before:]} or not broker.library,
                 lambda: f"the broker's lines about {link_name}: {[x.text for x in broker.oe()][-5:]}")
    for line in broker.oe()[said_before:]:
        accepted[line.port].append(line)
    encrypted = has_library and broker.library
    check_wire(link_name, relay, clients, known and encrypted, has_library, encrypted, needles_sent, secrets)
    for number, (p, c) in enumerate(zip(clients, relay.connections)):
        states = ("plain", "plain")
        if encrypted:
            states = ("tofu" if known and number else "unauthenticated", "unauthenticated")   # a broker remembers no client
        mine = accepted[c.upstream_port]
        assert len(p.oe()) == (1 if p.library else 0) and len(mine) == (1 if broker.library else 0), [x.text for x in p.oe() + mine]
        for line, role, state, peer in zip(p.oe() + mine, ["connect"] * p.library + ["accept"] * broker.library,
                                           [states[0]] * p.library + [states[1]] * broker.library,
                                           [broker.state] * p.library + [p.state] * broker.library):
            assert (line.role, line.state, line.protocol) == (role, state, h.PROTOCOLS[version]) and line.reason, line.text
            assert role == "accept" or line.port == relay.port, line.text
            if encrypted:
                assert line.peer == h.fingerprint(peer), line.text
            else:
                assert not (line.peer or "-").startswith("oe1:"), line.text


def run_case(case, brokers, known):
    (pub_has, broker_has, sub_has), version, qos = case
    if h.NATIVE:
        pub_has = broker_has = sub_has = False
    broker = brokers[broker_has]
    said_before = len(broker.oe())
    sent = payloads(huge=case in HUGE)
    root = "oe/" + os.urandom(8).hex()
    # what a later contact must not show: all that CONNECT has
    user, password, will = "user-" + root[3:], "password-" + root[3:], "will/" + root[3:]
    login = ["-u", user, "-P", password] if known else []
    testament = ["--will-topic", will, "--will-payload", "last " + will] if known else []
    kw = {who: dict(protocol=version, library=has) for who, has in (("pub", pub_has), ("sub", sub_has))}
    with h.World(True, fresh=not known) as w:
        relays = {"pub": w.relay(broker), "sub": w.relay(broker)}
        clients = {"pub": [], "sub": []}
        for who in clients if known else ():
            clients[who] += w.introduce(relays[who].port, who, args=login + (testament if who == "sub" else []), **kw[who])
        sub = w.sub(relays["sub"].port, root + "/#", qos=qos, count=len(sent), broker=broker, args=login + testament, **kw["sub"])
        clients["sub"].append(sub)
        order = list(sent)
        random.shuffle(order)
        for name in order:
            pub = w.pub(relays["pub"].port, f"{root}/{name}", payload=sent[name], qos=qos, args=login, **kw["pub"])
            clients["pub"].append(pub)
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
        for relay in relays.values():
            relay.wait_closed()
        needles_sent = [root, *(n for p in sent.values() for n in needles(p))]
        for who, has in (("pub", pub_has), ("sub", sub_has)):
            secrets = [user, password] + ([will, "last " + will] if who == "sub" else []) if known else []
            check_link(who, relays[who], broker, said_before, has, clients[who], version, needles_sent, known, secrets)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_matrix(case, brokers):
    run_case(case, brokers, known=False)


@pytest.mark.parametrize("case", LATER, ids=name_of)
def test_later(case, brokers):
    run_case(case, brokers, known=True)
