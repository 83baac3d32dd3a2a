"""Harness of the tests with real programs: a private stock broker, a recording TCP relay, stock clients, a reader of the wire.

Everything lives in temporary directories and on loopback ports of its own, is safe beside other tests, needs no root, writes nothing
into the source tree and ends what it started by process id. Standard library only: the demo uses it too.

Environment of a test run:
  OE_MQTT_LIBRARY       the library to test instead of build/liboe-mqtt.so
  OE_MQTT_TEST_NATIVE   1: run without the library wherever the library is asked for (tests the tests)
  OE_MQTT_TEST_POLICY   policy for all programs under the library; `off` must make the tests fail
"""
import atexit
import base64
import collections
import os
import pathlib
import random
import re
import resource
import secrets
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCHER = pathlib.Path(os.environ.get("OE_MQTT_LAUNCHER") or ROOT / "tools" / "oe-mqtt")
LIBRARY = pathlib.Path(os.environ.get("OE_MQTT_LIBRARY") or ROOT / "build" / "liboe-mqtt.so").absolute()
NATIVE = os.environ.get("OE_MQTT_TEST_NATIVE") == "1"
POLICY = os.environ.get("OE_MQTT_TEST_POLICY")
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/usr/local/sbin"
SETPRIV = shutil.which("setpriv", path=PATH)
PROTOCOLS = {"mqttv31": "3.1", "mqttv311": "3.1.1", "mqttv5": "5.0"}
PATIENCE = 40.0  # seconds to wait for anything that must happen

# 1,024 descriptors, a login's usual limit, are too few for some programs of the tests, which inherit this one.
SOFT, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(SOFT, min(HARD, 4096)), HARD))


def program(name, machine=None):
    if machine is not None:
        return machine.program(name)
    path = shutil.which(name, path=PATH)
    if path is None:
        raise RuntimeError(f"{name} is not installed")
    return path


def no_localhost():
    """Is localhost no name here? A bare chroot has no /etc/hosts."""
    try:
        return "127.0.0.1" not in [x[4][0] for x in socket.getaddrinfo("localhost", 1, socket.AF_INET, socket.SOCK_STREAM)]
    except OSError:
        return True


def unusable():
    """Why programs cannot be run under the library here, or None."""
    if NATIVE:
        return None
    for path in (LAUNCHER, LIBRARY):
        if not path.exists():
            return f"{path} is missing: run make"
    return None


def wait_until(predicate, what, timeout=PATIENCE):
    """The first true value of predicate(); AssertionError after the timeout."""
    end = time.monotonic() + timeout
    pause = 0.002
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s for {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


_scratch = set()


def scratch_dir():
    path = tempfile.mkdtemp(prefix="oe-mqtt-test-")
    _scratch.add(path)
    return path


def forget_status(folder):
    """Processes that were killed leave what they showed in memory, in a directory for each state directory."""
    for state in pathlib.Path(folder).glob("*/"):
        st = state.stat()
        for shown in pathlib.Path("/dev/shm").glob(f"oe-mqtt.{st.st_dev:x}.{st.st_ino:x}.*"):
            shutil.rmtree(shown, ignore_errors=True)


def remove_dir(path):
    forget_status(path)
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.exists(path):
        _scratch.discard(path)


def free_port(host="127.0.0.1"):
    """A port nobody listens on, below the ports the kernel gives to outgoing connections (a restarted broker must get it again)."""
    try:
        low = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        low = 32768
    high = low if low > 12000 else 65000
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(200):
        port = random.SystemRandom().randrange(10000, high)
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


# ---- what a run of the tests has met: lib/counts.py prints it -----------------------------------------------------------------------------
counted = {"programs": set(), "styles": set(), "cases": 0}


def count(program=None, style=None, cases=0):
    """A program under the library, a style of input and output, cases that are more than one test."""
    counted["programs"].update([program] if program else [])
    counted["styles"].update([style] if style else [])
    counted["cases"] += cases


def count_command(argv):
    """A command under the library, by name; of an interpreter, with what it runs."""
    words = [os.path.basename(str(word)) for word in argv]
    script = next((word for word in words[1:3] if word.endswith((".py", ".js", ".sh"))), "")
    count(program=f"{words[0]} {script}".strip())


# ---- processes ---------------------------------------------------------------------------------------------------------------------------
_running = {}


@atexit.register
def end_all():
    """Ends every process and removes every directory that is left. pytest-xdist's workers never reach atexit: see conftest.py."""
    global _config
    for p in list(_running.values()):
        p.stop(grace=0.5)
    for path in list(_scratch):
        remove_dir(path)
    _config = None


class LogLine(collections.namedtuple("LogLine", "pid role address state protocol peer reason text")):
    """One connection as `-v` reports it."""
    __slots__ = ()

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])


_LINE = re.compile(r'oe-mqtt\[(\d+)\]: (connect|accept) (\S+) (state=.*)')
_FIELD = re.compile(r'([a-z0-9_-]+)=("(?:[^"\\]|\\.)*"|\S*)')


