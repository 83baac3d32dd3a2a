#!/usr/bin/env python3
"""make bench: plain mosquitto, link scope, TLS 1.3 and stunnel, interleaved in one run. Writes bench.md, bench.svg and bench.json.

Each round visits every case (payload x QoS) and in it every variant, in an order that rotates, so that what disturbs the machine disturbs all
of them alike. Ratios are taken within a round; the tables show medians over the rounds."""
import argparse
import collections
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import cost
import report
from rig import HERE, MARKS, RETAINED, ROOT, TOPIC, VARIANTS, Failed, Load, Relay, Rig, Variant, environment

SIZES = (16, 256, 4096, 65536, 1048576)
QOS = (0, 1)
KINDS = ("throughput", "ping", "connect", "memory", "wire")
PARTS = KINDS + ("cost",)  # cost: programs without MQTT, without a broker (cost.py)
ENCRYPTED = {"client": {"unauthenticated", "tofu"}, "broker": {"unauthenticated"}}  # a client knows the broker from its second contact on


class Plan:
    """How much of everything. Times are those of the plain variant; all variants then do the same number of messages."""

    def __init__(self, quick):
        self.rounds = 2 if quick else 7
        self.throughput_s = 0.15 if quick else 0.6
        self.ping_s = 0.06 if quick else 0.25
        self.connects = 15 if quick else 40
        self.stock_connects = 3 if quick else 8
        self.memory_rounds = 1 if quick else 3
        self.connections = 1000


