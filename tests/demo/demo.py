"""make demo: stock mosquitto programs talk encrypted, and what that looks like on the wire.

Everything runs on loopback, in a temporary directory, with programs of its own. Exit status 0 only if every check held.
"""
import pathlib
import signal
import sys
import textwrap

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import harness as h  # noqa: E402

TOPIC = "factory/hall-3/furnace/temperature"
PAYLOADS = ["THE-FURNACE-IS-AT-1187-DEGREES", "schichtleiter: Störung an Ofen 3, 21,5 °C zu heiß",
            "X" * 40 + "-a-longer-message-" + "Y" * 3000]
LOGIN = ["furnace-operator", "a-long-password-1187"]   # user name, password
WIDTH = 100


class Show:
    def __init__(self):
        self.failures = 0
        self.colour = sys.stdout.isatty()

    def title(self, text):
        line = "=" * WIDTH
        print(f"\n{line}\n{text}\n{line}", flush=True)

    def text(self, text):
        print(textwrap.fill(textwrap.dedent(text), WIDTH, break_on_hyphens=False), flush=True)

    def block(self, text, mark="    "):
        print(textwrap.indent(text.rstrip("\n"), mark), flush=True)

    def check(self, held, what):
        word = "ok  " if held else "FAIL"
        if self.colour:
            word = f"\033[{32 if held else 31}m{word}\033[0m"
        print(f"  [{word}] {what}", flush=True)
        self.failures += not held
        return held


def command(library, words):
    return " ".join(["oe-mqtt -v"] * library + words)


def run(show, pub_has, broker_has, sub_has):
    """One round of clients that meet the broker for the first time: delivers the messages and checks both links."""
    with h.World(True, fresh=True) as w:
        show.block("\n".join("$ " + line for line in (
            command(broker_has, ["mosquitto", "-c", "demo.conf"]),
            command(sub_has, ["mosquitto_sub", "-q 1 -t 'factory/#'"]),
            command(pub_has, ["mosquitto_pub", f"-q 1 -t {TOPIC} -m ..."]))))
        print()
        broker = w.broker(library=broker_has)
        to_pub, to_sub = w.relay(broker), w.relay(broker)
        sub = w.sub(to_sub.port, "factory/#", library=sub_has, qos=1, broker=broker, count=len(PAYLOADS))
        pubs = [w.pub(to_pub.port, TOPIC, payload=p, library=pub_has, qos=1) for p in PAYLOADS]
        sub.wait()
        got = [(m.topic, m.payload.decode()) for m in sub.messages()]
        show.check(got == [(TOPIC, p) for p in PAYLOADS], f"the subscriber printed all {len(PAYLOADS)} messages, unaltered")
        for r in (to_pub, to_sub):
            r.wait_closed()
        links = (("publisher", pub_has, to_pub, pubs), ("subscriber", sub_has, to_sub, [sub]))
        if broker_has:
            wanted = len(to_pub.connections) + len(to_sub.connections)
            h.wait_until(lambda: len(broker.oe()) >= wanted, "the broker's lines")
        for name, has, relay, clients in links:
            link(show, broker, name, has, broker_has, relay, clients)


def again(show):
    """A first contact and a second one: what the second shows of CONNECT, which crossed in plain in the first."""
    with h.World(True) as w:
        login = ["-u", LOGIN[0], "-P", LOGIN[1]]
        show.block(f"$ {command(True, ['mosquitto_pub', '-u', LOGIN[0], '-P', '...', '-q 1', '-t', TOPIC, '-m ...'])}      # twice")
        print()
        broker = w.broker()
        relay = w.relay(broker)
        pubs = [w.pub(relay.port, TOPIC, payload=PAYLOADS[0], qos=1, args=login) for _ in range(2)]
        relay.wait_closed()
        for p in pubs:
            show.block("\n".join(x.text for x in p.oe()), "      ")
        lines = [x for p in pubs for x in p.oe()]
        show.check([x.state for x in lines] == ["unauthenticated", "tofu"], "the first contact is state=unauthenticated, the second state=tofu")
        show.check({x.peer for x in lines} == {h.fingerprint(broker.state)}, "both name the broker's real key")
        first, second = relay.connections
        show.check(all("raw" in h.wire_contains(first, x) for x in (pubs[0].id, *LOGIN)),
                   "first contact: client id, user name and password can be read on the wire")
        hidden = [pubs[1].id, *LOGIN, TOPIC, PAYLOADS[0]]
        wire = h.check_encrypted(second, preface="IK", hidden=hidden)
        show.check(True, "second contact: neither they nor topic and payload crossed the wire (searched raw, hex, base64)")
        print(f"        to the broker:   {h.describe(wire.up)}\n        from the broker: {h.describe(wire.down)}")
        print("      its CONNECT, which is OE-MQTT's own; the program's is among the records:")
        show.block(h.hexdump(second.to_server[:wire.up[0].end], 48), "        ")


