"""Helpers of the tests of PROTOCOL.md, sections 8 and 9, with real programs: known_peers, a preface on the wire, and a scene to try them in."""

import base64
import collections
import os
import re
import shlex
import subprocess

import harness as h
import oepreface

Known = collections.namedtuple("Known", "endpoint key state first last epoch number")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
REFUSED_STATUS = {"mqttv31": 3, "mqttv311": 3, "mqttv5": 136}
REFUSED_WORDS = {"mqttv31": "broker unavailable", "mqttv311": "broker unavailable", "mqttv5": "Server unavailable"}
LEVEL = {"mqttv31": 3, "mqttv311": 4, "mqttv5": 5}


# ---- files -------------------------------------------------------------------------------------------------------------------------------

def known_path(state):
    return os.path.join(state, "known_peers")


def write_known(state, *lines, mode="w"):
    """lines: text, or (endpoint, fingerprint[, state[, epoch]])."""
    with open(known_path(state), mode, encoding="ascii") as f:
        for line in lines:
            if not isinstance(line, str):
                endpoint, key, kind, epoch = (*line, *("pinned", "-")[len(line) - 2:])
                line = f"{endpoint} {key} {kind} - - {epoch}"
            f.write(line + "\n")


def known(state):
    """The lines of known_peers; every one must be of the form of 9.1."""
    found = []
    try:
        with open(known_path(state), encoding="ascii") as f:
            text = f.read()
    except FileNotFoundError:
        return found
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split()
        fields += ["-"] * (6 - len(fields))
        assert re.fullmatch(rf"\S+:\d+ oe1:[A-Za-z0-9+/]{{43}}= (tofu|pinned) ({TIME}|-) ({TIME}|-) ([0-9a-f]{{32}}|-)", " ".join(fields)), line
        found.append(Known(*fields, number))
    return found


def write_allowed(state, text):
    with open(os.path.join(state, "allowed_peers"), "w", encoding="ascii") as f:
        f.write(text)


def identity(world, name):
    """The fingerprint of a state directory of this world; the identity is made if there is none."""
    state = world.state(name)
    subprocess.run([ctl(), "id"], env=h.child_env(state), check=True, capture_output=True)
    return h.fingerprint(state)


def public(fingerprint):
    return base64.b64decode(fingerprint[4:], validate=True)


def ctl():
    return str(h.ROOT / "build" / "oe-mqttctl")


def command_in(text):
    """The oe-mqttctl command that a message names: up to a quote, a semicolon or the end of the line."""
    found = re.search(r"oe-mqttctl (?!-)[^\"'`;()\n]+", text)
    assert found, f"no oe-mqttctl command in: {text}"
    return shlex.split(found[0].strip().rstrip("."))


