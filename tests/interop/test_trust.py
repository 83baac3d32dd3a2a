"""PROTOCOL.md sections 8 and 9 with stock programs: first and later contacts, changed and removed brokers, `require`, known_peers and
allowed_peers, and what is on the wire. State directories, brokers and relays of their own."""

import os
import re
import socket
import stat
import sys

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import attacker
import fakes
import harness as h
import mqtt
import noise
import oepreface
import oewire
import rawpeers
import trust
from rawpeers import LibraryServer

pytestmark = pytest.mark.skipif(h.NATIVE or h.POLICY is not None, reason="these tests are about the library, and set policies")
each_tool = pytest.mark.parametrize("tool", ["pub", "sub"])
each_version = pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
STRANGER = oewire.fingerprint(noise.public_key(bytes([9]) * 32))
WAYS = ["option", "environment", "file"]


@pytest.fixture
def world():
    with h.World(True) as w:
        yield w


@pytest.fixture
def scene(world):
    return trust.Scene(world)


def client_config(scene, link="", connect="", endpoint=None):
    """Environment of a client: what stands in [link], and in the section of the scene's endpoint."""
    endpoint = endpoint or scene.endpoint
    text = f"[link]\nhandshake-timeout = 15s\n{link}\n" + (f'[connect "{endpoint}"]\n{connect}\n' if connect else "")
    return {"OE_MQTT_CONFIG": scene.world.file(f"client-{os.urandom(4).hex()}.conf", text.encode())}


def required(scene, way="option", more=""):
    """Keywords of contact() that ask for policy require."""
    if way == "option":
        return {"options": ("-v", "-p", "require"), **({"env": client_config(scene, more)} if more else {})}
    if way == "environment":
        return {"env": {"OE_MQTT_POLICY": "require"}}
    return {"env": client_config(scene, connect=f"policy = require\n{more}")}


def told(scene, contact, old, new, line=1, state=None):
    """What the log must say about a refusal by known_peers."""
    text = "\n".join(x for x in contact.err.splitlines() if x.startswith("oe-mqtt[") and "state=" not in x)
    for part in [scene.endpoint, old, new, f"{trust.known_path(state or scene.state)}:{line}"]:
        assert part in text, (part, contact.err)
    return trust.command_in(text)


# ---- contacts ----------------------------------------------------------------------------------------------------------------------------

@each_version
@each_tool
def test_first_and_later_contacts(scene, tool, version):
    """By probe, then by preface without an epoch, then with the CONNECT in message 1."""
    first = scene.contact(tool, version).passed("unauthenticated")
    h.check_encrypted(first.connection)
    line, = trust.known(scene.state)
    assert (line.endpoint, line.key, line.state) == (scene.endpoint, scene.fingerprint, "tofu") and line.first == line.last != "-"
    assert first.line.peer == line.key
    connect = h.parse_link(first.connection).up[0]
    second = scene.contact(tool, version).passed("tofu")
    assert trust.check_preface(second.connection) == ("ik", connect.end - connect.start)
    epoch = trust.known(scene.state)[0].epoch
    assert re.fullmatch("[0-9a-f]{32}", epoch) and epoch != "0" * 32
    third = scene.contact(tool, version).passed("tofu")
    kind, size = trust.check_preface(third.connection)
    assert kind == "ik" and size != connect.end - connect.start
    ups = h.parse_link(third.connection).up
    assert ups[0].end - ups[0].start == len(oepreface.preface(2, bytes(113))) + connect.end - connect.start + (len_grows(connect))
    after, = trust.known(scene.state)
    assert after[:4] == line[:4] and after.epoch == epoch
    assert stat.S_IMODE(os.stat(trust.known_path(scene.state)).st_mode) & 0o022 == 0
    assert scene.client_in_log()
    for c in (second, third):
        needles = [scene.client_id, scene.topic, c.sent]
        trust.check_hidden(c.connection, needles)
    assert {x.state for x in scene.broker.oe() if x.peer == h.fingerprint(scene.state)} == {"unauthenticated"}


def len_grows(connect):
    """Bytes by which the lengths of a preface grow with a CONNECT inside it."""
    return len(oepreface.preface(2, bytes(113 + connect.end - connect.start))) - len(oepreface.preface(2, bytes(113))) - (connect.end - connect.start)


