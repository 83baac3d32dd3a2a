"""The library built with ThreadSanitizer under threaded programs, and with AddressSanitizer and UBSan under stock programs and our own.

`make tsan` and `make asan` build the library and come here. By hand:
  setarch -R env LD_PRELOAD="$(realpath $(gcc -print-file-name=libtsan.so)) $PWD/build/tsan/liboe-mqtt.so" PROGRAM-BUILT-WITH-TSAN
  LD_PRELOAD="$(gcc -print-file-name=libasan.so) $PWD/build/asan/liboe-mqtt.so" mosquitto_pub ...
setarch -R: ThreadSanitizer cannot place its shadow where the kernel randomises addresses with many bits.
"""

import os
import socket
import subprocess
import time

import pytest

import pre
from test_calls import SCENARIOS as CALLS
from test_rough import SCENARIOS as ROUGH

TSAN_LIBRARY = pre.ROOT / "build" / "tsan" / "liboe-mqtt.so"
ASAN_LIBRARY = pre.ROOT / "build" / "asan" / "liboe-mqtt.so"
TSAN_OPTIONS = "exitcode=66:report_signal_unsafe=0"  # what programs do in signal handlers is theirs
NOT_WITH_ASAN = {"handler_forks", "fork_thousand"}  # its allocator has locks that such a fork meets
ASAN_OPTIONS = "detect_leaks=1:exitcode=99:abort_on_error=0"
LEAVES_MEMORY = {"jump_from_read"}  # what a call had when a handler jumped out of it is nobody's


