"""Processes, certificates, brokers and the four ways to carry a connection. Everything lives in one private directory and ends by pid."""
import ctypes
import json
import os
import pathlib
import re
import resource
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VARIANTS = ("plain", "link", "tls", "stunnel")
MARKS = (b"OEbench!", b"bench/topic")  # in every payload and the topic of every message
TOPIC = "bench/topic"
RETAINED = "bench/retained"  # of its own: a subscriber to TOPIC must get nothing that was not sent in its run
# As it comes, glibc returns the top of the heap and maps large blocks anew again and again, or not, as the heap's layout happens to be: at 1 MiB the
# same broker is four times slower in one round than in the next. With these settings it keeps what it has; less like life, but repeatable.
STEADY_HEAP = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
CONNECTION_LINE = re.compile(r"^oe-mqtt\[\d+\]: (connect|accept) \S+ state=(\S+)", re.M)
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A measurement that did not happen or does not count."""


def _in_child():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives bench.py, even if that is killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # bench.py ends its children itself


def environment(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("OE_MQTT_") and k != "LD_PRELOAD"}
    env["PATH"] = env.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    env.update(more)
    return env


def cpu_ns(pid):
    """CPU time of a process, all its threads, ended ones too: its CLOCK_PROCESS_CPUTIME_ID, which knows no 10 ms ticks."""
    return int(time.clock_gettime((~pid << 3) | 2) * 1e9)


def memory_bytes(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {k.lower(): int(re.search(rf"^{k}:\s+(\d+) kB", text, re.M).group(1)) * 1024 for k in ("Pss", "Rss")}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listening(port):
    """Whether somebody listens, told without connecting: a connection would be one more in the broker's books."""
    want = f"0100007F:{port:04X} 00000000:0000 0A"
    return want in pathlib.Path("/proc/net/tcp").read_text()


class Proc:
    """One child. Its standard error goes to a file of the private directory."""

    def __init__(self, argv, work, name, env, pipes=False):
        self.name, self.err_path = name, work / f"{name}.err"
        pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
        with open(self.err_path, "ab") as err:
            self.p = subprocess.Popen([str(a) for a in argv], cwd=work, env=env, stdin=pipe, stdout=pipe, stderr=err, preexec_fn=_in_child)
        self.pid = self.p.pid

    def errors(self):
        return self.err_path.read_text(errors="replace")[-600:].strip()

    def await_port(self, port, seconds=10):
        end = time.monotonic() + seconds
        while not listening(port):
            if self.p.poll() is not None:
                raise Failed(f"{self.name} ended with {self.p.returncode}: {self.errors()}")
            if time.monotonic() > end:
                raise Failed(f"{self.name} does not listen on {port}: {self.errors()}")
            time.sleep(0.01)

    def close(self):
        if self.p.poll() is None:
            self.p.terminate()
            try:
                self.p.wait(5)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
        for f in (self.p.stdin, self.p.stdout):
            if f:
                f.close()


class Load(Proc):
    """The load generator of load.c, driven line by line."""

    def __init__(self, rig, variant, argv, name, port=None, credit=None):
        self.log = rig.work / f"{name}.log"
        argv = [rig.load, argv[0], port or variant.port, *argv[1:]] + ([rig.ca] if variant.name == "tls" else [])
        if variant.name == "link":
            argv = [rig.launcher, "--", *argv]
        env = environment(**rig.link_env("client", self.log), **({"LOAD_NODELAY": "1"} if variant.nodelay else {}),
                          **({"LOAD_CREDIT": str(credit)} if credit else {}), **variant.heap)
        super().__init__(argv, rig.work, name, env, pipes=True)
        self.buffer = b""
        self.answer(30)

    def answer(self, seconds=90, beside=()):
        """The next line. beside: others whose end would leave this one waiting."""
        end = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            ready = select.select([x.p.stdout for x in (self, *beside)], [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                raise Failed(f"{self.name}: no answer in {seconds} s")
            for each in (self, *beside):
                if each.p.stdout in ready:
                    each.read()
            beside = [x for x in beside if b"\n" not in x.buffer]
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def read(self):
        data = os.read(self.p.stdout.fileno(), 1 << 20)
        if not data:
            self.p.wait()
            raise Failed(f"{self.name} ended with {self.p.returncode}: {self.errors()}")
        self.buffer += data

    def order(self, text):
        self.p.stdin.write(text.encode() + b"\n")
        self.p.stdin.flush()

    def run(self, n, what="run", beside=()):
        self.order(f"{what} {n}")
        return self.answer(beside=beside)

    def states(self):
        return [m.group(2) for m in CONNECTION_LINE.finditer(self.log.read_text() if self.log.exists() else "")]

    def close(self):
        if self.p.poll() is None:
            try:
                self.order("quit")
                self.p.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                pass
        super().close()


class Variant:
    """A broker, and what stands between it and its clients. port: for clients; wire_port: behind the wire, for a relay to connect to."""

    def __init__(self, rig, name, tag, nodelay=False, steady=False):
        self.rig, self.name, self.tag, self.nodelay = rig, name, tag, nodelay
        self.heap = STEADY_HEAP if steady else {}
        self.server, self.client_side, self.log = [], [], rig.work / f"{tag}-broker.log"
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self):
        rig, tag = self.rig, self.tag
        self.port = self.wire_port = free_port()
        conf = rig.work / f"{tag}.conf"
        conf.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nsys_interval 0\nlog_dest stderr\nlog_type error\n"
            f"max_queued_messages 0\nmax_inflight_messages 100\nmax_connections -1\nset_tcp_nodelay {str(self.nodelay).lower()}\n"
            + ("user root\n" if os.geteuid() == 0 else "")
            + (f"cafile {rig.ca}\ncertfile {rig.cert}\nkeyfile {rig.key}\ntls_version tlsv1.3\n" if self.name == "tls" else ""))
        argv = ["mosquitto", "-c", conf]
        if self.name == "link":
            argv = [rig.launcher, "--", *argv]
        broker = Proc(argv, rig.work, f"{tag}-broker", environment(**rig.link_env("broker", self.log), **self.heap))
        self.server.append(broker)
        broker.await_port(self.port)
        comm = pathlib.Path(f"/proc/{broker.pid}/comm").read_text().strip()
        if comm != "mosquitto":
            raise Failed(f"process {broker.pid} is {comm}, not mosquitto: its CPU and memory would not be the broker's")
        if self.name == "stunnel":
            self.wire_port = free_port()
            self.server.append(rig.stunnel(f"{tag}-server", self.wire_port, self.port, server=True))
            self.port = self.tunnel_to(self.wire_port)

    def tunnel_to(self, port):
        """Client side stunnel to a TLS port."""
        mine = free_port()
        self.client_side.append(self.rig.stunnel(f"{self.tag}-client{len(self.client_side)}", mine, port, server=False))
        return mine

    def cpu(self):
        return sum(cpu_ns(p.pid) for p in self.server), sum(cpu_ns(p.pid) for p in self.client_side[:1])

    def memory(self):
        each = [memory_bytes(p.pid) for p in self.server]
        return {k: sum(m[k] for m in each) for k in each[0]}

    def states(self):
        return [m.group(2) for m in CONNECTION_LINE.finditer(self.log.read_text() if self.log.exists() else "")]

    def check_alive(self):
        for p in self.client_side + self.server:
            if p.p.poll() is not None:
                sys.exit(f"bench: {p.name} ended with {p.p.returncode} in mid-run: {p.errors()}")

    def close(self):
        for p in self.client_side + self.server:
            p.close()