class Bench:
    def __init__(self, rig, plan, args, aead):
        self.rig, self.plan, self.args, self.aead = rig, plan, args, aead
        self.variants = {}  # as they come: TCP_NODELAY is off in mosquitto and libmosquitto unless asked for
        self.prompt = {}  # with TCP_NODELAY, for what is latency: without, delayed acknowledgements of 40 ms are all there is to see
        self.serial = 0
        self.counts = {}
        self.results = {k: {} for k in KINDS}  # kind -> case -> variant -> [one dict a round]
        self.invalid = []
        self.seconds = {}  # where the time of a run goes
        self.cost = None  # what cost.py found
        self.cipher = {}  # size -> [us of the cipher a message in the broker, one a round and QoS]
        self.encrypted = 0  # connections of the link variant that both ends logged as encrypted
        self.states = {side: collections.Counter() for side in ENCRYPTED}  # what they were logged as

    # -- one measurement of one variant ---------------------------------------------------------------------------------------------------
    def load(self, variant, mode, size, qos, port=None, credit=None):
        self.serial += 1
        return Load(self.rig, variant, [mode, qos, size, RETAINED if mode == "connect" else TOPIC], f"{variant.tag}-{mode}-{self.serial}", port, credit)

    def prove(self, variant, loads, accepts_before):
        """A link measurement counts only if both ends of each of its connections say that it was encrypted."""
        if variant.name != "link":
            return
        client = [s for each in loads for s in each.states()]
        broker = variant.states()[accepts_before:]
        for side, states in (("client", client), ("broker", broker)):
            if not states or not set(states) <= ENCRYPTED[side]:
                raise Failed(f"link: the {side}'s log shows {len(states)} connections, states {sorted(set(states))}: not encrypted")
        if len(client) != len(broker):
            raise Failed(f"link: {len(client)} connections in the clients' logs, {len(broker)} in the broker's")
        self.encrypted += len(client)
        self.states["client"].update(client)
        self.states["broker"].update(broker)

    def introduce(self, variant, port=None):
        """The link's first contact with an endpoint is another handshake than all later ones, which are what is measured."""
        if variant.name == "link":
            seen, loads = len(variant.states()), []
            try:
                loads.append(self.load(variant, "connect", 16, 0, port))
                loads[0].run(1)
            finally:
                self.finish(variant, loads, seen)

    def throughput(self, variant, size, qos, n, port=None, relay=None):
        seen, loads = len(variant.states()), []
        credit = self.rig.work / f"{variant.tag}-credit-{self.serial}"
        os.mkfifo(credit)
        try:
            for mode in ("sub", "pub"):
                loads.append(self.load(variant, mode, size, qos, port, credit))
            sub, pub = loads
            for count in (max(10, min(n // 10, 1000)), n):  # the first one warms up
                wire0 = relay.settled() if relay else 0
                server0, tunnel0 = variant.cpu()
                sub.order(f"run {count}")
                sent, got = pub.run(count, beside=[sub]), sub.answer()
                server1, tunnel1 = variant.cpu()
            if got["got"] != n or got["wrong"]:
                raise Failed(f"{got['got']} of {n} messages arrived, {got['wrong']} out of order or altered")
            if relay:
                return {"wire_bytes": (relay.settled() - wire0) / n}
            return {"rate": n / (got["end_ns"] - sent["start_ns"]) * 1e9, "server_us": (server1 - server0) / n / 1e3,
                    "client_us": (sent["cpu_ns"] + got["cpu_ns"] + tunnel1 - tunnel0) / n / 1e3,
                    "pub_us": sent["cpu_ns"] / n / 1e3, "sub_us": got["cpu_ns"] / n / 1e3}
        finally:
            self.finish(variant, loads, seen)

    def finish(self, variant, loads, seen):
        for each in loads:
            each.close()
        if sys.exc_info()[0] is None:
            self.prove(variant, loads, seen)

    def ping(self, variant, size, qos, n):
        seen, loads = len(variant.states()), []
        try:
            loads.append(self.load(variant, "ping", size, qos))
            loads[0].run(max(5, n // 10))
            got = loads[0].run(n)
            if got["wrong"]:
                raise Failed(f"{got['wrong']} messages out of order or altered")
            us = sorted(x / 1e3 for x in got["ns"])
            return {"p50_us": statistics.median(us), "p99_us": us[min(len(us) - 1, len(us) * 99 // 100)]}
        finally:
            self.finish(variant, loads, seen)

    def connect(self, variant, n):
        seen, loads = len(variant.states()), []
        try:
            loads.append(self.load(variant, "connect", 16, 0))
            loads[0].run(3)
            server0, tunnel0 = variant.cpu()
            got = loads[0].run(n)
            server1, tunnel1 = variant.cpu()
            if got["wrong"]:
                raise Failed(f"{got['wrong']} retained messages altered")
            connack, message = (statistics.median(x[i] for x in got["ns"]) / 1e3 for i in (0, 1))
            return {"connack_us": connack, "message_us": message, "server_us": (server1 - server0) / n / 1e3,
                    "client_us": (got["cpu_ns"] + tunnel1 - tunnel0) / n / 1e3}
        finally:
            self.finish(variant, loads, seen)

    def memory(self, name, n):
        """A fresh broker, so that no earlier traffic has left room in its heap. Idle, then after one message of 4 KiB each way on each."""
        self.serial += 1
        variant, loads = Variant(self.rig, name, f"{name}-memory{self.serial}", nodelay=True), []
        try:
            warm = self.load(variant, "connect", 4096, 1)
            loads.append(warm)
            warm.run(3)
            warm.close()
            idle = self.load(variant, "idle", 4096, 1)
            loads.append(idle)
            time.sleep(0.2)
            before = variant.memory()
            idle.run(n)
            time.sleep(0.3)
            opened = variant.memory()
            if idle.run("", "touch")["wrong"]:
                raise Failed("messages altered")
            time.sleep(0.3)
            used = variant.memory()
            return {f"{state}_{k}": (m[k] - before[k]) / n for state, m in (("idle", opened), ("used", used)) for k in before}
        finally:
            self.finish(variant, loads, 0)
            variant.close()

    def wire(self, variant, size, qos):
        """Bytes on the wire between the machines, both legs (publisher to broker, broker to subscriber), acknowledgements included."""
        relay, tunnels = Relay(variant.wire_port), len(variant.client_side)
        try:
            port = variant.tunnel_to(relay.port) if variant.name == "stunnel" else relay.port
            self.introduce(variant, port)
            got = self.throughput(variant, size, qos, max(10, min(200, (1 << 20) // size)), port, relay)
            seen = [m.decode() for m in MARKS if m in relay.kept]
            if variant.name == "plain" and len(seen) != len(MARKS):
                raise Failed("the search of the wire does not find what is there")
            if variant.name != "plain" and seen:
                raise Failed(f"{seen} crossed the wire in clear")
            return got
        finally:
            for p in variant.client_side[tunnels:]:
                p.close()
            del variant.client_side[tunnels:]
            relay.close()

    # -- all of it ------------------------------------------------------------------------------------------------------------------------
    def note(self, kind, case, variant, action):
        rows, start = self.results[kind].setdefault(case, {}).setdefault(variant, []), time.monotonic()
        try:
            rows.append(action())
        except Failed as e:
            self.invalid.append({"kind": kind, "case": case, "variant": variant, "why": str(e)})
            print(f"bench: INVALID {kind} {case} {variant}: {e}", file=sys.stderr)
            rows.append(None)
            for v in (self.variants[variant], self.prompt[variant]):
                v.check_alive()
        self.seconds[f"{kind} {variant}"] = self.seconds.get(f"{kind} {variant}", 0) + time.monotonic() - start

    def wanted(self, kind):
        return not self.args.only or kind in self.args.only

    def cases(self):
        return [(s, q) for s in self.args.sizes for q in self.args.qos]

    def calibrate(self):
        """Numbers of messages, from the plain broker."""
        plain, prompt = self.variants["plain"], self.prompt["plain"]
        for size, qos in self.cases():
            rate = self.throughput(plain, size, qos, max(50, min(5000, (64 << 20) // size)))["rate"] if self.wanted("throughput") else 0
            p50 = self.ping(prompt, size, qos, 20)["p50_us"] if self.wanted("ping") else 1
            self.counts[size, qos] = (max(20, int(rate * self.plan.throughput_s)),
                                      max(20, min(5000, int(self.plan.ping_s * 1e6 / p50))))

    def round(self, r):
        names = list(self.variants)
        order = names[r % len(names):] + names[:r % len(names)]
        for size, qos in self.cases():
            case, (n, pings) = f"{size}/{qos}", self.counts[size, qos]
            for name in order:
                v, prompt = self.variants[name], self.prompt[name]
                if self.wanted("throughput"):
                    self.note("throughput", case, name, lambda: self.throughput(v, size, qos, n))
                if self.wanted("ping"):
                    self.note("ping", case, name, lambda: self.ping(prompt, size, qos, pings))
            if self.wanted("throughput") and "link" in names:
                self.cipher.setdefault(str(size), []).append(json.loads(subprocess.check_output([self.aead, str(size)]))["us"])
        for name in order:
            v, prompt = self.variants[name], self.prompt[name]
            if self.wanted("connect"):
                self.note("connect", "connect", name, lambda: self.connect(prompt, self.plan.connects))
                self.note("connect", "stock", name, lambda: self.connect(v, self.plan.stock_connects))
            if self.wanted("memory") and r < self.plan.memory_rounds:
                self.note("memory", "memory", name, lambda: self.memory(name, self.plan.connections))

    def run(self):
        if not any(map(self.wanted, KINDS)):
            return
        for name in self.args.variants:
            self.variants[name] = Variant(self.rig, name, name, steady=self.args.steady_heap)
            self.prompt[name] = Variant(self.rig, name, f"{name}-nodelay", nodelay=not self.args.nagle, steady=self.args.steady_heap)
            for each in (self.variants[name], self.prompt[name]):
                self.introduce(each)
        started = time.monotonic()
        self.calibrate()
        if self.wanted("wire"):
            for size, qos in self.cases():
                for name, v in self.variants.items():
                    self.note("wire", f"{size}/{qos}", name, lambda: self.wire(v, size, qos))
        for r in range(self.plan.rounds):
            self.round(r)
            print(f"bench: round {r + 1} of {self.plan.rounds}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    def close(self):
        for v in [*self.variants.values(), *self.prompt.values()]:
            v.close()


def build(out, name, library=None, package="libc6-dev"):
    """The load generator is built with the stock library's header, the cipher's measure with libsodium's; nothing of OE-MQTT is in them."""
    binary, source = out / name, HERE / f"{name}.c"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        cc = os.environ.get("CC", "cc").split()
        done = subprocess.run([*cc, *"-std=c11 -D_GNU_SOURCE -O2 -g -Wall -Wextra -o".split(), str(binary), str(source), *([library] if library else [])])
        if done.returncode:
            sys.exit(f"bench: {name} does not build; package {package}?")
    return binary


def first_line(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, env=environment())
    return (done.stdout + done.stderr).strip().split("\n")[0] if argv[0] != "git" or done.returncode == 0 else "of unknown revision"


def stunnel_version():
    done = subprocess.run(["stunnel4", "-version"], capture_output=True, text=True, env=environment())
    return next((" ".join(line.split()[:2]) for line in (done.stdout + done.stderr).split("\n") if line.startswith("stunnel ")), "no stunnel")


def about(args, plan):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "cpu": cpu, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "load_average": os.getloadavg(), "revision": first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
            "mosquitto": first_line("mosquitto", "-h"), "openssl": first_line("openssl", "version").split(" (")[0],
            "stunnel": stunnel_version(),
            "nodelay": not args.nagle, "steady_heap": args.steady_heap, "rounds": plan.rounds, "quick": args.quick, "connections": plan.connections}


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])

    def some(allowed, kind=str):
        return lambda text: [x if (x := kind(t)) in allowed else p.error(f"{t}: not one of {allowed}") for t in text.split(",")]

    p.add_argument("--quick", action="store_true", help="about a minute instead of nine")
    p.add_argument("--rounds", type=int, help="instead of the plan's")
    p.add_argument("--only", type=some(PARTS), help="some of " + ",".join(PARTS))
    p.add_argument("--variants", type=some(VARIANTS), default=list(VARIANTS), help="some of " + ",".join(VARIANTS) + "; plain is always there")
    p.add_argument("--sizes", type=some(SIZES, int), default=list(SIZES), help="some of " + ",".join(map(str, SIZES)))
    p.add_argument("--qos", type=some(QOS, int), default=list(QOS), help="0, 1 or 0,1")
    p.add_argument("--nagle", action="store_true", help="no TCP_NODELAY for ping-pong and connect either")
    p.add_argument("--steady-heap", action="store_true", help="glibc's heap keeps its memory: steadier figures from 64 KiB on (rig.py says why)")
    p.add_argument("--launcher", type=lambda t: pathlib.Path(t).resolve(), default=ROOT / "tools" / "oe-mqtt",
                   help="another tree's, to compare two builds")
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "bench")
    p.add_argument("--keep", action="store_true", help="keep the private directory (logs) and say where")
    args = p.parse_args()
    args.variants = ["plain"] + [v for v in VARIANTS if v in args.variants and v != "plain"]
    return args


def missing(args):
    tools = ["mosquitto", "openssl", "gnuplot"] + (["stunnel4"] if "stunnel" in args.variants else [])
    tools += ["git", "curl"] if not args.only or "cost" in args.only else []
    lost = [t for t in tools if not shutil.which(t, path=environment()["PATH"])]
    if "link" in args.variants and not os.access(args.launcher, os.X_OK):
        lost.append(str(args.launcher))
    return lost


def main():
    args = options()
    if missing(args):
        sys.exit("bench: not found: " + ", ".join(missing(args)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args.out.mkdir(parents=True, exist_ok=True)
    load, plan = build(args.out, "load", "-lmosquitto", "libmosquitto-dev"), Plan(args.quick)
    aead = build(args.out, "aead", "-lsodium", "libsodium-dev")
    plan.rounds = args.rounds or plan.rounds
    work = pathlib.Path(tempfile.mkdtemp(prefix="oe-mqtt-bench-"))
    bench = None
    try:
        bench = Bench(Rig(work, load, args.launcher), plan, args, aead)
        facts = about(args, plan)
        bench.run()
        if bench.wanted("cost"):
            bench.cost = cost.Cost(bench.rig, build(args.out, "cost"), args.quick).run(bench.invalid)
    except (Failed, KeyboardInterrupt) as e:
        sys.exit(f"bench: {e or 'interrupted'}")
    finally:
        if bench:
            bench.close()
        if args.keep:
            print(f"bench: kept {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    facts["encrypted_connections"] = bench.encrypted
    facts["states"] = {side: dict(sorted(seen.items())) for side, seen in bench.states.items()}
    raw = {"about": facts, "seconds": bench.seconds, "counts": {f"{s}/{q}": n for (s, q), n in bench.counts.items()},
           "results": bench.results, "cipher": bench.cipher, "cost": bench.cost, "invalid": bench.invalid}
    (args.out / "bench.json").write_text(json.dumps(raw, indent=1) + "\n")
    report.write(raw, args.out)
    print((args.out / "bench.md").read_text())
    return 1 if bench.invalid else 0


if __name__ == "__main__":
    sys.exit(main())