@each_version
@each_tool
def test_changed_key(scene, tool, version):
    """Refused, told with both keys; nothing of the application leaves; the command of the message accepts it."""
    old = scene.fingerprint
    scene.contact(tool, version).passed("unauthenticated")
    scene.change()
    assert scene.fingerprint != old
    for _ in range(2):
        refused = scene.contact(tool, version).refused()
        trust.check_refused(refused.connection)
        trust.check_hidden(refused.connection, [scene.client_id, scene.topic, refused.sent])
        assert refused.line.peer == scene.fingerprint
    assert [x.key for x in trust.known(scene.state)] == [old]
    assert not re.search(rf"as {scene.client_id}", scene.broker.proc.stderr())  # the new broker has not seen a CONNECT
    quiet = scene.contact(tool, version, options=())  # without -v: errors on standard error
    command = told(scene, quiet, old, scene.fingerprint)
    assert quiet.status == trust.REFUSED_STATUS[version] and scene.fingerprint in " ".join(command)
    trust.run_command(command, scene.state)
    trust.check_preface(scene.contact(tool, version).passed("pinned").connection)


@each_version
@each_tool
def test_removed_library(scene, tool, version):
    """The same port, the broker without OE-MQTT."""
    old = scene.fingerprint
    scene.contact(tool, version).passed("unauthenticated")
    scene.change(library=False)
    refused = scene.contact(tool, version).refused()
    trust.check_refused(refused.connection)
    trust.check_hidden(refused.connection, [scene.client_id, scene.topic, refused.sent])
    assert not re.search(rf"as {scene.client_id}", scene.broker.proc.stderr())
    trust.run_command(told(scene, refused, old, ""), scene.state)
    h.check_plain(scene.contact(tool, version).passed("plain").connection, probed=True)
    assert trust.known(scene.state) == []


@each_version
@each_tool
@pytest.mark.parametrize("way", WAYS)
def test_require_and_a_stock_broker(world, tool, version, way):
    scene = trust.Scene(world, library=False)
    refused = scene.contact(tool, version, **required(scene, way)).refused()
    trust.check_refused(refused.connection)
    trust.check_hidden(refused.connection, [scene.client_id, scene.topic, refused.sent])
    assert scene.endpoint in refused.err and not re.search(rf"as {scene.client_id}", scene.broker.log())
    assert trust.known(scene.state) == []
    scene.contact(tool, version).passed("plain")  # and without require it goes


@each_version
@each_tool
@pytest.mark.parametrize("way", WAYS)
def test_require_and_a_pin(scene, tool, version, way):
    trust.write_known(scene.state, (scene.endpoint, scene.fingerprint))
    for _ in range(2):
        c = scene.contact(tool, version, **required(scene, way)).passed("pinned")
        assert trust.check_preface(c.connection)[0] == "ik"
        trust.check_hidden(c.connection, [scene.client_id, scene.topic, c.sent])
    assert trust.known(scene.state)[0][:3] == (scene.endpoint, scene.fingerprint, "pinned")


@each_version
@each_tool
def test_require_without_a_key(scene, tool, version):
    """XX: not authenticated, remembered."""
    c = scene.contact(tool, version, **required(scene)).passed("unauthenticated")
    assert trust.check_preface(c.connection)[0] == "xx"
    trust.check_hidden(c.connection, [scene.client_id, scene.topic, c.sent])
    line, = trust.known(scene.state)
    assert (line.key, line.state) == (scene.fingerprint, "tofu") and line.epoch != "-"
    c = scene.contact(tool, version, **required(scene)).passed("tofu")
    assert trust.check_preface(c.connection)[0] == "ik"


@each_version
def test_stock_broker_leaves_no_line(world, version):
    scene = trust.Scene(world, library=False)
    for _ in range(2):
        scene.contact("pub", version).passed("plain")
    assert trust.known(scene.state) == []


@each_tool
@pytest.mark.parametrize("where", ["link", "connect"])
@pytest.mark.parametrize("policy", ["prefer", "require"])
def test_downgrade_warn(scene, tool, where, policy):
    """Another key: goes on, warns, and stays a warning; no OE-MQTT: plain with prefer, refused with require."""
    text = "downgrade = warn\n"
    env = client_config(scene, link=text) if where == "link" else client_config(scene, connect=text)
    how = {"env": env, "options": ("-v", "-p", policy)}
    old = scene.fingerprint
    scene.contact(tool, **how).passed("unauthenticated")
    known = scene.contact(tool, **how).passed("tofu")
    assert known.line.peer == old
    scene.change()
    c = scene.contact(tool, **how).passed("unauthenticated")
    assert c.line.peer == scene.fingerprint and re.search("warn|another key", c.err), c.err
    if policy == "require":
        trust.check_hidden(c.connection, [scene.client_id, scene.topic, c.sent])
    scene.change(library=False)
    c = scene.contact(tool, **how)
    if policy == "require":
        c.refused()
        trust.check_refused(c.connection)
    else:
        c.passed("plain")
        assert scene.endpoint in c.err


