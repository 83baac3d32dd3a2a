"""Each client at each broker, the heavy ones too: MQTT.js, a client for Java, aedes under Node.js, RabbitMQ. See lib/work.py.

The tests of one broker go to one worker (xdist_group): RabbitMQ takes its time to start."""
import os
import re
import subprocess

import pytest

import harness as h
import work


def cases():
    """All combinations where client or broker is heavy (those of two light ones are in tests/interop)."""
    for broker, kind in work.BROKERS.items():
        for name, client in work.CLIENTS.items():
            if broker != "mosquitto" or name in work.HEAVY:
                for level in sorted(set(client.levels) & set(kind.levels)):
                    yield pytest.param(name, level, broker, marks=pytest.mark.xdist_group(broker), id=f"{name}-{level}-{broker}")


@pytest.mark.parametrize("name,level,broker", cases())
def test_same_work(name, level, broker, pairs):
    output, statuses, _ = work.run_case(name, level, pairs[broker])
    assert output and set(statuses) <= {0, 63 if name == "curl" else 0}, statuses


def over(url, broker, port, library):
    """The work of MQTT.js through another transport than MQTT on TCP: what is on the wire."""
    with h.World(library) as w:
        sent, relay = work.Payloads(os.path.join(w.dir, "payloads")), w.relay(port)
        root, said = "oe/" + os.urandom(8).hex(), len(broker.oe())
        p = w.run(["node", work.HEAVY_DIR / "work_mqttjs.js", f"{url}://127.0.0.1:{relay.port}", 4, 2, root, sent.folder, h.new_id()],
                  env={"NODE_PATH": str(work.NODE_MODULES)})
        lines = [re.sub(r"qos=\d length=(\d+) sha256=", r"\1 ", line) for line in p.stdout().decode().splitlines() if "sha256" in line]
        assert p.status == 0 and sorted(lines) == sent.lines(2), p.stderr()
        relay.wait_closed()
        connection, = relay.connections
        # neither end takes it for MQTT; there is no probe and no record
        said = p.oe() + [x for x in broker.oe()[said:] if x.port == connection.upstream_port]
        assert all(x.state == "plain" for x in said), [x.text for x in said]
        both = bytes(connection.to_server) + bytes(connection.to_client)
        assert b"oe-mqtt/1" not in both and b"OE-MQTT" not in both
        h.count(style=f"{url} passes", cases=1)
        return connection, sent


def check_websocket(connection, sent):
    assert connection.to_server.startswith(b"GET / HTTP/1.1\r\n") and connection.to_client.startswith(b"HTTP/1.1 101 ")
    needle = sent["3-200"][:24]   # a client masks what it sends
    assert "raw" in h.wire_contains(bytes(connection.to_client), needle) and not h.wire_contains(bytes(connection.to_server), needle)


@pytest.mark.xdist_group("aedes")
@pytest.mark.parametrize("library", [False, True], ids=["native", "library"])
def test_websocket_of_aedes(library, pairs):
    broker = pairs["aedes"][library]
    check_websocket(*over("ws", broker, broker.ws_port, library))


@pytest.mark.xdist_group("mosquitto")
@pytest.mark.parametrize("library", [False, True], ids=["native", "library"])
def test_other_listeners_of_mosquitto(library, tmp_path):
    """Listeners for WebSocket and TLS beside the plain one, which is encrypted."""
    pem, ws, tls = tmp_path / "tls.pem", h.free_port(), h.free_port()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=127.0.0.1", "-keyout", pem, "-out", pem], check=True, capture_output=True)
    with h.World(library) as w:
        broker = w.broker(config=f"listener {ws} 127.0.0.1\nprotocol websockets\n"
                                 f"listener {tls} 127.0.0.1\ncertfile {pem}\nkeyfile {pem}\n")
        check_websocket(*over("ws", broker, ws, library))
        connection, sent = over("mqtts", broker, tls, library)
        assert connection.to_server[:2] == b"\x16\x03" and not h.wire_contains(connection, sent["3-200"][:24])
        relay = w.relay(broker)
        p = w.pub(relay.port, "oe/plain", payload="beside")
        relay.wait_closed()
        if broker.library:
            assert [x.state for x in p.oe()] == ["unauthenticated"]
            h.check_encrypted(relay.connections[0])
