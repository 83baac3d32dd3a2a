"""Stock clients and client libraries do the same work native and under the library: see lib/work.py. Heavy ones are in tests/interop-all."""
import os
import sys

import pytest

import harness as h
import work


@pytest.fixture(scope="module")
def brokers():
    pair = work.Pair(work.Mosquitto)
    yield pair
    pair.close()


@pytest.mark.parametrize("name,level", [(name, level) for name in work.LIGHT for level in work.CLIENTS[name].levels])
def test_same_work(name, level, brokers):
    output, statuses, _ = work.run_case(name, level, brokers)
    assert output and set(statuses) <= {0, 63 if name == "curl" else 0}, statuses


# contact, policy, what both ends say: a PUBLISH behind CONNECT, before CONNACK
HASTY = [("first", None, "plain"), ("second", None, "plain"), ("known", None, "tofu"), ("first", "require", "unauthenticated")]


@pytest.mark.parametrize("contact,policy,state", HASTY, ids=[f"{c}-{p or 'prefer'}" for c, p, _ in HASTY])
def test_hasty_publisher(contact, policy, state, brokers):
    """Who publishes before CONNACK leaves no room for a probe: such a connection is plain by design (README), and both ends say so. Once the
    broker is known, or with require, the handshake comes before CONNECT, and it is encrypted."""
    with h.World(True) as w:
        sent = work.Payloads(os.path.join(w.dir, "payloads"))
        relay, root = w.relay(brokers[True]), "oe/" + os.urandom(8).hex()
        states, options = w.state("hasty"), ["-v"] + (["-p", policy] if policy else [])
        command = [sys.executable, work.CLIENTS_DIR / "work_paho.py", "hasty", "127.0.0.1", relay.port, 4, 2, root, sent.folder, h.new_id()]
        before = [w.run(command, state=states)] if contact == "second" else w.introduce(relay.port, "hasty") if contact == "known" else []
        assert all(p.status == 0 for p in before)
        p = w.run(command, state=states, options=options)
        native = w.run(command, library=False)
        assert (p.stdout(), p.status, h.without_oe(p.stderr())) == (native.stdout(), native.status, native.stderr()) and p.status == 0
        relay.wait_closed()
        if h.NATIVE:
            return
        connection = relay.connections[len(before)]
        there = h.wait_until(lambda: [x for x in brokers[True].oe() if x.port == connection.upstream_port], "the broker's line")[-1]
        here, = p.oe()
        assert here.state == state and (there.state == "plain") == (state == "plain"), here.text + there.text
        seen = h.wire_contains(connection, root)
        if state == "plain":
            assert "CONNACK" in here.reason, here.text
            h.check_plain(connection, probed=False)
            assert "raw" in seen
        else:
            h.check_encrypted(connection, preface="XX" if policy else "IK", hidden=[root])
        h.count(style="PUBLISH before CONNACK", cases=1)
