"""What MQTT programs do, each scenario run natively and then with every program under the library; both runs must give the same.

A scenario is a function of a World that returns what is to be compared (statuses, outputs, messages). `same()` runs it twice.
`each_contact`: `first`, every client has a state directory of its own and meets the broker for the first time; `later`, all have met it before.
"""
import base64
import collections
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import harness as h

PYTHON = "/usr/bin/python3"
on_library = pytest.mark.skipif(h.NATIVE, reason="about the library alone")
each_contact = pytest.mark.parametrize("later", [False, True], ids=["first", "later"])


def same(scenario, *args, fresh=False):
    """Runs the scenario natively and under the library; returns the library's World's findings after comparing."""
    results = []
    for library in (False, True):
        with h.World(library, fresh) as w:
            w.found = {}
            results.append(scenario(w, *args))
            if library:
                found = w.found
    assert results[1] == results[0], "the run under the library (left) differs from the native one (right)"
    return results[0], found


def random_text(n):
    return base64.b64encode(os.urandom(n))[:n].decode()


def expect_state(w, lines, state, count=None):
    """The log lines say this state (only in the library's world)."""
    if not w.library:
        assert lines == []
        return
    assert lines, "no line of the library"
    assert count is None or len(lines) == count, [x.text for x in lines]
    for x in lines:
        assert x.state == state and x.reason, x.text


def expect_states(w, lines, *states):
    """One line a connection, with these states in their order."""
    assert [x.state for x in lines] == (list(states) if w.library else []), [x.text for x in lines]


def encrypted(w, broker, clients, relays=(), hidden=()):
    """In the library's world everything was encrypted: clients' lines, broker's lines, wire. The first contact of a state directory with an endpoint
    is by probe and `unauthenticated`, each later one by preface and `tofu`. clients: in the order in which those of one state directory connected;
    hidden: what a later contact must not show."""
    if not w.library:
        assert broker.oe() == [] and not any(p.oe() for p in clients)
        for c in (c for r in relays for c in r.connections):
            h.check_plain(c, probed=False, whole=False)
        return
    met = set()
    for p in clients:
        assert p.oe(), "no line of the library"
        for x in p.oe():
            assert x.state == ("tofu" if (p.state, x.address) in met else "unauthenticated") and x.reason, x.text
            met.add((p.state, x.address))
    expect_state(w, broker.oe(), "unauthenticated")                # a broker remembers no client
    accepted = {}
    for x in broker.oe():
        accepted.setdefault(x.port, []).append(x)
    for r in relays:
        met = set()
        for c in r.connections:
            client = accepted[c.upstream_port].pop(0).peer
            later = client in met
            h.check_encrypted(c, whole=False, queued=True, preface="IK" if later else None, hidden=hidden if later else ())
            met.add(client)


def ordered(messages):
    return [(m.topic, m.payload, m.qos, m.retain) for m in messages]


def program_said(p):
    """Exit status, standard output, standard error without the library's lines."""
    return p.status, p.stdout(), h.without_oe(p.stderr())


# ---- retained, Will, passwords -----------------------------------------------------------------------------------------------------------
@each_contact
@pytest.mark.parametrize("protocol", h.PROTOCOLS)
def test_retained(protocol, later):
    topic, marker, payload = "oe/retained/ü", "oe/marker/" + "m" * 12, b"retained \xff\x00 " + random_text(40).encode()

    def scenario(w):
        b = w.broker()
        r = w.relay(b)
        clients = w.introduce(r.port, "pub", "sub", protocol=protocol) if later else []
        clients.append(w.pub(r.port, topic, payload=payload, qos=1, retain=True, protocol=protocol))
        late = w.sub(r.port, [topic, marker], qos=1, protocol=protocol, broker=b, count=1)
        late.wait()
        clients.append(late)
        clients.append(w.pub(r.port, topic, qos=1, retain=True, protocol=protocol))          # empty: deletes
        last = w.sub(r.port, [topic, marker], qos=1, protocol=protocol, broker=b, count=1)
        clients += [w.pub(r.port, marker, payload="end", qos=1, protocol=protocol), last]
        last.wait()
        encrypted(w, b, clients, [r], [late.id, last.id])
        if w.library:
            for needle in (topic, marker, payload):
                assert not h.wire_contains(r, needle)
        return ordered(late.messages()), ordered(last.messages()), [program_said(c)[0] for c in clients]

    (first, second, _), _ = same(scenario, fresh=not later)
    assert first == [(topic, payload, 1, True)] and second == [(marker, b"end", 1, False)]


@each_contact
@pytest.mark.parametrize("protocol", h.PROTOCOLS)
def test_will(protocol, later):
    topic, last_will = "will/of/the/dying", "letzter Wille äöü 12345678"

    def scenario(w):
        b = w.broker()
        r = w.relay(b)
        clients = w.introduce(r.port, "sub", protocol=protocol) if later else []
        heir = w.sub(r.port, "will/#", qos=1, protocol=protocol, broker=b, count=1)
        dying = w.sub(r.port, "other/topic", qos=1, protocol=protocol, broker=b,
                      args=["--will-topic", topic, "--will-payload", last_will, "--will-qos", "1"])
        dying.signal(signal.SIGKILL)
        dying.stop()
        heir.wait()
        encrypted(w, b, [*clients, heir, dying], [r], [topic, last_will, dying.id, heir.id])
        for needle in (topic, last_will):
            assert ("raw" in h.wire_contains(r, needle)) == (not (w.library and later)), needle
        return ordered(heir.messages())

    messages, _ = same(scenario, fresh=not later)
    assert messages == [(topic, last_will.encode(), 1, False)]


