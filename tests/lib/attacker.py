"""Somebody on the way: a relay that changes what crosses it, packet by packet, and one that ends both links with keys of its own.

A Plan is made for each connection; its up() and down() say what goes on instead of a packet. Nothing here uses the library.
"""

import socket
import struct
import threading
import time

import fakes
import mqtt
import noise
import oepreface
import oewire

PATIENCE = 30.0


def connect_with_will(version, client_id, topic, payload, user=None, password=None):
    """As mqtt.connect, with a Will (QoS 0, not retained)."""
    raw = mqtt.connect(version, client_id, user=user, password=password)
    data = mqtt.body(raw)
    name = 2 + int.from_bytes(data[:2], "big")
    at = name + 4 + (1 if version == mqtt.V5 else 0)  # behind flags, keep alive, properties
    at += 2 + int.from_bytes(data[at:at + 2], "big")  # and the client id
    flags = bytes([data[name + 1] | 4])
    return mqtt.packet(0x10, data[:name + 1] + flags + data[name + 2:at] + mqtt.properties(version) + mqtt.string(topic) + mqtt.string(payload)
                       + data[at:])


class Cut(Exception):
    """Raised by a plan: the connection ends here, in both directions."""

    def __init__(self, before=b"", reset=False):
        super().__init__("cut")
        self.before, self.reset = before, reset  # what still goes on


class Plan:
    """Changes nothing. n counts the packets of that direction; what is returned goes on."""
    link = None

    def opened(self):
        """Before the first byte."""

    def up(self, n, raw):
        return raw

    def down(self, n, raw):
        return raw


class Link:
    """One attacked connection; up and down are the packets as they came."""

    def __init__(self, client, server, plan, number):
        self.client, self.server, self.plan, self.number = client, server, plan, number
        self.up, self.down = [], []
        self.sent_up, self.sent_down = bytearray(), bytearray()
        self.lock, self.open, self.ends = threading.RLock(), True, 0
        plan.link = self

    def to_server(self, data):
        self.sent_up += data
        self._send(self.server, data)

    def to_client(self, data):
        self.sent_down += data
        self._send(self.client, data)

    @staticmethod
    def _send(sock, data):
        try:
            if data:
                sock.sendall(data)
        except OSError:
            pass

    def cut(self, reset=False):
        with self.lock:
            self.open = False
            for s in (self.client, self.server):
                try:
                    if reset:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                if reset:
                    s.close()

    def pump(self, upwards):
        source, target = (self.client, self.server) if upwards else (self.server, self.client)
        packets, send, change = (self.up, self.to_server, self.plan.up) if upwards else (self.down, self.to_client, self.plan.down)
        rest, framed = b"", True
        try:
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                if not framed:
                    send(data)
                    continue
                try:
                    whole, rest = mqtt.split_packets(rest + data)
                except mqtt.Malformed:
                    framed, whole = False, []
                    send(rest + data)
                for raw in whole:
                    with self.lock:
                        packets.append(raw)
                        send(change(len(packets) - 1, raw))
            send(rest)
        except Cut as cut:
            send(cut.before)
            self.cut(cut.reset)
        except OSError:
            pass
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self.ended()

    def ended(self):
        with self.lock:
            self.ends += 1
            if self.ends == 2:
                self.open = False
                for s in (self.client, self.server):
                    s.close()