def link(show, broker, name, has, broker_has, relay, clients):
    encrypted = has and broker_has
    who = "both have" if encrypted else f"the {name} alone has" if has else "the broker alone has"
    print(f"\n  {name} <-> broker: {who} OE-MQTT")
    lines = [x for p in clients for x in p.oe()]
    said = lines[:1]
    ports = {c.upstream_port for c in relay.connections}
    from_broker = [x for x in broker.oe() if x.port in ports]
    said += from_broker[:1]
    for x in said:
        show.block(x.text, "      ")
    if encrypted:
        peers = ({x.peer for x in lines} == {h.fingerprint(broker.state)}
                 and {x.peer for x in from_broker} == {h.fingerprint(p.state) for p in clients})
        show.check(bool(lines) and all(x.state == "unauthenticated" for x in lines + from_broker) and bool(from_broker),
                   "both ends say state=unauthenticated: encrypted, the other's key not verified by anybody")
        show.check(peers, "each names the other's real key: nobody stands between")
    elif has or broker_has:
        mine = lines if has else from_broker
        show.check(len(mine) == len(relay.connections) and all(x.state == "plain" and x.reason for x in mine),
                   "the end that has OE-MQTT says state=plain, and why")
    try:
        for c in relay.connections:
            if encrypted:
                h.check_encrypted(c)
            else:
                h.check_plain(c, probed=has)
        parsed = [h.parse_link(c) for c in relay.connections]
        show.check(True, "every byte on the wire belongs to a well-formed MQTT packet"
                   + ("; after the handshake only records" if encrypted else ""))
    except (AssertionError, h.Malformed) as e:
        show.check(False, f"the wire: {e}")
        return
    recording = relay.recording()
    count = sum(len(x.up) + len(x.down) for x in parsed)
    records = sum(h.is_record(p, x.version) for x in parsed for p in x.up + x.down)
    plural, first = ("s", " The first:") if len(parsed) > 1 else ("", "")
    print(f"      {len(parsed)} connection{plural}, {len(recording)} bytes, {count} packets, {records} of them records.{first}")
    print(f"        to the broker:   {h.describe(parsed[0].up)}\n        from the broker: {h.describe(parsed[0].down)}")
    found = {needle[:34]: h.wire_contains(recording, needle) for needle in [TOPIC, "furnace/temperature", *PAYLOADS]}
    if encrypted:
        show.check(not any(found.values()), "neither the topic nor a payload crossed the wire (searched raw, hex, base64)")
    else:
        show.check(all("raw" in found[x[:34]] for x in (TOPIC, *PAYLOADS)),
                   "topic and payloads can be read on the wire, as without OE-MQTT")
    example(show, relay, encrypted)


def example(show, relay, encrypted):
    """A hex dump of what carried a message."""
    for c in relay.connections:
        for data, packets in ((c.to_server, h.parse_link(c).up), (c.to_client, h.parse_link(c).down)):
            for p in packets:
                if p.type == h.PUBLISH and (p.topic == "$" and p.remaining > 60 if encrypted else p.topic == TOPIC):
                    print("      a record:" if encrypted else "      a message:")
                    show.block(h.hexdump(data[p.start:p.end], 64), "        ")
                    return


ROUNDS = [
    ((True, True, True), "All three programs under oe-mqtt",
     "Stock mosquitto, mosquitto_sub and mosquitto_pub, none of them changed or configured for it. A relay of the demo's own sits between "
     "them and records every byte, as a listener on the network would. None of the clients has met the broker before."),
    ((False, True, True), "The publisher without oe-mqtt",
     "A publisher that has never heard of OE-MQTT. Its link is plain, the subscriber's stays encrypted."),
    ((True, True, False), "The subscriber without oe-mqtt", "The same on the other side."),
    ((True, False, True), "The broker without oe-mqtt", "Both clients ask the broker, learn that it has no OE-MQTT, and go on in plain."),
]
AGAIN = ("A second contact",
         "The client has met this broker before and remembers its key. The handshake now comes before anything of the program's, so even the "
         "CONNECT is encrypted, and a broker with another key, or without OE-MQTT, would be refused.")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    why = h.unusable()
    if why is None and h.NATIVE:
        why = "OE_MQTT_TEST_NATIVE is set"
    if why is None:
        try:
            for name in ("mosquitto", "mosquitto_pub", "mosquitto_sub"):
                h.program(name)
        except RuntimeError as e:
            why = f"{e}: apt-get install mosquitto mosquitto-clients"
    if why:
        print(f"demo: {why}", file=sys.stderr)
        return 2
    show = Show()
    steps = [(title, text, lambda ends=ends: run(show, *ends)) for ends, title, text in ROUNDS] + [(*AGAIN, lambda: again(show))]
    for number, (title, text, step) in enumerate(steps, 1):
        show.title(f"{number}. {title}")
        show.text(text)
        print()
        try:
            step()
        except (AssertionError, h.Malformed) as e:
            show.check(False, str(e))
    show.title("All checks held." if not show.failures else f"{show.failures} check(s) FAILED.")
    return 1 if show.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ndemo: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
