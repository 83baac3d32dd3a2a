"""Programs with rough manners, with other allocators and with other preloads: native and under the library."""

import os
import pathlib
import shutil
import socket
import sys
import sysconfig
import threading

import pytest

import pre

sys.path.insert(0, str(pre.ROOT / "tests" / "lib"))
import fakes  # noqa: E402

SCENARIOS = {"close_all": 15, "libc_daemon": 2, "spawns": 2, "fork_thousand": 3, "close_under_reader": 18, "close_under_writer": 8,
             "cancel_async": 100, "handler_does": 100, "handler_forks": 100, "jump_from_read": 3}
MULTIARCH = pathlib.Path("/usr/lib") / sysconfig.get_config_var("MULTIARCH")  # of Debian's python3
ALLOCATORS = {"tcmalloc": "libtcmalloc_minimal.so.4", "jemalloc": "libjemalloc.so.2"}


@pytest.fixture
def place():
    with pre.Place() as p:
        yield p


@pytest.fixture(autouse=True, scope="module")
def _built():
    for name in ("life", "flow", "rough", "stack.so"):
        pre.build(name)


def port_of(p):
    return int(p.stdout.readline())


def must_end(p, timeout=60):
    status, out, err = pre.finish(p, timeout)
    assert status == 0 and out.rstrip().endswith("ok"), f"status {status}\n{out}\n{err}\n{pre.log_of(p)}"
    return err


