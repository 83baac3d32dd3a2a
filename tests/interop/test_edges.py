"""The real library against the tests' own independent peers (tests/lib/oewire.py): interoperation, every fallback, connections that end in
mid-handshake, strangers, and every bit flipped. Stock mosquitto, mosquitto_pub, mosquitto_sub, openssl, curl, and raw Python peers
(tests/lib/shim_peer.py) run under the library; this process never does."""

import datetime
import hashlib
import http.server
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import sys
import threading
import time

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import fakes
import harness
import mqtt
import oewire
from fakes import Ended, FakeBroker, Session
from rawpeers import LibraryServer, one_client, run_clients, settings

pytestmark = pytest.mark.skipif(harness.NATIVE or harness.POLICY == "off", reason="these tests are about the library")
SERVER_KEY = bytes([7]) * 32
SERVER_PRINT = oewire.Responder(SERVER_KEY).fingerprint
each_version = pytest.mark.parametrize("version", mqtt.VERSIONS, ids=[mqtt.NAME[v] for v in mqtt.VERSIONS])
OUTCOMES = {"eof", "ECONNRESET", "EPIPE"}  # ways in which a connection may end for an application


@pytest.fixture
def world():
    with harness.World(True) as w:
        yield w


def responder():
    return oewire.Responder(SERVER_KEY)


def same_protocol(line, version):
    return line.protocol in ("5", "5.0") if version == 5 else line.protocol == mqtt.NAME[version]


def one_line(proc, state, role="connect"):
    """The library's line about the only connection of a program: proves that the hooks ran."""
    lines = [line for line in proc.oe() if line.role == role]
    assert len(lines) == 1, proc.stderr()
    assert lines[0].state == state, lines[0].text
    return lines[0]


def pub(world, port, version, topic="t/x", payload="hello", qos=1, status=0, **kw):
    kw.setdefault("env", settings(world, 700))
    return world.pub(port, topic, payload=payload, qos=qos, protocol=mqtt.MOSQUITTO_V[version], status=status, **kw)


# ---- interoperation ----------------------------------------------------------------------------------------------------------------------

@each_version
def test_python_initiator_and_mosquitto(world, version):
    broker = world.broker(env=settings(world, 15000))
    fingerprint = harness.fingerprint(broker.state)
    with fakes.connect_secure(broker.port) as a, fakes.connect_secure(broker.port) as b:
        for n, wire in enumerate((a, b)):
            wire.send(mqtt.connect(version, f"python-{n}"))
            assert wire.recv_packet()[:1] == b"\x20"
        a.send(mqtt.subscribe(version, 1, "plant/#", qos=1))
        assert a.recv_packet()[0] == 0x90
        for n, payload in enumerate((b"", b"\xc3\xa4\xe2\x82\xac\x00", b"x" * 16364, os.urandom(300000))):
            b.send(mqtt.publish(version, "plant/7/secret", payload, qos=1, ident=n + 1))
            assert b.recv_packet() == mqtt.puback(n + 1)[:4] or version == 5
            topic, got, ident = mqtt.parse_publish(version, a.recv_packet())
            assert (topic, got) == (b"plant/7/secret", payload)
            a.send(mqtt.puback(ident))
        for wire in (a, b):
            assert wire.endpoint.state == "RECORDS" and wire.endpoint.peer_fingerprint == fingerprint
            assert b"plant/" not in bytes(wire.raw_in) + bytes(wire.raw_out)
            wire.send(mqtt.disconnect())
    harness.wait_until(lambda: len(broker.oe()) >= 2, "two lines in the broker's log")
    for line, wire in zip(broker.oe(), (a, b)):
        assert (line.role, line.state) == ("accept", "unauthenticated") and same_protocol(line, version), line.text
        assert line.peer in {w.endpoint.fingerprint for w in (a, b)}


@each_version
def test_python_responder_and_mosquitto_clients(world, version):
    """The fake broker routes one message from mosquitto_pub to mosquitto_sub."""
    published, subscribed = threading.Event(), threading.Event()
    box = []

    def script(wire, _):
        s = Session(wire).accept()

        def route(_raw):
            subscribed.set()
            assert published.wait(20)
            for topic, payload in box:
                wire.send(mqtt.publish(s.version, topic, payload))
        s.on_subscribe = route
        s.serve()
        if s.published:
            box.extend(s.published)
            published.set()
        return wire.endpoint, bytes(wire.raw_in) + bytes(wire.raw_out), s

    with FakeBroker(script, responder) as fake:
        sub = world.sub(fake.port, "plant/#", protocol=mqtt.MOSQUITTO_V[version], count=1, env=settings(world, 15000))
        assert subscribed.wait(20)
        p = pub(world, fake.port, version, "plant/secret-topic", b"secret \xc3\xa4 payload" * 2000)
        assert sub.wait() == 0
        results = [fake.result() for _ in range(2)]
    assert [m.payload for m in sub.messages()] == [b"secret \xc3\xa4 payload" * 2000]
    for proc in (p, sub):
        line = one_line(proc, "unauthenticated")
        assert same_protocol(line, version) and line.peer == SERVER_PRINT, line.text
    keys = {harness.fingerprint(world.state(name)) for name in ("pub", "sub")}
    assert {r[0].peer_fingerprint for r in results} == keys
    for endpoint, wire, session in results:
        assert endpoint.state == "RECORDS" and b"secret" not in wire
        assert not session.probes


@each_version
def test_library_server_and_client(world, version):
    """Both raw peers under the library; blocking and non-blocking sockets, 40 connections in one process at a time: first contacts with 40
    endpoints, a later one with each, then 40 later ones with one of them."""
    server = LibraryServer(world, ports=40)
    up = b"".join(mqtt.publish(version, "up", b"payload %d" % n) for n in range(20))
    whole = mqtt.connack(version) + mqtt.publish(version, "down", b"marker-down")
    whole += b"".join(mqtt.publish(version, "echo", b"payload %d" % n) for n in range(20))
    for letter, ports, state in (("a", server.ports, "unauthenticated"), ("b", server.ports, "tofu"), ("c", [server.port] * 40, "tofu")):
        connections = [{"port": p, "id": f"{letter}{n}", "blocking": n % 2 == 0} for n, p in enumerate(ports)]
        results, proc = run_clients(world, version, connections, send=up.hex(), stop_after=len(whole), expect=state)
        for r in results:
            assert (r["data"], r["end"]) == (whole, "eof")
        assert sorted(line.port for line in proc.oe()) == sorted(ports)
        assert all(same_protocol(line, version) and line.peer == harness.fingerprint(server.proc.state) for line in proc.oe()), proc.stderr()
    known = harness.known_peers(proc.state)
    assert sorted(line[0] for line in known) == sorted(f"127.0.0.1:{p}" for p in server.ports), known
    assert {tuple(line[1:3]) for line in known} == {(harness.fingerprint(server.proc.state), "tofu")}
    found = server.report()
    for name in (f"{letter}{n}" for letter in "abc" for n in range(40)):
        assert found[name] == (mqtt.connect(version, name) + up, "eof"), name
    lines = server.proc.oe()
    assert len(lines) == 120
    for line in lines:
        assert (line.role, line.state, line.peer) == ("accept", "unauthenticated", harness.fingerprint(proc.state)), line.text
        assert same_protocol(line, version), line.text