class Relay(threading.Thread):
    """Forwards one port to another, counts the bytes and keeps the first of them to search."""

    KEEP = 1 << 20

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.count, self.kept, self.over = target, 0, b"", False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        sel, peer = selectors.DefaultSelector(), {}
        sel.register(self.listener, selectors.EVENT_READ)
        while not self.over:
            for key, _ in sel.select(0.1):
                if key.fileobj is self.listener:
                    a, b = self.listener.accept()[0], socket.create_connection(("127.0.0.1", self.target))
                    for s, other in ((a, b), (b, a)):
                        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        sel.register(s, selectors.EVENT_READ)
                        peer[s] = other
                elif key.fileobj in peer:
                    self._forward(key.fileobj, sel, peer)
        for s in [self.listener, *peer]:
            s.close()

    def _forward(self, s, sel, peer):
        other = peer[s]
        try:
            data = s.recv(1 << 18)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for x in (s, other):
                sel.unregister(x)
                del peer[x]
                x.close()
            return
        if len(self.kept) < self.KEEP:
            self.kept += data
        self.count += len(data)

    def settled(self):
        """The count once nothing has moved for 50 ms."""
        while True:
            before = self.count
            time.sleep(0.05)
            if self.count == before:
                return before

    def close(self):
        self.over = True
        self.join()


class Rig:
    """The private directory, its certificates, and the load generator."""

    def __init__(self, work, load, launcher):
        self.work, self.load, self.launcher = work, load, launcher
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.descriptors = hard
        self.ca, self.cert, self.key = work / "ca.pem", work / "server.pem", work / "server.key"
        self._certificates()
        (work / "oe-mqtt.conf").touch()
        for side in ("broker", "client"):
            (work / f"state-{side}").mkdir(mode=0o700)

    def link_env(self, side, log):
        return {"OE_MQTT_STATE": str(self.work / f"state-{side}"), "OE_MQTT_CONFIG": str(self.work / "oe-mqtt.conf"),
                "OE_MQTT_POLICY": "prefer", "OE_MQTT_LOG": f"{log}:info"}

    def _openssl(self, *args):
        done = subprocess.run(["openssl", *map(str, args)], cwd=self.work, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"openssl {args[0]}: {done.stderr.strip()[-300:]}")

    def _certificates(self):
        """P-256, the cheapest that is usual: TLS is compared at its best."""
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        self._openssl(*new, "-subj", "/CN=oe-mqtt bench CA", "-keyout", "ca.key", "-out", self.ca)
        self._openssl(*new, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
                      "-CA", self.ca, "-CAkey", "ca.key", "-keyout", self.key, "-out", self.cert)

    def stunnel(self, name, port, to, server):
        conf = self.work / f"{name}.stunnel"
        conf.write_text(
            f"foreground = yes\npid =\nsyslog = no\ndebug = err\n[mqtt]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{to}\n"
            f"sslVersion = TLSv1.3\n"
            + (f"cert = {self.cert}\nkey = {self.key}\n" if server
               else f"client = yes\nCAfile = {self.ca}\nverifyChain = yes\ncheckIP = 127.0.0.1\n"))
        proc = Proc(["stunnel4", conf], self.work, name, environment())
        try:
            proc.await_port(port)
        except BaseException:
            proc.close()
            raise
        return proc
