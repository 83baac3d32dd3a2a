"""A subscriber that is stopped for 5 s while 200,000 messages are published at QoS 1, then goes on: its output is what it is natively, and neither it
nor the broker needs more memory for it than natively, but for buffers that do not grow with what waits."""

import os
import pathlib
import re
import signal
import sys
import time

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import harness

pytestmark = pytest.mark.skipif(harness.NATIVE or harness.POLICY == "off", reason="compares native with the library")

PUBLISHERS, EACH = 4, 50000  # one after the other: mosquitto_pub -l loses the rest of what is more than 65,535 lines, its packet identifiers
STOPPED_S = 5

# What the library may need beside (limits.h, pool.h). Of a connection: plaintext that is owed, bytes for the wire that the kernel has not taken, each
# in a buffer of OE_POOL_BYTES; the front of a record. Of a process: the buffers that it keeps (KEPT); the library, libsodium, libinih, status files.
POOL, RECORD, KEPT, PROGRAM = 132 << 10, 2 * (16 << 10), 8, 1536 << 10
CONNECTIONS = 2 + 1  # of the broker: subscriber, publisher, and the one before it, which is reaped by the next accept
SUBSCRIBER_MORE = 2 * POOL + RECORD + KEPT * POOL + PROGRAM
BROKER_MORE = CONNECTIONS * (2 * POOL + RECORD) + KEPT * POOL + PROGRAM
HEAP_NOISE = 0.02  # two native brokers that queue 200,000 messages differ by less than that


def peak(pid):
    return int(re.search(r"^VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1]) << 10


def lines(n):
    return b"".join(b"message %08d of two hundred thousand\n" % i for i in range(n * EACH, (n + 1) * EACH))


def run(library):
    """(what the subscriber wrote, its peak, the broker's peak)."""
    with harness.World(library) as w:
        broker = w.broker()
        w.introduce(broker.port, "sub", "pub")
        sub = w.start([harness.program("mosquitto_sub"), "-h", "127.0.0.1", "-p", broker.port, "-i", "stopped", "-q", 1, "-t", "stopped/#"], state=w.state("sub"))
        broker.wait_subscribed("stopped")
        sub.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        pubs = [w.pub(broker.port, "stopped/lines", lines=w.file(f"lines{n}", lines(n)), qos=1, timeout=120, state=w.state("pub"))
                for n in range(PUBLISHERS)]
        time.sleep(max(0.0, stopped + STOPPED_S - time.monotonic()))
        waiting = len(sub.stdout())
        assert pathlib.Path(f"/proc/{sub.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
        sub.signal(signal.SIGCONT)
        whole = PUBLISHERS * len(lines(0))
        harness.wait_until(lambda: os.path.getsize(sub.out) >= whole, "all messages", 120)
        time.sleep(0.3)  # nothing comes twice
        peaks = peak(sub.pid), peak(broker.proc.pid)
        sub.stop()
        assert waiting < whole / 2, "it was not stopped"
        if library:
            assert [line.state for p in (sub, *pubs) for line in p.oe()] == ["tofu"] * (1 + PUBLISHERS)
            assert {line.state for line in broker.oe()} == {"unauthenticated"} and len(broker.oe()) == 3 + PUBLISHERS
        return sub.stdout(), *peaks


def test_stopped_subscriber():
    want = b"".join(map(lines, range(PUBLISHERS)))
    native, native_sub, native_broker = run(False)
    assert native == want
    got, sub, broker = run(True)
    assert got == native, f"{len(got)} bytes, natively {len(native)}"
    figures = f"subscriber {native_sub >> 10} KiB, with the library {sub >> 10}; broker {native_broker >> 10} KiB, with the library {broker >> 10}"
    assert sub <= native_sub + SUBSCRIBER_MORE, f"{figures}; allowed: {SUBSCRIBER_MORE >> 10} more"
    assert broker <= native_broker * (1 + HEAP_NOISE) + BROKER_MORE, f"{figures}; allowed: {BROKER_MORE >> 10} and {HEAP_NOISE:.0%} more"
    print(figures)
