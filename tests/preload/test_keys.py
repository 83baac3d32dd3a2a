"""Keys in the memory of a program under the library: where they are while they are needed, and that nothing of them is left afterwards."""

import base64
import os
import pathlib
import re
import sys

import pytest

import pre

sys.path.insert(0, str(pre.ROOT / "tests" / "lib"))
import fakes  # noqa: E402
import mqtt  # noqa: E402
import noise  # noqa: E402
import oepreface  # noqa: E402

CLIENT = """
import socket, sys
connections = []
for line in sys.stdin:
    if line == "open\\n":
        s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        s.sendall(bytes.fromhex(sys.argv[2]))
        assert s.recv(4) == bytes.fromhex("20020000")
        s.sendall(bytes.fromhex("c000"))
        assert s.recv(2) == bytes.fromhex("d000")
        connections.append(s)
    else:
        connections.pop().close()
    print("done", flush=True)
"""
CONNECT = mqtt.connect(mqtt.V311, "keys")


@pytest.fixture
def place():
    with pre.Place() as p:
        yield p


def memory(pid):
    """(first address, bytes) of everything that can be read."""
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            if rights[0] != "r" or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            try:
                mem.seek(int(first, 16))
                yield int(first, 16), rights, mem.read(int(last, 16) - int(first, 16))
            except OSError:
                continue


def found(pid, secrets):
    """{name: [(address, rights of its mapping)]}"""
    places = {}
    for first, rights, data in memory(pid):
        for name, secret in secrets.items():
            at = data.find(secret)
            while at >= 0:
                places.setdefault(name, []).append((first + at, rights))
                at = data.find(secret, at + 1)
    return places


@pytest.fixture
def recorded(monkeypatch):
    """Every Diffie-Hellman result and every key that a handshake derives, as the independent implementation computes them."""
    secrets = {}
    dh, hkdf = noise.dh, noise.hkdf

    def note_dh(*args):
        out = dh(*args)
        secrets[f"dh {len(secrets)}"] = out
        return out

    def note_hkdf(*args):
        out = hkdf(*args)
        for key in out:
            secrets[f"key {len(secrets)}"] = key
        return out

    monkeypatch.setattr(noise, "dh", note_dh)
    monkeypatch.setattr(noise, "hkdf", note_hkdf)
    return secrets


def guarded(pid, address):
    """Whether the mapping of an address lies between two that nobody may touch, and is left out of core dumps."""
    text = pathlib.Path(f"/proc/{pid}/smaps").read_text()
    maps = [(int(a, 16), int(b, 16), r, flags.split()) for a, b, r, flags in
            re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+).*?^VmFlags: (.*?)$", text, re.M | re.S)]
    i = next(i for i, m in enumerate(maps) if m[0] <= address < m[1])
    return (maps[i - 1][1] == maps[i][0] and maps[i - 1][2][:3] == "---" and maps[i + 1][0] == maps[i][1] and maps[i + 1][2][:3] == "---"
            and "dd" in maps[i][3])


def order(p, what):
    p.stdin.write(what + "\n")
    p.stdin.flush()
    assert p.stdout.readline() == "done\n", p.stderr.read()


def script(wire, broker):
    assert wire.recv_packet() == CONNECT
    wire.send(mqtt.connack(mqtt.V311))
    assert wire.recv_packet() == b"\xc0\x00"
    wire.send(b"\xd0\x00")
    try:
        wire.recv_some(30)
    except fakes.Ended:
        pass
    return wire.endpoint


def test_no_key_is_left_in_memory(place, recorded):
    """First by probe, then by preface: while a connection is open its two keys are there, once each, guarded; after close no key, no chaining key and no Diffie-Hellman
    result of any handshake is anywhere. The identity is in one place, read-only, guarded."""
    static, freshness = noise.new_secret(), oepreface.Freshness()
    with fakes.FakeBroker(script, responder=lambda: oepreface.Responder(static=static, freshness=freshness)) as broker:
        p = place.start([sys.executable, "-c", CLIENT, broker.port, CONNECT.hex()])
        for state in ("unauthenticated", "tofu", "tofu"):
            recorded.clear()
            order(p, "open")
            endpoint = broker.wires[-1].endpoint
            keys = {"send": endpoint.sealer.cipher.k, "receive": endpoint.opener.cipher.k}
            places = found(p.pid, keys)
            assert sorted(places) == ["receive", "send"], "the keys of an open connection are not in memory: the test looks at the wrong place"
            assert all(len(v) == 1 and guarded(p.pid, v[0][0]) for v in places.values()), places
            assert len(recorded) >= 9
            assert set(keys.values()) <= set(recorded.values())
            # of the handshake nothing is needed any more
            assert not found(p.pid, {n: k for n, k in recorded.items() if k not in keys.values()})
            order(p, "close")
            assert not found(p.pid, recorded)
            assert f"state={state}" in pre.log_of(p).splitlines()[-1], pre.log_of(p)
        identity = secret_of(place.dir / "state" / "identity")
        places = found(p.pid, {"identity": identity})["identity"]
        assert len(places) == 1 and places[0][1].startswith("r--") and guarded(p.pid, places[0][0]), places
        assert pre.finish(p)[0] == 0


def secret_of(path):
    return base64.b64decode(path.read_text().splitlines()[1])


@pytest.mark.skipif(not os.access("/proc/self/mem", os.R_OK), reason="no /proc/PID/mem")
def test_the_search_finds(place):
    """What is looked for is found where it is: a program that has it in its memory."""
    needle = os.urandom(32)
    p = place.start([sys.executable, "-c", f"import sys\nx = bytes.fromhex('{needle.hex()}')\nprint('done', flush=True)\nsys.stdin.read()\nprint(x)"], shim=False)
    assert p.stdout.readline() == "done\n"
    assert found(p.pid, {"needle": needle})
    assert pre.finish(p)[0] == 0