def run_command(command, state):
    """Does what the message says an operator can do."""
    done = subprocess.run([ctl(), *command[1:]], env=h.child_env(state), capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


# ---- the wire ----------------------------------------------------------------------------------------------------------------------------

def check_preface(connection, whole=True):
    """The connection is a preface and records, nothing else. Returns (`xx`, `ik` or `retry`, payload of the first record up)."""
    link = h.parse_link(connection, whole)
    shape = f"\n  to server: {h.describe(link.up)}\n  to client: {h.describe(link.down)}"
    ups, downs = raws(connection.to_server, link.up), raws(connection.to_client, link.down)
    parsed = oepreface.parse_preface(ups[0])
    assert parsed, "no preface" + shape
    kind = "xx" if parsed[0] == oepreface.XX else "ik"
    if kind == "ik" and downs and oepreface.parse_auth(downs[0]) == (oepreface.RETRY, b""):
        kind = "retry"
    want = {"xx": ([(1, 65)], [(1, 112)]), "ik": ([], [(2, 65)]), "retry": ([(1, 32), (1, 65)], [(3, 0), (1, 112)])}[kind]
    for some, auths in ((ups[1:], want[0]), (downs, want[1])):
        assert len(some) >= len(auths), "the handshake is not through" + shape
        for raw, (ident, size) in zip(some, auths):
            got = oepreface.parse_auth(raw)
            assert got and (got[0], len(got[1])) == (ident, size), f"not AUTH {ident} of {size} bytes" + shape
    records = link.up[1 + len(want[0]):], link.down[len(want[1]):]
    for p in [*records[0], *records[1]]:
        assert h.is_record(p, 5), f"{h.NAMES[p.type]} topic {p.topic!r} among the records" + shape
    assert records[0] or kind == "ik", "no record" + shape
    first = records[0][0].payload[1] - records[0][0].payload[0] - 16 if records[0] else 0
    return kind, first


def check_refused(connection, answered=True):
    """What an initiator that refuses leaves on the wire: the preface, perhaps message 1 of XX, and nothing else."""
    link = h.parse_link(connection, whole=False)
    ups = raws(connection.to_server, link.up)
    assert oepreface.parse_preface(ups[0]), h.describe(link.up)
    for raw in ups[1:]:
        assert oepreface.parse_auth(raw) and len(oepreface.parse_auth(raw)[1]) == 32, h.describe(link.up)
    assert len(ups) <= 2 and connection.to_server == b"".join(ups)
    assert not answered or connection.to_client


def raws(data, packets):
    return [data[p.start:p.end] for p in packets]


def check_hidden(recording, needles):
    """None of the needles crosses the wire, in raw, base64 or hex."""
    count = 0
    for needle in needles:
        found = h.wire_contains(recording, needle)
        assert not found, f"{needle!r} crossed the wire ({found})"
        count += len(h.encodings(needle))
    assert count >= 9
    return count


# ---- a scene -----------------------------------------------------------------------------------------------------------------------------

class Contact:
    """What came of one run of mosquitto_pub or mosquitto_sub."""

    def __init__(self, proc, connection, sent, version):
        self.proc, self.connection, self.sent, self.version = proc, connection, sent, version
        self.status, self.err = proc.status, proc.stderr()

    @property
    def line(self):
        lines = [line for line in self.proc.oe() if line.role == "connect"]
        assert len(lines) == 1, self.err
        return lines[0]

    def passed(self, state):
        assert self.status == 0, self.err
        line = self.line
        assert (line.state, line.reason != "") == (state, True), line.text
        assert line.protocol == h.PROTOCOLS[self.version], line.text
        return self

    def refused(self):
        """As the program tells it and as the library does; nothing but the preface went out."""
        assert self.status == REFUSED_STATUS[self.version], (self.status, self.err)
        assert REFUSED_WORDS[self.version] in h.without_oe(self.err), self.err
        assert self.proc.stdout() == b""
        assert self.line.state == "refused" and self.line.reason, self.line.text
        return self


class Scene:
    """A broker under the library behind a recording relay; beside it a listener of the same broker for stock programs, where a witness sees
    every message. The client's state directory is that of `client`."""

    def __init__(self, world, policy=None, library=True, host="127.0.0.1", **kw):
        """policy: of the broker for the port of the relay."""
        self.world, self.host = world, host
        self.port, self.side = h.free_port(host), h.free_port()
        self.config = '[link]\nhandshake-timeout = 15s\n' + (f'[accept "{self.port}"]\npolicy = {policy}\n' if policy else "")
        env = {"OE_MQTT_CONFIG": world.file(f"broker-{self.port}.conf", self.config.encode())}
        kw["config"] = kw.get("config", "") + f"\nlistener {self.side} 127.0.0.1\n"
        self.broker = world.broker(library=library, port=self.port, host=host, env=env, **kw)
        self.relay = world.relay(self.broker)
        self.endpoint = f"[{host}]:{self.relay.port}" if ":" in host else f"{host}:{self.relay.port}"
        self.client_id, self.topic = "client-id-" + os.urandom(5).hex(), "topic-of-the-plant/" + os.urandom(8).hex()
        self.count, self.witnesses = 0, []
        self.witness()

    @property
    def fingerprint(self):
        return h.fingerprint(self.broker.state)

    @property
    def state(self):
        return self.world.state("client")

    def witness(self):
        """From here on a witness sees what the broker accepts (a new one after each start of the broker)."""
        self.witnesses.append(self.world.sub(self.side, "#", library=False, broker=self.broker, args=self._login()))

    def _login(self):
        users = self.broker.users
        return ["-u", next(iter(users)), "-P", users[next(iter(users))]] if users else []

    def change(self, library=True, new_state=True):
        """The broker is started again: with another identity, or without the library."""
        self.broker.stop()
        self.broker.library = library and not h.NATIVE
        if new_state:
            self.broker.state = os.path.join(self.broker.dir, f"state-{len(self.witnesses)}")
            os.makedirs(self.broker.state, mode=0o700, exist_ok=True)
        self.broker.start()
        self.witness()

    def side_pub(self, topic, payload, retain=False):
        return self.world.pub(self.side, topic, payload=payload, qos=1, library=False, retain=retain, args=self._login())

    def contact(self, tool, version="mqttv311", host=None, port=None, args=(), wait=True, **kw):
        """mosquitto_pub with a message, or mosquitto_sub for one that is retained. wait: and look whether the witness has what was published."""
        self.count += 1
        payload = f"payload-{self.count}-" + os.urandom(8).hex()
        before = len(self.relay.connections)
        common = dict(protocol=version, client_id=self.client_id, state=self.state, host=host or self.host, library=True, args=args, **kw)
        if tool == "pub":
            proc = self.world.pub(port or self.relay.port, self.topic, payload=payload, qos=1, status=None, **common)
        else:
            self.side_pub(f"{self.topic}/{self.count}", payload, retain=True)
            proc = self.world.sub(port or self.relay.port, f"{self.topic}/{self.count}", qos=1, count=1, **common)
            proc.wait()
        self.relay.wait_closed()
        if proc.status == 0 and tool == "sub":
            assert [m.payload for m in proc.messages()] == [payload.encode()]
        made = self.relay.connections[before:]
        found = Contact(proc, made[0] if made else None, payload, version)
        if tool == "pub" and wait:
            assert self.arrived(payload) == (proc.status == 0), proc.stderr()
        return found

    def contact_raw(self, version, port, policy, payload="payload-of-contact", status=0):
        """mosquitto_pub to any port, with what comes of it left to the test."""
        return self.world.pub(port, self.topic, payload=payload, qos=0, protocol=version, client_id=self.client_id, state=self.state,
                              options=("-v", "-p", policy), status=status)

    def seen(self):
        """(topic, payload) of everything that any witness saw, after all that has been sent up to now."""
        end = "end-" + os.urandom(8).hex()
        self.side_pub("end", end)
        h.wait_until(lambda: end.encode() in self.witnesses[-1].stdout(), "the witness")
        return [(m.topic, m.payload) for w in self.witnesses for m in h.parse_messages(w.stdout(), whole=False)]

    def arrived(self, payload):
        return payload.encode() in [p for _, p in self.seen()]

    def client_in_log(self):
        """Whether the broker has seen a CONNECT with the client's id."""
        return self.client_id in self.broker.log()
