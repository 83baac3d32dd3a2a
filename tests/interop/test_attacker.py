"""Somebody on the way who changes things (tests/lib/attacker.py). With a pinned key, or from the second contact on: never a message delivered,
altered, injected or read. With a first contact under `prefer`: what README's table says."""

import os
import re
import sys
import time

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import fakes
import harness as h
import mqtt
import oepreface
import oewire
import rawpeers
import trust
from attacker import Attacker, Cut, Edit, Flip, Inject, ManInTheMiddle, Plan, StripProbe, Swallow, Swap

pytestmark = pytest.mark.skipif(h.NATIVE or h.POLICY is not None, reason="these tests are about the library, and set policies")
each_tool = pytest.mark.parametrize("tool", ["pub", "sub"])
each_version = pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
MARKER = b"marker-of-the-payload"


@pytest.fixture
def world():
    with h.World(True) as w:
        yield w


@pytest.fixture
def scene(world):
    return trust.Scene(world)


@pytest.fixture
def front(scene):
    """Where the client connects to; its target and its plan can be changed, the endpoint stays."""
    with Attacker(scene.port) as a:
        yield a


def known_by(scene, front, how, tool="pub", version="mqttv311"):
    """The broker is known to the client, as `how` says; keywords of contact() for what follows."""
    if how == "pin":
        trust.write_known(scene.state, (front.endpoint, scene.fingerprint))
    else:
        first = {"options": ("-v", "-p", "require")} if how == "require" else {}
        scene.contact(tool, version, port=front.port, **first).passed("unauthenticated")
        assert trust.known(scene.state)[0][:3] == (front.endpoint, scene.fingerprint, "tofu")
    return {}


each_known = pytest.mark.parametrize("how", ["pin", "second contact", "require"])


def impatient(world):
    """Refusals that are waited for come after 5 * 200 ms."""
    return rawpeers.settings(world, 200)


def connects(scene):
    """How often the broker has seen a CONNECT with the client's id."""
    return len(re.findall(rf" as {scene.client_id} ", scene.broker.log()))


# ---- the probe is taken out ----------------------------------------------------------------------------------------------------------------

@each_version
@each_tool
def test_stripped_probe_at_the_first_contact(scene, front, tool, version):
    """README: the connection is plain, and says so."""
    front.plan = lambda n: StripProbe()
    c = scene.contact(tool, version, port=front.port).passed("plain")
    assert front.links[0].plan.stripped == 1 and trust.known(scene.state) == []
    front.wait_closed()
    assert c.sent.encode() in front.recording()  # he reads it


@each_version
@each_tool
@each_known
def test_stripped_probe_later(scene, front, tool, version, how):
    """There is no probe to strip."""
    known_by(scene, front, how, tool, version)
    front.plan = lambda n: StripProbe()
    c = scene.contact(tool, version, port=front.port).passed("pinned" if how == "pin" else "tofu")
    assert front.links[-1].plan.stripped == 0
    front.wait_closed()
    trust.check_hidden(b"".join(front.links[-1].up + front.links[-1].down), [c.sent, scene.topic, scene.client_id])


STOCK_ANSWERS = {"no such method": mqtt.connack(5, 0x8C), "accepted": mqtt.connack(5), "refused": oepreface.REFUSAL, "old": mqtt.connack(4, 1),
                 "accepted, and a message": mqtt.connack(5) + mqtt.publish(5, "forged/topic", b"forged"), "retry": oepreface.auth(oepreface.RETRY),
                 "cut": b"", "unsuback": oewire.answer(5)}