def runtime(name):
    path = subprocess.run([*pre.CC, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
    return os.path.realpath(path)


def port_of(p):
    return int(p.stdout.readline())


# ---- ThreadSanitizer -----------------------------------------------------------------------------------------------------------------------

def tsan(place, program, *args):
    if not TSAN_LIBRARY.exists():
        pytest.skip("make tsan builds the library")
    binary = pre.build(f"{program}.tsan", "-fsanitize=thread", "-U_FORTIFY_SOURCE", source=f"{program}.c")
    env = {"LD_PRELOAD": None, "TSAN_OPTIONS": TSAN_OPTIONS}
    preload = f"LD_PRELOAD={runtime('libtsan.so')} {TSAN_LIBRARY}"
    return place.start(["/usr/bin/setarch", "-R", "/usr/bin/env", preload, binary, *args], True, env=env)


def races(err):
    """Those in memory. It follows descriptors by interceptors that stand in front of the library: what that opens and closes they do not see, and
    take a number that is used again for a race."""
    return [r for r in err.split("WARNING: ThreadSanitizer")[1:] if "Location is file descriptor" not in r]


@pytest.mark.parametrize("program,scenario,connections", [
    ("flow", "duplex", 1), ("flow", "many", 144), ("flow", "contend", 20), ("flow", "cancel", 2), ("flow", "cancel_writer", 1),
    ("flow", "shutdown_wakes", 1), ("life", "daemonise", 1), ("life", "dups", 1), ("life", "children", 2),
    ("status", "threads", 150), ("flow", "close_race", 4), ("rough", "close_under_reader", 18), ("rough", "fork_thousand", 3),
    ("rough", "close_all", 15), ("rough", "spawns", 2), ("calls", "by_number", 1), ("calls", "stale_numbers", 16),
    ("calls", "close_ranges", 4), ("calls", "rights_own", 2)])
def test_tsan(program, scenario, connections):
    with pre.Place() as place:
        echo = tsan(place, "life", "echo")
        port = port_of(echo)
        args = (port, scenario) if program == "status" else (scenario, port)
        p = tsan(place, program, *args)
        status, out, err = pre.finish(p, 90)
        assert not races(err), err[:6000]
        assert status == 0 or (status == 66 and "FAILED" not in out), (status, out, err)
        assert pre.encrypted(p) >= connections
        end = time.monotonic() + 20
        while not pre.encrypted(echo) and time.monotonic() < end:
            time.sleep(0.02)  # its thread reads message 3 when it gets to run
        echo.terminate()
        _, _, err = pre.finish(echo)
        assert not races(err), err[:6000]
        assert pre.encrypted(echo) >= 1


def test_tsan_is_awake():
    with pre.Place() as place:
        p = tsan(place, "flow", "race", port_of(place.start([pre.build("life"), "echo"], False)))
        status, _, err = pre.finish(p, 60)
        assert status == 66 and "data race" in err, (status, err)


# ---- AddressSanitizer ----------------------------------------------------------------------------------------------------------------------

def asan_env(place, name, leaks=True):
    options = ASAN_OPTIONS if leaks else ASAN_OPTIONS.replace("detect_leaks=1", "detect_leaks=0")
    return {"LD_PRELOAD": f"{runtime('libasan.so')} {ASAN_LIBRARY}", "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=1",
            "OE_MQTT_STATE": str(place.dir / f"state-{name}"), "OE_MQTT_CONFIG": str(place.conf)}


def asan(place, command, name, leaks=True):
    if not ASAN_LIBRARY.exists():
        pytest.skip("make asan builds the library")
    return place.start(command, True, env=asan_env(place, name, leaks))


def clean(p, timeout=60, status=0):
    got, out, err = pre.finish(p, timeout)
    assert "Sanitizer" not in err and "runtime error" not in err, err[:6000]
    assert got == status, (got, out[:500], err[:2000], pre.log_of(p))
    return out


@pytest.mark.parametrize("program,scenario,connections", [
    ("flow", "duplex", 1), ("flow", "many", 144), ("flow", "contend", 20), ("flow", "cancel", 2), ("life", "daemonise", 1), ("life", "dups", 1),
    ("status", "threads", 150), ("life", "dup2_close", 4), ("life", "half_close", 5), ("life", "fork_split", 1), ("life", "children", 2), ("life", "reuse", 20),
    *(("rough", name, n) for name, n in ROUGH.items() if name not in NOT_WITH_ASAN), *(("calls", name, n) for name, n in CALLS.items())])
def test_asan_own(program, scenario, connections):
    with pre.Place() as place:
        echo = asan(place, [pre.build("life"), "echo"], "echo")
        args = [port_of(echo), scenario] if program == "status" else [scenario, port_of(echo)]
        p = asan(place, [pre.build(program), *args], "client", leaks=scenario not in LEAVES_MEMORY)
        clean(p, 90)
        assert pre.encrypted(p) >= connections
        end = time.monotonic() + 20
        while not pre.encrypted(echo) and time.monotonic() < end:
            time.sleep(0.02)  # its thread reads message 3 when it gets to run
        echo.terminate()
        _, _, err = pre.finish(echo)
        assert "Sanitizer" not in err and "runtime error" not in err, err[:6000]


@pytest.mark.parametrize("reader,writer", [("epoll-et-short", "epoll-et"), ("one-byte", "writev"), ("readv", "small-sndbuf"), ("mosquitto", "poll")])
def test_asan_torture(reader, writer):
    with pre.Place() as place:
        torture = pre.build("torture")
        common = ["end=fin", "bytes=60000", "seed=9"]
        server = asan(place, [torture, "server", "recv", reader, *common], "server")
        relay = place.start([torture, "relay", f"port={port_of(server)}", "seed=9"], False)
        client = asan(place, [torture, "client", "send", writer, *common, f"port={port_of(relay)}"], "client")
        clean(client)
        clean(server)
        assert pre.encrypted(client) == pre.encrypted(server) == 1


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_asan_mosquitto():
    with pre.Place() as place:
        port = free_port()
        conf = place.dir / "mosquitto.conf"
        conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_dest stderr\n")
        broker = asan(place, ["/usr/sbin/mosquitto", "-c", conf], "broker")
        pre.wait_line(broker, "running")
        sub = asan(place, ["/usr/bin/mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-t", "#", "-C", 42, "-q", 1, "-W", 30], "sub")
        pre.wait_line(broker, "New client connected")  # it says so before SUBSCRIBE
        time.sleep(1)
        payload = place.dir / "payload"
        payload.write_bytes(b"x" * 300000)
        clients = []
        for options in (["-m", "hello"], ["-q", 1, "-f", payload]):
            clients.append(asan(place, ["/usr/bin/mosquitto_pub", "-h", "127.0.0.1", "-p", port, "-t", "topic/of/asan", *options], "pub"))
            clean(clients[-1])
        lines = asan(place, ["/usr/bin/mosquitto_pub", "-h", "127.0.0.1", "-p", port, "-t", "lines", "-q", 1, "-l"], "pub")
        lines.stdin.write("line\n" * 40)
        clean(lines)
        out = clean(sub)
        assert out.count("line") == 40 and "hello" in out and "x" * 300000 in out
        for p in (*clients, lines, sub):
            assert pre.encrypted(p) == 1
        broker.terminate()
        clean(broker)
        assert pre.encrypted(broker) == 4