@pytest.mark.parametrize("shim", [False, True], ids=["native", "library"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rough(place, scenario, shim):
    echo = place.start([pre.build("life"), "echo"], shim)
    p = place.start([pre.build("rough"), scenario, port_of(echo)], shim)
    assert must_end(p) == ""
    echo.terminate()
    _, out, err = pre.finish(echo)
    assert "FAILED" not in out and err == "", out + err
    if not shim:
        assert pre.log_of(p) == ""
        return
    assert pre.encrypted(p) >= SCENARIOS[scenario], pre.log_of(p)
    if scenario != "jump_from_read":  # which may lose the one that it jumps out of
        assert "broken" not in pre.log_of(p) + pre.log_of(echo), pre.log_of(p) + pre.log_of(echo)


@pytest.mark.parametrize("shim", [False, True], ids=["native", "library"])
@pytest.mark.parametrize("phase", ["connack", "probe", "preface"])
def test_cancelled_while_it_waits(place, phase, shim):
    """For CONNACK, for the answer to a probe, for the answer to a preface: from a server that stays silent."""
    quiet = threading.Event()

    def script(wire, broker):
        wire.recv_some()
        if phase == "probe":
            fakes.Session(wire)
            wire.send(b"\x20\x02\x00\x00")
        quiet.wait(20)

    echo = place.start([pre.build("life"), "echo"], shim)
    with fakes.FakeBroker(script) as mute:
        strict = f'[connect "127.0.0.1:{mute.port}"]\npolicy = require\n' if phase == "preface" else ""
        place.conf.write_text("[link]\nhandshake-timeout = 1s\n" + strict)
        p = place.start([pre.build("rough"), "cancel_waiting", port_of(echo), mute.port], shim)
        try:
            must_end(p, 20)
        finally:
            quiet.set()
    assert not shim or pre.encrypted(p) == 2, pre.log_of(p)


# ---- other allocators --------------------------------------------------------------------------------------------------------------------

def allocator(name):
    path = MULTIARCH / ALLOCATORS[name]
    if not path.exists():
        pytest.skip(f"{path.name} is not installed")
    return str(path)


def orders(other):
    return {"before": f"{other} {pre.LIBRARY}", "behind": f"{pre.LIBRARY} {other}"}


@pytest.mark.parametrize("order", ["before", "behind", "linked"])
@pytest.mark.parametrize("name", ALLOCATORS)
def test_allocator(place, name, order):
    """Its constructor and its first malloc call what is hooked before our constructor has run."""
    other = allocator(name)
    env = {} if order == "linked" else {"LD_PRELOAD": orders(other)[order]}
    flags = ["-U_FORTIFY_SOURCE", "-Wl,--no-as-needed", other] if order == "linked" else []
    build = lambda p: pre.build(f"{p}.{name}", *flags, source=f"{p}.c") if flags else pre.build(p)  # noqa: E731
    echo = place.start([build("life"), "echo"], True, env=env)
    port = port_of(echo)
    assert pathlib.Path(other).resolve().name in pathlib.Path(f"/proc/{echo.pid}/maps").read_text()
    for program, scenario, count in (("life", "client", 5), ("life", "children", 2), ("flow", "duplex", 1), ("flow", "many", 144),
                                     ("flow", "handler_other", 10), ("rough", "fork_thousand", 3), ("rough", "close_all", 15)):
        p = place.start([build(program), scenario, port], True, env=env)
        must_end(p)
        assert pre.encrypted(p) >= count, pre.log_of(p)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("name", ALLOCATORS)
def test_mosquitto_with_an_allocator(place, name, order):
    env = {"LD_PRELOAD": orders(allocator(name))[order]}
    port = free_port()
    conf = place.dir / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\nlog_type all\n" + ("user root\n" if os.geteuid() == 0 else ""))
    broker = place.start(["/usr/sbin/mosquitto", "-c", conf], True, env=env)
    pre.wait_line(broker, "running")
    sub = place.start(["/usr/bin/mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-t", "#", "-C", 2, "-q", 1, "-W", 20], True, env=env)
    pre.wait_line(broker, "Sending SUBACK")
    threading.Thread(target=broker.stderr.read, daemon=True).start()  # or its pipe fills
    (place.dir / "payload").write_bytes(b"x" * 300000)
    for options in (["-m", "hello"], ["-f", place.dir / "payload"]):
        p = place.start(["/usr/bin/mosquitto_pub", "-h", "127.0.0.1", "-p", port, "-t", "a", "-q", 1, *options], True, env=env)
        assert pre.finish(p)[0] == 0
        assert pre.encrypted(p) == 1, pre.log_of(p)
    status, out, _ = pre.finish(sub)
    assert (status, out) == (0, "hello\n" + "x" * 300000 + "\n")
    assert pre.encrypted(sub) == 1
    broker.terminate()
    assert broker.wait(10) == 0 and pre.encrypted(broker) == 3


# ---- other preloads ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["next", "syscall"])
@pytest.mark.parametrize("order", ["before", "behind"])
def test_stacked(place, order, how):
    """One that hooks what we hook, and goes on by RTLD_NEXT, or by syscall(), which is hooked by both: neither calls the other for ever."""
    env = {"LD_PRELOAD": orders(pre.build("stack.so"))[order], "OE_STACK": how}
    echo = place.start([pre.build("life"), "echo"], True, env=env)
    port = port_of(echo)
    for program, scenario, count in (("life", "client", 5), ("life", "dups", 1), ("life", "dup2_close", 4), ("life", "fork_split", 1), ("flow", "duplex", 1),
                                     ("flow", "contend", 20), ("rough", "close_all", 15)):
        p = place.start([pre.build(program), scenario, port], True, env=env)
        assert must_end(p) == "other preload: called\n"
        assert pre.encrypted(p) >= count, pre.log_of(p)


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("name", ["libstdbuf.so", "libfakeroot-sysv.so"])
def test_with_a_common_preload(place, name, order):
    """What stdbuf and fakeroot put there."""
    found = [p for d in ("/usr/libexec/coreutils", "/usr/lib", "/usr/lib/coreutils") for p in pathlib.Path(d).glob(f"**/{name}")]
    if not found:
        pytest.skip(f"there is no {name}")
    env = {"LD_PRELOAD": orders(found[0])[order], "_STDBUF_O": "L"}
    echo = place.start([pre.build("life"), "echo"], True)
    port = port_of(echo)
    for program, scenario, count in (("life", "client", 5), ("flow", "duplex", 1)):
        p = place.start([pre.build(program), scenario, port], True, env=env)
        must_end(p)
        assert pre.encrypted(p) >= count, pre.log_of(p)


@pytest.mark.skipif(shutil.which("fakeroot") is None, reason="there is no fakeroot")
def test_under_fakeroot(place):
    echo = place.start([pre.build("life"), "echo"], True)
    env = {"LD_PRELOAD": None}
    command = f'LD_PRELOAD="{pre.LIBRARY} $LD_PRELOAD"; export LD_PRELOAD; exec {pre.build("life")} client {port_of(echo)}'
    p = place.start(["fakeroot", "sh", "-c", command], True, env=env)
    must_end(p)
    assert pre.encrypted(p) == 5, pre.log_of(p)
