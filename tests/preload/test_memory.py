"""What a connection that does nothing costs a broker: stock mosquitto, 1,000 of them, natively and under the library, at first and at later
contacts."""

import pathlib
import resource
import sys
import time

import pytest

import pre

sys.path.insert(0, str(pre.ROOT / "tests" / "bench"))
import harness  # noqa: E402
from rig import memory_bytes  # noqa: E402

CONNECTIONS, CLIENTS = 1000, 2
MORE_BYTES_MAX = 3 * 1024  # of a connection, over plain


@pytest.fixture
def many_files():
    """The broker inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * CONNECTIONS:
        pytest.skip(f"at most {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ready(p):
    assert p.stdout.readline() == "ready\n", (p.poll(), p.stderr.read(), pre.log_of(p)[-1000:])


def open_idle(place, port, command, count, shim):
    p = place.start([pre.build("status"), port, f"{command}:{count}", "wait"], shim)
    ready(p)
    return p


def measure(how):
    """Rss of a connection, in bytes. (Pss also grows when somebody else who has the same libraries loaded ends.)"""
    shim = how != "native"
    with pre.Place() as place, harness.Broker(library=shim, state=place.dir / "state-broker") as broker:
        if how == "later":
            open_idle(place, broker.port, "client", 1, shim)
        open_idle(place, broker.port, "client" if how != "first" else "stranger", 20, shim)  # what comes once for all
        time.sleep(0.3)
        before, seen = memory_bytes(broker.proc.pid)["rss"], len(broker.oe())
        clients = [open_idle(place, broker.port, "client" if how != "first" else "stranger", CONNECTIONS // CLIENTS, shim) for _ in range(CLIENTS)]
        if shim:
            harness.wait_until(lambda: len(broker.oe()) >= seen + CONNECTIONS, "the broker's lines")
            assert {line.state for line in broker.oe()} == {"unauthenticated"}
            state = {"first": "unauthenticated", "later": "tofu"}[how]
            assert [pre.log_of(p).count(f" state={state} ") for p in clients] == [CONNECTIONS // CLIENTS] * CLIENTS
        time.sleep(0.5)
        return (memory_bytes(broker.proc.pid)["rss"] - before) / CONNECTIONS


def test_idle_connections(many_files):
    native = measure("native")
    for how in ("first", "later"):
        got = measure(how)
        assert native > 100, "nothing was measured"
        assert got - native < MORE_BYTES_MAX, f"{how} contacts: {got:.0f} bytes a connection, natively {native:.0f}"