@each_version
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_client_that_does_not_wait_for_connack(world, version, blocking):
    """What follows CONNECT in the same call goes into records in a later contact; a first one has no place for a probe then."""
    server = LibraryServer(world)
    with harness.Relay(server.port) as relay:
        up = b"".join(mqtt.publish(version, "up", b"not waited %d" % n + b"x" * 30000) for n in range(9))
        whole = mqtt.connack(version) + mqtt.publish(version, "down", b"marker-down")
        whole += b"".join(mqtt.publish(version, "echo", b"not waited %d" % n + b"x" * 30000) for n in range(9))
        hasty = dict(behind=up.hex(), stop_after=len(whole))
        jobs = [("hasty-first-1", hasty, "plain"), ("patient-two-2", dict(send=up.hex(), stop_after=len(whole)), "unauthenticated"),
                ("hasty-later-3", hasty, "tofu"), ("hasty-again-4", hasty, "tofu")]
        for name, job, state in jobs:
            results, _ = run_clients(world, version, [{"port": relay.port, "id": name, "blocking": blocking}], expect=state, ms=15000, **job)
            assert (results[0]["data"], results[0]["end"]) == (whole, "eof"), name
        relay.wait_closed()
        harness.check_plain(relay.connections[0], probed=False)
        harness.check_encrypted(relay.connections[1], queued=True, hidden=["not waited 1xxxx"])
        for n in (2, 3):
            link = harness.check_encrypted(relay.connections[n], preface="IK", hidden=["not waited 1xxxx", jobs[n][0]])
            assert link.early == (len(mqtt.connect(version, jobs[n][0])) if n == 3 else 0)
    found = server.report()
    for name, _, _ in jobs:
        assert found[name] == (mqtt.connect(version, name) + up, "eof"), name


# ---- fallback ----------------------------------------------------------------------------------------------------------------------------

def stock(wire, _):
    return Session(wire).accept().serve()


@each_version
def test_stock_broker(world, version):
    with FakeBroker(stock) as fake:
        p = pub(world, fake.port, version)
        s = fake.result()
    assert s.published == [(b"t/x", b"hello")] and len(s.probes) == 1
    line = one_line(p, "plain")
    assert line.reason and same_protocol(line, version)


@each_version
def test_probe_never_answered(world, version):
    """Time-out, then CONNACK reaches the application; the broker is remembered."""
    def script(wire, _):
        s = Session(wire).accept()
        first = s.packet()
        if oewire.parse_probe(s.version, first) is None:
            s.handle(first)
        else:
            s.probes.append(first)
        return s.serve()

    with FakeBroker(script) as fake:
        start = time.monotonic()
        p = pub(world, fake.port, version)
        took = time.monotonic() - start
        s = fake.result()
        assert s.published == [(b"t/x", b"hello")] and len(s.probes) == 1
        assert 0.6 < took < 6
        one_line(p, "plain")
        with open(os.path.join(world.state("pub"), "no_probe"), encoding="ascii") as f:
            assert f":{fake.port} " in f.read()
        start = time.monotonic()
        p = pub(world, fake.port, version)
        s = fake.result()
        assert s.published == [(b"t/x", b"hello")] and s.probes == []
        one_line(p, "plain")


@each_version
def test_closed_on_the_probe(world, version):
    """The application's next connection works, because the broker is remembered."""
    def script(wire, broker):
        s = Session(wire).accept()
        first = s.packet()
        if oewire.parse_probe(s.version, first) is not None:
            return "closed"
        s.handle(first)
        return s.serve()

    with FakeBroker(script) as fake:
        pub(world, fake.port, version, status=None)
        assert fake.result() == "closed"
        p = pub(world, fake.port, version)
        s = fake.result()
        assert s.published == [(b"t/x", b"hello")]
        one_line(p, "plain")
        assert "closed" in open(os.path.join(world.state("pub"), "no_probe"), encoding="ascii").read()


def test_closed_on_the_probe_reconnect_in_one_process(world):
    """mosquitto_sub reconnects by itself."""
    def script(wire, broker):
        s = Session(wire).accept()
        first = s.packet()
        if oewire.parse_probe(s.version, first) is not None:
            return "closed"
        s.on_subscribe = lambda raw: wire.send(mqtt.publish(s.version, "t", b"after the reconnect"))
        s.handle(first)
        return s.serve()

    with FakeBroker(script) as fake:
        sub = world.sub(fake.port, "t", count=1, env=settings(world, 700))
        assert sub.wait(20) == 0
    assert [m.payload for m in sub.messages()] == [b"after the reconnect"]
    assert [line.state for line in sub.oe()] == ["plain", "plain"]


@each_version
def test_late_answers_are_swallowed(world, version):
    """No answer in time; then message 2 and UNSUBACK come: abort goes out, and the application sees neither."""
    after = mqtt.publish(version, "down", b"after")

    def script(wire, _):
        r = responder()
        r.peer_data(wire.recv_packet())
        r.app_write(mqtt.connack(version))
        wire.send(r.take_wire())
        r.peer_data(wire.recv_packet())
        late = r.take_wire()
        time.sleep(1.0)
        wire.send(late[:50])
        time.sleep(0.05)
        wire.send(late[50:] + after)
        got = wire.recv_packet()
        wire.fin()
        return got, wire.recv_all()

    with FakeBroker(script) as fake:
        result, proc = one_client(world, version, fake.port, ms=300, expect="plain")
        got, rest = fake.result()
    assert got == oewire.abort(version), got
    assert rest == (b"", "eof")
    assert (result["data"], result["end"]) == (mqtt.connack(version) + after, "eof")
    assert result["seconds"] > 0.9