@pytest.mark.parametrize("where", ["link", "connect"])
def test_downgrade_refuse_is_the_default(scene, where):
    scene.contact("pub").passed("unauthenticated")
    scene.change()
    text = "downgrade = refuse\n"
    scene.contact("pub", env=client_config(scene, link=text) if where == "link" else client_config(scene, connect=text)).refused()
    # the endpoint's section beats [link], in both directions
    scene.contact("pub", env=client_config(scene, link="downgrade = warn\n", connect=text)).refused()
    scene.contact("pub", env=client_config(scene, link=text, connect="downgrade = warn\n")).passed("unauthenticated")
    # another endpoint's section is none of ours
    scene.contact("pub", env=client_config(scene, connect="downgrade = warn\n", endpoint="127.0.0.1:1")).refused()


def test_off_does_not_look(scene):
    """Policy off: plain, whatever is known; the operator has said so."""
    trust.write_known(scene.state, (scene.endpoint, scene.fingerprint))
    c = scene.contact("pub", options=("-v", "-p", "off"))
    assert c.status == 0 and h.check_plain(c.connection, probed=False)


@each_version
@pytest.mark.parametrize("way", ["second contact", "require", "pin"])
def test_nothing_of_it_is_on_the_wire(world, way, version):
    """Client id, user name, password, Will, topics, payloads: in no form; MQTT throughout."""
    users = {"name-of-the-user": "pass-of-the-user"}
    scene = trust.Scene(world, users=users, anonymous=False)
    secrets = {"-u": "name-of-the-user", "-P": "pass-of-the-user", "--will-topic": "will-topic/" + os.urandom(6).hex(),
               "--will-payload": "will-payload-" + os.urandom(6).hex()}
    args = [x for pair in secrets.items() for x in pair]
    kw = required(scene) if way == "require" else {}
    if way == "pin":
        trust.write_known(scene.state, (scene.endpoint, scene.fingerprint))
    if way == "second contact":
        scene.contact("pub", version, args=args).passed("unauthenticated")
    count = 0
    for _ in range(2):
        for tool in ("pub", "sub"):
            c = scene.contact(tool, version, args=args, **kw)
            assert c.status == 0, c.err
            trust.check_preface(c.connection)
            count += trust.check_hidden(c.connection, [scene.client_id, scene.topic, c.sent, *secrets.values()])
    assert count >= 2 * 2 * 7 * 9
    assert scene.client_in_log() and secrets["--will-topic"] not in str(scene.seen())
    # the test can fail: a plain contact shows them all
    plain = scene.contact("pub", version, args=args, options=("-v", "-p", "off"))
    assert all("raw" in h.wire_contains(plain.connection, x) for x in [scene.client_id, scene.topic, plain.sent, *secrets.values()])


# ---- allowed_peers -----------------------------------------------------------------------------------------------------------------------

def guarded(world, allowed, **kw):
    """A broker with policy require; allowed: text of allowed_peers, or None."""
    scene = trust.Scene(world, policy="require", **kw)
    if allowed is not None:
        trust.write_allowed(scene.broker.state, allowed)
        scene.change(new_state=False)  # as an operator would do it; 9.2 does not say when the file is read
    return scene


def accepted(scene, contact):
    """The broker's line about a connection through the relay."""
    return h.wait_until(lambda: [x for x in scene.broker.oe() if x.port == contact.connection.upstream_port], "the broker's line")[-1]


@each_version
@each_tool
@pytest.mark.parametrize("by", ["pin", "first contact", "require"])
def test_listed_client(world, tool, version, by):
    mine = trust.identity(world, "client")
    scene = guarded(world, f"# plant\n\nclient-one {mine}\n")
    if by == "pin":
        trust.write_known(scene.state, (scene.endpoint, scene.fingerprint))
    c = scene.contact(tool, version, **(required(scene) if by == "require" else {}))
    c.passed("pinned" if by == "pin" else "unauthenticated")
    line = accepted(scene, c)
    assert (line.state, line.peer) == ("pinned", mine), line.text