class Attacker:
    """Relays 127.0.0.1:port to target (a port, or a list of them, taken in turn). plan(number) makes the Plan of a connection."""

    def __init__(self, target, plan=None, host="127.0.0.1"):
        self.targets = list(target) if isinstance(target, (list, tuple)) else [target]
        self.plan, self.host, self.links = plan or (lambda number: Plan()), host, []
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(self.family, socket.SOCK_STREAM)
        self._listener.bind((host, 0))
        self._listener.listen(256)
        self.port = self._listener.getsockname()[1]
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def _accept(self):
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            number = len(self.links)
            try:
                server = socket.create_connection((self.host, self.targets[number % len(self.targets)]), PATIENCE)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for s in (client, server):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, server, self.plan(number), number)
            self.links.append(link)
            with link.lock:
                link.plan.opened()
            for upwards in (True, False):
                threading.Thread(target=link.pump, args=(upwards,), daemon=True).start()

    def wait_closed(self, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while any(link.open for link in self.links):
            assert time.monotonic() < end, "connections through the attacker did not end"
            time.sleep(0.01)

    def recording(self):
        return b"\0\0\0\0".join(b"".join(p) for link in self.links for p in (link.up, link.down))

    def close(self):
        self._closing = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        for link in self.links:
            if link.open:
                link.cut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- plans -------------------------------------------------------------------------------------------------------------------------------

class StripProbe(Plan):
    """Takes the probe out and answers it as a broker without OE-MQTT would."""
    stripped = 0

    def up(self, n, raw):
        if raw[0] == 0xA2 and b"oe-mqtt/1/" in raw:
            self.stripped += 1
            five = b"MQTT\5" in self.link.up[0][:12]
            self.link.to_client(oewire.answer(5 if five else 4))
            return b""
        return raw


class Edit(Plan):
    """Calls edit(packet) for packet n of a direction, once; edit may raise Cut."""

    def __init__(self, direction, n, edit):
        self.direction, self.n, self.edit, self.done = direction, n, edit, False

    def _one(self, direction, n, raw):
        if direction != self.direction or n != self.n:
            return raw
        self.done = True
        return self.edit(raw)

    def up(self, n, raw):
        return self._one("up", n, raw)

    def down(self, n, raw):
        return self._one("down", n, raw)


class Flip(Plan):
    """One bit of a direction, counted from the beginning of the connection."""

    def __init__(self, direction, bit):
        self.direction, self.bit, self.at, self.done = direction, bit, 0, False

    def _one(self, direction, raw):
        if direction != self.direction:
            return raw
        bit = self.bit - 8 * self.at
        self.at += len(raw)
        if not 0 <= bit < 8 * len(raw):
            return raw
        self.done = True
        return raw[:bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1:]

    def up(self, n, raw):
        return self._one("up", raw)

    def down(self, n, raw):
        return self._one("down", raw)


class Swap(Plan):
    """Packet n of a direction goes behind packet n + 1."""

    def __init__(self, direction, n):
        self.direction, self.n, self.held, self.done = direction, n, b"", False

    def _one(self, direction, n, raw):
        if direction == self.direction and n == self.n:
            self.held = raw
            return b""
        if direction == self.direction and n == self.n + 1:
            self.done = True
            return raw + self.held
        return raw

    def up(self, n, raw):
        return self._one("up", n, raw)

    def down(self, n, raw):
        return self._one("down", n, raw)


class Inject(Plan):
    """Sends data towards one end when `after` packets have gone in a direction (0: before anything)."""

    def __init__(self, towards, data, direction, after):
        self.towards, self.data, self.direction, self.after, self.done = towards, data, direction, after, False

    def _now(self):
        self.done = True
        (self.link.to_client if self.towards == "client" else self.link.to_server)(self.data)

    def opened(self):
        if not self.after:
            self._now()

    def _one(self, direction, n, raw):
        if direction != self.direction or n + 1 != self.after:
            return raw
        same = (self.towards == "server") == (direction == "up")
        if same:
            self.done = True
            return raw + self.data
        self._now()
        return raw

    def up(self, n, raw):
        return self._one("up", n, raw)

    def down(self, n, raw):
        return self._one("down", n, raw)


class Swallow(Plan):
    """Takes the first packet out and keeps it: nothing of the connection reaches the server."""

    def up(self, n, raw):
        return b""


# ---- keys of his own ---------------------------------------------------------------------------------------------------------------------

class ManInTheMiddle:
    """Ends the client's link with one key of his own and makes another one to the broker with the same. By probe or by preface, whichever the client
    uses. alter(data) is done to what goes up. read: everything the two applications said."""

    def __init__(self, port, alter=None, keys=(), secret=None):
        """keys: the broker's, if he is to use IK."""
        self.target, self.alter, self.keys = port, alter or (lambda data: data), list(keys)
        self.secret = secret or noise.new_secret()
        self.fingerprint = oewire.fingerprint(noise.public_key(self.secret))
        self.read_up, self.read_down, self.connections, self.states = bytearray(), bytearray(), 0, []
        self._fake = fakes.FakeBroker(self._script, lambda: oepreface.Responder(self.secret))
        self.port = self._fake.port
        self.endpoint = f"127.0.0.1:{self.port}"

    def _script(self, wire, _):
        self.connections += 1
        client = wire.endpoint
        first = wire.recv_some()
        end = oepreface.Initiator(self.secret, keys=self.keys) if client.by_preface else oewire.Initiator(self.secret)
        upstream = fakes.Secure(socket.create_connection(("127.0.0.1", self.target), PATIENCE), end)
        back = threading.Thread(target=self._down, args=(upstream, wire), daemon=True)
        try:
            self._up(upstream, first)
            back.start()
            while True:
                self._up(upstream, wire.recv_some())
        except (fakes.Ended, OSError, oewire.Broken):
            pass
        finally:
            self.states.append((client.state, end.state))
            upstream.fin()
            if back.is_alive():
                back.join(5)
            upstream.close()

    def _up(self, upstream, data):
        self.read_up += data
        upstream.send(self.alter(data))

    def _down(self, upstream, wire):
        try:
            while True:
                data = upstream.recv_some()
                self.read_down += data
                wire.send(data)
        except (fakes.Ended, OSError, oewire.Broken):
            wire.fin()

    def close(self):
        self._fake.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