@each_tool
@pytest.mark.parametrize("how", ["pin", "second contact", "require"])
@pytest.mark.parametrize("what", STOCK_ANSWERS)
def test_answers_in_place_of_the_broker(scene, front, tool, how, what):
    """He answers the preface as a broker without OE-MQTT, or as one that refuses; the client never goes on in plain."""
    known_by(scene, front, how, tool)
    seen = connects(scene)

    class Answer(Plan):
        def up(self, n, raw):
            raise Cut() if self.link.to_client(STOCK_ANSWERS[what]) is None else AssertionError

    front.plan = lambda n: Answer()
    # an answer that may go on, and then the end: the program is told of that end alone, and mosquitto_sub tries again until its time is over
    ended = what in ("cut", "retry")
    c = scene.contact(tool, port=front.port, env=impatient(scene.world), args=["-W", "2"] if ended and tool == "sub" else [], wait=not ended)
    if ended:
        assert c.proc.status != 0 and {x.state for x in c.proc.oe()} == {"refused"}, c.proc.stderr()
    else:
        c.refused()
    front.wait_closed()
    for link in front.links[1 if how == "second contact" else 0:]:
        trust.check_hidden(b"".join(link.up), [c.sent, scene.topic, scene.client_id])
    assert connects(scene) == seen and b"forged" not in c.proc.stdout()
    if what == "refused":
        assert re.search("admit|refuse|allow", c.line.reason), c.line.text  # and that is all it decides


# ---- keys of his own -----------------------------------------------------------------------------------------------------------------------

@each_version
@pytest.mark.parametrize("policy", ["prefer", "require"])
def test_man_in_the_middle_at_the_first_contact(scene, policy, version):
    """README: he reads and changes everything; the fingerprints at the two ends differ, and the state is `unauthenticated`."""
    with ManInTheMiddle(scene.port, alter=lambda data: data.replace(b"payload-", b"altered-")) as man:
        c = scene.contact_raw(version, man.port, policy=policy)
        line, = c.oe()
        assert c.status == 0 and (line.state, line.peer) == ("unauthenticated", man.fingerprint) and man.fingerprint != scene.fingerprint
        h.wait_until(lambda: b"payload-of-contact" in man.read_up and b"altered-of-contact" in [p for _, p in scene.seen()], "the altered message")
        assert man.fingerprint in [x.peer for x in scene.broker.oe()]
        assert [x.key for x in trust.known(scene.state)] == [man.fingerprint]


@each_version
@each_tool
@each_known
def test_man_in_the_middle_later(scene, front, tool, version, how):
    """Refused, without a byte of the application for him, and told with both fingerprints."""
    known_by(scene, front, how, tool, version)
    seen = connects(scene)
    with ManInTheMiddle(scene.port, keys=[trust.public(scene.fingerprint)]) as man:
        front.targets = [man.port]
        for policy in ("prefer", "require"):
            c = scene.contact(tool, version, port=front.port, options=("-v", "-p", policy)).refused()
            assert scene.fingerprint in c.err and man.fingerprint in c.err and front.endpoint in c.err
        assert bytes(man.read_up) == bytes(man.read_down) == b"" and man.connections == 2
    assert connects(scene) == seen
    front.targets = [scene.port]
    scene.contact(tool, version, port=front.port).passed("pinned" if how == "pin" else "tofu")


def test_the_broker_behind_a_man_in_the_middle_that_was_first(scene, front):
    """Who was there at the first contact is found out when he has gone."""
    with ManInTheMiddle(scene.port) as man:
        front.targets = [man.port]
        scene.contact("pub", port=front.port).passed("unauthenticated")
        scene.contact("pub", port=front.port).passed("tofu")
        front.targets = [scene.port]
        c = scene.contact("pub", port=front.port).refused()
        assert man.fingerprint in c.err and scene.fingerprint in c.err


@each_version
@pytest.mark.parametrize("policy", ["prefer", "require"])
def test_allowed_peers_and_a_man_in_the_middle(world, version, policy):
    """A client that knows no key, a broker that knows its clients: he reads the client, and the broker hears nothing of it."""
    mine = trust.identity(world, "client")
    scene = trust.Scene(world, policy="require")
    trust.write_allowed(scene.broker.state, f"me {mine}\n")
    scene.change(new_state=False)
    with ManInTheMiddle(scene.port) as man:
        c = scene.contact_raw(version, man.port, policy=policy, status=None)
        assert c.status != 0 or b"payload-of-contact" in man.read_up
        assert b"payload-of-contact" not in [p for _, p in scene.seen()]
        refused = [x for x in scene.broker.oe() if x.state == "refused"]
        assert refused and {x.peer for x in refused} <= {man.fingerprint, "-"}


# ---- replay --------------------------------------------------------------------------------------------------------------------------------