@each_version
@each_tool
@pytest.mark.parametrize("by", ["pin", "first contact", "require", "stock"])
def test_unlisted_client(world, tool, version, by):
    """Refused before the broker has seen a PUBLISH, SUBSCRIBE or Will."""
    mine = trust.identity(world, "client")
    scene = guarded(world, f"somebody-else {STRANGER}\n")
    assert mine != STRANGER
    if by == "pin":
        trust.write_known(scene.state, (scene.endpoint, scene.fingerprint))
    kw = required(scene) if by == "require" else {"options": ("-v", "-p", "off")} if by == "stock" else {}
    will = ["--will-topic", "will/" + scene.client_id, "--will-payload", "will-of-the-unlisted"] if by != "first contact" else []
    c = scene.contact(tool, version, args=will + (["-W", "20"] if tool == "sub" else []), **kw)
    assert c.status != 0 and c.proc.stdout() == b""
    line = accepted(scene, c)
    assert line.state == "refused" and line.reason, line.text
    assert not re.search(rf"^{re.escape(scene.client_id)} [012] ", scene.broker.log(), re.M)  # SUBSCRIBE
    seen = scene.seen()
    assert ("will/" + scene.client_id) not in [t for t, _ in seen] and scene.topic not in [t for t, _ in seen]
    if by in ("pin", "require"):
        assert not scene.client_in_log()
        trust.check_hidden(c.connection, [scene.client_id, scene.topic, c.sent])


@each_version
def test_stock_client_with_a_will(world, version):
    """8.4: never published, however the connection ends. The same Will is published where require is not."""
    scene, level = guarded(world, None), trust.LEVEL[version]
    for n, (port, published) in enumerate(((scene.port, False), (scene.port, False), (scene.side, True))):
        with fakes.connect(port) as wire:
            raw = attacker.connect_with_will(level, f"with-will-{n}", f"will/{n}", b"last will")
            for at in range(0, len(raw), 1 if n == 1 else 1000):
                wire.send(raw[at:at + (1 if n == 1 else 1000)])
            if published:
                wire.recv_packet()
                wire.close(reset=True)
            else:
                assert wire.recv_all() == (oepreface.refused_by_responder(level), "eof")
        if published:
            h.wait_until(lambda: (f"will/{n}", b"last will") in scene.seen(), "the Will of a plain port")
    assert [t for t, _ in scene.seen() if t.startswith("will/")] == ["will/2"]


@pytest.mark.parametrize("first", ["pingreq", "subscribe", "publish", "puback", "disconnect", "other probe"])
@each_version
def test_probe_that_is_not_first(world, version, first):
    """Behind a plain CONNECT only a probe may come; the broker sees nothing else."""
    scene, level = guarded(world, None), trust.LEVEL[version]
    packet = {"pingreq": mqtt.pingreq(), "subscribe": mqtt.subscribe(level, 1, "#"), "publish": mqtt.publish(level, "forged/topic", b"x"),
              "puback": mqtt.puback(1), "disconnect": mqtt.disconnect(),
              "other probe": oewire.probe(level, bytes(31) + b"\1").replace(b"oe-mqtt/1/", b"oe-mqtt/2/")}[first]
    probe = oewire.probe(level, noise.public_key(noise.new_secret()))
    with fakes.connect(scene.port) as wire:
        wire.send(mqtt.connect(level, scene.client_id))
        assert wire.recv_packet()[0] == 0x20
        wire.send(packet + probe)
        got, end = wire.recv_all()
    assert got == b"" and end in ("eof", "reset")
    assert not re.search(rf"^{re.escape(scene.client_id)} [012] ", scene.broker.log(), re.M)
    assert "forged/topic" not in [t for t, _ in scene.seen()]
    lines = [x for x in scene.broker.oe() if x.state == "refused"]
    assert len(lines) == 1 and lines[0].reason, scene.broker.log()


