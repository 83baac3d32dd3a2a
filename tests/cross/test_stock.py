"""Stock programs of another architecture, under qemu-user and that architecture's library, with this machine's and with each other.

Each round trip has a subscriber and publishers, each behind a relay that records; each publisher is a first contact once and a later one then.
"""
import json
import os
import subprocess

import pytest

import harness as h

# who is of the other architecture
PLACES = {"clients": ("sub", "pub"), "broker": ("broker",), "publisher": ("pub",), "all": ("sub", "pub", "broker")}
PAYLOAD_BYTES = (16, 4096, 300 << 10)


def needles(payload):
    return [payload[at:at + 16] for at in {0, (len(payload) - 16) // 2, len(payload) - 16}]


def line_of(p):
    """The one line that a client's library wrote."""
    lines = p.oe()
    assert len(lines) == 1, p.stderr()
    return lines[0]


def accepted(broker, connection):
    """What the broker's library said about a relayed connection."""
    return h.wait_until(lambda: [x for x in broker.oe() if x.port == connection.upstream_port], lambda: broker.log()[-2000:])[0]


def test_other_architecture(machine):
    ours = [machine.library, machine.build / "oe-mqttctl", machine.build / "unit" / "test_conn"]
    theirs = [machine.program(name) for name in ("mosquitto", "mosquitto_pub", "mosquitto_sub")]
    for path in ours + theirs:
        assert machine.is_of(path), path
    assert not machine.is_of(h.LIBRARY) and not machine.is_of(h.program("mosquitto_pub"))


def round_trip(machine, where, version, qos, has):
    """Subscriber, broker and publishers; has: who has the library. Returns what there is to look at."""
    on = {who: machine if who in PLACES[where] else None for who in ("sub", "pub", "broker")}
    root = "oe/" + os.urandom(8).hex()
    sent = {f"{root}/{n}": os.urandom(n) for n in PAYLOAD_BYTES}
    with h.World(True) as w:
        broker = w.broker(library=has["broker"], machine=on["broker"])
        relays = {"sub": w.relay(broker), "pub": w.relay(broker)}
        sub = w.sub(relays["sub"].port, root + "/#", qos=qos, count=len(sent), broker=broker, protocol=version, library=has["sub"],
                    machine=on["sub"])
        pubs = [w.pub(relays["pub"].port, topic, payload=payload, qos=qos, protocol=version, library=has["pub"], machine=on["pub"])
                for topic, payload in sent.items()]
        assert sub.wait() == 0, sub.stderr()
        assert {m.topic: m.payload for m in sub.messages()} == sent
        for p in (sub, *pubs):
            assert h.without_oe(p.stderr()) == "", p.stderr()
        relays["sub"].wait_closed()
        relays["pub"].wait_closed()
        for who, clients in (("sub", [sub]), ("pub", pubs)):
            assert len(clients) == len(relays[who].connections)
            for number, (p, connection) in enumerate(zip(clients, relays[who].connections)):
                if has[who] and has["broker"]:
                    look_encrypted(broker, p, connection, version, number, list(sent.items()))
                else:
                    look_plain(broker, p, connection, has[who], sent)


def look_encrypted(broker, p, connection, version, number, sent):
    hidden = [topic for topic, _ in sent] + [n for _, payload in sent for n in needles(payload)]
    if number:  # a later contact shows nothing of CONNECT either
        h.check_encrypted(connection, preface="IK", hidden=[p.id, *hidden])
    else:
        h.check_encrypted(connection, hidden=hidden)
    mine, its = line_of(p), accepted(broker, connection)
    assert (mine.role, mine.state, mine.protocol) == ("connect", "tofu" if number else "unauthenticated", h.PROTOCOLS[version]), mine.text
    assert (its.role, its.state, its.protocol) == ("accept", "unauthenticated", h.PROTOCOLS[version]), its.text
    # each knows the other by its key, whatever made it
    assert mine.peer == h.fingerprint(broker.state) and its.peer == h.fingerprint(p.state)


def look_plain(broker, p, connection, probed, sent):
    h.check_plain(connection, probed)
    assert [n for payload in sent.values() for n in needles(payload) if "raw" in h.wire_contains(connection, n)], "the wire shows no payload"
    if probed:
        assert line_of(p).state == "plain"
    elif broker.library:
        assert accepted(broker, connection).state == "plain"
    assert broker.library or broker.oe() == []


@pytest.mark.parametrize("version,qos", [("mqttv311", 0), ("mqttv5", 1), ("mqttv311", 2)], ids=["3.1.1-qos0", "5.0-qos1", "3.1.1-qos2"])
@pytest.mark.parametrize("where", PLACES)
def test_encrypted(machine, where, version, qos):
    round_trip(machine, where, version, qos, dict(sub=True, pub=True, broker=True))


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"], ids=["3.1.1", "5.0"])
@pytest.mark.parametrize("where,with_library", [("clients", "clients"), ("clients", "broker"), ("broker", "clients"), ("broker", "broker")])
def test_plain(machine, where, with_library, version):
    clients = with_library == "clients"
    round_trip(machine, where, version, 1, dict(sub=clients, pub=clients, broker=not clients))


def test_refused(machine):
    """A broker without the library, a client that must not be plain: nothing of it on the wire."""
    with h.World(True) as w:
        broker = w.broker(library=False)
        relay = w.relay(broker)
        p = w.pub(relay.port, "topic/of/refused", payload="never on this wire", machine=machine, options=("-v", "-p", "require"), status=None)
        assert p.status not in (0, None) and line_of(p).state == "refused", p.stderr()
        for needle in ("topic/of/refused", "never on this wire", p.id):
            assert not h.wire_contains(relay, needle)


# ---- oe-mqttctl --------------------------------------------------------------------------------------------------------------------------

def control(machine, state, *command, preload=False):
    argv = [str(machine.build / "oe-mqttctl"), *command] if machine else [str(h.ROOT / "build" / "oe-mqttctl"), *command]
    done = subprocess.run(machine.under(argv, preload, ()) if machine else argv, env=h.child_env(state), capture_output=True, timeout=h.PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_control(machine):
    """What one architecture stores and shows the other reads: identity, known_peers, status."""
    with h.World(True) as w:
        broker, here, there = w.broker(), w.state("here"), w.state("there")
        assert control(machine, there, "id").strip() == control(None, there, "id").strip() == h.fingerprint(there)
        control(machine, there, "check", "--preloaded", preload=True)
        w.sub(broker.port, "a/topic", machine=machine, state=there, broker=broker)
        sub = w.sub(broker.port, "a/topic", state=here, broker=broker)
        for reader in (machine, None):
            assert control(reader, there, "probe", f"127.0.0.1:{broker.port}").split()[0]
            for state in (here, there):
                assert h.fingerprint(broker.state) in control(reader, state, "peers")
        # of a guest qemu 7.2 makes up the time it began, so what it shows is taken for stale: only this machine's process can be read by both
        for reader in (machine, None):
            shown = json.loads(control(reader, here, "status", "--json"))
            assert [p["pid"] for p in shown["processes"]] == [sub.pid], shown
            connection, = shown["processes"][0]["connections"]
            assert (connection["state"], connection["peer"]) == ("unauthenticated", h.fingerprint(broker.state)), shown
            assert connection["port"] == broker.port and connection["out"]["records"] > 0, shown


def test_bytes_that_are_no_text(machine):
    """char has no sign on ARM."""
    with h.World(True) as w:
        state = os.path.join(os.fsencode(w.dir), b"state-\xff\xe9")
        os.mkdir(state, 0o700)
        env = {**h.child_env(w.state("other")), "OE_MQTT_STATE": os.fsdecode(state)}
        done = subprocess.run(machine.under([machine.build / "oe-mqttctl", "peers", "--json"], False), env=env, capture_output=True,
                              timeout=h.PATIENCE)
        assert done.returncode == 0 and "state-??/" in json.loads(done.stdout)["known_peers"]["file"], done
