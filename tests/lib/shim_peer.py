#!/usr/bin/python3
"""Raw MQTT clients, or a raw MQTT server, to be run under the library: many connections in one process, every byte reported.

shim_peer.py client   job (JSON) on standard input; see client()
shim_peer.py server [N]   N listeners (1); their ports on the first line of standard output, report (JSON) on the second when standard input ends
Standard library only.
"""

import errno
import json
import os
import socket
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import mqtt  # noqa: E402


def first_of(data, kind):
    """Whether there is a packet of this kind among the whole ones at the front of data."""
    try:
        while True:
            header = mqtt.parse_header(data)
            if header is None or len(data) < header[2] or header[0] >> 4 == kind:
                return header is not None and len(data) >= header[2]
            data = data[header[2]:]
    except mqtt.Malformed:
        return False


def end_word(error):
    return errno.errorcode.get(error.errno, type(error).__name__)


def client(job):
    """job: connections [{port, id, blocking, banner}], version, auth (run an AUTH exchange), send (hex: sent after CONNACK), then (hex:
    sent after that when `then_after` bytes have come), stop_after (bytes: shut down output then), limit (seconds), parallel, connect (hex: instead
    of a CONNECT with the id), behind (hex: written together with CONNECT), step (bytes: CONNECT is written in such pieces)."""
    todo, results = list(enumerate(job["connections"]))[::-1], [None] * len(job["connections"])
    threads = [threading.Thread(target=client_thread, args=(job, todo, results), daemon=True)
               for _ in range(min(len(results), job.get("parallel", 64)))]
    for t in threads:
        t.start()
    end = time.monotonic() + job["total"]
    for t in threads:
        t.join(max(0.0, end - time.monotonic()))
    return results


def client_thread(job, todo, results):
    """One connection after the other, as long as there are any."""
    while todo:
        try:
            n, want = todo.pop()
        except IndexError:  # another thread was faster
            return
        result = results[n] = {"id": want["id"], "data": bytearray(), "end": "running", "sent": False}
        start = time.monotonic()
        try:
            client_one(job, want, result)
        except OSError as error:
            result["end"] = "timeout" if isinstance(error, socket.timeout) else end_word(error)
        result["seconds"] = time.monotonic() - start


def client_one(job, want, result):
    version = job["version"]
    with socket.create_connection(("127.0.0.1", want["port"]), 10) as s:
        s.settimeout(None if want.get("blocking") else job["limit"])
        data = result["data"]
        if want.get("banner"):
            data += s.recv(4096)
        props = mqtt.auth_properties("fake", b"1") if job.get("auth") else b""
        send_connect(s, job, want, props)
        todo = [bytes.fromhex(x) for x in (job.get("send", ""), job.get("then", "")) if x]
        authed = not job.get("auth")
        while True:
            got = s.recv(65536)
            if not got:
                result["end"] = "eof"
                return
            data += got
            if not authed and first_of(data, mqtt.AUTH):
                s.sendall(mqtt.auth(0x18, mqtt.auth_properties("fake", b"2")))
                authed = True
            if todo and not result["sent"] and first_of(data, mqtt.CONNACK):
                s.sendall(todo.pop(0))
                result["sent"] = True
            elif todo and result["sent"] and len(data) >= job["then_after"]:
                s.sendall(todo.pop(0))
            if job.get("stop_after") and len(data) >= job["stop_after"]:
                s.shutdown(socket.SHUT_WR)


def send_connect(s, job, want, props):
    connect = bytes.fromhex(job.get("connect", "")) or mqtt.connect(job["version"], want["id"], props=props)
    step = job.get("step")
    for at in range(0, len(connect) if step else 0, step or 1):
        s.sendall(connect[at:at + step])
        time.sleep(0.001)
    whole = (b"" if step else connect) + bytes.fromhex(job.get("behind", ""))
    if whole:
        s.sendall(whole)


def server(count):
    listeners, results = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(count)], []
    print(*(s.getsockname()[1] for s in listeners), flush=True)
    for listener in listeners:
        threading.Thread(target=server_accept, args=(listener, results), daemon=True).start()
    sys.stdin.buffer.read()
    end = time.monotonic() + 3
    while time.monotonic() < end and any(r["end"] == "running" for r in results):
        time.sleep(0.01)
    return results


def server_accept(listener, results):
    while True:
        sock, _ = listener.accept()
        result = {"data": bytearray(), "end": "running"}
        results.append(result)
        threading.Thread(target=server_thread, args=(sock, result), daemon=True).start()


def server_thread(sock, result):
    """CONNECT: (AUTH and, on the client's AUTH,) CONNACK, PUBLISH down. PUBLISH up: PUBLISH echo. Nothing else is answered."""
    start = time.monotonic()
    try:
        with sock:
            server_one(sock, result)
    except OSError as error:
        result["end"] = end_word(error)
    result["seconds"] = time.monotonic() - start


def server_one(sock, result):
    data, at, version, mangled = result["data"], 0, None, False
    while True:
        got = sock.recv(65536)
        if not got:
            result["end"] = "eof"
            return
        data += got
        while not mangled:
            try:
                header = mqtt.parse_header(data[at:at + 5])
            except mqtt.Malformed:
                mangled = True
                break
            if header is None or len(data) - at < header[2]:
                break
            raw, at = bytes(data[at:at + header[2]]), at + header[2]
            try:
                version = server_packet(sock, raw, version)
            except (IndexError, mqtt.Malformed):
                mangled = True


def server_packet(sock, raw, version):
    kind = raw[0] >> 4
    if kind == mqtt.CONNECT and version is None:
        fields = mqtt.parse_connect(raw)
        version = fields["version"]
        if fields["props"].startswith(b"\x15"):
            sock.sendall(mqtt.auth(0x18, mqtt.auth_properties("fake", b"s")))
        else:
            sock.sendall(mqtt.connack(version))
            sock.sendall(mqtt.publish(version, "down", b"marker-down"))
    elif kind == mqtt.AUTH and version == mqtt.V5:
        sock.sendall(mqtt.connack(version))
        sock.sendall(mqtt.publish(version, "down", b"marker-down"))
    elif kind == mqtt.PUBLISH and version and mqtt.parse_publish(version, raw)[0] == b"up":
        sock.sendall(mqtt.publish(version, "echo", mqtt.parse_publish(version, raw)[1]))
    return version


def main():
    if sys.argv[1:] == ["client"]:
        results = client(json.loads(sys.stdin.read()))
    elif sys.argv[1:2] == ["server"]:
        results = server(int((sys.argv[2:] or ["1"])[0]))
    else:
        sys.exit(__doc__)
    print(json.dumps([r and dict(r, data=bytes(r["data"]).hex()) for r in results]), flush=True)
    os._exit(0)  # threads that hang are reported, not waited for


if __name__ == "__main__":
    main()