def test_what_is_queued_waits_for_the_handshake(world):
    """A client identifier alone does not get what the broker has for it."""
    mine = trust.identity(world, "client")
    scene = guarded(world, f"me {mine}\n")
    with fakes.connect(scene.side) as wire:
        wire.send(mqtt.connect(4, scene.client_id, clean=False) + mqtt.subscribe(4, 1, "queue/#", qos=1))
        assert wire.recv_packet()[0] == 0x20 and wire.recv_packet()[0] == 0x90
        wire.send(mqtt.disconnect())
        wire.recv_all()
    scene.side_pub("queue/topic", "queued for the client")
    with fakes.connect(scene.port) as wire:
        wire.send(mqtt.connect(4, scene.client_id, clean=False))
        assert wire.recv_packet() == mqtt.connack(4, present=1)
        with pytest.raises(socket.timeout):
            wire.recv_some(1.5)
        wire.send(mqtt.pingreq())
        got, _ = wire.recv_all()
    assert b"queue" not in got
    sub = world.sub(scene.port, "queue/#", library=True, state=scene.state, client_id=scene.client_id, qos=1, count=1, args=["-c"])
    assert sub.wait() == 0 and [m.payload for m in sub.messages()] == [b"queued for the client"]


@pytest.mark.parametrize("what", ["word", "short key", "no name", "three fields", "half a line", "directory", "no newline is fine"])
def test_corrupt_allowed_peers(world, what):
    """Admits nobody: neither the listed client nor one that was never listed; by preface and by probe."""
    mine = trust.identity(world, "client")
    good = f"client-one {mine}\n"
    text = {"word": good + "nonsense\n", "short key": good + "other oe1:AAAA\n", "no name": good + STRANGER + "\n",
            "three fields": f"a b {mine}\n" + good, "half a line": good + f"other {STRANGER[:20]}", "directory": None,
            "no newline is fine": good.strip()}[what]
    scene = guarded(world, text)
    if text is None:
        os.mkdir(os.path.join(scene.broker.state, "allowed_peers"))
        scene.change(new_state=False)
    for by in ("first contact", "pin"):
        if by == "pin":
            trust.write_known(scene.state, (scene.endpoint, scene.fingerprint))
        c = scene.contact("pub", args=[])
        if what == "no newline is fine":
            c.passed("pinned" if by == "pin" else "unauthenticated")
            continue
        assert c.status != 0
        assert accepted(scene, c).state == "refused"
        if what not in ("directory",):
            assert re.search(r"allowed_peers:\d+", scene.broker.log()), scene.broker.log()


@each_version
def test_absent_allowed_peers(world, version):
    """Every client that has OE-MQTT, and no other."""
    scene = guarded(world, None)
    for n, state in enumerate(("client", "another")):
        c = scene.contact("pub", version, **({} if n == 0 else {"options": ("-v", "-p", "require")}))
        c.passed("unauthenticated" if n == 0 else "tofu")
        assert accepted(scene, c).state == "unauthenticated"
    c = scene.contact("pub", version, options=("-v", "-p", "off"))
    assert c.status != 0 and accepted(scene, c).state == "refused"


def test_listed_with_prefer(world):
    """9.2: listed is pinned with either policy; with prefer the others pass too."""
    mine = trust.identity(world, "client")
    scene = trust.Scene(world)
    trust.write_allowed(scene.broker.state, f"client-one {mine}\n")
    scene.change(new_state=False)
    c = scene.contact("pub").passed("unauthenticated")
    assert accepted(scene, c).state == "pinned"
    other = world.pub(scene.relay.port, "t", payload="x", state=world.state("other"))
    assert other.oe()[0].state == "unauthenticated"
    assert [x.state for x in scene.broker.oe() if x.peer == h.fingerprint(world.state("other"))] == ["unauthenticated"]


# ---- known_peers -------------------------------------------------------------------------------------------------------------------------

CORRUPT = {"word": "nonsense", "no port": f"127.0.0.1 {STRANGER} tofu - -", "short key": "127.0.0.1:1 oe1:AAAA= tofu",
           "state": f"127.0.0.1:1 {STRANGER} trusted", "time": f"127.0.0.1:1 {STRANGER} tofu yesterday -",
           "epoch": f"127.0.0.1:1 {STRANGER} tofu - - 12", "more": f"127.0.0.1:1 {STRANGER} tofu - - - x"}