def oe_lines(text):
    """The lines of the library about connections."""
    found = []
    for line in text.splitlines():
        m = _LINE.match(line)
        if m:
            f = {k: v.strip('"') for k, v in _FIELD.findall(m[4])}
            found.append(LogLine(int(m[1]), m[2], m[3], f.get("state"), f.get("protocol"), f.get("peer"), f.get("reason"), line))
    return found


def without_oe(text):
    """What the program itself wrote."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("oe-mqtt["))


_config = None


def _configuration():
    """The tests' own configuration: none of the machine's, and a handshake may take long on a loaded machine."""
    global _config
    if _config is None:
        folder = scratch_dir()
        os.chmod(folder, 0o755)
        _config = os.path.join(folder, "oe-mqtt.conf")
        with open(_config, "w", encoding="ascii") as f:
            f.write("[link]\nhandshake-timeout = 15s\n")
        os.chmod(_config, 0o644)
    return _config


def child_env(state=None, extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("OE_MQTT_")}
    env["PATH"] = PATH
    if state is not None:
        env["OE_MQTT_STATE"] = str(state)
        env["OE_MQTT_CONFIG"] = _configuration()
        if os.environ.get("OE_MQTT_LIBRARY"):
            env["OE_MQTT_LIBRARY"] = str(LIBRARY)
        if POLICY:
            env["OE_MQTT_POLICY"] = POLICY
    env.update(extra or {})
    return env


def under(command, library, options=("-v",), machine=None):
    """The command line, under the launcher if asked; under the emulator of another machine."""
    if machine is not None:
        return machine.under(command, library and not NATIVE, options)
    if not library or NATIVE:
        return [str(c) for c in command]
    return [str(LAUNCHER), *options, "--", *(str(c) for c in command)]


class Proc:
    """A program with its three streams in files: no pipe can fill, and everything can be looked at while it runs.
    machine: it is another architecture's (foreign.py)."""

    def __init__(self, command, folder, *, library=False, state=None, stdin=None, env=None, options=("-v",), name="p", machine=None):
        fd, out = tempfile.mkstemp(prefix=name + ".", suffix=".out", dir=folder)
        os.close(fd)
        self.library = library and not NATIVE
        self.state = str(state) if self.library and state else None
        self.out, self.err = out, out[:-4] + ".err"
        self.argv = under(command, library, options, machine)
        if self.library:
            count_command(command)
        self.status = None
        watched = [SETPRIV, "--pdeathsig", "KILL", "--"] if SETPRIV else []
        with open(stdin or os.devnull, "rb") as i, open(out, "wb") as o, open(self.err, "wb") as e:
            self.popen = subprocess.Popen(watched + self.argv, stdin=i, stdout=o, stderr=e, cwd=folder,
                                          env=child_env(state if self.library else None, env))
        self.pid = self.popen.pid
        _running[self.pid] = self

    def alive(self):
        return self.popen.poll() is None

    def wait(self, timeout=PATIENCE):
        try:
            self.status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"did not end in {timeout:g} s: {' '.join(self.argv)}\n{self.stderr()[-3000:]}") from None
        _running.pop(self.pid, None)
        return self.status

    def signal(self, number):
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def stop(self, grace=5.0):
        """SIGTERM, then SIGKILL; waits."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(grace)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.status = self.popen.returncode
        _running.pop(self.pid, None)
        return self.status

    def stdout(self):
        with open(self.out, "rb") as f:
            return f.read()

    def stderr(self):
        with open(self.err, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def oe(self):
        return oe_lines(self.stderr())

    def messages(self):
        return parse_messages(self.stdout())

    def wait_messages(self, count, timeout=PATIENCE):
        def there():
            try:
                got = parse_messages(self.stdout(), whole=False)
            except ValueError:
                return None
            return got if len(got) >= count else None
        return wait_until(there, lambda: f"{count} messages, have {len(parse_messages(self.stdout(), whole=False))}; "
                                         f"stderr: {self.stderr()[-1500:]}", timeout)


# ---- the broker --------------------------------------------------------------------------------------------------------------------------
class Broker:
    """A stock mosquitto on a loopback port of its own. `drop`: started as root and left to change to user mosquitto."""

    def __init__(self, library=False, *, host="127.0.0.1", users=None, anonymous=True, persistence=False, unlimited=True, drop=False,
                 config="", port=None, state=None, options=("-v",), env=None, machine=None):
        self.machine, self.library, self.host, self.drop, self.options, self.env = machine, library and not NATIVE, host, drop, options, env
        self.dir = scratch_dir()
        self.state = str(state) if state else os.path.join(self.dir, "state")
        self.fixed_port = port
        self.proc, self.port, self.logs = None, port, []
        self.users, self.anonymous, self.persistence, self.unlimited, self.config = users, anonymous, persistence, unlimited, config
        try:
            os.makedirs(self.state, mode=0o700, exist_ok=True)
            if drop:
                os.chmod(self.dir, 0o755)
                shutil.chown(self.state, "mosquitto", "mosquitto")
            if users:
                self._passwords()
            self.start()
        except BaseException:
            self.close()
            raise

    def _passwords(self):
        path = os.path.join(self.dir, "passwd")
        open(path, "w", encoding="ascii").close()
        for user, password in self.users.items():
            subprocess.run([program("mosquitto_passwd"), "-b", path, user, password], check=True, capture_output=True)
        if self.drop:
            os.chmod(path, 0o644)

    def _config(self):
        lines = [f"listener {self.port} {self.host}", f"allow_anonymous {'true' if self.anonymous else 'false'}",
                 "log_dest stderr", "log_timestamp false", "connection_messages true", "sys_interval 0"]
        lines += [f"log_type {kind}" for kind in ("error", "warning", "notice", "information", "subscribe", "unsubscribe")]
        if self.unlimited:
            lines += ["max_queued_messages 0", "max_inflight_messages 0"]
        if os.geteuid() == 0 and not self.drop:
            lines.append("user root")
        if self.users:
            lines.append(f"password_file {self.dir}/passwd")
        if self.persistence:
            store = os.path.join(self.dir, "store")
            os.makedirs(store, exist_ok=True)
            if self.drop:
                shutil.chown(store, "mosquitto", "mosquitto")
            lines += ["persistence true", f"persistence_location {store}/", "autosave_interval 0"]
        path = os.path.join(self.dir, "mosquitto.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n" + self.config + "\n")
        return path

    def start(self):
        """Returns when it accepts connections."""
        for attempt in range(6):
            self.port = self.fixed_port or self.port or free_port(self.host)
            self.proc = Proc([program("mosquitto", self.machine), "-c", self._config()], self.dir, library=self.library, state=self.state,
                             options=self.options, env=self.env, name="broker", machine=self.machine)
            wait_until(lambda: re.search(r"^mosquitto version \S+ running$", self.proc.stderr(), re.M) or not self.proc.alive(),
                       lambda: "the broker: " + self.proc.stderr()[-2000:])
            if self.proc.alive():
                return self
            if "Address already in use" not in self.proc.stderr() or attempt == 5:
                break
            self.proc.stop()
            if not self.fixed_port:
                self.port = None
            time.sleep(0.1)
        raise AssertionError(f"the broker ended with {self.proc.stop()}: {self.proc.stderr()[-3000:]}")

    def stop(self, kill=False):
        """Ends the process, keeps the files: start() goes on."""
        status = None
        if self.proc:
            if kill:
                self.proc.signal(signal.SIGKILL)
            status = self.proc.stop()
            self.logs.append(self.proc.stderr())
            self.proc = None
        return status

    def restart(self, kill=False):
        self.stop(kill)
        return self.start()

    def log(self):
        """All it wrote on stderr, restarts included."""
        return "".join(self.logs) + (self.proc.stderr() if self.proc else "")

    def oe(self):
        return oe_lines(self.log())

    def wait_log(self, pattern, count=1, timeout=PATIENCE):
        return wait_until(lambda: len(re.findall(pattern, self.log(), re.M)) >= count,
                          lambda: f"{count} x {pattern!r} in the broker's log:\n{self.log()[-3000:]}", timeout)

    def wait_subscribed(self, client_id, count=1, timeout=PATIENCE):
        """Until `count` subscriptions of this client have been made (all restarts counted)."""
        return self.wait_log(rf"^{re.escape(client_id)} [012] \S", count, timeout)

    def close(self):
        try:
            self.stop()
        finally:
            remove_dir(self.dir)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- the relay ---------------------------------------------------------------------------------------------------------------------------
class Pipe:
    """One direction of a relayed connection."""

    def __init__(self, src, dst):
        self.src, self.dst = src, dst
        self.recorded = bytearray()
        self.waiting = bytearray()     # read, not yet written
        self.eof = self.done = False
        self.limit, self.how = None, None  # cut when this many bytes have been forwarded


class Connection:
    """What crossed the relay on one connection: `to_server`, `to_client`."""

    def __init__(self, client, server, client_port, upstream_port):
        self.client_port, self.upstream_port = client_port, upstream_port  # as the relay, as the server sees it
        self.up, self.down = Pipe(client, server), Pipe(server, client)
        self.open = True

    @property
    def to_server(self):
        return bytes(self.up.recorded)

    @property
    def to_client(self):
        return bytes(self.down.recorded)


class Relay:
    """Records both directions of every connection, keeps half-closes and resets, cuts on request."""
    CHUNK = 1 << 18
    FULL = 1 << 20

    def __init__(self, port, host="127.0.0.1"):
        self.target = (host, port)
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.connections = []
        self.plans = collections.deque()   # for connections to come: (direction, bytes, how)
        self.refusing = False
        self._jobs = collections.deque()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._listener = socket.socket(self.family, socket.SOCK_STREAM)
        self._listener.bind((host, 0))
        self._listener.listen(64)
        self._listener.setblocking(False)
        self.host, self.port = host, self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    # -- for tests
    def cut(self, how="rst"):
        """Cuts what is open now: `rst` resets both sides, `fin` ends both. Returns when done."""
        done = threading.Event()
        self._jobs.append((how, done))
        self._wake_w.send(b"x")
        assert done.wait(PATIENCE)

    def plan_cut(self, direction, count, how="rst"):
        """The next connection without a plan is cut when `count` bytes went in `direction` (to_server, to_client); None: it is not cut."""
        self.plans.append((direction, count, how))

    def wait_closed(self, timeout=PATIENCE):
        return wait_until(lambda: not any(c.open for c in self.connections), "the relayed connections to end", timeout)

    def recording(self):
        """Both directions of all connections, with a gap between."""
        return b"\0\0\0\0".join(b for c in self.connections for b in (c.to_server, c.to_client))

    def close(self):
        if not self._ending:
            self._ending = True
            self._wake_w.send(b"x")
            self._thread.join()
            self._wake_r.close()
            self._wake_w.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- the thread
    def _run(self):
        try:
            while not self._ending:
                for key, events in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._wake_r:
                        self._do_jobs()
                    else:
                        self._serve(key.data, key.fileobj, events)
        finally:
            for c in self.connections:
                self._shut(c, None)
            self._listener.close()
            self._selector.close()

    def _do_jobs(self):
        try:
            self._wake_r.recv(4096)
        except BlockingIOError:
            pass
        while self._jobs:
            how, done = self._jobs.popleft()
            for c in self.connections:
                self._shut(c, how)
            done.set()

    def _accept(self):
        try:
            client, address = self._listener.accept()
        except OSError:
            return
        server = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            server.connect(self.target)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            server.close()
            return
        for s in (client, server):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c = Connection(client, server, address[1], server.getsockname()[1])
        if self.plans:
            plan = self.plans.popleft()
            if plan is not None and plan[1] is not None:
                pipe = c.up if plan[0] == "to_server" else c.down
                pipe.limit, pipe.how = plan[1], plan[2]
        self.connections.append(c)
        self._selector.register(client, selectors.EVENT_READ, c)
        self._selector.register(server, selectors.EVENT_READ, c)

    def _serve(self, c, sock, events):
        if not c.open:
            return
        if events & selectors.EVENT_READ:
            pipe = c.up if sock is c.up.src else c.down
            try:
                data = sock.recv(self.CHUNK)
            except BlockingIOError:
                data = None
            except OSError:
                return self._shut(c, "rst")
            if data == b"":
                pipe.eof = True
            elif data:
                cut = pipe.limit is not None and len(pipe.recorded) + len(data) >= pipe.limit
                if cut:
                    data = data[:pipe.limit - len(pipe.recorded)]
                pipe.recorded += data
                pipe.waiting += data
                if cut:
                    self._flush(pipe)
                    return self._shut(c, pipe.how)
        for pipe in (c.up, c.down):
            if not self._flush(pipe):
                return self._shut(c, "rst")
        if c.up.done and c.down.done:
            return self._shut(c, None)
        for s, mine, other in ((c.up.src, c.up, c.down), (c.down.src, c.down, c.up)):
            want = 0
            if not mine.eof and len(mine.waiting) < self.FULL:
                want |= selectors.EVENT_READ
            if other.waiting:
                want |= selectors.EVENT_WRITE
            self._watch(s, want, c)

    def _watch(self, sock, want, c):
        try:
            key = self._selector.get_key(sock)
        except KeyError:
            if want:
                self._selector.register(sock, want, c)
            return
        if not want:
            self._selector.unregister(sock)
        elif key.events != want:
            self._selector.modify(sock, want, c)

    def _flush(self, pipe):
        try:
            while pipe.waiting:
                n = pipe.dst.send(pipe.waiting)
                del pipe.waiting[:n]
        except BlockingIOError:
            return True
        except OSError:
            return False
        if pipe.eof and not pipe.done:
            pipe.done = True
            try:
                pipe.dst.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        return True

    def _shut(self, c, how):
        if not c.open:
            return
        for s in (c.up.src, c.down.src):
            self._watch(s, 0, c)
            if how == "rst":
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        c.open = False


# ---- clients -----------------------------------------------------------------------------------------------------------------------------
FORMAT = "oe %q %r %l %t\\n%p\\n"   # unambiguous whatever the payload is
Message = collections.namedtuple("Message", "topic payload qos retain")


def parse_messages(data, whole=True):
    """The messages of a subscriber started by start_sub()."""
    found, at = [], 0
    while at < len(data):
        end = data.find(b"\n", at)
        head = data[at:end].split(b" ", 4) if end >= 0 else None
        if head is None or len(head) != 5 or head[0] != b"oe":
            if not whole and (head is None or head[0] == b"oe"):
                return found
            raise ValueError(f"not a message at {at}: {data[at:at + 80]!r}")
        size = int(head[3])
        if end + 1 + size + 1 > len(data):
            if not whole:
                return found
            raise ValueError("output ends in a message")
        found.append(Message(head[4].decode(), data[end + 1:end + 1 + size], int(head[1]), head[2] == b"1"))
        at = end + 1 + size + 1
    return found


def new_id(letter="c"):
    return letter + secrets.token_hex(8)   # 17 characters: 3.1 allows 23


def start_sub(port, topics, folder, *, library=False, state=None, qos=0, protocol="mqttv311", count=None, client_id=None, host="127.0.0.1",
              options=("-v",), args=(), env=None, broker=None, subscriptions=None, machine=None):
    """A running mosquitto_sub; with `broker`, returns when the broker has its subscriptions."""
    topics = [topics] if isinstance(topics, str) else topics
    client_id = client_id or new_id("s")
    before = len(re.findall(rf"^{re.escape(client_id)} [012] \S", broker.log(), re.M)) if broker else 0
    command = [program("mosquitto_sub", machine), "-h", host, "-p", port, "-i", client_id, "-q", qos, "-V", protocol, "-N", "-F", FORMAT]
    for t in topics:
        command += ["-t", t]
    if count is not None:
        command += ["-C", count]
    p = Proc(command + list(args), folder, library=library, state=state, options=options, env=env, name="sub", machine=machine)
    p.id = client_id
    if broker:
        broker.wait_subscribed(client_id, before + (subscriptions or len(topics)))
    return p


def run_sub(*args, timeout=PATIENCE, **kw):
    p = start_sub(*args, **kw)
    p.wait(timeout)
    return p


def start_pub(port, topic, folder, *, payload=None, file=None, lines=None, library=False, state=None, qos=0, protocol="mqttv311",
              client_id=None, host="127.0.0.1", retain=False, options=("-v",), args=(), env=None, machine=None):
    """mosquitto_pub with a payload (bytes: by file; str: as argument; empty: -n), a file, or a file of lines (-l)."""
    client_id = client_id or new_id("p")
    command = [program("mosquitto_pub", machine), "-h", host, "-p", port, "-i", client_id, "-q", qos, "-V", protocol, "-t", topic]
    if retain:
        command.append("-r")
    if isinstance(payload, bytes) and payload:
        fd, file = tempfile.mkstemp(prefix="payload.", dir=folder)
        with os.fdopen(fd, "wb") as f:
            f.write(payload)
    if file is not None:
        command += ["-f", file]
    elif lines is not None:
        command.append("-l")
    elif payload:
        command += ["-m", payload]
    else:
        command.append("-n")
    p = Proc(command + list(args), folder, library=library, state=state, stdin=lines, options=options, env=env, name="pub", machine=machine)
    p.id = client_id
    return p


def run_pub(*args, timeout=PATIENCE, status=0, **kw):
    p = start_pub(*args, **kw)
    p.wait(timeout)
    if status is not None and p.status != status:
        raise AssertionError(f"mosquitto_pub ended with {p.status}: {p.stderr()[-2000:]}")
    return p


# ---- the wire ----------------------------------------------------------------------------------------------------------------------------
def encodings(needle):
    """Everything a needle may look like on the wire: {name: bytes}."""
    if isinstance(needle, str):
        needle = needle.encode()
    if len(needle) < 12:
        raise ValueError("too short to be told from chance")
    forms = {"raw": needle, "hex": needle.hex().encode(), "HEX": needle.hex().upper().encode()}
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + needle)
        first, last = (shift * 8 + 5) // 6, (shift + len(needle)) * 8 // 6   # the characters that depend on the needle alone
        forms[f"base64+{shift}"] = whole[first:last]
        forms[f"base64url+{shift}"] = whole[first:last].replace(b"+", b"-").replace(b"/", b"_")
    return forms


def wire_contains(recording, needle):
    """The names of the encodings in which the needle (bytes or str, at least 12 bytes) occurs in a recording."""
    if isinstance(recording, (Relay, Connection)):
        recording = recording.recording() if isinstance(recording, Relay) else recording.to_server + b"\0\0\0\0" + recording.to_client
    return sorted(name for name, form in encodings(needle).items() if form in recording)


class Malformed(ValueError):
    pass


Packet = collections.namedtuple("Packet", "type flags remaining topic payload start end")
NAMES = ("", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK",
         "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH")
CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, \
    AUTH = range(1, 16)
_BOTH = {PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP}
_SENDERS = {"client": _BOTH | {CONNECT, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT, AUTH},
            "server": _BOTH | {CONNACK, SUBACK, UNSUBACK, PINGRESP, DISCONNECT, AUTH}}


def get_varint(data, at, end):
    """(value, next offset), or None if the bytes end; Malformed if longer than four bytes or not minimal."""
    value = 0
    for i in range(4):
        if at + i >= end:
            return None
        value |= (data[at + i] & 0x7F) << 7 * i
        if data[at + i] < 0x80:
            if i and data[at + i] == 0:
                raise Malformed(f"length not minimal at {at}")
            return value, at + i + 1
    raise Malformed(f"length of more than four bytes at {at}")


def put_varint(value):
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


class WireParser:
    """Reads one direction of an MQTT connection, in pieces of any size, by the rules of MQTT and of mosquitto's packet reader."""

    def __init__(self, sender, version=None):
        self.sender, self.version = sender, version
        self.data, self.offset, self.base = bytearray(), 0, 0
        self.packets = []

    def feed(self, data):
        self.data += data
        while self._one():
            pass
        if self.offset > 1 << 16:
            del self.data[:self.offset]
            self.base, self.offset = self.base + self.offset, 0
        return self

    def finish(self):
        if self.offset != len(self.data):
            raise Malformed(f"{len(self.data) - self.offset} bytes of a packet at the end, of type {self.data[self.offset] >> 4}")
        return self.packets

    def _fail(self, why):
        raise Malformed(f"{self.sender}, byte {self.base + self.offset}, packet {len(self.packets)}: {why}")

    def _one(self):
        d, at = self.data, self.offset
        if at >= len(d):
            return False
        kind, flags = d[at] >> 4, d[at] & 15
        if kind == 0 or kind not in _SENDERS[self.sender]:
            self._fail(f"packet type {kind}")
        if not self.packets and kind not in ({CONNECT} if self.sender == "client" else {CONNACK, AUTH}):
            self._fail(f"begins with {NAMES[kind]}")
        if self.packets and kind == CONNECT:
            self._fail("second CONNECT")
        if kind == PUBLISH:
            if flags & 6 == 6 or (flags & 8 and not flags & 6):
                self._fail(f"PUBLISH flags {flags}")
        elif flags != (2 if kind in (PUBREL, SUBSCRIBE, UNSUBSCRIBE) else 0):
            self._fail(f"{NAMES[kind]} flags {flags}")
        length = get_varint(d, at + 1, len(d))
        if length is None:
            return False
        remaining, body = length
        end = body + remaining
        if end > len(d):
            return False
        topic, payload = None, None
        if kind == CONNECT:
            self._connect(body, end)
        elif kind == AUTH and self.version == 3 or kind == AUTH and self.version == 4:
            self._fail("AUTH before MQTT 5")
        elif kind == PUBLISH:
            topic, payload = self._publish(body, end, flags >> 1 & 3)
        elif kind in (PINGREQ, PINGRESP) and remaining:
            self._fail(f"{NAMES[kind]} with a body")
        elif kind in (SUBSCRIBE, UNSUBSCRIBE):
            self._filters(kind, body, end)
        elif kind in (CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK) and remaining < 2:
            self._fail(f"{NAMES[kind]} too short")
        elif kind in (CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK) and remaining != 2 and self.version in (3, 4):
            self._fail(f"{NAMES[kind]} of {remaining} bytes")
        self.packets.append(Packet(kind, flags, remaining, topic, payload, self.base + at, self.base + end))
        self.offset = end
        return True

    def _string(self, at, end, what):
        if at + 2 > end:
            self._fail(f"{what}: no length")
        n = d = self.data[at] << 8 | self.data[at + 1]
        if at + 2 + n > end:
            self._fail(f"{what}: {d} bytes do not fit")
        return bytes(self.data[at + 2:at + 2 + n]), at + 2 + n

    def _text(self, raw, what, wildcards):
        try:
            text = raw.decode("utf-8", "strict")
        except UnicodeDecodeError:
            self._fail(f"{what} is not UTF-8")
        if "\0" in text or (not wildcards and ("+" in text or "#" in text)):
            self._fail(f"{what} {text!r}")
        if text.count("/") > 200:
            self._fail(f"{what} has more than 200 levels")
        return text

    def _connect(self, at, end):
        name, at = self._string(at, end, "protocol name")
        if at >= end or (name, self.data[at] & 0x7F) not in ((b"MQIsdp", 3), (b"MQTT", 4), (b"MQTT", 5)):
            self._fail(f"CONNECT of {name!r}")
        self.version = self.data[at] & 0x7F   # 0x80: a mosquitto bridge

    def _properties(self, at, end):
        if self.version != 5:
            return at
        length = get_varint(self.data, at, end)
        if length is None or length[1] + length[0] > end:
            self._fail("properties do not fit")
        return length[1] + length[0]

    def _publish(self, at, end, qos):
        if self.version is None:
            self._fail("PUBLISH before the version is known")
        raw, at = self._string(at, end, "PUBLISH topic")
        topic = self._text(raw, "PUBLISH topic", False)
        if qos:
            if at + 2 > end or self.data[at:at + 2] == b"\0\0":
                self._fail("PUBLISH identifier")
            at += 2
        after = self._properties(at, end)
        if not topic and after - at < 4:
            self._fail("PUBLISH without topic and alias")
        return topic, (self.base + after, self.base + end)

    def _filters(self, kind, at, end):
        if at + 2 > end or self.data[at:at + 2] == b"\0\0":
            self._fail(f"{NAMES[kind]} identifier")
        at, count = self._properties(at + 2, end), 0
        while at < end:
            raw, at = self._string(at, end, "filter")
            self._text(raw, "filter", True)
            if kind == SUBSCRIBE:
                if at >= end:
                    self._fail("SUBSCRIBE without options")
                at += 1
            count += 1
        if not count:
            self._fail(f"{NAMES[kind]} without filter")