@each_version
def test_late_unsuback_of_a_slow_stock_broker(world, version):
    after = mqtt.publish(version, "down", b"after")
    up = mqtt.publish(version, "up", b"plain")

    def script(wire, _):
        s = Session(wire).accept()
        s.probe()
        assert s.packet() == up  # the application went on
        wire.send(mqtt.unsuback(version, 65535) + after + mqtt.unsuback(version, 65535))
        wire.fin()
        return wire.recv_all()

    with FakeBroker(script) as fake:
        result, _ = one_client(world, version, fake.port, ms=300, expect="plain", send=up.hex())
        assert fake.result() == (b"", "eof")
    # the second one is none of ours
    assert (result["data"], result["end"]) == (mqtt.connack(version) + after + mqtt.unsuback(version, 65535), "eof")


def test_late_after_the_application_went_on_no_abort_reaches_the_broker(world):
    """Both ends have OE-MQTT, the way between them is slow. The server's application must never see an abort (PROTOCOL.md 2.4)."""
    server = LibraryServer(world)
    version, up = 4, mqtt.publish(4, "up", b"plain")

    def script(wire, _):
        """A relay that delays what comes down behind CONNACK by one second."""
        with fakes.connect(server.port) as behind:
            behind.send(wire.recv_packet())
            wire.send(behind.recv_packet())
            wire.send(behind.recv_packet())  # PUBLISH down
            behind.send(wire.recv_packet())  # the probe
            late = behind.recv_packet() + behind.recv_packet()
            sent = wire.recv_packet()        # plain: the time-out has passed
            behind.send(sent)
            wire.send(late)
            time.sleep(0.3)
            wire.fin()
            rest, how = wire.recv_all()
            behind.send(rest)
            behind.fin()
            behind.recv_all()
            return sent, rest, how

    with FakeBroker(script) as fake:
        result, _ = one_client(world, version, fake.port, ms=300, expect="plain", send=up.hex())
        sent, rest, how = fake.result()
    assert sent == up and result["end"] == "eof"
    data, _ = server.report()["one"]
    assert data == mqtt.connect(version, "one") + up, f"the application got {data[-40:]!r}; behind the probe the client sent {rest!r}"


@each_version
@pytest.mark.parametrize("with_oe", [False, True], ids=["stock", "oe-mqtt"])
def test_connack_late(world, version, with_oe):
    """Later than the handshake's time-out, which only begins with the probe."""
    def script(wire, _):
        s = Session(wire)
        s.version = mqtt.parse_connect(s.packet())["version"]
        time.sleep(1.2)
        wire.send(mqtt.connack(s.version))
        return s.serve()

    with FakeBroker(script, responder if with_oe else None) as fake:
        p = pub(world, fake.port, version, env=settings(world, 300))
        s = fake.result()
    assert s.published == [(b"t/x", b"hello")]
    one_line(p, "unauthenticated" if with_oe else "plain")


@each_version
def test_refused(world, version):
    def script(wire, _):
        Session(wire).accept(code=0x87 if version == 5 else 5)
        wire.fin()
        return wire.recv_all()

    with FakeBroker(script, responder) as fake:
        p = pub(world, fake.port, version, status=None)
        rest, _ = fake.result()
    assert p.status != 0 and re.search("not authori[sz]ed", p.stderr(), re.I), p.stderr()
    assert b"oe-mqtt" not in rest  # no probe
    one_line(p, "plain")


@each_version
@pytest.mark.parametrize("with_oe", [False, True], ids=["stock", "oe-mqtt"])
@pytest.mark.parametrize("size", [1, 3 << 20], ids=["few", "3MB"])
def test_queued_packets_between_connack_and_answer(world, version, with_oe, size):
    """They keep their order behind the CONNACK, and none is lost."""
    payloads = [b"%06d" % n + b"x" * 1000 for n in range(3)] if size == 1 else [b"%06d" % n + b"x" * 1000 for n in range(3120)]
    queued = b"".join(mqtt.publish(version, "q", p) for p in payloads)
    tail = mqtt.publish(version, "q", b"tail")

    def script(wire, _):
        s = Session(wire).accept(reply=False)
        if with_oe:
            wire.send(mqtt.connack(version) + queued)
            while wire.endpoint.state in ("R_FIRST", "R_MESSAGE3"):
                try:
                    wire.recv_some(0.1)
                except socket.timeout:
                    pass
        else:
            wire.send(mqtt.connack(version))
            s.probe()
            for at in range(0, len(queued), 7001):
                wire.send(queued[at:at + 7001])
            wire.send(mqtt.unsuback(version, 65535))
        wire.send(tail)
        wire.fin()
        return wire.recv_all()

    with FakeBroker(script, responder if with_oe else None) as fake:
        result, proc = one_client(world, version, fake.port, ms=12000, expect="unauthenticated" if with_oe else "plain",
                                  blocking=version == 4)
        fake.result()
    assert result["end"] == "eof" and result["seconds"] < 10, f"waited {result['seconds']} s: {proc.oe()[0].text}"
    assert result["data"] == mqtt.connack(version) + queued + tail


@each_version
def test_queued_packets_to_mosquitto_sub(world, version):
    """3 MB between CONNACK and UNSUBACK, to a stock client with a persistent session."""
    payloads = [b"%06d" % n + os.urandom(20).hex().encode() * 25 for n in range(3000)]

    def script(wire, _):
        s = Session(wire).accept()
        s.probe()
        wire.send(b"".join(mqtt.publish(version, "q", p, qos=1, ident=n + 1) for n, p in enumerate(payloads)))
        wire.send(mqtt.unsuback(version, 65535))
        return s.serve()

    with FakeBroker(script) as fake:
        start = time.monotonic()
        sub = world.sub(fake.port, "q", count=len(payloads), qos=1, protocol=mqtt.MOSQUITTO_V[version], env=settings(world, 12000),
                        args=["-c"] + (["-x", "100"] if version == 5 else []))
        assert sub.wait() == 0
        assert time.monotonic() - start < 10, sub.stderr()
    assert [m.payload for m in sub.messages()] == payloads
    one_line(sub, "plain")


@each_version
@pytest.mark.parametrize("with_oe", [False, True], ids=["stock", "oe-mqtt"])
def test_packets_before_connack(world, version, with_oe):
    early = mqtt.publish(version, "early", b"1") + mqtt.publish(version, "early", b"2" * 40000)

    def script(wire, _):
        s = Session(wire).accept(reply=False)
        wire.send(early + mqtt.connack(version))
        try:
            while not (with_oe and wire.endpoint.state == "RECORDS"):
                s.handle(s.packet(0.5))
        except socket.timeout:
            pass
        wire.fin()
        wire.recv_all()
        return s

    with FakeBroker(script, responder if with_oe else None) as fake:
        result, _ = one_client(world, version, fake.port, expect="unauthenticated" if with_oe else "plain")
        fake.result()
    assert (result["data"], result["end"]) == (early + mqtt.connack(version), "eof")