def replay(port, packets, how):
    """What the broker answers to a recorded client: all at once; packet after packet; message 1 and then the end; the same, with a reset."""
    with fakes.connect(port) as wire:
        try:
            if how == "at once":
                wire.send(b"".join(packets))
                wire.fin()
            elif how == "in turn":
                for raw in packets:
                    wire.send(raw)
                    try:
                        wire.recv_some(0.3)
                    except OSError:
                        pass
            else:
                wire.send(packets[0])
                try:
                    wire.recv_some(0.5)
                except OSError:
                    pass
                if how == "cut":
                    wire.close(reset=True)
                    return b""
                wire.fin()
            got, _ = wire.recv_all(5)
        except fakes.Ended:
            pass
        return bytes(wire.raw_in)


@pytest.mark.parametrize("will", [False, True], ids=["", "will"])
@pytest.mark.parametrize("kind", ["probe", "xx", "ik", "early"])
@each_version
def test_recorded_client(scene, front, version, kind, will):
    """A whole session towards the broker, and message 1 alone, in the same process and after a restart: nothing is delivered again, no CONNECT is
    handed on again, the Will is never published."""
    args = ["--will-topic", "will/topic", "--will-payload", "last will of the client"] if will else []
    if kind in ("ik", "early"):
        trust.write_known(scene.state, (front.endpoint, scene.fingerprint))
    if kind == "early":
        scene.contact("pub", version, port=front.port).passed("pinned")  # learns the epoch
    c = scene.contact("pub", version, port=front.port, args=args, options=("-v", "-p", "prefer" if kind == "probe" else "require"))
    assert c.status == 0
    front.wait_closed()
    packets = front.links[-1].up
    first = oepreface.parse_preface(packets[0])
    assert (first[0] if first else 0) == {"probe": 0, "xx": 1, "ik": 2, "early": 2}[kind]
    assert kind not in ("ik", "early") or (len(first[1]) > 113) == (kind == "early" and not will)
    before = connects(scene)
    count = 0
    for restarted in (False, True):
        if restarted:
            scene.change(new_state=False)
        for how in ("at once", "in turn", "message 1", "cut") * 2:
            replay(scene.port, packets, how)
            count += 1
        said = scene.seen()
        assert [p for _, p in said].count(c.sent.encode()) == 1  # of the true client
        if kind != "probe":
            assert connects(scene) == before  # with a probe the CONNECT is plain, and anybody's
            assert "will/topic" not in [t for t, _ in said]
    assert count == 16
    front.targets = [scene.port]
    scene.contact("pub", version, port=front.port)  # and the true one still passes


@each_version
@pytest.mark.parametrize("will", [False, True], ids=["", "will"])
def test_swallowed_message_1(scene, front, version, will):
    """A preface that never arrived is delivered later, and cut: no Will. Behind a restart: not even the CONNECT."""
    trust.write_known(scene.state, (front.endpoint, scene.fingerprint))
    args = ["--will-topic", "will/topic", "--will-payload", "last will of the client"] if will else []
    scene.contact("pub", version, port=front.port, args=args).passed("pinned")
    before = connects(scene)
    front.plan = lambda n: Swallow()
    for _ in range(2):
        scene.contact("pub", version, port=front.port, args=args, env=impatient(scene.world)).refused()
    front.wait_closed()
    kept = [link.up for link in front.links[-2:]]
    assert connects(scene) == before
    replay(scene.port, kept[0], "cut")
    assert connects(scene) <= before + (0 if will else 1)
    scene.change(new_state=False)
    again = connects(scene)
    replay(scene.port, kept[1], "cut")
    replay(scene.port, kept[1], "message 1")
    time.sleep(0.5)
    assert connects(scene) == again
    assert "will/topic" not in [t for t, _ in scene.seen()]


@each_version
@each_tool
def test_recorded_broker(scene, front, tool, version):
    """The broker's side of sessions towards a new client."""
    trust.write_known(scene.state, (front.endpoint, scene.fingerprint))
    for _ in range(2):
        scene.contact(tool, version, port=front.port).passed("pinned")
    front.wait_closed()
    recordings = [link.down for link in front.links]
    seen = connects(scene)
    for down in recordings:
        class Play(Plan):
            def up(self, n, raw, down=down):
                self.link.to_client(b"".join(down) if n == 0 else b"")
                return b""

        front.plan = lambda n: Play()
        c = scene.contact(tool, version, port=front.port, env=impatient(scene.world)).refused()
        assert c.proc.stdout() == b""
    assert connects(scene) == seen and len(recordings) == 2