# early: bytes of the application's CONNECT in message 1 of IK
Link = collections.namedtuple("Link", "version up down early", defaults=(None,))


def parse_link(connection, whole=True):
    """All packets of a relayed connection; Malformed if it is anything but MQTT. `whole`: both directions end with a packet."""
    up = WireParser("client").feed(connection.to_server)
    down = WireParser("server", up.version).feed(connection.to_client)
    if whole:
        up.finish()
        down.finish()
    return Link(up.version, up.packets, down.packets)


def is_record(packet, version):
    """A record of PROTOCOL.md, 4."""
    if packet.type != PUBLISH or packet.topic != "$" or packet.flags:
        return False
    n = packet.payload[1] - packet.payload[0]
    return n >= 17 and packet.remaining <= 16383 and packet.remaining == n + (4 if version == 5 else 3)


def is_probe(packet, data):
    return packet.type == UNSUBSCRIBE and b"\x00\x35oe-mqtt/1/" in data[packet.start:packet.end] and packet.remaining in (57, 58)


def describe(packets):
    """Packets counted, in order: `CONNECT UNSUBSCRIBE PUBLISH(oe-mqtt/1) 12*PUBLISH($)`."""
    runs = []
    for p in packets:
        name = NAMES[p.type] + (f"({p.topic})" if p.topic in ("$", "oe-mqtt/1") else "")
        if runs and runs[-1][0] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    return " ".join(name if n == 1 else f"{n}*{name}" for name, n in runs)