def test_will_after_clean_end_is_not_sent():
    def scenario(w):
        b = w.broker()
        heir = w.sub(b.port, "will/#", qos=1, broker=b, count=1)
        leaving = w.sub(b.port, "other", qos=1, broker=b, args=["--will-topic", "will/bad", "--will-payload", "must not come"])
        leaving.signal(signal.SIGTERM)
        leaving.wait()
        w.pub(b.port, "will/marker", payload="marker", qos=1)
        heir.wait()
        return ordered(heir.messages()), leaving.status

    (messages, _), _ = same(scenario)
    assert [m[0] for m in messages] == ["will/marker"]


@each_contact
@pytest.mark.parametrize("protocol", h.PROTOCOLS)
def test_user_and_password(protocol, later):
    user, password = "nutzer-ü-" + random_text(9), "geheim " + random_text(20)
    login = ["-u", user, "-P", password]

    def scenario(w):
        b = w.broker(users={user: password}, anonymous=False)
        r = w.relay(b)
        clients = w.introduce(r.port, "pub", "sub", protocol=protocol, args=login) if later else []
        said = []
        right = w.sub(r.port, "a/b", qos=1, protocol=protocol, broker=b, count=1, args=login)
        clients += [right, w.pub(r.port, "a/b", payload="for the right one", qos=1, protocol=protocol, args=login)]
        said += [program_said(clients[-1]), (right.wait(), right.messages())]
        encrypted(w, b, clients, [r], [user, password, right.id])
        for args in (["-u", user, "-P", "wrong but long"], ["-u", "nobody-at-all", "-P", password], []):
            before = len(r.connections)
            refused = w.pub(r.port, "a/b", payload="x", protocol=protocol, args=args, status=None)
            assert refused.status != 0
            said.append(program_said(refused))
            refused = [refused, w.sub(r.port, "a/b", protocol=protocol, args=args, count=1)]
            refused[1].wait()
            said.append(program_said(refused[1]))
            for p, c in zip(refused, r.connections[before:]):
                # no probe behind a CONNACK that refuses; who is known is refused in records
                expect_states(w, p.oe(), "tofu" if later else "plain")
                if w.library and later:
                    h.check_encrypted(c, preface="IK", hidden=args[1::2])
                elif args:
                    assert "raw" in h.wire_contains(c, args[3])
            assert len(r.connections) == before + 2
        return said

    same(scenario, fresh=not later)


# ---- sessions and many messages ----------------------------------------------------------------------------------------------------------
@each_contact
@pytest.mark.parametrize("protocol,qos", [("mqttv31", 1), ("mqttv311", 1), ("mqttv5", 1), ("mqttv311", 2), ("mqttv5", 2)])
def test_persistent_session(protocol, qos, later):
    """200 messages are queued while the subscriber is away; the broker sends them right behind CONNACK. Broker restarted in between."""
    sizes = [1, 2, 127, 128, 16383, 16384, 65536] + [random.randrange(1, 65536) for _ in range(13)] + [random.randrange(1, 2000)
                                                                                                       for _ in range(180)]
    lines = [random_text(n) for n in sizes]
    topic = "queue/" + random_text(16).replace("+", "p")

    def scenario(w):
        b = w.broker(persistence=True)
        to_sub, to_pub = w.relay(b), w.relay(b)
        ident = h.new_id()
        clients = (w.introduce(to_sub.port, "sub", protocol=protocol) + w.introduce(to_pub.port, "pub", protocol=protocol)) if later else []
        # MQTT 5, QoS 2: with its default Receive Maximum of 20 libmosquitto 2.0.11 itself loses count and disconnects
        session = ["-c", "-D", "connect", "receive-maximum", "65535"] if (protocol, qos) == ("mqttv5", 2) else ["-c"]
        kw = dict(qos=qos, protocol=protocol, client_id=ident)
        first = w.sub(to_sub.port, topic, args=[*session, "-E"], **kw)
        assert first.wait() == 0
        path = w.file("lines", "".join(x + "\n" for x in lines).encode())
        sent = w.pub(to_pub.port, topic, lines=path, qos=qos, protocol=protocol)
        b.restart()
        back = w.sub(to_sub.port, topic, count=len(lines), args=session, **kw)
        back.wait()
        encrypted(w, b, [*clients, first, sent, back], [to_sub, to_pub], [topic, ident, *(x[:40] for x in lines[4:7])])
        if w.library:
            for x in lines[4:7]:
                assert not h.wire_contains(to_pub, x[:40])
        got = [m.payload.decode() for m in back.messages()]
        assert len(got) == len(lines), program_said(back)[2]
        return program_said(first), program_said(sent), back.status, got

    (first, _, status, got), _ = same(scenario, fresh=not later)
    assert first[0] == 0 and got == lines and status == 0


