"""The same work by many clients and brokers, native and under the library, compared: what they print, their exit status, both ends' state, the wire.

The work is described in tests/interop/clients/work.h. A client is a function that does all of it through a Job and is registered in CLIENTS; a broker
is harness.Broker or one of the classes here. run_case() does one client at one broker in every combination."""
import collections
import hashlib
import os
import pathlib
import re
import sys

import harness as h

ROOT = h.ROOT
CLIENTS_DIR = ROOT / "tests" / "interop" / "clients"
HEAVY_DIR = ROOT / "tests" / "interop-all"
BUILD = ROOT / "build" / "interop"
JARS = ["mqtt-client", "hawtbuf", "hawtdispatch", "hawtdispatch-transport"]
CLASSPATH = ":".join([str(BUILD)] + [f"/usr/share/java/{jar}.jar" for jar in JARS])
NODE_MODULES = BUILD / "node" / "node_modules"

NON_ASCII = "größer · температура 21,5 °C · 温度 · 🌡 · \u00a0\ufeff\U0001f512".encode()


def payloads():
    """In the order of their names, which is the order in which they are published."""
    made = [b"", b"\x30", NON_ASCII + os.urandom(16), os.urandom(200), os.urandom(16383), os.urandom(16384), os.urandom(16385), os.urandom(300 << 10)]
    return {f"{i}-{len(payload)}": payload for i, payload in enumerate(made)}