def preface_data(packet, data):
    """The data (id, then the Noise message) of a preface or an AUTH packet of PROTOCOL.md, 8.1; None if it is not in exactly that encoding."""
    raw, method = data[packet.start:packet.end], b"\x15\x00\x07OE-MQTT\x16"
    head, tail = {CONNECT: (b"\x00\x04MQTT\x05\x02\x00\x3c", b"\x00\x00"), AUTH: (b"\x18", b"")}.get(packet.type, (None, None))
    if head is None or method not in raw:
        return None
    inner = raw[raw.index(method) + len(method) + 2:len(raw) - len(tail)]
    properties = method + len(inner).to_bytes(2, "big") + inner
    body = head + put_varint(len(properties)) + properties + tail
    return inner if inner and raw == bytes([packet.type << 4]) + put_varint(len(body)) + body else None


# by name of the pattern: id, and bytes of the messages from the initiator, from the responder (PROTOCOL.md, 8)
PREFACES = {"XX": (1, (32, 65), (112,)), "IK": (2, (113,), (65,))}
EARLY_MAX = 16384


def check_preface(connection, pattern, whole=True):
    """The connection is a preface by this pattern, and records in the form of MQTT 5, nothing else."""
    link = parse_link(connection, whole)
    shape = f"\n  to server: {describe(link.up)}\n  to client: {describe(link.down)}"
    number, from_initiator, from_responder = PREFACES[pattern]
    early = 0
    for who, packets, recorded, lengths in (("initiator", link.up, connection.to_server, from_initiator),
                                            ("responder", link.down, connection.to_client, from_responder)):
        assert len(packets) >= len(lengths), f"the {who} says too little" + shape
        for n, (packet, length) in enumerate(zip(packets, lengths)):
            assert packet.type == (CONNECT if who == "initiator" and n == 0 else AUTH), "no preface" + shape
            data = preface_data(packet, recorded)
            assert data is not None, f"{NAMES[packet.type]} of the {who} in another encoding: {recorded[packet.start:packet.end].hex()}"
            more = len(data) - 1 - length
            if pattern == "IK" and packet.type == CONNECT:
                early = more
            assert data[0] == number and (0 <= more <= EARLY_MAX if packet.type == CONNECT and pattern == "IK" else more == 0), \
                f"message of {len(data) - 1} bytes, id {data[0]}, from the {who}" + shape
        for p in packets[len(lengths):]:
            assert is_record(p, 5), f"{NAMES[p.type]} topic {p.topic!r} among the records" + shape
    # the application's CONNECT crosses in message 1 or in records; the server answers it in records
    assert early or len(link.up) > len(from_initiator), "no CONNECT" + shape
    assert len(link.down) > len(from_responder), "no CONNACK" + shape
    return link._replace(early=early)


