"""Readers and writers of every style against each other, native and under the library: byte-exact, no stall, no spin."""

import itertools
import random
import re
import subprocess

import pytest

import pre

READERS = ["poll", "poll-large", "epoll", "epoll-et", "epoll-et-short", "oneshot", "select", "blocking", "blocking-large", "one-byte", "waitall",
           "readv", "recvmsg", "recvmmsg", "preadv2", "syscall", "counted", "mosquitto", "peek", "slow"]
WRITERS = ["blocking", "poll", "poll-one", "epoll-et", "epoll-et-short", "writev", "sendmsg", "sendmmsg", "pwritev2", "syscall", "small-sndbuf", "one-byte", "large"]
ENDS = ["open", "fin", "rst"]
BYTES = {"one-byte": 20000, "poll-one": 8000, "slow": 60000, "peek": 150000}


def cells():
    """(reader, writer, end, chopped, receiver's side, server has the library, client has the library): all of reader x writer once with the
    library at both ends, all of reader x end x chopped, and less of everything else."""
    rng = random.Random(4)
    sides = ["server", "client"]
    for r, w in itertools.product(READERS, WRITERS):
        yield r, w, rng.choice(ENDS), rng.random() < 0.25, rng.choice(sides), True, True
    for r, end, chopped in itertools.product(READERS, ENDS, (False, True)):
        yield r, rng.choice(WRITERS), end, chopped, rng.choice(sides), True, True
    for r in READERS:
        yield r, rng.choice(WRITERS), rng.choice(ENDS), rng.random() < 0.5, rng.choice(sides), False, False
        yield r, rng.choice(WRITERS), rng.choice(ENDS), rng.random() < 0.5, rng.choice(sides), True, False
        yield r, rng.choice(WRITERS), rng.choice(ENDS), rng.random() < 0.5, rng.choice(sides), False, True


def name_of(cell):
    r, w, end, chopped, side, server, client = cell
    ends = {(True, True): "both", (False, False): "native", (True, False): "server", (False, True): "client"}[server, client]
    return f"{ends}: {w} -> {r} ({side} receives), {end}{', chopped' if chopped else ''}"


def run_cell(cell, seed=1, program=None):
    """None, or what is wrong."""
    r, w, end, chopped, side, server_has, client_has = cell
    torture = program or pre.build("torture")
    n = min(BYTES.get(r, 400000), BYTES.get(w, 400000))
    common = [f"end={end}", f"bytes={n}", f"seed={seed}"]
    with pre.Place() as place:
        role = {side: ["recv", r], ("client" if side == "server" else "server"): ["send", w]}
        server = place.start([torture, "server", *role["server"], *common, *(["probed"] if client_has and not server_has else [])], server_has)
        port = int(server.stdout.readline())
        relay = None
        if chopped:
            relay = place.start([torture, "relay", f"port={port}", f"seed={seed}"], False)
            port = int(relay.stdout.readline())
        client = place.start([torture, "client", *role["client"], *common, f"port={port}"], client_has)
        ended = {"client": pre.finish(client, 30), "server": pre.finish(server, 30)}
        if relay:
            ended["relay"] = pre.finish(relay, 30)
        bad = [f"{k}: status {s} {out.strip()} {err.strip()}" for k, (s, out, err) in ended.items() if s != 0]
        if bad:
            logs = "".join(pre.log_of(p) for p in (server, client))
            return "; ".join(bad) + "\n" + logs
        for p, has in ((server, server_has), (client, client_has)):
            log = pre.log_of(p)
            want = "" if not has else "state=unauthenticated" if server_has and client_has else "state=plain"
            if want not in log or (has and not log):
                return f"no {want} in the log: {log!r}"
        numbers = dict(re.findall(r"(\w+)=(\d+)", ended[side][1]))
        # A wake-up without a byte is a record whose end had not come: never more than pieces on the wire.
        pieces = int(re.search(r"chunks=(\d+)", ended["relay"][1])[1]) if relay and "chunks" in ended["relay"][1] else n // 200
        if int(numbers["empty"]) > pieces + 100:
            return f"{numbers['empty']} empty wake-ups of {numbers['wakes']} for {pieces} pieces"
    return None


@pytest.mark.parametrize("what", ["both", "native", "server", "client"])
def test_styles(what):
    pre.build("torture")
    jobs = [c for c in cells() if name_of(c).startswith(what + ":")]
    seeds = {c: i for i, c in enumerate(jobs)}
    results = pre.in_parallel(jobs, lambda c: run_cell(c, seeds[c] + 1), workers=4)
    wrong = [f"{name_of(c)}, seed={seeds[c] + 1}: {r}" for c, r in zip(jobs, results) if r is not None]
    print(f"torture: {what}: {len(jobs)} cells")
    for reader, writer, *_ in jobs if what != "native" else ():
        pre.harness.count(style=f"reader {reader}")
        pre.harness.count(style=f"writer {writer}")
    pre.harness.count(cases=len(jobs))
    assert not wrong, f"{len(wrong)} of {len(jobs)} cells:\n" + "\n".join(wrong)


def test_fortified_programs():
    """What distributions build: -D_FORTIFY_SOURCE makes calls of __read_chk, __recv_chk."""
    fortified = pre.build("torture.fortify", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", source="torture.c")
    names = subprocess.run(["nm", "-D", "--undefined-only", fortified], capture_output=True, text=True, check=True).stdout
    assert "__read_chk" in names and "__recv_chk" in names
    for reader in ("poll", "select", "waitall", "mosquitto"):
        assert run_cell((reader, "poll", "fin", False, "server", True, True), program=fortified) is None
