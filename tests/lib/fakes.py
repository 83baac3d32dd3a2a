"""Fake brokers and clients in Python for the edge tests: no library in this process, full control over every byte."""

import os
import queue
import socket
import struct
import sys
import threading
import time

import mqtt
import oewire

PATIENCE = 20.0
PEER_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim_peer.py")
PYTHON = sys.executable


class Ended(Exception):
    """The other side closed; reset says how."""

    def __init__(self, reset):
        super().__init__("reset" if reset else "end of stream")
        self.reset = reset


def reset_close(sock):
    """Closes with RST."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    sock.close()


class Wire:
    """A TCP connection, read by packets or as bytes."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw_in = bytearray()  # all that came
        self.inbox = b""
        self.ended = None

    def send(self, data):
        """False if the other side is gone."""
        try:
            self.sock.settimeout(PATIENCE)
            self.sock.sendall(data)
            return True
        except socket.timeout:
            raise AssertionError(f"{len(data)} bytes could not be sent") from None
        except OSError:
            return False

    def recv_some(self, timeout=PATIENCE):
        """Some bytes; Ended; socket.timeout."""
        if self.ended is not None:
            raise Ended(self.ended)
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(1 << 16)
        except socket.timeout:
            raise
        except OSError:
            self.ended = True
            raise Ended(True) from None
        if not data:
            self.ended = False
            raise Ended(False)
        self.raw_in += data
        return data

    def recv_packet(self, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while True:
            header = mqtt.parse_header(self.inbox)
            if header and len(self.inbox) >= header[2]:
                raw, self.inbox = self.inbox[:header[2]], self.inbox[header[2]:]
                return raw
            self.inbox += self.recv_some(max(0.01, end - time.monotonic()))

    def recv_all(self, timeout=PATIENCE):
        """Everything up to the end of the stream; (bytes, "eof", "reset" or "timeout")."""
        out, self.inbox = bytearray(self.inbox), b""
        end = time.monotonic() + timeout
        while True:
            try:
                out += self.recv_some(max(0.01, end - time.monotonic()))
            except socket.timeout:
                return bytes(out), "timeout"
            except Ended as ended:
                return bytes(out), "reset" if ended.reset else "eof"

    def fin(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self, reset=False):
        if reset:
            reset_close(self.sock)
        else:
            self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def connect(port, host="127.0.0.1"):
    return Wire(socket.create_connection((host, port), PATIENCE))


class Secure(Wire):
    """A Wire whose other end has OE-MQTT: send and recv are the application's side of an oewire endpoint."""

    def __init__(self, sock, endpoint, spoil=None):
        super().__init__(sock)
        self.endpoint = endpoint
        self.spoil = spoil or (lambda data: data)  # what a man in the middle does to our output
        self.raw_out = bytearray()

    def _flush(self):
        data = self.spoil(self.endpoint.take_wire())
        self.raw_out += data
        return super().send(data) if data else True

    def send(self, data):
        self.endpoint.app_write(data)
        return self._flush()

    def recv_some(self, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while not self.endpoint.to_app:
            if self.endpoint.state in ("BROKEN", "REFUSED"):
                raise Ended(self.endpoint.state == "BROKEN")
            try:
                self.endpoint.peer_data(super().recv_some(max(0.01, end - time.monotonic())))
            except Ended:
                self.endpoint.peer_eof()
                if not self.endpoint.to_app:
                    raise
                break
            self._flush()
        return self.endpoint.take_app()


def connect_secure(port, **kw):
    return Secure(socket.create_connection(("127.0.0.1", port), PATIENCE), oewire.Initiator(**kw))


class FakeBroker:
    """Listens on a loopback port; script(wire, self) runs in a thread for each connection. What it raises fails the test in close()."""

    def __init__(self, script, responder=None, listeners=1):
        """responder: makes an oewire.Responder for each connection: the broker then has OE-MQTT. Each listener has a port of its own."""
        self.script, self.responder = script, responder
        self.results = queue.Queue()
        self.errors, self.threads, self.wires = [], [], []
        self.listeners = []
        for _ in range(listeners):
            s = socket.socket()
            s.bind(("127.0.0.1", 0))
            s.listen(64)
            self.listeners.append(s)
        self.ports = [s.getsockname()[1] for s in self.listeners]
        self.port = self.ports[0]
        self.connections = 0
        self._closing = False
        for n, s in enumerate(self.listeners):
            t = threading.Thread(target=self._accept, args=(n, s), daemon=True)
            t.start()
            self.threads.append(t)

    def _accept(self, n, listener):
        while not self._closing:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if self._closing:
                sock.close()
                return
            wire = Secure(sock, self.responder()) if self.responder else Wire(sock)
            wire.number, wire.listener = self.connections, n
            self.connections += 1
            self.wires.append(wire)
            t = threading.Thread(target=self._run, args=(wire,), daemon=True)
            t.start()
            self.threads.append(t)

    def _run(self, wire):
        try:
            self.results.put(self.script(wire, self))
        except (Ended, ConnectionError):
            self.results.put(None)
        except Exception as error:  # reported by close()
            if not self._closing:
                self.errors.append(error)
            self.results.put(error)
        finally:
            wire.close()

    def result(self, timeout=PATIENCE):
        return self.results.get(timeout=timeout)

    def close(self):
        self._closing = True
        for s in self.listeners:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()
        for w in self.wires:
            w.close()
        for t in self.threads:
            t.join(5)
        if self.errors:
            raise self.errors[0]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.close()
        except Exception:
            if kind is None:
                raise


class Session:
    """A minimal MQTT server's side of one connection; scripts are built from it. seen: every packet of the client, in order."""

    def __init__(self, wire):
        self.wire, self.seen, self.published, self.probes = wire, [], [], []
        self.version, self.client = None, None
        self.finished = False

    def packet(self, timeout=PATIENCE):
        raw = self.wire.recv_packet(timeout)
        self.seen.append(raw)
        return raw

    def accept(self, code=0, props=b"", reply=True):
        """Reads CONNECT, answers CONNACK."""
        raw = self.packet()
        assert raw[0] == 0x10, raw[:20]
        self.client = mqtt.parse_connect(raw)
        self.version = self.client["version"]
        if reply:
            self.wire.send(mqtt.connack(self.version, code, props=props))
        return self

    def probe(self, timeout=PATIENCE):
        """The next packet, which must be a probe."""
        raw = self.packet(timeout)
        assert oewire.parse_probe(self.version, raw) is not None, f"not a probe: {raw[:80]!r}"
        self.probes.append(raw)
        return raw

    def handle(self, raw):
        """What a stock server does with a packet."""
        kind, v, ident = raw[0] >> 4, self.version, mqtt.body(raw)[:2]
        if kind == mqtt.PUBLISH:
            topic, payload, ident = mqtt.parse_publish(v, raw)
            self.published.append((topic, payload))
            qos = raw[0] >> 1 & 3
            if qos:
                self.wire.send(mqtt.packet(0x40 if qos == 1 else 0x50, mqtt.u16(ident)))
        elif kind == mqtt.PUBREL:
            self.wire.send(mqtt.packet(0x70, ident))
        elif kind == mqtt.SUBSCRIBE:
            self.wire.send(mqtt.suback(v, int.from_bytes(ident, "big"), 0))
            self.on_subscribe(raw)
        elif kind == mqtt.UNSUBSCRIBE:
            if oewire.parse_probe(v, raw) is not None:
                self.probes.append(raw)
            self.wire.send(mqtt.unsuback(v, int.from_bytes(ident, "big")))
        elif kind == mqtt.PINGREQ:
            self.wire.send(mqtt.pingresp())
        elif kind == mqtt.DISCONNECT:
            self.finished = True

    def on_subscribe(self, raw):
        """For scripts that send something to a subscriber."""

    def serve(self):
        """Until DISCONNECT or the end."""
        try:
            while not self.finished:
                self.handle(self.packet())
        except (Ended, ConnectionError):
            pass
        return self