def check_probed(connection, whole=True, queued=False):
    """The connection is CONNECT, the handshake by probe and records, nothing else. `queued`: packets may precede message 2."""
    link = parse_link(connection, whole)
    up, down, v = link.up, link.down, link.version
    shape = f"\n  to server: {describe(up)}\n  to client: {describe(down)}"
    # a server has nothing to say to a QoS 0 publisher; a client that ends in haste may have said nothing more either
    assert len(up) >= 3 + whole and len(down) >= 3, "no records" + shape
    assert up[0].type == CONNECT and is_probe(up[1], connection.to_server), "no probe" + shape
    assert preface_data(up[0], connection.to_server) is None, "a preface" + shape
    assert up[2].topic == "oe-mqtt/1" and up[2].payload[1] - up[2].payload[0] == 64, "no message 3" + shape
    first = next((i for i, p in enumerate(down) if p.topic == "oe-mqtt/1"), 0)
    assert down[0].type == CONNACK and first >= 1 and (queued or first == 1), "no message 2" + shape
    assert down[first].payload[1] - down[first].payload[0] == 96, "message 2" + shape
    assert down[first + 1].type == UNSUBACK, "no UNSUBACK" + shape
    for p in up[3:] + down[first + 2:]:
        assert is_record(p, v), f"{NAMES[p.type]} topic {p.topic!r} among the records" + shape
    return link


