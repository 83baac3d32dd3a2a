"""Every call in docs/INTERPOSITION.md that tests/preload/life.c, flow.c and torture.c do not use: native and under the library."""

import os

import pytest

import pre

SCENARIOS = {  # and how many encrypted connections of the client's each must show
    "many_messages": 2, "positions": 1, "by_number": 1, "count": 1, "zero_copy": 1, "fast_open": 4, "options": 1, "kernel_copies": 1,
    "close_ranges": 4, "stale_numbers": 16, "pidfd": 1, "stdio_plain": 2, "reader_waits": 0, "rights_own": 2, "hand_on_used": 1}
ENDS = {"many_messages": 2, "count": 1}  # of these both ends are in one process


@pytest.fixture
def place():
    with pre.Place() as p:
        yield p


@pytest.fixture(autouse=True, scope="module")
def _built():
    for name in ("life", "calls"):
        pre.build(name)


def started(place, *command, shim):
    p = place.start(command, shim)
    return p, int(p.stdout.readline())


def must_end(p, timeout=30):
    status, out, err = pre.finish(p, timeout)
    assert status == 0 and out.rstrip().endswith("ok") and err == "", f"status {status}\n{out}\n{err}\n{pre.log_of(p)}"
    return out


@pytest.mark.parametrize("shim", [False, True], ids=["native", "library"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_call(place, scenario, shim):
    echo, port = started(place, pre.build("life"), "echo", shim=shim)
    p = place.start([pre.build("calls"), scenario, port], shim)
    must_end(p)
    echo.terminate()
    _, out, err = pre.finish(echo)
    assert "FAILED" not in out and err == "", out + err
    log = pre.log_of(p)
    if not shim:
        assert log == ""
        return
    assert pre.encrypted(p) == SCENARIOS[scenario] + ENDS.get(scenario, 0), log
    assert ("it was encrypted by another program" in log) == (scenario in ("rights_own", "hand_on_used")), log
    assert "broken" not in log.replace("broken: it was encrypted by another program", ""), log
    assert "broken" not in pre.log_of(echo), "bytes that are no records reached the peer"


def test_stdio_on_an_encrypted_connection(place):
    """Broken, loudly; nothing is written in plain."""
    echo, port = started(place, pre.build("life"), "echo", shim=True)
    p = place.start([pre.build("calls"), "stdio_poison", port])
    must_end(p)
    assert pre.log_of(p).count("broken: the application uses stdio on it") == 3, pre.log_of(p)


@pytest.mark.parametrize("shim", [False, True], ids=["native", "library"])
@pytest.mark.parametrize("how", ["serve_rights", "serve_exec", "serve_spawn"])
def test_super_servers(place, how, shim):
    """Whoever gets a fresh connection encrypts it."""
    server, port = started(place, pre.build("calls"), how, shim=shim)
    clients = [place.start([pre.build("life"), "client", port], shim) for _ in range(3)]
    for p in clients:
        must_end(p)
        assert not shim or pre.encrypted(p) == 5, pre.log_of(p)
    os.killpg(server.pid, 15)
    _, out, err = pre.finish(server)
    assert "FAILED" not in out and err == "", out + err
    assert not shim or (pre.encrypted(server) == 15 and "broken" not in pre.log_of(server)), pre.log_of(server)


@pytest.mark.parametrize("call", ["sendfile", "stdio", "stream"])
def test_require_lets_nothing_past(place, call):
    """What would let a fresh connection go plain under prefer is refused under require."""
    place.conf.write_text("[link]\npolicy = require\n")
    echo, port = started(place, pre.build("life"), "echo", shim=False)
    code = {"sendfile": "os.sendfile(s.fileno(), f.fileno(), 0, 3)",
            "stdio": "libc.dprintf(s.fileno(), b'abc') == -1 and os.strerror(ctypes.get_errno())",
            "stream": "os.read(0, 0)"}[call]
    setup = "" if call != "stream" else "libc.fdopen.restype = ctypes.c_void_p; libc.fdopen(s.fileno(), b'r+') or exit('no stream');"
    program = f"""
import ctypes, os, socket, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket()
{setup}
try:
    s.connect(("127.0.0.1", {port}))
except OSError as e:
    print("connect", e.errno)
    sys.exit()
f = tempfile.TemporaryFile(); f.write(b"abc"); f.flush()
try:
    print({code})
except OSError as e:
    print("call", e.errno)
"""
    p = place.start(["/usr/bin/python3", "-c", program])
    status, out, err = pre.finish(p)
    assert status == 0, err
    assert out.strip() == {"sendfile": "call 22", "stdio": "Connection reset by peer", "stream": "connect 13"}[call], out + pre.log_of(p)