@pytest.mark.parametrize("policy", ["prefer", "require"])
@pytest.mark.parametrize("what", CORRUPT)
def test_corrupt_known_peers(scene, what, policy):
    """A peer that no valid line knows is refused, with the number of the line; one that a valid line knows is not concerned."""
    trust.write_known(scene.state, "# a comment", "", CORRUPT[what])
    c = scene.contact("pub", options=("-v", "-p", policy)).refused()
    assert f"{trust.known_path(scene.state)}:3" in c.err, c.err
    assert c.connection is None or not c.connection.to_server
    before = open(trust.known_path(scene.state), encoding="ascii").read()
    trust.write_known(scene.state, (scene.endpoint, scene.fingerprint), mode="a")
    scene.contact("pub", options=("-v", "-p", policy)).passed("pinned")
    assert open(trust.known_path(scene.state), encoding="ascii").read().startswith(before)


def test_unreadable_known_peers(scene):
    os.mkdir(trust.known_path(scene.state))
    c = scene.contact("pub").refused()
    assert trust.known_path(scene.state) in c.err
    assert c.connection is None or not c.connection.to_server
    os.rmdir(trust.known_path(scene.state))
    scene.contact("pub").passed("unauthenticated")


def test_comments_and_other_lines_are_kept(scene):
    head = ["# brokers of the plant", "", f"other.example.org:1883 {STRANGER} tofu 2026-01-02T03:04:05Z 2026-01-02T03:04:05Z", "#the end"]
    trust.write_known(scene.state, *head)
    for state in ("unauthenticated", "tofu", "tofu"):
        scene.contact("pub").passed(state)
    with open(trust.known_path(scene.state), encoding="ascii") as f:
        lines = f.read().splitlines()
    assert lines[:4] == head and len(lines) == 5 and lines[4].startswith(f"{scene.endpoint} {scene.fingerprint} tofu ")


def test_last_is_written_after_a_day(scene):
    trust.write_known(scene.state, f"{scene.endpoint} {scene.fingerprint} tofu 2026-01-02T03:04:05Z 2026-01-02T03:04:05Z")
    scene.contact("pub").passed("tofu")
    line, = trust.known(scene.state)
    assert line.first == "2026-01-02T03:04:05Z" and line.last > "2026-01-02T03:04:05Z" and len(line.epoch) == 32
    before = os.stat(trust.known_path(scene.state))
    scene.contact("pub").passed("tofu")
    after = os.stat(trust.known_path(scene.state))
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)  # nothing has changed, nothing is written


def test_two_hundred_at_once(world):
    """One state directory, one broker, a first contact of all of them: all deliver, one line."""
    scene = trust.Scene(world)
    payloads = [f"payload-{n:03d}-{os.urandom(6).hex()}" for n in range(200)]
    procs = [world.start_pub(scene.relay.port, "crowd/topic", payload=p, qos=1, state=scene.state) for p in payloads]
    for p in procs:
        assert p.wait(240) == 0, p.stderr()
    got = [p.decode() for t, p in scene.seen() if t == "crowd/topic"]
    assert sorted(got) == sorted(payloads)
    states = [p.oe()[0].state for p in procs]
    assert set(states) <= {"unauthenticated", "tofu"} and "unauthenticated" in states and len(states) == 200
    line, = trust.known(scene.state)
    assert (line.endpoint, line.key, line.state) == (scene.endpoint, scene.fingerprint, "tofu")
    scene.contact("pub").passed("tofu")


# ---- odd CONNECTs ------------------------------------------------------------------------------------------------------------------------

def raw_pair(world, version, keys=True, more="", name="raw"):
    """A raw server under the library behind a relay, and the relay's endpoint known to the state directory `name`."""
    server = LibraryServer(world, state="server")
    relay = world.relay(server.port)
    if keys:
        trust.write_known(world.state(name), (f"127.0.0.1:{relay.port}", h.fingerprint(server.state)))
    return server, relay