def check_encrypted(connection, whole=True, queued=False, preface=None, hidden=()):
    """The connection is a handshake and records, nothing else: by probe, or by the preface of this pattern (`IK`: a later contact).
    hidden: what must not be seen in it, raw, in hex or in base64; after a preface that includes all of the application's CONNECT."""
    link = check_preface(connection, preface, whole) if preface else check_probed(connection, whole, queued)
    for needle in hidden:
        found = wire_contains(connection, needle)
        assert not found, f"{needle[:30]!r} crossed the wire ({found})"
    return link


def check_plain(connection, probed, whole=True):
    """The connection is MQTT without records; it has a probe if and only if its client has the library."""
    link = parse_link(connection, whole)
    shape = f"\n  to server: {describe(link.up)}\n  to client: {describe(link.down)}"
    assert not any(p.topic in ("$", "oe-mqtt/1") for p in link.up + link.down), "OE-MQTT in a plain connection" + shape
    probes = sum(is_probe(p, connection.to_server) for p in link.up if p.type == UNSUBSCRIBE)
    assert probes == (1 if probed and not NATIVE else 0), f"{probes} probes" + shape
    return link


def hexdump(data, limit=64):
    rows = []
    for at in range(0, min(len(data), limit), 16):
        row = data[at:min(at + 16, limit)]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        rows.append(f"{at:04x}  {row.hex(' '):<47}  {text}")
    if len(data) > limit:
        rows.append(f"      ... {len(data) - limit} bytes more")
    return "\n".join(rows)


