"""The preload tests' own programs, built for another architecture, under its library and qemu-user, against this machine's echo server and the other
way round. Each first runs without the library: what qemu cannot do is not the library's fault (preadv2 and pwritev2, so calls' by_number and positions
are not here)."""
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "preload"))
import pre  # noqa: E402

# and how many encrypted connections the client must show (of calls' two, both ends are in one process)
SCENARIOS = {
    "life": {"client": 5, "dups": 1, "dup2_close": 4, "dup_fails": 1, "reuse": 20, "half_close": 5, "connect_again": 1, "errno_kept": 1, "daemonise": 1,
             "fork_split": 1, "stale_hooked": 3, "stale_unhooked": 1},
    "flow": {"duplex": 1, "many": 144, "interrupted": 1, "handler_writes": 1},
    "calls": {"many_messages": 4, "count": 2, "options": 1, "kernel_copies": 1, "close_ranges": 4, "stale_numbers": 16},
}
TIME64_NAMES = {"__recvmsg64", "__recvmmsg64", "__sendmsg64", "__sendmmsg64", "__fcntl_time64", "__ioctl_time64", "__getsockopt64", "__setsockopt64"}
PLAIN_NAMES = {"recvmsg", "recvmmsg", "sendmsg", "sendmmsg", "ioctl", "getsockopt", "setsockopt"}


@pytest.fixture
def place():
    with pre.Place() as p:
        yield p


def start(place, machine, program, *args, shim):
    """A program of the machine's own, or (None) of this one."""
    if machine is None:
        return place.start([pre.build(program), *args], shim)
    folder = "cross" if program == "time64" else "preload"
    environment = (f"LD_PRELOAD={machine.library}",) if shim else ()
    return place.start([*machine.emulator(*environment), machine.build / folder / program, *args], shim, env={"LD_PRELOAD": None})


def run(place, client_on, server_on, program, *args, shim):
    """Against `life echo`. The client's standard output."""
    echo = start(place, server_on, "life", "echo", shim=shim)
    port = int(echo.stdout.readline())
    p = start(place, client_on, program, *args, port, shim=shim)
    status, out, err = pre.finish(p, 120)
    assert status == 0 and out.rstrip().endswith("ok") and err == "", f"status {status}\n{out}\n{err}\n{pre.log_of(p)}"
    echo.terminate()
    _, said, err = pre.finish(echo)
    assert "FAILED" not in said and err == "", said + err
    if shim:
        assert "broken" not in pre.log_of(p) + pre.log_of(echo), pre.log_of(p) + pre.log_of(echo)
        assert pre.encrypted(echo) >= 1 or args[:1] in (("count",), ("many_messages",)), pre.log_of(echo)
    return out, pre.encrypted(p)


@pytest.mark.parametrize("program,scenario", [(p, s) for p, names in SCENARIOS.items() for s in names])
def test_scenario(place, machine, program, scenario):
    assert run(place, machine, machine, program, scenario, shim=False)[1] == 0
    _, encrypted = run(place, machine, None, program, scenario, shim=True)
    assert encrypted >= SCENARIOS[program][scenario]


@pytest.mark.parametrize("server", ["theirs", "ours"])
@pytest.mark.parametrize("scenario", ["client", "half_close"])
def test_server(place, machine, scenario, server):
    """The echo server is of the other architecture; the client too, or of this one."""
    _, encrypted = run(place, machine if server == "theirs" else None, machine, "life", scenario, shim=True)
    assert encrypted == 5


def imports(machine, program):
    done = subprocess.run([f"{machine.triple}-nm", "-D", "--undefined-only", program], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}


def test_time64(place, machine):
    """A program with a 64-bit time_t: where long has 32 bits it calls other names."""
    names = imports(machine, machine.build / "cross" / "time64")
    if machine.arch == "armhf":
        assert TIME64_NAMES <= names and not PLAIN_NAMES & names, names
    else:
        assert PLAIN_NAMES <= names and not TIME64_NAMES & names, names
    native, encrypted = run(place, machine, machine, "time64", shim=False)
    assert encrypted == 0
    out, encrypted = run(place, machine, None, "time64", shim=True)
    assert encrypted == 1 and out == native