@pytest.mark.parametrize("version", mqtt.VERSIONS)
@pytest.mark.parametrize("size", [10, 16000, 16384, 65000, 900 << 10], ids=str)
@pytest.mark.parametrize("step", [None, 1])
def test_big_connect_and_connect_in_pieces(world, version, size, step):
    """With a key and without (require); whatever the size: whole, once, and hidden."""
    if step and size > 10:
        pytest.skip("byte by byte only the small ones")
    if size > 65535 and version != 5:
        pytest.skip("3.1 and 3.1.1 have no field of that length")
    marker = b"marker-" + os.urandom(12)
    if size > 65535:  # user properties
        props = b"".join(b"\x26" + mqtt.string(b"k") + mqtt.string(marker + b"v" * 60000) for _ in range(size // 60000))
        connect = mqtt.connect(version, "big-client", props=props)
    else:
        connect = mqtt.connect(version, "big-client", user="u", password=(marker + b"p" * size)[:max(size, len(marker))])
    server, relay = raw_pair(world, version)
    for keys in (True, True, False):
        state = "raw" if keys else "without"
        result, proc = rawpeers.one_client(world, version, relay.port, ms=3000, state=state, connect=connect.hex(), step=step,
                                           more='[connect ":%d"]\npolicy = require\n' % relay.port,
                                           send=mqtt.publish(version, "up", b"x").hex(), stop_after=len(down(version)))
        assert (result["data"], result["end"]) == (down(version), "eof"), proc.stderr()
        assert proc.oe()[0].state == ("pinned" if keys else "unauthenticated")
    relay.wait_closed()
    for c in relay.connections:
        trust.check_preface(c)
        trust.check_hidden(c, [marker, connect[-24:]])
    got = server.report_all()
    assert got == [connect + mqtt.publish(version, "up", b"x")] * 3


def down(version, up=b"x"):
    return mqtt.connack(version) + mqtt.publish(version, "down", b"marker-down") + mqtt.publish(version, "echo", up)


@pytest.mark.parametrize("version", mqtt.VERSIONS)
@pytest.mark.parametrize("connect_size", [10, 30000])
def test_pipelined_behind_connect(world, version, connect_size):
    """With a preface nothing is lost, and nothing is plain: early CONNECT, CONNECT in records, many packets."""
    behind = b"".join(mqtt.publish(version, "up", b"%04d" % n + b"z" * 40) for n in range(200))
    echoes = b"".join(mqtt.publish(version, "echo", b"%04d" % n + b"z" * 40) for n in range(200))
    connect = mqtt.connect(version, "pipeliner", user="u", password=b"p" * connect_size)
    server, relay = raw_pair(world, version)
    want = mqtt.connack(version) + mqtt.publish(version, "down", b"marker-down") + echoes
    for n in range(3):
        result, proc = rawpeers.one_client(world, version, relay.port, ms=3000, state="raw", connect=connect.hex(), behind=behind.hex(),
                                           stop_after=len(want))
        assert (result["data"], result["end"]) == (want, "eof"), proc.stderr()
        assert proc.oe()[0].state == "pinned"
    relay.wait_closed()
    for c in relay.connections:
        trust.check_preface(c)
        trust.check_hidden(c, [b"0007" + b"z" * 20, b"down" + (b"\0" if version == 5 else b"") + b"marker-down"])
    assert server.report_all() == [connect + behind] * 3


def test_connect_that_is_malformed(world):
    """Behind the byte 0x10 of a connection that wants a preface there is no way to plain."""
    server, relay = raw_pair(world, 4)
    odd = [b"\x10\xff\xff\xff\xff\x7f", b"\x10\x0c\0\4MQTT\7\2\0\x3c\0\0", b"\x10\x05HTTP/",
           mqtt.connect(5, "too-large", props=(b"\x26" + mqtt.string(b"k") + mqtt.string(b"v" * 65000)) * 20)]
    for raw in odd:
        result, proc = rawpeers.one_client(world, 4, relay.port, ms=700, state="raw", connect=raw.hex())
        assert result["data"][:1] in (b"\x20", b"") and proc.oe()[0].state == "refused", proc.stderr()
    assert relay.recording().strip(b"\0") == b""
    assert server.report_all() == [b""] * len(odd)


# ---- names -------------------------------------------------------------------------------------------------------------------------------

def test_two_brokers_behind_one_name(world):
    """Both keys are known: both pass; one is known: the other is refused."""
    a, b = trust.Scene(world), trust.Scene(world)
    with attacker.Attacker([a.port, b.port]) as balancer:
        states = []
        trust.write_known(a.state, (balancer.endpoint, a.fingerprint), (balancer.endpoint, b.fingerprint, "tofu"))
        for n in range(6):
            p = world.pub(balancer.port, "t", payload=f"n{n}", state=a.state, qos=1)
            states.append((p.oe()[0].state, p.oe()[0].peer))
        assert states == [("pinned", a.fingerprint), ("tofu", b.fingerprint)] * 3
        assert [len(x.seen()) >= 4 for x in (a, b)] == [True, True]
        trust.write_known(a.state, (balancer.endpoint, a.fingerprint))
        got = [world.pub(balancer.port, "t", payload="x", state=a.state, qos=1, status=None) for _ in range(4)]
        assert [p.oe()[0].state for p in got] == ["pinned", "refused"] * 2
        balancer.wait_closed()
        for link in balancer.links:
            assert oepreface.parse_preface(link.up[0]), link.up[0]


def test_first_contact_of_two_brokers_behind_one_name(world):
    """The first that is met is remembered, the other is refused."""
    a, b = trust.Scene(world), trust.Scene(world)
    with attacker.Attacker([a.port, b.port]) as balancer:
        got = [world.pub(balancer.port, "t", payload="x", state=a.state, qos=1, status=None) for _ in range(4)]
        assert [p.oe()[0].state for p in got] == ["unauthenticated", "refused", "tofu", "refused"]
        assert [x.key for x in trust.known(a.state)] == [a.fingerprint]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
@each_version
def test_ipv6(world, version):
    scene = trust.Scene(world, host="::1")
    scene.contact("pub", version).passed("unauthenticated")
    line, = trust.known(scene.state)
    assert line.endpoint == f"[::1]:{scene.relay.port}"
    trust.check_preface(scene.contact("sub", version).passed("tofu").connection)
    trust.write_known(scene.state, (f"[0:0:0:0:0:0:0:1]:{scene.relay.port}", STRANGER))
    scene.contact("pub", version)  # another spelling: either known (refused), or an error of the file; never a first contact
    assert trust.known(scene.state)[0].key == STRANGER and len(trust.known(scene.state)) == 1


@pytest.mark.skipif(h.no_localhost(), reason="localhost is no name here")
@each_version
def test_host_name(scene, version):
    """ENDPOINT is the name that was looked up, in lower case; the address of the same broker is another endpoint."""
    scene.contact("pub", version, host="LocalHost").passed("unauthenticated")
    line, = trust.known(scene.state)
    assert line.endpoint == f"localhost:{scene.relay.port}"
    scene.contact("sub", version, host="localhost").passed("tofu")
    scene.contact("pub", version, host="127.0.0.1").passed("unauthenticated")
    assert sorted(x.endpoint for x in trust.known(scene.state)) == sorted([scene.endpoint, f"localhost:{scene.relay.port}"])
    scene.change()
    refused = scene.contact("pub", version, host="localhost").refused()
    assert f"localhost:{scene.relay.port}" in refused.err


def test_pin_for_a_name_counts_for_the_name_alone(scene):
    trust.write_known(scene.state, (f"localhost:{scene.relay.port}", STRANGER))
    scene.contact("pub").passed("unauthenticated")
    assert h.no_localhost() or scene.contact("pub", host="localhost").refused()


def other_name():
    """Another name than localhost of 127.0.0.1, from /etc/hosts."""
    try:
        with open("/etc/hosts", encoding="utf-8") as f:
            rows = [line.split("#")[0].split() for line in f]
    except OSError:
        return None
    return next((name for row in rows if row[:1] == ["127.0.0.1"] for name in row[1:] if name != "localhost"), None)


LOOKS_UP = """
import socket, sys
for name in sys.argv[2:]:
    address = socket.getaddrinfo(name, int(sys.argv[1]), socket.AF_INET, socket.SOCK_STREAM)[0][4]
with socket.create_connection(address) as s:
    s.sendall(bytes.fromhex("100d00044d5154540402003c000178"))
    print(s.recv(100).hex())
"""


@pytest.mark.skipif(h.no_localhost() or not other_name(), reason="127.0.0.1 has not two names here")
@pytest.mark.parametrize("order", [["localhost", "other"], ["other", "localhost"], ["localhost", "other", "other"]], ids="-".join)
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_an_address_with_two_names(scene, order, right):
    """A pin for one of the names must not get lost because another name of the same address was looked up later: whoever answers for that other
    name would then decide that the contact is a first one."""
    names = [other_name() if n == "other" else n for n in order]
    trust.write_known(scene.state, (f"localhost:{scene.relay.port}", scene.fingerprint if right else STRANGER))
    p = scene.world.run([fakes.PYTHON, "-c", LOOKS_UP, scene.relay.port, *names], state=scene.state)
    line, = [x for x in p.oe() if x.role == "connect"]
    assert line.state == ("pinned" if right else "refused"), p.stderr()
    assert p.stdout().strip().decode() == (mqtt.connack(4) if right else oepreface.refused_by_initiator(4)).hex()
    assert len(trust.known(scene.state)) == 1