def test_peer_speaks_first(world):
    banner = b"220 I speak first\r\n"

    def script(wire, _):
        wire.send(banner)
        raw = wire.recv_packet()
        wire.send(mqtt.connack(4))
        with pytest.raises(socket.timeout):
            wire.recv_packet(1.0)  # no probe
        wire.fin()
        return raw

    with FakeBroker(script, None) as fake:
        proc = world.start([fakes.PYTHON, fakes.PEER_SCRIPT, "client"], env=settings(world, 300), stdin=world.file("job.json", json.dumps(
            {"version": 4, "connections": [{"port": fake.port, "id": "b", "banner": True}], "limit": 10, "total": 20}).encode()))
        assert proc.wait() == 0, proc.stderr()
        assert fake.result() == mqtt.connect(4, "b")
    result = json.loads(proc.stdout())[0]
    assert bytes.fromhex(result["data"]) == banner + mqtt.connack(4) and result["end"] == "eof"
    assert all(line.state == "plain" for line in proc.oe()), proc.stderr()


def certificate(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(key, hashes.SHA256()))
    path = os.path.join(folder, "tls.pem")
    with open(path, "wb") as f:
        f.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        f.write(cert.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl program")
def test_tls_passes(world):
    """openssl s_client under the library, which sends an MQTT CONNECT inside TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(world.dir))

    def script(wire, _):
        with context.wrap_socket(wire.sock, server_side=True) as tls:
            tls.settimeout(20)
            got = b""
            while len(got) < len(mqtt.connect(4, "tls")):
                got += tls.recv(4096)
            tls.sendall(mqtt.connack(4) + b"end of the answer")
            return got

    with FakeBroker(script) as fake:
        p = world.run(["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{fake.port}"],
                      stdin=world.file("in", mqtt.connect(4, "tls")), env=settings(world, 2000))
        assert fake.result() == mqtt.connect(4, "tls")
    assert p.stdout() == mqtt.connack(4) + b"end of the answer"
    assert all(line.state == "plain" for line in p.oe())
    hook_ran(world)


def hook_ran(world):
    """A program that leaves no line about a connection: that the library was in it is shown by the same launcher with MQTT."""
    with FakeBroker(stock) as fake:
        one_line(pub(world, fake.port, 4), "plain")


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl program")
def test_http_passes(world):
    data = os.urandom(400000)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        p = world.run(["curl", "-sS", "--noproxy", "*", "--data-binary", "@" + world.file("in", data),
                       f"http://127.0.0.1:{server.server_address[1]}/"], env=settings(world, 2000))
        server.shutdown()
    assert p.status == 0 and p.stdout() == data
    assert all(line.state == "plain" for line in p.oe())
    hook_ran(world)


@pytest.mark.parametrize("size,probed", [(30, False), (59, False), (60, True)])
def test_maximum_packet_size(world, size, probed):
    def script(wire, _):
        return Session(wire).accept(props=b"\x21\0\x14" + b"\x27" + size.to_bytes(4, "big") + b"\x13\0\x3c").serve()

    with FakeBroker(script) as fake:
        p = pub(world, fake.port, 5, payload="x")
        s = fake.result()
    assert len(s.probes) == int(probed) and s.published == [(b"t/x", b"x")]
    one_line(p, "plain")


@pytest.mark.parametrize("with_oe", [False, True], ids=["stock", "oe-mqtt"])
def test_auth_exchange_client(world, with_oe):
    up = mqtt.publish(5, "up", b"x")

    def script(wire, _):
        s = Session(wire).accept(reply=False)
        challenge = mqtt.auth(0x18, mqtt.auth_properties("fake", b"s"))
        wire.send(challenge)
        assert s.packet()[0] == 0xF0
        wire.send(mqtt.connack(5))
        if not with_oe:
            s.handle(s.probe())
        assert s.packet() == up
        wire.fin()
        wire.recv_all()
        return challenge

    with FakeBroker(script, responder if with_oe else None) as fake:
        result, _ = one_client(world, 5, fake.port, auth=True, send=up.hex(), expect="unauthenticated" if with_oe else "plain")
        challenge = fake.result()
    assert (result["data"], result["end"]) == (challenge + mqtt.connack(5), "eof")


def test_auth_exchange_server(world):
    server = LibraryServer(world)
    connect = mqtt.connect(5, "auth", props=mqtt.auth_properties("fake", b"1"))
    reply = mqtt.auth(0x18, mqtt.auth_properties("fake", b"2"))
    with fakes.connect_secure(server.port) as wire:
        wire.send(connect)
        assert wire.recv_packet()[0] == 0xF0
        wire.send(reply)
        assert wire.recv_packet() == mqtt.connack(5)
        wire.send(mqtt.publish(5, "up", b"through records"))
        assert mqtt.parse_publish(5, wire.recv_packet())[:2] == (b"down", b"marker-down")
        assert mqtt.parse_publish(5, wire.recv_packet())[:2] == (b"echo", b"through records")
        assert wire.endpoint.state == "RECORDS" and b"through" not in wire.raw_out
    assert server.report()["auth"][0] == connect + reply + mqtt.publish(5, "up", b"through records")


@each_version
@pytest.mark.parametrize("with_oe", [False, True], ids=["stock", "oe-mqtt"])
def test_answer_byte_by_byte(world, version, with_oe):
    up, down = mqtt.publish(version, "up", b"x"), mqtt.publish(version, "down", b"y")

    def script(wire, _):
        r = responder()
        r.peer_data(wire.recv_packet())
        r.app_write(mqtt.connack(version))
        wire.send(r.take_wire())
        r.peer_data(wire.recv_packet())
        answer = r.take_wire() if with_oe else mqtt.unsuback(version, 65535)
        for at in range(len(answer)):
            wire.send(answer[at:at + 1])
            time.sleep(0.01)
        if not with_oe:
            assert wire.recv_packet() == up
            wire.send(down)
        else:
            while len(r.to_app) < len(mqtt.connect(version, "one")) + len(up):
                r.peer_data(wire.recv_some())
            r.app_write(down)
            for at in range(len(r.to_wire)):
                wire.send(r.to_wire[at:at + 1])
                time.sleep(0.005)
        wire.fin()
        wire.recv_all()
        return r.state

    with FakeBroker(script) as fake:
        result, _ = one_client(world, version, fake.port, ms=10000, send=up.hex(), expect="unauthenticated" if with_oe else "plain")
        fake.result()
    assert (result["data"], result["end"]) == (mqtt.connack(version) + down, "eof")


@each_version
def test_wrong_unsuback_identifier(world, version):
    """Not the answer to the probe: kept in its order, and the application gets it after the time-out."""
    wrong = mqtt.unsuback(version, 65534)

    def script(wire, _):
        s = Session(wire).accept()
        s.probe()
        wire.send(wrong)
        start = time.monotonic()
        try:
            s.packet(1.5)
        except socket.timeout:
            pass
        wire.fin()
        wire.recv_all()
        return time.monotonic() - start

    with FakeBroker(script) as fake:
        result, _ = one_client(world, version, fake.port, ms=400, expect="plain")
        fake.result()
    assert (result["data"], result["end"]) == (mqtt.connack(version) + wrong, "eof")


@each_version
def test_forged_message_2_then_unsuback(world, version):
    forged = [oewire.handshake_packet(version, os.urandom(96)), oewire.handshake_packet(version, b""),
              oewire.handshake_packet(version, os.urandom(5000)), mqtt.publish(version, "oe-mqtt/1", os.urandom(96), retain=True)]
    other = mqtt.publish(version, "oe-mqtt/1", b"QoS 1 is not reserved", qos=1) + mqtt.publish(version, "oe-mqtt/10", b"nor is this")

    def script(wire, _):
        s = Session(wire).accept()
        s.probe()
        wire.send(b"".join(forged) + other + mqtt.unsuback(version, 65535) + forged[0])
        assert s.packet() == mqtt.publish(version, "up", b"x")
        wire.fin()
        return wire.recv_all()

    with FakeBroker(script) as fake:
        result, _ = one_client(world, version, fake.port, expect="plain", send=mqtt.publish(version, "up", b"x").hex())
        assert fake.result() == (b"", "eof")
    assert (result["data"], result["end"]) == (mqtt.connack(version) + other + forged[0], "eof")


@each_version
def test_forged_message_2_then_the_true_one(world, version):
    def script(wire, _):
        r = responder()
        r.peer_data(wire.recv_packet())
        r.app_write(mqtt.connack(version))
        wire.send(r.take_wire())
        r.peer_data(wire.recv_packet())
        wire.send(oewire.handshake_packet(version, os.urandom(96)) + r.take_wire())
        while r.state == "R_MESSAGE3":
            r.peer_data(wire.recv_some())
        r.app_write(mqtt.publish(version, "down", b"y"))
        wire.send(r.take_wire())
        wire.fin()
        wire.recv_all()
        return r.state

    with FakeBroker(script) as fake:
        result, _ = one_client(world, version, fake.port, expect="unauthenticated")
        assert fake.result() == "RECORDS"
    assert (result["data"], result["end"]) == (mqtt.connack(version) + mqtt.publish(version, "down", b"y"), "eof")


# ---- models: what an endpoint does with given bytes, whatever the keys are --------------------------------------------------------------

class ModelInitiator(oewire.Initiator):
    """Knows message 2 by its bytes."""

    def __init__(self, genuine):
        super().__init__()
        self._verify2 = lambda payload: payload == genuine
        self._message3 = lambda: bytes(64)

    def _start_records(self):
        self.state = "RECORDS"
        self.opener = oewire.Opener(self.version, oewire.noise.CipherState(bytes(32)))


class ModelResponder(oewire.Responder):
    """Knows message 3 by its bytes."""

    def __init__(self, genuine):
        super().__init__()
        self._verify3 = lambda payload: payload == genuine

    def _start_records(self):
        self.state = "RECORDS"
        self.opener = oewire.Opener(self.version, oewire.noise.CipherState(bytes(32)))


def flip(data, bit):
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def batches(cases, size):
    """Each is run with a state directory of its own: a port may be one of the batch before."""
    return [cases[at:at + size] for at in range(0, len(cases), size)]


def whole_packets(data):
    try:
        packets, _ = mqtt.split_packets(data)
    except mqtt.Malformed:
        return data
    return b"".join(packets)


# ---- every bit flipped -------------------------------------------------------------------------------------------------------------------

BATCH = 300


def until(wire, needle, limit=10):
    """Reads until needle was among all that came, True; False when the stream has ended."""
    end = time.monotonic() + limit
    while needle not in wire.raw_in:
        try:
            wire.recv_some(max(0.01, end - time.monotonic()))
        except Ended:
            return False
        except socket.timeout:
            raise AssertionError(f"port {wire.sock.getsockname()[1]}: neither {needle!r} nor an end came, only {bytes(wire.raw_in)!r}") from None
    return True


@each_version
@pytest.mark.parametrize("part", range(2))
def test_every_bit_of_message_2_and_unsuback(world, version, part):
    up, tail = mqtt.publish(version, "up", b"plain after all"), mqtt.publish(version, "tail", b"the end")
    n = len(oewire.handshake_packet(version, bytes(96)) + oewire.answer(version))
    sent, wrong = {}, []

    def script(wire, fake):
        bit = fake.bits[wire.listener]
        r = responder()
        r.peer_data(wire.recv_packet())
        r.app_write(mqtt.connack(version))
        wire.send(r.take_wire())
        r.peer_data(wire.recv_packet())
        genuine = r.take_wire()
        assert len(genuine) == n
        sent[bit] = (genuine, flip(genuine, bit))
        wire.send(sent[bit][1])
        if until(wire, up):
            wire.send(tail)
            wire.fin()
        wire.recv_all()

    for bits in batches(list(range(part, 8 * n, 2)), BATCH):
        with FakeBroker(script, listeners=len(bits)) as fake:
            fake.bits = bits
            results, _ = run_clients(world, version, [{"port": p, "id": "c", "blocking": b % 4 < 2} for p, b in zip(fake.ports, bits)],
                                     ms=4000, send=up.hex(), parallel=60, state=f"batch-{bits[0]}")
        for bit, result in zip(bits, results):
            genuine, flipped = sent[bit]
            m = ModelInitiator(oewire.parse_handshake_packet(version, mqtt.split_packets(genuine)[0][0]))
            m.app_write(mqtt.connect(version, "c"))
            for data in (mqtt.connack(version), flipped):
                m.peer_data(data)
            m.timeout()
            assert m.state in ("BROKEN", "PLAIN", "I_LATE"), (bit, m.state)
            if m.state != "BROKEN":
                m.app_write(up)
                m.peer_data(tail)
            m.peer_eof()
            want = (bytes(m.to_app), "ECONNRESET" if m.state == "BROKEN" else "eof")
            if (result["data"], result["end"]) != want:
                wrong.append(f"bit {bit} of {8 * n}: {m.state}; sent {flipped.hex()}; want {want}, got {result['data'], result['end']}")
    assert not wrong, "\n".join(wrong)


@each_version
def test_every_bit_of_a_record_to_the_client(world, version):
    up = mqtt.publish(version, "up", b"go")
    first, second, third = (mqtt.publish(version, "down", b"number %d" % n) for n in range(3))

    def script(wire, fake):
        wire.recv_packet()
        wire.send(mqtt.connack(version))
        assert wire.recv_packet() == up
        wire.send(first)
        wire.spoil = lambda data: flip(data, fake.bits[wire.listener])
        wire.send(second)
        wire.spoil = lambda data: data
        wire.send(third)
        wire.fin()
        wire.recv_all()

    n = len(oewire.record(version, bytes(16 + len(second))))
    for bits in batches(list(range(8 * n)), BATCH):
        with FakeBroker(script, responder, listeners=len(bits)) as fake:
            fake.bits = bits
            results, _ = run_clients(world, version, [{"port": p, "id": "c", "blocking": b % 4 < 2} for p, b in zip(fake.ports, bits)],
                                     ms=5000, send=up.hex(), expect="unauthenticated", state=f"batch-{bits[0]}")
        for bit, result in zip(bits, results):
            assert (result["data"], result["end"]) == (mqtt.connack(version) + first, "ECONNRESET"), f"bit {bit}"


def raw_handshake(port, version, name):
    """An Initiator's (wire, endpoint, message 3 packet not yet sent)."""
    wire, i = fakes.connect(port), oewire.Initiator()
    i.app_write(mqtt.connect(version, name))
    wire.send(i.take_wire())
    while i.state != "I_PROBE":
        i.peer_data(wire.recv_some())
    wire.send(i.take_wire())
    while i.state == "I_PROBE":
        i.peer_data(wire.recv_some())
    message3 = i.take_wire()
    while i.state == "I_UNSUBACK":
        i.peer_data(wire.recv_some())
    assert i.state == "RECORDS"
    return wire, i, message3


@each_version
def test_every_bit_of_message_3(world, version):
    server = LibraryServer(world)
    up = mqtt.publish(version, "up", b"plain")
    n = len(oewire.handshake_packet(version, bytes(64)))
    sent, wrong = {}, []
    for bit in range(8 * n):
        wire, _, message3 = raw_handshake(server.port, version, f"c{bit}")
        sent[f"c{bit}"] = (message3, flip(message3, bit))
        wire.send(sent[f"c{bit}"][1] + up)
        wire.fin()
        wire.recv_all()
        wire.close()
    found = server.report()
    for name, (genuine, flipped) in sent.items():
        m = ModelResponder(oewire.parse_handshake_packet(version, genuine))
        m.peer_data(mqtt.connect(version, name))
        m.app_write(mqtt.connack(version))
        m.peer_data(oewire.probe(version, b"\x09" + bytes(31)))
        m.app_write(mqtt.publish(version, "down", b"marker-down"))
        m.peer_data(flipped + up)
        ended_inside = m.state == "R_MESSAGE3"
        m.peer_eof()
        assert m.state in ("PLAIN", "BROKEN")
        data, end = found[name]
        if m.state == "BROKEN":
            good = (data, end) == (mqtt.connect(version, name), "ECONNRESET")
        elif ended_inside:  # PROTOCOL.md does not say what becomes of a packet that the end of the stream cuts off
            good = data in (mqtt.connect(version, name), bytes(m.to_app)) and end in OUTCOMES
        else:
            good = data == bytes(m.to_app) and end in OUTCOMES
        if not good:
            wrong.append(f"bit {name[1:]} of {8 * n}: {m.state} {m.reason}; sent {flipped.hex()}; got {data, end}")
    assert not wrong, "\n".join(wrong)


@each_version
def test_every_bit_of_a_record_to_the_server(world, version):
    server = LibraryServer(world)
    first, second, third = (mqtt.publish(version, "up", b"number %d" % n) for n in range(3))
    n = len(oewire.record(version, bytes(16 + len(second))))
    for bit in range(8 * n):
        wire, i, message3 = raw_handshake(server.port, version, f"c{bit}")
        i.app_write(first)
        good = i.take_wire()
        i.app_write(second)
        bad = flip(i.take_wire(), bit)
        i.app_write(third)
        wire.send(message3 + good + bad + i.take_wire())
        wire.fin()
        wire.recv_all()
        wire.close()
    found = server.report()
    for bit in range(8 * n):
        assert found[f"c{bit}"] == (mqtt.connect(version, f"c{bit}") + first, "ECONNRESET"), f"bit {bit}"


# ---- connections that end in mid-handshake ----------------------------------------------------------------------------------------------

@each_version
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_server_ends_at_every_byte(world, version, how):
    up = mqtt.publish(version, "up", b"plain")
    connack = mqtt.connack(version)
    total = len(connack) + len(oewire.handshake_packet(version, bytes(96))) + len(oewire.answer(version))
    sent = {}

    def script(wire, fake):
        cut = fake.cuts[wire.listener]
        r = responder()
        r.peer_data(wire.recv_packet())
        if cut > len(connack):
            wire.send(connack)
            r.app_write(connack)
            r.take_wire()
            r.peer_data(wire.recv_packet())
            genuine = r.take_wire()
            sent[cut] = (genuine, connack, genuine[:cut - len(connack)])
            wire.send(sent[cut][2])
        else:
            sent[cut] = (b"", connack[:cut], b"")
            wire.send(connack[:cut])
            if cut == len(connack):
                wire.recv_packet()
        if how == "rst":
            return wire.close(reset=True)
        wire.fin()
        return wire.recv_all()

    cuts = list(range(total + 1))
    with FakeBroker(script, listeners=len(cuts)) as fake:
        fake.cuts = cuts
        start = time.monotonic()
        results, proc = run_clients(world, version, [{"port": p, "id": "c", "blocking": c % 2 == 0} for p, c in zip(fake.ports, cuts)],
                                    ms=5000, send=up.hex(), parallel=50)
        took = time.monotonic() - start
    assert took < 30
    for cut, result in zip(cuts, results):
        genuine, *parts = sent[cut]
        m = ModelInitiator(oewire.parse_handshake_packet(version, mqtt.split_packets(genuine)[0][0]) if genuine else b"")
        m.app_write(mqtt.connect(version, "c"))
        for data in parts:
            m.peer_data(data)
        m.peer_eof()
        want, data, end = bytes(m.to_app), result["data"], result["end"]
        assert end in OUTCOMES, (cut, result)
        assert want.startswith(data), f"cut {cut} ({m.state}): got {data.hex()}, want {want.hex()}"
        if how == "fin":
            assert data.startswith(whole_packets(want)), f"cut {cut} ({m.state}): got {data.hex()}, want {want.hex()}"
            assert end == ("ECONNRESET" if m.state == "BROKEN" else "eof"), f"cut {cut} ({m.state}): {end}"


@each_version
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_client_ends_at_every_byte(world, version, how):
    server = LibraryServer(world)
    lengths = [len(mqtt.connect(version, "c000")), len(oewire.probe(version, bytes(32))), len(oewire.handshake_packet(version, bytes(64)))]
    sent = {}
    for cut in range(sum(lengths) + 1):
        name = f"c{cut:03}"
        connect = mqtt.connect(version, name)
        wire, i = fakes.connect(server.port), oewire.Initiator()
        i.app_write(connect)
        parts, left = [i.take_wire()], cut
        wire.send(parts[0][:left])
        left -= len(parts[0])
        while left > 0 and i.state not in ("RECORDS", "BROKEN"):
            i.peer_data(wire.recv_some())
            more = i.take_wire()
            if more:
                parts.append(more)
                wire.send(more[:left])
                left -= len(more)
        sent[name] = (cut, b"".join(parts), parts)
        if how == "rst":
            wire.close(reset=True)
        else:
            wire.fin()
            assert wire.recv_all()[1] in ("eof", "reset"), f"cut {cut}: the server does not end"
            wire.close()
    found = server.report()
    for name, (cut, whole, parts) in sent.items():
        connect = mqtt.connect(version, name)
        if cut < len(connect):
            continue  # told apart by nothing; the server had to end them, and did
        assert name in found or how == "rst", f"cut {cut}"
        data, end = found.get(name, (connect, "eof"))
        assert end in OUTCOMES, f"cut {cut}: {end}"
        assert data.startswith(connect) or (how == "rst" and connect.startswith(data)), f"cut {cut}"
        rest = data[len(connect):]
        if cut >= lengths[0] + lengths[1]:  # the probe was whole: it is never shown
            allowed = whole[lengths[0] + lengths[1]:cut]
            assert rest in (b"", allowed) and not (rest and cut == sum(lengths)), f"cut {cut}: the application got {rest.hex()}"
        else:
            assert rest == whole[lengths[0]:cut] or (how == "rst" and whole[lengths[0]:cut].startswith(rest)), f"cut {cut}: {rest.hex()}"
    empty = [r for r in found.values() if r[1] not in OUTCOMES]
    assert not empty


# ---- strangers ---------------------------------------------------------------------------------------------------------------------------

def still_serves(broker, version=4):
    """An encrypted and a plain client get through."""
    with fakes.connect_secure(broker.port) as a, fakes.connect(broker.port) as b:
        for n, wire in enumerate((a, b)):
            wire.send(mqtt.connect(version, f"serves-{n}"))
            assert wire.recv_packet()[0] == 0x20
            wire.send(mqtt.subscribe(version, 1, "serves"))
            assert wire.recv_packet()[0] == 0x90
        b.send(mqtt.publish(version, "serves", b"to both"))
        for wire in (a, b):
            assert mqtt.parse_publish(version, wire.recv_packet())[1] == b"to both"
        assert a.endpoint.state == "RECORDS"
        for wire in (a, b):
            wire.send(mqtt.disconnect())
    assert broker.proc.alive()


@each_version
def test_strangers(world, version):
    broker = world.broker(env=settings(world, 15000))
    connect, good_probe = mqtt.connect(version, "stranger"), oewire.probe(version, oewire.noise.public_key(bytes([9]) * 32))
    kept = []

    def stranger(*parts, wait=0.02, keep=False, end=None):
        wire = fakes.connect(broker.port)
        for part in parts:
            wire.send(part)
            time.sleep(wait)
        if keep:
            kept.append(wire)
        elif end == "rst":
            wire.close(reset=True)
        else:
            wire.fin()
            out = wire.recv_all(10)
            wire.close()
            assert out[1] != "timeout", parts
            return out[0]

    rng = hashlib.sha256(b"strangers %d" % version)
    for n in range(60):
        rng.update(b"%d" % n)
        stranger(rng.digest() * (1 + n * 7), end=("rst" if n % 2 else None), wait=0)
        stranger(b"\x10" + rng.digest() * (1 + n), wait=0)
        stranger(connect + rng.digest() * n, wait=0)
    for data in (connect[:len(connect) // 2], connect + good_probe[:30], connect + good_probe, connect[:1]):
        stranger(data, keep=True)
        stranger(data)
        stranger(data, end="rst")
    for point in (bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\xff" * 32):
        stranger(connect, oewire.probe(version, point))
        stranger(connect, oewire.probe(version, point), keep=True)
    up = mqtt.publish(version, "stranger/up", b"x")
    zero = oewire.record(version, bytes(40))
    for after in (oewire.handshake_packet(version, bytes(64)), oewire.handshake_packet(version, os.urandom(64)), up, oewire.abort(version),
                  oewire.handshake_packet(version, os.urandom(65)), zero, b"\xff" * 40, b"\x30\xff\xff\xff\xff\xff", good_probe, b"\x30"):
        for keep in (False, True):
            wire = fakes.connect(broker.port)
            wire.send(mqtt.connect(version, f"s{keep}"))
            assert wire.recv_packet()[0] == 0x20
            wire.send(good_probe)
            raw = wire.recv_packet()
            assert len(oewire.parse_handshake_packet(version, raw) or b"") == 96, raw
            assert wire.recv_packet() == oewire.answer(version)
            wire.send(after)
            if keep:
                kept.append(wire)
            else:
                wire.fin()
                assert wire.recv_all(10)[1] != "timeout", after
                wire.close()
    still_serves(broker, version)
    for wire in kept:
        wire.close()
    still_serves(broker, version)
    assert {line.role for line in broker.oe()} == {"accept"}


@each_version
def test_abort_and_plain_packets_in_place_of_message_3(world, version):
    """The broker goes on in plain with that client, and what it held arrives."""
    broker = world.broker(env=settings(world, 15000))
    for n, first in enumerate((oewire.abort(version), b"")):
        wire = fakes.connect(broker.port)
        wire.send(mqtt.connect(version, f"p{n}"))
        assert wire.recv_packet()[0] == 0x20
        wire.send(oewire.probe(version, oewire.noise.public_key(bytes([9]) * 32)))
        wire.recv_packet()
        assert wire.recv_packet() == oewire.answer(version)
        wire.send(first + mqtt.subscribe(version, 7, "t") + mqtt.publish(version, "t", b"plain"))
        assert wire.recv_packet()[0] == 0x90
        assert mqtt.parse_publish(version, wire.recv_packet())[:2] == (b"t", b"plain")
        wire.send(mqtt.disconnect())
        wire.close()
    harness.wait_until(lambda: len(broker.oe()) >= 2, "the broker's lines")
    assert [line.state for line in broker.oe()] == ["plain", "plain"]


@each_version
def test_zero_public_key(world, version):
    """A low-order message 1 is never answered with message 2; nobody else is touched."""
    broker = world.broker(env=settings(world, 15000))
    with fakes.connect(broker.port) as wire:
        wire.send(mqtt.connect(version, "zero"))
        assert wire.recv_packet()[0] == 0x20
        wire.send(oewire.probe(version, bytes(32)))
        wire.fin()
        data, how = wire.recv_all()
    assert b"oe-mqtt/1" not in data and how != "timeout"
    still_serves(broker, version)


@each_version
def test_plain_packet_after_the_handshake(world, version):
    """In both directions: the connection ends and the application sees nothing of it."""
    injected = mqtt.publish(version, "injected", b"not authenticated")
    # towards the broker
    broker = world.broker(env=settings(world, 15000))
    with fakes.connect(broker.port) as watch:
        watch.send(mqtt.connect(version, "watch") + mqtt.subscribe(version, 1, "#"))
        assert (watch.recv_packet()[0], watch.recv_packet()[0]) == (0x20, 0x90)
        with fakes.connect_secure(broker.port) as wire:
            wire.send(mqtt.connect(version, "victim"))
            wire.recv_packet()
            wire.send(mqtt.publish(version, "good", b"1", qos=1, ident=5))
            assert wire.recv_packet()[0] == 0x40
            fakes.Wire.send(wire, injected)
            out, how = wire.recv_all()
            assert out == b"" and how in ("eof", "reset")
        assert mqtt.parse_publish(version, watch.recv_packet())[0] == b"good"
        with pytest.raises(socket.timeout):
            watch.recv_packet(0.3)
    still_serves(broker, version)
    # towards the client
    up = mqtt.publish(version, "up", b"go")

    def script(wire, _):
        wire.recv_packet()
        wire.send(mqtt.connack(version))
        assert wire.recv_packet() == up
        fakes.Wire.send(wire, injected)
        return wire.recv_all()

    with FakeBroker(script, responder) as fake:
        result, _ = one_client(world, version, fake.port, send=up.hex(), expect="unauthenticated")
    assert (result["data"], result["end"]) == (mqtt.connack(version), "ECONNRESET")


# ---- records that are missing, repeated, out of order, cut off --------------------------------------------------------------------------

@each_version
def test_records_to_the_server_out_of_order_or_cut_off(world, version):
    """Repeated, left out, exchanged, sent back to their sender; and the end of the stream at every byte of a record."""
    server = LibraryServer(world)
    ups = [mqtt.publish(version, "up", b"number %d" % n) for n in range(3)]
    want = {}

    def reflect(records, wire):
        wire.send(records[0])
        while True:
            raw = wire.recv_packet()
            if raw[0] == 0x30 and mqtt.parse_publish(version, raw)[0] == b"$":
                return raw

    def talk(name, choose, end, got):
        wire, i, message3 = raw_handshake(server.port, version, name)
        records = [i.sealer.seal(up) for up in ups]
        wire.send(message3)
        wire.send(choose(records, wire))
        wire.fin()
        wire.recv_all()
        wire.close()
        want[name] = (mqtt.connect(version, name) + b"".join(got), end)

    talk("good", lambda r, w: b"".join(r), "eof", ups)
    talk("twice", lambda r, w: r[0] + r[0] + r[1], "ECONNRESET", ups[:1])
    talk("left-out", lambda r, w: r[0] + r[2], "ECONNRESET", ups[:1])
    talk("exchanged", lambda r, w: r[1] + r[0], "ECONNRESET", [])
    talk("reflected", reflect, "ECONNRESET", ups[:1])
    for cut in range(len(oewire.record(version, bytes(16 + len(ups[1]))))):
        talk(f"cut{cut:02}", lambda r, w: r[0] + r[1][:cut], "ECONNRESET" if cut else "eof", ups[:1])
    found = server.report()
    for name, expected in want.items():
        assert found[name] == expected, name


@each_version
def test_records_to_the_client_out_of_order_or_cut_off(world, version):
    up = mqtt.publish(version, "up", b"go")
    downs = [mqtt.publish(version, "down", b"number %d" % n) for n in range(3)]
    n = len(oewire.record(version, bytes(16 + len(downs[1]))))
    cases = [(lambda r: b"".join(r), "eof", downs), (lambda r: r[0] + r[0] + r[1], "ECONNRESET", downs[:1]),
             (lambda r: r[0] + r[2], "ECONNRESET", downs[:1]), (lambda r: r[1] + r[0], "ECONNRESET", [])]
    cases += [(lambda r, cut=cut: r[0] + r[1][:cut], "ECONNRESET" if cut else "eof", downs[:1]) for cut in range(n)]

    def script(wire, fake):
        wire.recv_packet()
        wire.send(mqtt.connack(version))
        assert wire.recv_packet() == up
        fakes.Wire.send(wire, cases[wire.listener][0]([wire.endpoint.sealer.seal(d) for d in downs]))
        wire.fin()
        wire.recv_all()

    with FakeBroker(script, responder, listeners=len(cases)) as fake:
        results, _ = run_clients(world, version, [{"port": p, "id": "c", "blocking": n % 2 == 0} for n, p in enumerate(fake.ports)],
                                 ms=5000, send=up.hex(), expect="unauthenticated")
    for number, (result, (_, end, got)) in enumerate(zip(results, cases)):
        assert (result["data"], result["end"]) == (mqtt.connack(version) + b"".join(got), end), f"case {number}"


@pytest.mark.skipif(not os.environ.get("OE_MQTT_TEST_SLOW"), reason="a million records: OE_MQTT_TEST_SLOW=1 runs it")
def test_rekey_at_the_protocols_limit(world):
    """One packet in more than 2^20 records of one byte to the server, which echoes it."""
    server = LibraryServer(world)
    payload = os.urandom(oewire.REKEY + 10)
    wire, i, message3 = raw_handshake(server.port, 4, "rekey")
    wire.send(message3)
    up = mqtt.publish(4, "up", payload)
    for at in range(0, len(up), 4096):
        wire.send(b"".join(i.sealer.record(up[n:n + 1]) for n in range(at, min(at + 4096, len(up)))))
    assert i.sealer.cipher.n > oewire.REKEY
    got, want = bytearray(), mqtt.publish(4, "down", b"marker-down") + mqtt.publish(4, "echo", payload)
    while len(got) < len(want):
        i.peer_data(wire.recv_some())
        assert i.state == "RECORDS"
        got += i.take_app()
    assert bytes(got).endswith(want)
    wire.fin()
    wire.recv_all()
    wire.close()
    assert server.report()["rekey"] == (mqtt.connect(4, "rekey") + up, "eof")