# ---- fingerprints ------------------------------------------------------------------------------------------------------------------------
def x25519_base(secret):
    """The public key of a secret key (RFC 7748, section 5)."""
    p, a24 = 2 ** 255 - 19, 121665
    k = int.from_bytes(secret, "little") & ~7 & ~(128 << 248) | 64 << 248
    x1, x2, z2, x3, z3, swap = 9, 1, 0, 9, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b = x2 + z2, x2 - z2
        aa, bb = a * a % p, b * b % p
        e = aa - bb
        da, cb = (x3 - z3) * a % p, (x3 + z3) * b % p
        x3, z3 = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
        x2, z2 = aa * bb % p, e * (aa + a24 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def fingerprint(state):
    """The fingerprint of the identity in a state directory, computed here from its secret key."""
    with open(os.path.join(state, "identity"), encoding="ascii") as f:
        head, key = f.read().split("\n")[:2]
    assert head == "oe-mqtt identity 1", head
    return "oe1:" + base64.b64encode(x25519_base(base64.b64decode(key, validate=True))).decode()


def known_peers(state):
    """The lines of known_peers in a state directory (PROTOCOL.md, 9.1), each as its fields."""
    with open(os.path.join(state, "known_peers"), encoding="utf-8") as f:
        return [line.split() for line in f if line.strip() and not line.startswith("#")]


# ---- a test's world ----------------------------------------------------------------------------------------------------------------------
class World:
    """Brokers, relays and clients of one run of a scenario, all with the library or all without, and one close() for all.

    The clients of one kind (pub, sub, run) share a state directory, so all but the first meet a broker that is known. `fresh`: each client has
    a state directory of its own, and meets every broker for the first time."""

    def __init__(self, library, fresh=False):
        self.library, self.fresh = library and not NATIVE, fresh
        self.dir = scratch_dir()
        self._open, self._clients = [], 0

    def state(self, name):
        path = os.path.join(self.dir, "state-" + name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def _kw(self, kw, name):
        kw.setdefault("library", self.library)
        if kw["library"] and "state" not in kw:
            self._clients += 1
            kw["state"] = self.state(f"{name}-{self._clients}" if self.fresh else name)
        return kw

    def introduce(self, port, *names, **kw):
        """The first contact of these state directories with what listens there, so that all that follow are later ones. The publishers."""
        return [self.pub(port, "oe/introduction", payload="how do you do", qos=1, state=self.state(name), **kw) for name in names]

    def broker(self, **kw):
        kw.setdefault("library", self.library)
        b = Broker(**kw)
        self._open.append(b.close)
        return b

    def relay(self, broker_or_port, host="127.0.0.1"):
        if isinstance(broker_or_port, Broker):
            broker_or_port, host = broker_or_port.port, broker_or_port.host
        r = Relay(broker_or_port, host)
        self._open.append(r.close)
        return r

    def sub(self, port, topics, **kw):
        p = start_sub(port, topics, self.dir, **self._kw(kw, "sub"))
        self._open.append(p.stop)
        return p

    def pub(self, port, topic, **kw):
        return run_pub(port, topic, self.dir, **self._kw(kw, "pub"))

    def start_pub(self, port, topic, **kw):
        p = start_pub(port, topic, self.dir, **self._kw(kw, "pub"))
        self._open.append(p.stop)
        return p

    def run(self, command, **kw):
        """Any command, under the launcher in the library's world."""
        timeout = kw.pop("timeout", PATIENCE)
        p = Proc(command, self.dir, **self._kw(kw, "run"))
        self._open.append(p.stop)
        p.wait(timeout)
        return p

    def start(self, command, **kw):
        p = Proc(command, self.dir, **self._kw(kw, "run"))
        self._open.append(p.stop)
        return p

    def file(self, name, data):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def defer(self, call):
        self._open.append(call)

    def close(self):
        """Closes all, whatever fails or interrupts on the way."""
        try:
            while self._open:
                self._open.pop()()
        finally:
            if self._open:
                self.close()
            remove_dir(self.dir)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