# ---- packets and bits ----------------------------------------------------------------------------------------------------------------------

class Range:
    """Raw clients and a raw server under the library with somebody in between: every byte that the applications saw can be judged."""

    def __init__(self, world, version, kind):
        self.world, self.version, self.kind = world, version, kind
        self.server = rawpeers.LibraryServer(world, state="server")
        self.attacker = Attacker(self.server.port)
        world.defer(self.attacker.close)
        self.connect = mqtt.connect(version, "client-of-the-range", user="user", password=MARKER)
        self.up = [mqtt.publish(version, "up", MARKER + b"1"), mqtt.publish(version, "up", MARKER + b"2" * 20)]
        self.down = mqtt.connack(version) + mqtt.publish(version, "down", b"marker-down")
        self.echo = [mqtt.publish(version, "echo", mqtt.parse_publish(version, x)[1]) for x in self.up]
        self.want_up, self.want_down = self.connect + b"".join(self.up), self.down + b"".join(self.echo)
        self.states, self.broken, self.got, self.plans, self.links = [], 0, [], [], []
        right = h.fingerprint(self.server.state)
        lines = [f"{self.attacker.endpoint} {right} pinned 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z"]
        if kind == "retry":
            other = oewire.fingerprint(oewire.noise.public_key(bytes([5]) * 32))
            lines.append(f"{self.attacker.endpoint} {other} pinned 2026-01-01T00:00:00Z 2099-01-01T00:00:00Z {'ab' * 16}")
        trust.write_known(world.state("range"), *lines)
        for _ in range(2):  # the second one knows the epoch
            self.run([Plan()])
        self.up_packets, self.down_packets = self.links[-1].up, self.links[-1].down
        first = oepreface.parse_preface(self.up_packets[0])[1]
        assert len(first) == 113 + len(self.connect)
        assert (oepreface.parse_auth(self.down_packets[0])[0] == oepreface.RETRY) == (kind == "retry")
        assert [r["data"] for r in self.got] == [self.want_down] * 2 and self.states == ["pinned"] * 2

    def run(self, plans):
        a = self.attacker
        base = len(a.links)
        a.plan = lambda n: plans[n - base]
        results, proc = rawpeers.run_clients(
            self.world, self.version, [{"port": a.port, "id": "x"}] * len(plans), ms=300, state="range",
            stuck=("running",), connect=self.connect.hex(), send=self.up[0].hex(), then=self.up[1].hex(),
            then_after=len(self.down) + len(self.echo[0]), stop_after=len(self.want_down), limit=4, total=400)
        a.wait_closed()
        assert len(results) == len(plans) == len(a.links) - base
        said = proc.stderr()
        self.states += [x.state for x in proc.oe()]
        self.broken += said.count(" broken: ")
        self.got += results
        self.plans += plans
        self.links += a.links[base:]
        return results

    def judge(self):
        """Every application got the beginning of what was sent, or a refusal; nothing else. Returns how many clients got everything, and how many
        connections gave the server something else (with nothing of the application in it)."""
        refused = oepreface.refused_by_initiator(self.version)
        for r in self.got:
            assert r["data"] == refused or self.want_down.startswith(r["data"]), (r["data"], r["end"])
        everything = [r["data"] == self.want_down for r in self.got]
        assert set(self.states) <= {"pinned", "refused"}
        assert len(self.states) <= len(self.got) <= len(self.states) + self.broken  # none is silent
        odd = 0
        for data in self.server.report_all():
            if not self.want_up.startswith(data):
                # an altered preface is somebody's CONNECT; a stranger's bytes are a stranger's
                assert MARKER not in data and b"client-of-the-range" not in data, data
                assert any(link.sent_up.startswith(data) for link in self.links), data
                odd += 1
        for link in self.links:
            wire = b"".join(link.up) + b"\0\0" + b"".join(link.down)
            for needle in (MARKER, b"client-of-the-range"):
                assert not h.wire_contains(wire, needle)
        return sum(everything), odd


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("version,kind", [(4, "ik"), (5, "ik"), (5, "retry")])
def test_each_bit(world, version, kind, direction):
    """Preface, AUTH packets and the first records."""
    r = Range(world, version, kind)
    packets = (r.up_packets if direction == "up" else r.down_packets)[:4 if kind == "retry" else 3]
    bits = 8 * sum(map(len, packets))
    plans = [Flip(direction, bit) for bit in range(bits)]
    for at in range(0, bits, 600):
        r.run(plans[at:at + 600])
    done = sum(p.done for p in plans)
    whole, odd = r.judge()
    assert done > 0.98 * bits and bits > (1000 if direction == "up" else 700), (done, bits)
    noise_bits = 8 * (len(oepreface.parse_preface(r.up_packets[0])[1]))
    retried = noise_bits if direction == "up" else 0  # an altered message 1 of IK is one for another key: retry, XX, and the known key
    assert whole <= 2 + retried + (bits - done) + 8, (whole, retried, odd)
    assert odd <= (8 * 25 if direction == "up" else 0)  # the preface up to its method: not recognised any more