class Payloads(dict):
    """payloads() in a folder, with a topic root of their own: what all runs of a case send."""

    def __init__(self, folder, most=1 << 20):
        super().__init__((name, payload) for name, payload in payloads().items() if len(payload) <= most)
        self.folder = folder
        os.mkdir(folder)
        for name, payload in self.items():
            pathlib.Path(folder, name).write_bytes(payload)

    def needles(self):
        """Pieces to look for on the wire."""
        return [p[at:at + 24] for p in self.values() if len(p) >= 24 for at in {0, len(p) // 2, len(p) - 24}]

    def lines(self, qos):
        """`q/NAME length sha256` of all that is published up to this QoS."""
        return sorted(f"{q}/{name} {len(p)} {hashlib.sha256(p).hexdigest()}" for q in range(qos + 1) for name, p in self.items())


# ---- a run of a client -------------------------------------------------------------------------------------------------------------------
class Contact(collections.namedtuple("Contact", "role process relay number")):
    """A program, and the number its connection has among those of its relay."""
    __slots__ = ()

    @property
    def connection(self):
        assert len(self.relay.connections) == self.number + 1, f"{self.role}: {len(self.relay.connections) - self.number} connections"
        return self.relay.connections[self.number]


class Ends(dict):
    """What outlives a run, so that the next one is a later contact: of each role (`sub`, `pub 3`) its state directory and its relay to the broker."""

    def __init__(self, world, name, broker):
        super().__init__()
        self.world, self.name, self.broker = world, name, broker

    def __missing__(self, role):
        state = os.path.join(self.world.state(self.name), role.replace(" ", "-"))
        os.makedirs(state, mode=0o700)
        self[role] = state, self.world.relay(self.broker.port, self.broker.host)
        return self[role]


class Job:
    """One run of the work: where, as what, and what was run."""

    def __init__(self, world, ends, library, level, qos, sent):
        self.world, self.ends, self.library, self.level, self.qos, self.sent = world, ends, library and not h.NATIVE, level, qos, sent
        self.broker = ends.broker
        self.root = "oe/" + os.urandom(8).hex()
        self.contacts, self.needles = [], []
        self.output, self.statuses, self.errors = [], [], []

    @property
    def protocol(self):
        return {4: "mqttv311", 5: "mqttv5"}[self.level]

    def start(self, role, command, env=None):
        """Starts a program; PORT in its command line is its relay's."""
        state, relay = self.ends[role]
        command = [str(c).replace("PORT", str(relay.port)) for c in command]
        number = len(relay.connections)
        p = self.world.start(command, library=self.library, state=state, env=env, name=role.split()[0])
        self.contacts.append(Contact(role, p, relay, number))
        return p

    def ended(self, p, timeout=60):
        self.statuses.append(p.wait(timeout))
        self.errors.append(self.anonymous(h.without_oe(p.stderr())))

    def anonymous(self, text):
        """Without what differs from run to run."""
        for port in {c.relay.port for c in self.contacts}:
            text = text.replace(f":{port}", ":PORT")
        return text.replace(self.root, "ROOT")

    def say(self, topic, qos, payload):
        self.output.append(f"{topic[len(self.root) + 1:]} qos={qos} length={len(payload)} sha256={hashlib.sha256(payload).hexdigest()}")

    def announce(self, topic):
        """A retained message, published natively and past the relay: who subscribes gets it, and so shows that the subscription is there."""
        h.run_pub(self.broker.port, topic, self.world.dir, payload=b"ready", retain=True, qos=1, host=self.broker.host)
        self.world.defer(lambda: h.run_pub(self.broker.port, topic, self.world.dir, retain=True, qos=1, host=self.broker.host, status=None))

    def whole(self, command, env=None):
        """A program that does all of the work."""
        client_id = h.new_id()
        self.needles.append(client_id)
        p = self.start("work", [*command, self.level, self.qos, self.root, self.sent.folder, client_id], env=env)
        self.ended(p)
        self.output += p.stdout().decode().splitlines()


# ---- the clients -------------------------------------------------------------------------------------------------------------------------
class Client(collections.namedtuple("Client", "name run levels style qos whole most", defaults=(2, True, 1 << 20))):
    """qos: the highest it is asked for. whole: it ends its connections in an orderly way. most: the largest payload it can publish."""
    __slots__ = ()


CLIENTS = {}


def client(name, levels, style, **kw):
    def register(run):
        CLIENTS[name] = Client(name, run, levels, style, **kw)
        return run
    return register


@client("mosquitto_pub, mosquitto_sub", (4, 5), "one thread, pselect, read and write")
def run_mosquitto(job):
    """A subscriber, and a publisher for each payload; QoS 0, 1 and 2 in turn."""
    ready = job.root + "/ready"
    job.announce(ready)
    topics = [t for f in (ready, *(f"{job.root}/{q}/+" for q in range(job.qos + 1))) for t in ("-t", f)]
    common = ["-h", job.broker.host, "-p", "PORT", "-V", job.protocol]
    sub = job.start("sub", [h.program("mosquitto_sub"), *common, "-i", h.new_id("s"), "-q", "2", "-N", "-F", h.FORMAT,
                            "-C", 1 + len(job.sent), *topics])
    sub.wait_messages(1)
    for i, name in enumerate(job.sent):
        q = i % (job.qos + 1)
        what = ["-f", os.path.join(job.sent.folder, name)] if job.sent[name] else ["-n"]
        p = job.start(f"pub {i}", [h.program("mosquitto_pub"), *common, "-i", h.new_id("p"), "-q", q, "-t", f"{job.root}/{q}/{name}", *what])
        job.ended(p)
        assert p.stdout() == b""
        sub.wait_messages(2 + i)   # QoS 0, 1 and 2 have no common order
    job.ended(sub)
    for m in sub.messages():
        job.say(m.topic, m.qos, m.payload)


@client("mosquitto_rr", (4, 5), "request and response", most=60000)
def run_rr(job):
    """Its own request is the response it waits for. (Of version 2.0.11 only requests that are an argument arrive: text, in hexadecimal here.)"""
    for i, name in enumerate(job.sent):
        q = i % (job.qos + 1)
        topic = f"{job.root}/{q}/{name}"
        text = job.sent[name].hex()
        what = ["-m", text] if text else ["-n"]
        p = job.start(f"rr {i}", [h.program("mosquitto_rr"), "-h", job.broker.host, "-p", "PORT", "-V", job.protocol, "-i", h.new_id("r"),
                                  "-q", q, "-W", 40, "-N", "-F", h.FORMAT, "-t", topic, "-e", topic, *what])
        job.ended(p)
        for m in p.messages():
            job.say(m.topic, m.qos, bytes.fromhex(m.payload.decode()))


@client("curl", (4,), "send and recv of one easy handle", qos=0, whole=False)
def run_curl(job):
    """A subscriber that ends by a message that is larger than it wants (status 63), and a publisher for each payload."""
    topic = job.root + "/curl"
    job.announce(topic)
    url = f"mqtt://{job.broker.host}:PORT/{topic}"
    sub = job.start("sub", [h.program("curl"), "-sS", "-N", "--max-filesize", 400000, url])
    h.wait_until(lambda: b"ready" in sub.stdout(), lambda: f"curl's first message, have {sub.stdout()!r} {sub.stderr()}")
    length = len(sub.stdout())
    for i, (name, payload) in enumerate(job.sent.items()):
        p = job.start(f"pub {i}", [h.program("curl"), "-sS", "--data-binary", "@" + os.path.join(job.sent.folder, name), url])
        job.ended(p)
        assert p.stdout() == b""
        length += len(payload) + 2 + len(topic)
        h.wait_until(lambda: len(sub.stdout()) >= length, lambda: f"{length} bytes, have {len(sub.stdout())} {sub.stderr()}")
    p = job.start("large", [h.program("curl"), "-sS", "--data-binary", "@" + job.world.file("large", bytes(500000)), url])
    job.ended(p)
    job.ended(sub)
    out, head = sub.stdout(), len(topic).to_bytes(2, "big") + topic.encode()   # curl writes topic and payload as they came
    for payload in (b"ready", *job.sent.values()):
        assert out.startswith(head + payload), out[:80]
        out = out[len(head) + len(payload):]
        job.say(f"{job.root}/0/{next((n for n, p in job.sent.items() if p == payload), 'ready')}", 0, payload)
    assert out == b""


@client("libmosquitto, threaded", (4, 5), "two threads on one socket, pselect")
def run_libmosquitto(job):
    job.whole([BUILD / "work_libmosquitto", job.broker.host, "PORT"])


@client("Paho C, synchronous", (4, 5), "one thread, poll, recv and writev")
def run_paho_sync(job):
    job.whole([BUILD / "work_paho_sync", job.broker.host, "PORT"])


@client("Paho C, asynchronous", (4, 5), "a thread that sends, one that receives")
def run_paho_async(job):
    job.whole([BUILD / "work_paho_async", job.broker.host, "PORT"])


@client("python3-paho, threads", (4, 5), "select, send and recv, a thread")
def run_paho_threads(job):
    job.whole([sys.executable, CLIENTS_DIR / "work_paho.py", "threads", job.broker.host, "PORT"])


@client("python3-paho, asyncio", (4, 5), "epoll by asyncio's selector loop")
def run_paho_asyncio(job):
    job.whole([sys.executable, CLIENTS_DIR / "work_paho.py", "asyncio", job.broker.host, "PORT"])


@client("MQTT.js", (4, 5), "epoll by libuv")
def run_mqttjs(job):
    job.whole(["node", HEAVY_DIR / "work_mqttjs.js", f"mqtt://{job.broker.host}:PORT"], env={"NODE_PATH": str(NODE_MODULES)})


@client("mqtt-client for Java", (4,), "epoll by the JVM's NIO selector")
def run_java(job):
    job.whole(["java", "-XX:TieredStopAtLevel=1", "-cp", CLASSPATH, "Work", job.broker.host, "PORT"])


LIGHT = [name for name in CLIENTS if name not in ("MQTT.js", "mqtt-client for Java")]
HEAVY = [name for name in CLIENTS if name not in LIGHT]


# ---- the brokers -------------------------------------------------------------------------------------------------------------------------
class Foreign:
    """What is common to brokers that are not mosquitto. levels and qos: the highest they know."""
    name, levels, qos = None, (4,), 2
    patience = 120

    def __init__(self, library=False, options=("-v",)):
        self.library, self.host, self.options = library and not h.NATIVE, "127.0.0.1", options
        self.dir = h.scratch_dir()
        self.state = os.path.join(self.dir, "state")
        self.port, self.proc, self.others = h.free_port(), None, []
        os.makedirs(self.state, mode=0o700)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def _start(self, command, env=None):
        self.proc = h.Proc(command, self.dir, library=self.library, state=self.state, env=env, options=self.options, name="broker")

    def wait_started(self, text):
        h.wait_until(lambda: text in self.proc.stdout() or not self.proc.alive(), lambda: f"{self.name}: {self.both()[-3000:]}", self.patience)
        assert self.proc.alive(), f"{self.name} ended: {self.both()[-3000:]}"

    def both(self):
        return self.proc.stdout().decode("utf-8", "replace") + self.proc.stderr()

    def log(self):
        return self.proc.stderr()

    def oe(self):
        return h.oe_lines(self.log())

    def close(self):
        try:
            if self.proc:
                self.proc.stop(grace=20)
            for p in self.others:
                p.stop()
        finally:
            h.remove_dir(self.dir)


class Mosquitto(h.Broker):
    name, levels, qos = "mosquitto", (4, 5), 2


class Aedes(Foreign):
    """Aedes under Node.js: libuv. MQTT 3.1.1; WebSocket on a port of its own."""
    name = "aedes"

    def start(self):
        self.ws_port = h.free_port()
        self._start(["node", HEAVY_DIR / "broker_aedes.js", self.host, self.port, self.ws_port], {"NODE_PATH": str(NODE_MODULES)})
        self.wait_started(b"listening")


class RabbitMQ(Foreign):
    """RabbitMQ with its MQTT plugin: Erlang's ERTS. MQTT 3.1.1; what is published with QoS 2 it delivers and acknowledges with QoS 1."""
    name, qos = "RabbitMQ", 1
    PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"

    def start(self):
        epmd_port = h.free_port()
        self.others.append(h.Proc([h.program("epmd"), "-port", epmd_port, "-address", self.host], self.dir, name="epmd"))
        files = {"rabbitmq.conf": f"listeners.tcp = none\nmqtt.listeners.tcp.1 = {self.host}:{self.port}\nmqtt.allow_anonymous = true\n"
                                  "log.console = true\nlog.console.level = info\nlog.file = false\n",
                 "plugins": "[rabbitmq_mqtt].\n", "env": ""}
        for name, text in files.items():
            pathlib.Path(self.dir, name).write_text(text, encoding="ascii")
        at = self.dir
        env = {"HOME": at, "RABBITMQ_NODENAME": f"oe-{self.port}@localhost", "RABBITMQ_BASE": at, "RABBITMQ_MNESIA_BASE": at + "/mnesia",
               "RABBITMQ_LOG_BASE": at + "/log", "RABBITMQ_CONFIG_FILE": at + "/rabbitmq.conf", "RABBITMQ_ENABLED_PLUGINS_FILE": at + "/plugins",
               "RABBITMQ_PID_FILE": at + "/pid", "RABBITMQ_CONF_ENV_FILE": at + "/env", "RABBITMQ_GENERATED_CONFIG_DIR": at + "/generated",
               "RABBITMQ_ADVANCED_CONFIG_FILE": at + "/advanced.config", "RABBITMQ_FEATURE_FLAGS_FILE": at + "/flags",
               "RABBITMQ_DIST_PORT": str(h.free_port()), "ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": self.host,
               # the shell script becomes the Erlang machine, which can then be ended by its process id
               "RABBITMQ_ALLOW_INPUT": "1", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +sbwt none +S 2:2"}
        self._start([self.PROGRAM], env)
        self.wait_started(b"Server startup complete")


BROKERS = {b.name: b for b in (Mosquitto, Aedes, RabbitMQ)}


class Pair(dict):
    """The same broker without and with the library: {False: ..., True: ...}."""

    def __init__(self, kind):
        super().__init__()
        try:
            for library in (False, True):
                self[library] = kind(library)
        except BaseException:
            self.close()
            raise

    def close(self):
        for b in self.values():
            if os.path.isdir(b.dir):   # else harness.end_all() was first
                b.close()


# ---- a case ------------------------------------------------------------------------------------------------------------------------------
# client and broker have the library, which contact of its state directory it is, and the state at the client's and the broker's end
Combination = collections.namedtuple("Combination", "client broker contact states pattern")
COMBINATIONS = [Combination(False, False, 1, (None, None), None),
                Combination(True, False, 1, ("plain", None), None),
                Combination(True, False, 2, ("plain", None), None),
                Combination(False, True, 1, (None, "plain"), None),
                Combination(True, True, 1, ("unauthenticated", "unauthenticated"), "probe"),
                Combination(True, True, 2, ("tofu", "unauthenticated"), "IK"),
                Combination(True, True, 3, ("tofu", "unauthenticated"), "IK early")]
ENCRYPTED = [c for c in COMBINATIONS if c.pattern]
REFERENCE = [COMBINATIONS[0]]


def check_delivered(job, what):
    """All payloads arrived, each once and unaltered, whatever the client's output says besides."""
    got = sorted(re.sub(r" qos=\d|length=|sha256=", "", line) for line in job.output if "sha256=" in line)
    got = [line for line in got if not re.match(r"(0/)?ready ", line)]
    assert len(set(got)) == len(got) and set(got) <= set(job.sent.lines(job.qos)), f"{what}: {got}"
    assert {line.split("/")[1].split()[0] for line in got} == set(job.sent), f"{what}: {got}"
    if len(job.contacts) == 1:
        assert got == job.sent.lines(job.qos), f"{what}: {got}"


def check_states(job, case, said_before):
    """What both ends said of every connection."""
    ports = {contact.connection.upstream_port for contact in job.contacts}
    if job.broker.library:
        h.wait_until(lambda: ports <= {x.port for x in job.broker.oe()[said_before:]}, lambda: f"the broker's lines: {job.broker.log()[-2000:]}")
    accepted = {x.port: x for x in job.broker.oe()[said_before:]}
    for contact in job.contacts:
        role, p = contact.role, contact.process
        mine, theirs = p.oe(), accepted.get(contact.connection.upstream_port)
        assert [x.state for x in mine] == [s for s in (case.states[0],) if s and not h.NATIVE], f"{role}: {[x.text for x in mine]}"
        assert (theirs.state if theirs else None) == case.states[1] or h.NATIVE, f"{role}: {theirs}"
        for line in mine + [theirs] * bool(theirs):
            assert line.protocol == {4: "3.1.1", 5: "5.0"}[job.level] and line.reason, line.text
        if case.pattern and not h.NATIVE:
            assert mine[0].peer == h.fingerprint(job.broker.state) and theirs.peer == h.fingerprint(p.state), f"{mine[0].text} {theirs.text}"


def check_wire(job, case, whole):
    needles = [job.root, *job.sent.needles()]
    for contact in job.contacts:
        role, connection = contact.role, contact.connection
        if not case.pattern or h.NATIVE:
            h.check_plain(connection, probed=case.client, whole=whole)
            continue
        if case.pattern == "probe":
            h.check_encrypted(connection, whole=whole, hidden=needles)
        else:   # of a known broker everything is hidden, CONNECT too
            link = h.check_encrypted(connection, whole=whole, preface="IK", hidden=needles + job.needles)
            assert bool(link.early) == case.pattern.endswith("early"), f"{role}: {link.early} bytes of CONNECT went early"
    seen = b"\0\0\0\0".join(bytes(end) for c in job.contacts for end in (c.connection.to_server, c.connection.to_client))
    if not case.pattern or h.NATIVE:   # the search finds what is there
        for needle in needles + job.needles:
            assert {"raw", "hex"} & set(h.wire_contains(seen, needle)), f"the plain wire does not show {needle[:30]!r}"


def run_one(kind, level, ends, case, sent):
    """One run; (output, exit statuses, standard error) of the client's programs."""
    broker = ends.broker
    with h.World(True) as world:
        said_before = len(broker.oe())
        job = Job(world, ends, case.client, level, min(kind.qos, broker.qos), sent)
        what = f"{kind.name}{' under the library' * case.client}, {broker.name}{' under the library' * case.broker}, contact {case.contact}"
        try:
            kind.run(job)
            check_delivered(job, what)
            for contact in job.contacts:
                contact.relay.wait_closed()
            check_states(job, case, said_before)
            check_wire(job, case, kind.whole)
        except AssertionError as error:
            ends = "\n".join(f"-- {role}: status {p.status}\n{p.stderr()[-1500:]}" for role, p, _, _ in job.contacts[-2:])
            raise AssertionError(f"{what}: {error}\n{ends}\n-- broker\n{broker.log()[-1500:]}") from error
        return job.output, job.statuses, job.errors


def run_case(name, level, brokers, cases=tuple(COMBINATIONS)):
    """A client at a broker: in each combination it prints the same, ends in the same way, and both ends and the wire say what they must."""
    kind = CLIENTS[name]
    with h.World(True) as world:
        sent = Payloads(os.path.join(world.dir, "payloads"), kind.most)
        reference, ends = None, {}
        for case in cases:
            if case.contact == 1:
                ends[case.client, case.broker] = Ends(world, f"{case.client}-{case.broker}", brokers[case.broker])
            outcome = run_one(kind, level, ends[case.client, case.broker], case, sent)
            reference = reference or outcome
            for ours, native, stream in zip(outcome, reference, ("output", "exit statuses", "standard error")):
                assert ours == native, f"{name}, {case}: {stream} differs\nnative: {native}\nhere: {ours}"
            h.count(style=kind.style, cases=1)
        return reference


def missing(*names):
    """Why heavy programs cannot be run, or None."""
    for name in names:
        if name in ("MQTT.js", "aedes") and not NODE_MODULES.is_dir():
            return f"{NODE_MODULES} is not there: run make interop-all"
        if name == "mqtt-client for Java" and not (BUILD / "Work.class").exists():
            return f"{BUILD}/Work.class is not there: run make interop-all"
        if name == "RabbitMQ" and not os.path.exists(RabbitMQ.PROGRAM):
            return "rabbitmq-server is not installed: run make deps-all"
    return None