@on_library
@pytest.mark.parametrize("broker_has", [True, False], ids=["library", "stock"])
@pytest.mark.parametrize("kib", [48, 64, 128, 1024, 8192, 24576])
def test_queued_in_front_of_the_answer(kib, broker_has):
    """What a broker sends behind CONNACK before it reads the probe: no wait for the time-out, nothing lost, encrypted up to 16 MiB."""
    size = 8192
    lines = [f"{i:07d} ".encode() + b"x" * (size - 9) + b"\n" for i in range((kib << 10) // size)]
    with h.World(True) as w:
        b = w.broker(library=broker_has)
        ident = h.new_id()
        w.sub(b.port, "in/front", qos=1, client_id=ident, args=["-c", "-E"], library=False).wait()
        w.pub(b.port, "in/front", lines=w.file("lines", b"".join(lines)), qos=1, library=False)
        start = time.monotonic()
        sub = w.sub(b.port, "in/front", qos=1, client_id=ident, args=["-c"], count=len(lines))
        sub.wait()
        took = time.monotonic() - start
        assert [m.payload + b"\n" for m in sub.messages()] == lines
        if kib <= 16384 - 1024:
            expect_state(w, sub.oe(), "unauthenticated" if broker_has else "plain", 1)
            assert sub.oe()[0].reason != "no answer to the probe in time", sub.oe()[0].text
        assert took < 8, f"{took:.1f} s: waited for the handshake's time-out"


@on_library
@pytest.mark.parametrize("protocol", h.PROTOCOLS)
@pytest.mark.parametrize("kib", [64, 1024, 24576])
def test_queued_for_a_later_contact(kib, protocol):
    """What a broker sends behind CONNACK to a client that knows it is in records, however much it is."""
    size = 8192
    lines = [f"{i:07d} ".encode() + b"x" * (size - 9) + b"\n" for i in range((kib << 10) // size)]
    with h.World(True) as w:
        b = w.broker()
        r = w.relay(b)
        ident = h.new_id()
        session = ["-c"] + (["-x", "1000"] if protocol == "mqttv5" else [])
        w.sub(b.port, "queued/in/front", qos=1, client_id=ident, protocol=protocol, args=[*session, "-E"], library=False).wait()
        w.pub(b.port, "queued/in/front", lines=w.file("lines", b"".join(lines)), qos=1, library=False)
        introduced = w.introduce(r.port, "sub", protocol=protocol)
        sub = w.sub(r.port, "queued/in/front", qos=1, client_id=ident, protocol=protocol, args=session, count=len(lines))
        sub.wait()
        assert [m.payload + b"\n" for m in sub.messages()] == lines
        expect_states(w, introduced[0].oe() + sub.oe(), "unauthenticated", "tofu")
        h.check_encrypted(r.connections[1], whole=False, preface="IK", hidden=["queued/in/front", ident, b"x" * 24])


@pytest.mark.parametrize("qos", [0, 1])
def test_pub_lines(qos):
    """mosquitto_pub -l with 20,000 lines."""
    lines = [f"{i} {random_text(random.choice((3, 12, 40, 300)))}" for i in range(20000)]

    def scenario(w):
        b = w.broker()
        sub = w.sub(b.port, "lines/topic", qos=qos, broker=b, count=len(lines))
        path = w.file("lines", "".join(x + "\n" for x in lines).encode())
        pub = w.pub(b.port, "lines/topic", lines=path, qos=qos, timeout=90)
        sub.wait(90)
        encrypted(w, b, [sub, pub])
        got = [m.payload.decode() for m in sub.messages()]
        assert len(got) == len(lines) and got == lines
        return sub.status, program_said(pub)

    same(scenario)


@pytest.mark.parametrize("contact", ["first", "together", "later"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_four_publishers(qos, contact):
    """3,000 messages from each of four publishers at once: complete, in order per publisher. `together`: the four share a state directory and meet
    the broker at the same time; who finds it known already is not foreseen."""
    count, names = 3000, ["eins", "zwei", "drei", "vier"]
    lines = {n: [f"{n} {i} {random_text(i % 200 + 1)}" for i in range(count)] for n in names}

    def scenario(w):
        b = w.broker()
        sub = w.sub(b.port, "four/+", qos=qos, broker=b, count=count * len(names))
        clients = [sub] + (w.introduce(b.port, "pub") if contact == "later" else [])
        pubs = [w.start_pub(b.port, "four/" + n, lines=w.file(n, "".join(x + "\n" for x in lines[n]).encode()), qos=qos)
                for n in names]
        statuses = [p.wait(90) for p in pubs]
        sub.wait(90)
        if contact == "together" and w.library:
            states = [x.state for p in pubs for x in p.oe()]
            assert len(states) == 4 and "unauthenticated" in states and set(states) <= {"unauthenticated", "tofu"}, states
            known = h.known_peers(pubs[0].state)
            assert [line[:3] for line in known] == [[f"127.0.0.1:{b.port}", h.fingerprint(b.state), "tofu"]], known
            expect_state(w, b.oe(), "unauthenticated", 5)
        else:
            encrypted(w, b, [*clients, *pubs])
        got = collections.defaultdict(list)
        for m in sub.messages():
            got[m.topic[5:]].append(m.payload.decode())
        assert got == lines
        return statuses, sub.status

    (statuses, status), _ = same(scenario, fresh=contact == "first")
    assert statuses == [0] * 4 and status == 0


# ---- several connections in one process --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("private", ["true", "false"])
def test_bridge(private):
    """A broker bridged to another: accepts and connects in one process, loses the other and comes back. With try_private the CONNECT's level has
    bit 7 set."""
    payload = random_text(600)

    def scenario(w):
        far = w.broker()
        r = w.relay(far)
        near = w.broker(config=f"connection br-{private}\nremote_clientid br-{private}-name\naddress 127.0.0.1:{r.port}\n"
                               f"topic # both 1\ntry_private {private}\nnotifications false\nrestart_timeout 1\nbridge_attempt_unsubscribe false\n")
        far.wait_log(r"^\S+ 1 #$")                       # the bridge has subscribed
        to_far = w.sub(far.port, "bridged/#", qos=1, broker=far, count=1)
        to_near = w.sub(near.port, "bridged/#", qos=1, broker=near, count=2)
        clients = [to_far, to_near, w.pub(near.port, "bridged/from/near", payload=payload, qos=1)]
        to_far.wait()
        to_near.wait_messages(1)
        r.cut()
        far.wait_log(r"^\S+ 1 #$", 2)
        clients.append(w.pub(far.port, "bridged/from/far", payload=payload, qos=1))
        to_near.wait()
        out = [x for x in near.oe() if x.role == "connect"]
        for p in clients:
            expect_state(w, p.oe(), "unauthenticated", 1)
        expect_states(w, out, "unauthenticated", "tofu")
        assert len(r.connections) == 2
        if w.library:
            assert {x.address for x in out} == {f"127.0.0.1:{r.port}"} and {x.protocol for x in out} == {"3.1.1"}, [x.text for x in out]
            assert not h.wire_contains(r, payload) and not h.wire_contains(r, "bridged/from/near")
            h.check_encrypted(r.connections[0], whole=False)
            h.check_encrypted(r.connections[1], whole=False, preface="IK", hidden=["bridged/from/far", f"br-{private}-name", payload])
            expect_state(w, far.oe(), "unauthenticated")
        return ordered(to_far.messages()), ordered(to_near.messages()), [p.status for p in clients]

    (a, b, _), _ = same(scenario)
    assert [m[1].decode() for m in a + b] == [payload] * 3


PAHO = """
import sys, threading
import paho.mqtt.client as mqtt

port, count = int(sys.argv[1]), int(sys.argv[2])
got, ready, done = [], threading.Event(), threading.Event()

def on_connect(client, userdata, flags, rc):
    client.subscribe("paho/#", 1)

def on_message(client, userdata, m):
    got.append((m.topic, m.payload))
    if len(got) == count:
        done.set()

a, b = mqtt.Client(client_id=sys.argv[3]), mqtt.Client(client_id=sys.argv[4], protocol=mqtt.MQTTv5)
a.on_connect, a.on_message = on_connect, on_message
a.on_subscribe = lambda *_: ready.set()
a.connect("127.0.0.1", port)
a.loop_start()
assert ready.wait(20)
b.connect("127.0.0.1", port)
b.loop_start()
sent = []
for i in range(count):
    sent.append(("paho/ä/%d" % (i % 7), bytes([i % 256]) * (i * 37 % 40000)))
    b.publish(*sent[-1], qos=1)
ok = done.wait(30)
a.disconnect(); b.disconnect()
a.loop_stop(); b.loop_stop()
print("complete" if ok else "incomplete", got == sent, len(got))
"""


def test_two_clients_in_one_program():
    probe = subprocess.run([PYTHON, "-c", "import paho.mqtt.client"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("python3-paho-mqtt is not installed")

    def scenario(w):
        b = w.broker()
        r = w.relay(b)
        second = h.new_id()
        p = w.run([PYTHON, "-c", PAHO, r.port, 300, h.new_id(), second], timeout=60)
        assert p.status == 0, p.stderr()
        expect_states(w, p.oe(), "unauthenticated", "tofu")
        encrypted(w, b, [p], [r], [second])
        if w.library:
            assert not h.wire_contains(r, b"\x11" * 24)
        else:
            assert "raw" in h.wire_contains(r, b"\x11" * 24)
        return p.status, p.stdout()

    (_, out), _ = same(scenario)
    assert out == b"complete True 300\n"


def test_request_and_response():
    """mosquitto_rr: one program that publishes and subscribes, MQTT 5 with response topic and correlation data."""
    if not shutil.which("mosquitto_rr", path=h.PATH):
        pytest.skip("mosquitto_rr is not installed")

    def scenario(w):
        b = w.broker()
        server = w.sub(b.port, "request/topic", qos=1, protocol="mqttv5", broker=b, count=1)
        rr = w.start([h.program("mosquitto_rr"), "-h", "127.0.0.1", "-p", b.port, "-V", "5", "-t", "request/topic", "-e", "response/topic", "-m",
                      "question", "-q", "1"], name="rr")
        server.wait()
        pub = w.pub(b.port, "response/topic", payload="answer", qos=1, protocol="mqttv5")
        assert rr.wait() == 0, rr.stderr()
        encrypted(w, b, [server, rr, pub])
        return ordered(server.messages()), program_said(rr)

    (_, rr), _ = same(scenario)
    assert rr[1] == b"answer\n"


# ---- addresses and errors ----------------------------------------------------------------------------------------------------------------
def test_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    payload = random_text(100)

    def scenario(w):
        b = w.broker(host="::1")
        r = w.relay(b)
        sub = w.sub(r.port, "six/#", host="::1", qos=1, broker=b, count=1)
        pub = w.pub(r.port, "six/" + "s" * 12, host="::1", payload=payload, qos=1)
        sub.wait()
        again = w.pub(r.port, "six/" + "s" * 12, host="::1", payload=payload, qos=1)
        encrypted(w, b, [sub, pub, again], [r], [payload])
        if w.library:
            assert pub.oe()[0].address == f"[::1]:{r.port}", pub.oe()[0].text
            assert [line[0] for line in h.known_peers(pub.state)] == [f"[::1]:{r.port}"]
            assert not h.wire_contains(r, payload) and not h.wire_contains(r, "six/" + "s" * 12)
        return program_said(sub), program_said(pub)

    same(scenario)


@pytest.mark.skipif(h.no_localhost(), reason="localhost is no name here")
def test_host_name():
    def scenario(w):
        b = w.broker()
        sub = w.sub(b.port, "named", host="localhost", broker=b, count=1, qos=1)
        pub = w.pub(b.port, "named", host="localhost", payload="by name", qos=1)
        sub.wait()
        again = w.pub(b.port, "named", host="LocalHost", payload="by name", qos=1)
        encrypted(w, b, [sub, pub, again])
        if w.library:
            assert [line[0] for line in h.known_peers(pub.state)] == [f"localhost:{b.port}"]
        return program_said(sub), program_said(pub), program_said(again)

    same(scenario)


def test_connection_refused():
    port = h.free_port()

    def scenario(w):
        said = []
        for protocol in h.PROTOCOLS:
            pub = w.pub(port, "t", payload="x", protocol=protocol, status=None)
            sub = w.sub(port, "t", protocol=protocol, count=1)
            sub.wait()
            assert pub.status != 0 and sub.status != 0
            said += [program_said(pub), program_said(sub)]
            assert pub.oe() == [] and sub.oe() == []
        return said

    same(scenario)


@pytest.mark.parametrize("host", ["256.256.256.256", "host.invalid", "::g", "", "127.0.0.1:1883", "ä.invalid"])
def test_bad_address(host):
    def scenario(w):
        return program_said(w.pub(1883, "t", payload="x", host=host, status=None))

    (status, _, _), _ = same(scenario)
    assert status != 0


@pytest.mark.parametrize("port", ["0", "65536", "-1", "abc"])
def test_bad_port(port):
    same(lambda w: program_said(w.pub(port, "t", payload="x", status=None)))


@pytest.mark.parametrize("arguments", [["-t", "bad/#/topic"], ["-q", "3", "-t", "a"], ["-t", "a", "-V", "9"], ["--help"], []])
def test_usage_errors(arguments):
    same(lambda w: program_said(w.run([h.program("mosquitto_pub"), "-m", "x", *arguments])))


# ---- payloads and topics -----------------------------------------------------------------------------------------------------------------
@each_contact
@pytest.mark.parametrize("protocol", h.PROTOCOLS)
def test_awkward_payloads_and_topics(protocol, later):
    """Longer than a key, around the ancestor's limits, numbers, non-ASCII, binary; topics of every kind."""
    cases = [(f"n/{i}", p) for i, p in enumerate(
        [b"0", b"-1", b"3.14159", b"1e400", b"12345678901234567890", b"\x00", b"\xff" * 33, b"\x32\x00", b"a" * 31, b"b" * 32, b"c" * 33,
         b"d" * 64, b"e" * 214, b"f" * 215, b"g" * 256, b"h" * 257, b"i" * 523, b"\x30\x03\x00\x01$", os.urandom(2048),
         "Grüße, Привет, 你好, 🌍".encode(), b"\r\n", b" ", b"$SYS"])]
    cases += [(t, b"topic " + str(i).encode()) for i, t in enumerate(
        ["größe/ä", "температура/кухня", "温度/厨房", "🌡/🏠", " ", "/", "//", "a b/c", "/leading", "trailing/", "x" * 1000,
         "oe-mqtt/1",
         "oe-mqtt/2", "$other/x", "q/" * 100 + "deep"])]

    def scenario(w):
        b = w.broker()
        clients = w.introduce(b.port, "sub", "pub", protocol=protocol) if later else []
        sub = w.sub(b.port, ["#", "$other/#"], qos=1, protocol=protocol, broker=b, count=len(cases))
        pubs = [w.pub(b.port, t, payload=p, qos=1, protocol=protocol) for t, p in cases]
        sub.wait()
        encrypted(w, b, [*clients, sub, *pubs])
        return sorted(ordered(sub.messages())), [program_said(p) for p in pubs]

    (messages, _), _ = same(scenario, fresh=not later)
    assert sorted((m[0], m[1]) for m in messages) == sorted(cases)


def test_unsubscribe():
    """-U: an UNSUBSCRIBE of the application is the first packet after CONNACK, and is not a probe."""
    def scenario(w):
        b = w.broker()
        sub = w.sub(b.port, ["stay/#", "go/#"], qos=1, broker=b, count=1, args=["-U", "go/#"])
        b.wait_log(rf"^{sub.id} go/#$")
        w.pub(b.port, "go/x", payload="unwanted", qos=1)
        w.pub(b.port, "stay/x", payload="wanted", qos=1)
        sub.wait()
        return ordered(sub.messages()), program_said(sub)

    (messages, _), _ = same(scenario)
    assert [m[1] for m in messages] == [b"wanted"]


def test_keepalive():
    """An idle encrypted connection outlives several keep-alive periods."""
    def scenario(w):
        b = w.broker()
        r = w.relay(b)
        sub = w.sub(r.port, "keep", qos=1, broker=b, count=1, args=["-k", "5"])
        time.sleep(8.5)                                    # PINGREQ after 5 s, the broker's patience ends at 7.5 s
        w.pub(b.port, "keep", payload="still here", qos=1)
        sub.wait()
        assert len(r.connections) == 1
        encrypted(w, b, [sub], [r])
        return program_said(sub)

    same(scenario)


# ---- networks that fail ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_broker_restarted(kill):
    def scenario(w):
        b = w.broker()
        sub = w.sub(b.port, "re/start", qos=1, broker=b, count=2)
        pubs = [w.pub(b.port, "re/start", payload="before", qos=1)]
        sub.wait_messages(1)
        b.restart(kill)
        b.wait_subscribed(sub.id, 2)
        pubs.append(w.pub(b.port, "re/start", payload="after", qos=1))
        sub.wait()
        expect_states(w, sub.oe(), "unauthenticated", "tofu")
        encrypted(w, b, [sub, *pubs])
        return ordered(sub.messages()), program_said(sub)

    (messages, _), _ = same(scenario)
    assert [m[1] for m in messages] == [b"before", b"after"]


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_subscriber_loses_the_network(how):
    """The relay cuts an idle connection; the client connects again, encrypted again."""
    def scenario(w):
        b = w.broker()
        r = w.relay(b)
        sub = w.sub(r.port, "lost/net", qos=1, broker=b, count=2)
        w.pub(b.port, "lost/net", payload="before", qos=1)
        sub.wait_messages(1)
        r.cut(how)
        b.wait_subscribed(sub.id, 2)
        w.pub(b.port, "lost/net", payload="after", qos=1)
        sub.wait()
        assert len(r.connections) == 2
        expect_states(w, sub.oe(), "unauthenticated", "tofu")
        encrypted(w, b, [sub], [r], [sub.id])
        return ordered(sub.messages()), program_said(sub)

    same(scenario)


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_network_lost_in_the_middle_of_messages(how):
    """The connection of a subscriber with a session is cut amid a message, later again; every message arrives, unaltered and in order.
    After each cut the client connects again and is encrypted again, whatever the broker sends behind CONNACK.

    QoS 1: at QoS 2 mosquitto 2.0.11 loses a message in some of these runs, natively too."""
    payloads = [f"{i} ".encode() + os.urandom(20000) for i in range(100)]

    def scenario(w):
        b = w.broker()
        r = w.relay(b)
        ident = h.new_id()
        r.plan_cut("to_client", 333333, how)
        sub = w.sub(r.port, "cut/here", qos=1, client_id=ident, args=["-c"], broker=b)

        def have(n):
            def arrived():
                try:
                    return len({m.payload for m in h.parse_messages(sub.stdout(), whole=False)}) >= n
                except ValueError:
                    return False
            h.wait_until(arrived, lambda: f"{n} messages; {len(r.connections)} connections; {sub.stderr()[-1500:]}")

        for p in payloads[:60]:
            w.pub(b.port, "cut/here", payload=p, qos=1, library=False)
        have(60)
        assert len(r.connections) == 2
        r.cut(how)
        for p in payloads[60:]:
            w.pub(b.port, "cut/here", payload=p, qos=1, library=False)
        have(100)
        sub.signal(signal.SIGTERM)
        sub.wait()
        assert list(dict.fromkeys(m.payload for m in sub.messages())) == payloads, "altered or out of order"
        expect_states(w, sub.oe(), "unauthenticated", "tofu", "tofu")
        if w.library:
            for n, c in enumerate(r.connections):
                h.check_encrypted(c, whole=False, queued=True, preface="IK" if n else None, hidden=[ident] if n else ())
        return sub.status, len(r.connections)

    same(scenario)


@each_contact
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_publisher_loses_the_network(how, later):
    """The connection is cut amid a QoS 1 message of 300 KiB: mosquitto_pub says so and ends with an error, as natively; no part arrives."""
    payload = os.urandom(300 << 10)

    def scenario(w):
        b = w.broker()
        r = w.relay(b)
        if later:
            w.introduce(r.port, "pub")
        r.plan_cut("to_server", 100000, how)
        sub = w.sub(b.port, "cut/pub", qos=1, broker=b, count=1)
        pub = w.pub(r.port, "cut/pub", payload=payload, qos=1, status=None)
        w.pub(b.port, "cut/pub", payload="end", qos=1)
        sub.wait()
        expect_states(w, pub.oe(), *["tofu" if later else "unauthenticated"] * (len(r.connections) - later))
        # which of the two it meets first, the end of the stream or the failing write, is chance
        _, out, said = program_said(pub)
        assert out == b"" and said in ("Error: The connection was lost.\n", "Error: Broken pipe\n", "Error: Connection reset by peer\n"), said
        return pub.status != 0, len(r.connections), ordered(sub.messages())

    (failed, _, messages), _ = same(scenario, fresh=not later)
    assert failed and [m[1] for m in messages] == [b"end"]


@on_library
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_cut_inside_the_handshake(direction):
    """The connection ends somewhere in the handshake: the program sees an end of connection, connects again and is served."""
    with h.World(True) as w:
        b = w.broker()
        r = w.relay(b)
        # to the server: CONNECT 31, probe 59, message 3 77; to the client: CONNACK 4, message 2 109, UNSUBACK 4
        spots = (10, 33, 60, 90, 120, 166) if direction == "to_server" else (2, 5, 60, 112, 114, 116)
        for count in spots:
            for how in ("fin", "rst"):
                r.plan_cut(direction, count, how)
                r.plan_cut(direction, None)
                sub = w.sub(r.port, "hand/shake", qos=1, broker=b, count=1, state=w.state(f"{count}{how}"))
                w.pub(b.port, "hand/shake", payload="came", qos=1)
                sub.wait()
                assert [m.payload for m in sub.messages()] == [b"came"], (count, how)
                assert sub.status == 0, (count, how, sub.stderr())
                assert sub.oe(), "the library said nothing"


@on_library
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_cut_inside_a_later_handshake(direction):
    """A known broker, and the connection ends in or behind the preface's handshake: the program connects again by itself and is served. Nothing of it
    is on the wire either way."""
    with h.World(True) as w:
        b = w.broker()
        r = w.relay(b)
        handshake = 143 if direction == "to_server" else 83      # bytes of the preface without CONNECT, of message 2
        for count in (0 if direction == "to_server" else 1, handshake // 2, handshake - 1, handshake, handshake + 1, handshake + 20):
            for how in ("fin", "rst"):
                kw = dict(qos=1, broker=b, count=1, state=w.state(f"{count}{how}"), client_id=h.new_id())
                w.introduce(r.port, f"{count}{how}")
                before = len(r.connections)
                r.plan_cut(direction, count, how)
                sub = w.sub(r.port, "hand/shake/later", **kw)
                inside = count < handshake or (direction, count) == ("to_server", handshake)   # the answer cannot come either
                w.pub(b.port, "hand/shake/later", payload="came", qos=1)
                assert sub.wait() == 0, (count, how, sub.stderr())
                assert [m.payload for m in sub.messages()] == [b"came"], (count, how)
                expect_states(w, sub.oe(), "refused" if inside else "tofu", "tofu")
                assert len(r.connections) == before + 2, (count, how)
                for c in r.connections[before:]:
                    assert not h.wire_contains(c, sub.id) and not h.wire_contains(c, "hand/shake/later")
                h.check_encrypted(r.connections[-1], whole=False, preface="IK")


# ---- strangers ---------------------------------------------------------------------------------------------------------------------------
STRANGE = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(range(200)),
    "zeros": bytes(200),
    "connect-like": b"\x10\xff\xff\xff\xff\x7f" + b"x" * 50,
    "bad-level": b"\x10\x0d\x00\x04MQTT\x09\x02\x00\x3c\x00\x01a",
    "publish-first": b"\x30\x05\x00\x01tab",
    "probe-first": b"\xa2\x39\xff\xff\x00\x35oe-mqtt/1/" + b"A" * 43,
    "handshake-first": b"\x30\x6b\x00\x09oe-mqtt/1" + b"m" * 96,
    "record-first": b"\x30\x23\x00\x01$" + b"r" * 32,
    "connect-then-garbage": b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a" + b"\xff" * 40,
    "connect-then-record": b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a" + b"\x30\x23\x00\x01$" + b"r" * 32,
    "half-connect": b"\x10\x0d\x00\x04MQ",
}


@pytest.mark.parametrize("name", STRANGE)
def test_stranger_at_the_broker(name):
    """A stranger sends something and half-closes: it gets what a broker without the library answers, and the broker goes on."""
    def scenario(w):
        b = w.broker()
        sub = w.sub(b.port, "other/#", qos=1, broker=b, count=1)
        for step in (len(STRANGE[name]) or 1, 1):        # at once, and byte by byte
            with socket.create_connection(("127.0.0.1", b.port)) as s:
                s.settimeout(20)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answer = b""
                try:
                    for i in range(0, len(STRANGE[name]), step):
                        s.sendall(STRANGE[name][i:i + step])
                    s.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                try:
                    while chunk := s.recv(4096):
                        answer += chunk
                except ConnectionError:
                    pass
            if step == 1:
                break
        pub = w.pub(b.port, "other/x", payload="the broker lives", qos=1)
        sub.wait()
        for p in (sub, pub):
            expect_state(w, p.oe(), "unauthenticated", 1)
        return ordered(sub.messages()), answer

    same(scenario)


class Impostor:
    """A listener that says something to whoever connects, reads until the end, keeps what it read."""

    def __init__(self, answers, close=False):
        self.answers, self.close_after, self.read = answers, close, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            with s:
                got = b""
                try:
                    if self.answers.get("first"):
                        s.sendall(self.answers["first"])
                    s.settimeout(20)
                    got = s.recv(4096)
                    s.sendall(self.answers.get("connect", b""))
                    if not self.close_after:
                        while chunk := s.recv(4096):
                            got += chunk
                except OSError:
                    pass
                self.read.append(got)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(25)


@pytest.mark.parametrize("answers,close", [
    ({"connect": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, True),
    ({"first": b"220 mail.example ESMTP\r\n"}, True),
    ({"connect": b"\x20\x02\x00\x05"}, True),
    ({"connect": b"\x20\x02\x00\x03"}, False),
    ({}, True),
    ({"connect": b"\x91" + os.urandom(300)}, True),
], ids=["http", "speaks-first", "refuses", "refuses-open", "closes", "garbage"])
def test_client_meets_a_stranger(answers, close):
    def scenario(w):
        i = Impostor(answers, close)
        w.defer(i.close)
        p = w.start([h.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", i.port, "-t", "t", "-m", "for nobody"])
        try:
            p.popen.wait(3)
        except subprocess.TimeoutExpired:
            p.stop()                                       # natively it tries again for ever
        p.stop()
        return program_said(p)[:2]

    same(scenario)


# ---- users -------------------------------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start with")
@pytest.mark.parametrize("protocol", h.PROTOCOLS)
def test_broker_drops_root(protocol):
    """mosquitto started as root changes to user mosquitto after start; its state directory belongs to mosquitto."""
    payload = random_text(80)

    def scenario(w):
        b = w.broker(drop=True)
        uid = int(re.search(r"^Uid:\s+(\d+)", open(f"/proc/{b.proc.pid}/status", encoding="ascii").read(), re.M)[1])
        assert uid != 0
        r = w.relay(b)
        sub = w.sub(r.port, "drop/#", qos=1, protocol=protocol, broker=b, count=1)
        pub = w.pub(r.port, "drop/" + "d" * 12, payload=payload, qos=1, protocol=protocol)
        sub.wait()
        encrypted(w, b, [sub, pub], [r])
        if w.library:
            assert sub.oe()[0].peer == h.fingerprint(b.state)
            assert not h.wire_contains(r, payload) and not h.wire_contains(r, "drop/" + "d" * 12)
        return program_said(sub), program_said(pub)

    same(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start with")
def test_broker_drops_root_and_loses_its_state():
    """As above with a state directory that only root can open: still delivered, encrypted or in plain, and said."""
    def scenario(w):
        b = w.broker(drop=True, state=w.state("of-root"))
        sub = w.sub(b.port, "drop/#", qos=1, broker=b, count=1)
        pub = w.pub(b.port, "drop/x", payload="came", qos=1)
        sub.wait()
        if w.library:
            assert all(x.state in ("plain", "unauthenticated") for p in (sub, pub, b) for x in p.oe())
            assert len(sub.oe()) == 1 and len(pub.oe()) == 1 and len(b.oe()) == 2, b.log()
        return program_said(sub), program_said(pub)

    same(scenario)


@on_library
def test_as_ordinary_user():
    """All three programs as an ordinary user from a build tree that is read-only for it."""
    if os.geteuid() != 0:
        pytest.skip("all tests run as an ordinary user here")
    if not h.SETPRIV:
        pytest.skip("no setpriv")
    with h.World(True) as w:
        os.chmod(w.dir, 0o777)
        # a copy of the tree: root's own may lie where others cannot go
        launcher = os.path.join(w.dir, "tree", "tools", "oe-mqtt")
        built = os.path.join(w.dir, "tree", "build")
        os.makedirs(os.path.dirname(launcher))
        os.makedirs(built)
        shutil.copy(h.LAUNCHER, launcher)
        shutil.copy(h.ROOT / "build" / "oe-mqttctl", built)
        shutil.copy(h.LIBRARY, os.path.join(built, "liboe-mqtt.so"))
        b = w.broker()
        for name in ("pub", "sub"):
            os.chmod(w.state(name), 0o700)
            os.chown(w.state(name), 65534, 65534)

        def as_nobody(name, command):
            fd, out = -1, os.path.join(w.dir, name + ".nobody")
            fd = os.open(out, os.O_RDWR | os.O_CREAT, 0o600)
            env = {k: v for k, v in h.child_env(w.state(name)).items() if k != "OE_MQTT_LIBRARY"}
            p = subprocess.Popen([h.SETPRIV, "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig", "KILL", "--",
                                  launcher, "-v", *(str(c) for c in command)], stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, env=env, cwd="/")
            os.close(fd)
            w.defer(lambda: (p.kill(), p.wait()))
            return p, out

        ident = h.new_id()
        sub, out = as_nobody("sub", [h.program("mosquitto_sub"), "-h", "127.0.0.1", "-p", b.port, "-t", "nobody", "-C", "1", "-i", ident, "-q", "1"])
        b.wait_subscribed(ident)
        pub, pub_out = as_nobody("pub", [h.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", b.port, "-t", "nobody", "-m", "from nobody", "-q", "1"])
        assert pub.wait(h.PATIENCE) == 0 and sub.wait(h.PATIENCE) == 0, open(out, encoding="utf-8").read()
        said = open(out, encoding="utf-8").read()
        assert "from nobody" in said
        for text in (said, open(pub_out, encoding="utf-8").read()):
            lines = h.oe_lines(text)
            assert len(lines) == 1 and lines[0].state == "unauthenticated", text
            assert lines[0].peer == h.fingerprint(b.state)


# ---- the tests' own tools ----------------------------------------------------------------------------------------------------------------
def test_search_finds_every_encoding():
    needle = os.urandom(20)
    noise = os.urandom(3000)
    assert h.wire_contains(noise, needle) == []
    assert "raw" in h.wire_contains(noise + needle + noise, needle)
    assert "hex" in h.wire_contains((noise + needle + noise).hex().encode(), needle)
    assert "HEX" in h.wire_contains((noise + needle + noise).hex().upper().encode(), needle)
    for before in range(3):
        whole = noise[:300 + before] + needle + noise[:100]
        assert any(x.startswith("base64+") for x in h.wire_contains(base64.b64encode(whole), needle))
        assert any(x.startswith("base64url") for x in h.wire_contains(base64.urlsafe_b64encode(whole), needle))
    with pytest.raises(ValueError):
        h.wire_contains(noise, b"short")


def test_parser_reads_and_refuses():
    connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"
    good = connect + b"\x30\x06\x00\x01tabc" + b"\x32\x07\x00\x01t\x00\x01ab" + b"\xc0\x00" + b"\x62\x02\x00\x01" + b"\xe0\x00"
    whole = h.WireParser("client").feed(good).finish()
    split = h.WireParser("client")
    for i in range(len(good)):
        split.feed(good[i:i + 1])
    assert split.finish() == whole and [p.type for p in whole] == [1, 3, 3, 12, 6, 14]
    assert good[slice(*whole[1].payload)] == b"abc"
    bad = {"type 0": b"\x00\x00", "AUTH": b"\xf0\x00", "flags": b"\xc1\x00", "qos 3": b"\x36\x07\x00\x01t\x00\x01ab",
           "dup": b"\x38\x03\x00\x01t",
           "topic too long": b"\x30\x03\x00\x05t", "wildcard": b"\x30\x03\x00\x01#", "not UTF-8": b"\x30\x03\x00\x01\xff",
           "empty topic": b"\x30\x02\x00\x00", "long length": b"\x30\xff\xff\xff\xff\x01", "not minimal": b"\x30\x83\x00\x00\x01t",
           "PUBREL flags": b"\x60\x02\x00\x01", "second CONNECT": connect, "from server": b"\x20\x02\x00\x00", "ping body": b"\xc0\x01a",
           "identifier": b"\x32\x05\x00\x01t\x00\x00", "SUBSCRIBE flags": b"\x80\x06\x00\x01\x00\x01t\x00"}
    for why, packet in bad.items():
        with pytest.raises(h.Malformed):
            h.WireParser("client").feed(connect + packet).finish()
            pytest.fail(why)
    with pytest.raises(h.Malformed):
        h.WireParser("client").feed(good[2:])
    with pytest.raises(h.Malformed):
        h.WireParser("client").feed(good[:-1]).finish()


def test_public_key_of_rfc7748():
    """RFC 7748, 6.1: Bob."""
    secret = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert h.x25519_base(secret).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"


def test_log_lines_are_read():
    text = ('noise\noe-mqtt[42]: connect 127.0.0.1:1883 state=unauthenticated protocol=3.1.1 peer=oe1:AAAA= reason="the peer, it has"\n'
            'oe-mqtt[42]: accept [::1]:99 state=plain protocol=5.0 peer=- reason="no probe"\n')
    a, b = h.oe_lines(text)
    assert (a.pid, a.role, a.address, a.port, a.state, a.peer, a.reason) == (42, "connect", "127.0.0.1:1883", 1883, "unauthenticated",
                                                                             "oe1:AAAA=", "the peer, it has")
    assert (b.role, b.port, b.state, b.protocol) == ("accept", 99, "plain", "5.0")
    assert h.without_oe(text) == "noise\n"


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    left = [p.argv for p in h._running.values() if p.alive()]
    assert not left, left


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))


def test_unix_listener():
    """A connection that never leaves the host is passed by, next to encrypted ones of the same broker."""
    def scenario(w):
        path = os.path.join(w.dir, "socket")
        b = w.broker(config=f"listener 0 {path}\nallow_anonymous true")
        over_tcp = w.sub(b.port, ["local/#"], qos=1, broker=b, count=2)
        over_unix = w.start([h.program("mosquitto_sub"), "--unix", path, "-t", "local/#", "-q", "1", "-C", "2", "-W", "20", "-i", "unix-sub"])
        h.wait_until(lambda: "unix-sub 1 local/#" in b.proc.stderr(), b.proc.stderr)
        local = w.run([h.program("mosquitto_pub"), "--unix", path, "-t", "local/a", "-m", "from here", "-q", "1"])
        remote = w.pub(b.port, "local/b", payload="from there", qos=1)
        over_tcp.wait()
        over_unix.wait()
        if w.library:
            assert local.oe() == over_unix.oe() == []
            expect_state(w, over_tcp.oe(), "unauthenticated", 1)
            expect_state(w, remote.oe(), "unauthenticated", 1)
            expect_state(w, b.oe(), "unauthenticated", 2)
        return ordered(over_tcp.messages()), over_unix.stdout(), [p.status for p in (local, remote, over_unix)]

    (messages, lines, statuses), _ = same(scenario, fresh=True)
    assert [m[1] for m in messages] == [b"from here", b"from there"] and lines == b"from here\nfrom there\n" and statuses == [0, 0, 0]
