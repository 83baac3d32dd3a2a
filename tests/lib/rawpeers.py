"""Raw MQTT clients and a raw MQTT server (shim_peer.py) under the library, driven from a test: every byte that the applications saw."""

import json
import os
import signal
import time

import fakes
import harness
import mqtt


def settings(world, ms, more=""):
    """Environment for a handshake time-out of ms; more: sections of the configuration."""
    name = f"oe-mqtt-{ms}-{len(more)}-{abs(hash(more))}.conf" if more else f"oe-mqtt-{ms}.conf"
    return {"OE_MQTT_CONFIG": world.file(name, f"[link]\nhandshake-timeout = {ms}ms\n{more}".encode()), "PYTHONFAULTHANDLER": "1"}


def assert_ended_well(proc):
    """Status 0; else the status (a signal by its name) and what the program itself said, with the last of the library's lines behind it."""
    text = proc.stderr()
    if proc.status < 0:
        word = signal.Signals(-proc.status).name
    else:
        word = f"status {proc.status}"
    own = harness.without_oe(text)
    assert proc.status == 0, f"ended with {word}; it said:\n{own[:6000]}\n--- and the library, last:\n{text[-1500:]}"


def run_clients(world, version, connections, ms=700, expect=None, state="run", more="", stuck=("running", "timeout"), **job):
    """Raw clients under the library, many in one process. expect: the state that every line must show; state: of the state directory; more: of
    the configuration; stuck: how no connection may end."""
    job = dict({"version": version, "connections": connections, "limit": 15, "total": 60, "parallel": 48}, **job)
    path = world.file("job.json", json.dumps(job).encode())
    proc = world.start([fakes.PYTHON, fakes.PEER_SCRIPT, "client"], stdin=path, env=settings(world, ms, more), state=world.state(state))
    proc.wait(job["total"] + 30)
    assert_ended_well(proc)
    results = json.loads(proc.stdout())
    for r in results:
        r["data"] = bytes.fromhex(r["data"])
        assert r["end"] not in stuck, (r, proc.stderr()[-2000:])
    lines = proc.oe()
    assert "]: connect " in proc.stderr() and {line.role for line in lines} <= {"connect"}, proc.stderr()[-3000:]
    if expect:
        assert {line.state for line in lines} == {expect}, proc.stderr()[-3000:]
    return results, proc


def one_client(world, version, port, **job):
    results, proc = run_clients(world, version, [{"port": port, "id": "one", "banner": job.pop("banner", False),
                                                  "blocking": job.pop("blocking", False)}], **job)
    return results[0], proc


class LibraryServer:
    """The raw Python server under the library, on one port or on several."""

    def __init__(self, world, ports=1, state="run", more=""):
        self.world, self.listeners, self.state = world, ports, world.state(state)
        read, self.stdin = os.pipe()
        self.proc = world.start([fakes.PYTHON, fakes.PEER_SCRIPT, "server", ports], stdin=f"/dev/fd/{read}", env=settings(world, 15000, more),
                                state=self.state)
        os.close(read)
        said = harness.wait_until(lambda: b"\n" in self.proc.stdout() and self.proc.stdout(), "the server's ports")
        self.ports = [int(x) for x in said.split()[:ports]]
        self.port = self.ports[0]

    def _results(self):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not self.settled():
            time.sleep(0.05)
        os.close(self.stdin)
        self.proc.wait(30)
        assert_ended_well(self.proc)
        return [(bytes.fromhex(r["data"]), r["end"]) for r in json.loads(self.proc.stdout().split(b"\n", 1)[1])]

    def report_all(self):
        """The bytes that the application got on each connection, in order."""
        return [data for data, _ in self._results()]

    def report(self):
        """{client id: (bytes that the application got, how the connection ended for it)}; b"" holds those without CONNECT."""
        found = {}
        for data, end in self._results():
            try:
                name = mqtt.parse_connect(data)["client_id"]
            except (IndexError, TypeError, mqtt.Malformed):
                name = ""
            found[name] = (data, end)
        return found

    def settled(self):
        """Whether all connections have ended: no socket but those that listen is left in the process."""
        try:
            fds = os.listdir(f"/proc/{self.pid()}/fd")
        except OSError:
            return True
        return sum(1 for fd in fds if self._is_socket(fd)) <= self.listeners

    def pid(self):
        return self.proc.pid

    def _is_socket(self, fd):
        try:
            return os.readlink(f"/proc/{self.pid()}/fd/{fd}").startswith("socket:")
        except OSError:
            return False