def edits(r):
    """Plans that drop, double, exchange and cut each packet of a connection."""
    for direction, packets in (("up", r.up_packets), ("down", r.down_packets)):
        for n in range(len(packets)):
            yield Edit(direction, n, lambda raw: b"")
            yield Edit(direction, n, lambda raw: raw + raw)
            yield Edit(direction, n, lambda raw: raise_cut(b"", False))
            yield Edit(direction, n, lambda raw: raise_cut(b"", True))
            yield Edit(direction, n, lambda raw: raise_cut(raw, False))
            yield Edit(direction, n, lambda raw: raise_cut(raw[:len(raw) // 2], False))
            yield Edit(direction, n, lambda raw: raise_cut(raw[:-1], True))
            yield Edit(direction, n, lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]))
            if n:
                yield Edit(direction, n, lambda raw, other=packets[0]: other)
                yield Edit(direction, n, lambda raw, other=packets[n]: other)  # the same packet of another connection
            if n + 1 < len(packets):
                yield Swap(direction, n)


def raise_cut(before, reset):
    raise Cut(before, reset)


@pytest.mark.parametrize("version", mqtt.VERSIONS)
@pytest.mark.parametrize("kind", ["ik", "retry"])
def test_each_packet(world, version, kind):
    """Dropped, doubled, exchanged, replaced, altered, truncated: at every packet boundary and inside every packet."""
    r = Range(world, version, kind)
    plans = list(edits(r))
    assert len(plans) > 60
    results = r.run(plans)
    whole, _ = r.judge()
    assert sum(p.done for p in plans) > 0.9 * len(plans)
    harmed = [x for p, x in zip(plans, results) if p.done]
    # what is cut behind the last packet, and a retry that is brought about, leaves everything as it was
    assert whole <= 2 + len(plans) - sum(p.done for p in plans) + 14 and len(harmed) > 50, whole


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("kind", ["ik", "retry"])
@pytest.mark.parametrize("towards", ["client", "server"])
def test_injected_at_every_stage(world, version, kind, towards):
    """Plain packets between any two packets of the connection, in both versions' forms, records of other keys, and rubbish."""
    r = Range(world, version, kind)
    forged = [mqtt.publish(version, "up" if towards == "server" else "down", b"forged-payload"), mqtt.publish(5, "forged/topic", b"forged-payload"),
              mqtt.connack(version) + mqtt.publish(version, "down", b"forged-payload"), oewire.record(5, os.urandom(40)), mqtt.pingreq(),
              mqtt.disconnect(), mqtt.connect(version, "forged-client"), oewire.abort(version), oewire.answer(version), oepreface.REFUSAL,
              oepreface.auth(oepreface.RETRY), oewire.handshake_packet(version, os.urandom(64)), b"\xff" * 30]
    plans = [Inject(towards, data, direction, after) for data in forged for direction, packets in (("up", r.up_packets), ("down", r.down_packets))
             for after in range(1 if direction == "down" or towards == "server" else 0, len(packets) + 1)]
    r.run(plans)
    done = sum(p.done for p in plans)
    assert len(plans) > 50 and done > 0.9 * len(plans)
    for x in r.got:
        assert b"forged" not in x["data"]
    whole, odd = r.judge()
    assert odd == 0
    # what comes behind the last packet, or after the end, may find everything said
    assert whole <= 2 + (len(plans) - done) + 6 * len(forged), (whole, len(plans))


@pytest.mark.parametrize("version", [4, 5])
def test_injected_before_the_connect(world, version):
    """A server that speaks before the application does: a CONNECT that follows is refused, and so is the rest of one that has begun."""
    server = rawpeers.LibraryServer(world, state="server")
    forged = mqtt.connack(version) + mqtt.publish(version, "down", b"forged-payload")
    with Attacker(server.port, lambda n: Inject("client", forged, "down", 0)) as a:
        trust.write_known(world.state("range"), (a.endpoint, h.fingerprint(server.state)))
        for n in range(2):
            first, proc = rawpeers.one_client(world, version, a.port, ms=300, state="range", banner=n == 0, step=1 if n else None)
            want = b"" if n == 0 else oepreface.refused_by_initiator(version)  # who has said nothing yet gets the end alone
            assert (first["data"], proc.oe()[-1].state) == (want, "refused"), proc.stderr()
        a.wait_closed()
        assert [link.up for link in a.links][:1] == [[]] and len(a.links) == 2
        assert all(oepreface.parse_preface(raw) for raw in a.links[1].up)  # the pieces may have become whole before anything was read
    assert b"".join(server.report_all()) == b""


def forgeries(level, scene, towards):
    topic = scene.topic + "/forged"
    down = mqtt.publish(level, topic, b"forged-payload")
    up = mqtt.publish(level, "forged/topic", b"forged-payload")
    return [mqtt.connack(level) + down, down, mqtt.publish(5, topic, b"forged-payload")] if towards == "client" else [
        mqtt.connect(level, scene.client_id) + up, up, mqtt.publish(5, "forged/topic", b"forged-payload")]


@each_version
@each_tool
@pytest.mark.parametrize("towards", ["client", "server"])
@pytest.mark.parametrize("policy", ["prefer", "require"])
def test_injected_into_stock_programs(world, tool, version, towards, policy):
    """What the subscriber prints and what the broker accepts, with a plain PUBLISH at every stage of a connection to a pinned broker."""
    scene = trust.Scene(world, policy=policy)
    level, count = trust.LEVEL[version], 0
    with Attacker(scene.port) as front:
        trust.write_known(scene.state, (front.endpoint, scene.fingerprint))
        for direction in ("up", "down"):
            # a plain CONNECT in front of it all is another client's, and a broker with prefer takes it
            for after in range(0 if direction == "up" and (towards, policy) != ("server", "prefer") else 1, 4):
                for data in forgeries(level, scene, towards)[:1 if tool == "sub" else 3]:
                    front.plan = lambda n: Inject(towards, data, direction, after)
                    c = scene.contact(tool, version, port=front.port, env=impatient(world), args=["-W", "2"] if tool == "sub" else [], wait=False)
                    count += front.links[-1].plan.done
                    assert b"forged" not in c.proc.stdout() and (c.proc.status == 0) == (c.sent.encode() in c.proc.stdout()) or tool == "pub"
    assert count >= (12 if tool == "pub" else 4)
    assert "forged" not in str([t for t, _ in scene.seen()])


@each_version
def test_injected_behind_the_first_handshake(scene, front, version):
    """A first contact under prefer: once the handshake is through, nothing plain is accepted."""
    level = trust.LEVEL[version]

    class Behind(Plan):
        sent = 0

        def down(self, n, raw):
            if raw[:1] != b"\x30" or b"\0\1$" not in raw[:6]:
                return raw
            self.sent += 1
            return raw + mqtt.publish(level, scene.topic + "/1", b"forged")

    front.plan = lambda n: Behind()
    sub = scene.world.sub(front.port, scene.topic + "/1", library=True, state=scene.state, protocol=version, args=["-W", "3"])
    sub.wait(30)
    assert [x.state for x in sub.oe()][:1] == ["unauthenticated"] and sub.messages() == []
    assert sum(link.plan.sent for link in front.links) >= 1
