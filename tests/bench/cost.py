"""What being there costs a program that does no MQTT: native, native again and under the library, interleaved. For bench.py.

The second native variant is the control: what two runs of the same differ by is noise, and no difference below it is anybody's to notice."""
import json
import math
import os
import pathlib
import statistics
import subprocess

from rig import ROOT, Failed, Proc, cpu_ns, environment

VARIANTS = ("native", "control", "library")
GIB = 1 << 30


class Cost:
    def __init__(self, rig, binary, quick):
        self.rig, self.binary, self.quick = rig, binary, quick
        self.library = pathlib.Path(os.environ.get("OE_MQTT_LIBRARY") or ROOT / "build" / "liboe-mqtt.so").absolute()
        self.state = rig.work / "state-cost"
        self.servers = []
        self.rows, self.invalid = {}, []
        # a state directory as it is after the first MQTT connection: identity and known_peers are read at every start
        env = environment(**rig.link_env("client", "/dev/null"))
        env.update(self.env("library"))
        self.state.mkdir(mode=0o700)
        done = subprocess.run([ROOT / "build" / "oe-mqttctl", "id"], env=env, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"oe-mqttctl id: {done.stderr.strip()[-300:]}")

    def env(self, variant):
        """What a variant adds to the environment."""
        if variant != "library":
            return {}
        return {"LD_PRELOAD": str(self.library), "OE_MQTT_STATE": str(self.state), "OE_MQTT_CONFIG": str(self.rig.work / "oe-mqtt.conf"),
                "OE_MQTT_LOG": "stderr:error"}

    def call(self, *argv, variant="native", cwd=None, **more):
        done = subprocess.run([str(a) for a in argv], env=environment(**{**self.env(variant), **more}), cwd=cwd or self.rig.work, capture_output=True,
                              text=True)
        if done.returncode or done.stderr:
            raise Failed(f"{argv[0]} ({variant}): {done.returncode}, {done.stderr.strip()[-300:]}")
        return done.stdout

    def proves(self, argv, cwd):
        """The library is loaded by this program: ld.so's own list."""
        if str(self.library) not in self.call(*argv, variant="library", cwd=cwd, LD_TRACE_LOADED_OBJECTS="1"):
            raise Failed(f"{argv[0]} does not load the library")

    def spawn(self, rounds, variants, argv, cwd=None):
        """[{wall_ns: [a round], cpu_ns: [a round]} a variant]; variants: what each adds to the environment."""
        said = [" ".join(f"{k}={v}" for k, v in v.items()) for v in variants]
        return json.loads(self.call(self.binary, "spawn", rounds, *said, "--", *argv, cwd=cwd))

    # -- programs ---------------------------------------------------------------------------------------------------------------------------
    def program(self, name, rounds, *argv, cwd=None):
        rounds = max(4, rounds // 5) if self.quick else rounds
        try:
            self.proves(argv, cwd)
            self.spawn(2, [{}], argv, cwd)  # warms the page cache
            found = self.spawn(rounds, [self.env(v) for v in VARIANTS], argv, cwd)
            self.rows[name] = {v: f for v, f in zip(VARIANTS, found)}
        except Failed as e:
            self.invalid.append({"kind": "cost", "case": name, "variant": "library", "why": str(e)})

    def repository(self):
        """A few thousand files, all committed."""
        where, count = self.rig.work / "repository", 300 if self.quick else 3000
        for i in range(count):
            f = where / f"d{i % 60}" / f"e{i % 7}" / f"file{i}.txt"
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_text(f"{i}\n" * 20)
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "init.defaultBranch=main"]
        for step in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"], ["status"]):
            self.call(*git, *step, cwd=where, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1")
        return where

    def serve(self, variant="native"):
        p = Proc([self.binary, "serve"], self.rig.work, f"cost-serve-{variant}", environment(**self.env(variant)), pipes=True)
        self.servers.append(p)
        return int(p.p.stdout.readline()), p

    def served(self, name, rounds, connections):
        """Connections that a server accepts, the client always native: the server's CPU time, and the client's wall clock."""
        rounds = max(4, rounds // 5) if self.quick else rounds
        servers = {v: self.serve(v) for v in VARIANTS}
        row = self.rows[name] = {v: {"wall_ns": [], "cpu_ns": []} for v in VARIANTS}
        for r in range(-1, rounds):
            for i in range(len(VARIANTS)):
                v = VARIANTS[(r + i) % len(VARIANTS)]
                port, p = servers[v]
                before = cpu_ns(p.pid)
                wall = json.loads(self.call(self.binary, "connects", port, connections))["ns"]
                if r >= 0:
                    row[v]["wall_ns"].append(wall)
                    row[v]["cpu_ns"].append(cpu_ns(p.pid) - before)

    # -- calls, start-up ----------------------------------------------------------------------------------------------------------------------
    def micro(self, rounds):
        rounds = max(4, rounds // 3) if self.quick else rounds
        said = self.call(self.binary, "micro", variant="library", OE_MQTT_LOG=f"{self.rig.work}/cost-micro.log:debug")
        let_go = (self.rig.work / "cost-micro.log").read_text()
        if let_go.count('reason="not MQTT"') != 2:
            raise Failed(f"the library did not let go of both ends: {let_go[-300:]!r}, {said!r}")
        calls = {}
        for r in range(rounds):
            for i in range(len(VARIANTS)):
                v = VARIANTS[(r + i) % len(VARIANTS)]
                for name, ns in json.loads(self.call(self.binary, "micro", variant=v)).items():
                    calls.setdefault(name, {x: [] for x in VARIANTS})[v].append(ns)
        return calls

    def startup(self, rounds):
        """Where the time of a start goes: parts of what is loaded, alone."""
        rounds = max(20, rounds // 5) if self.quick else rounds
        needed = {}
        for line in self.call("ldd", self.library).split("\n"):
            words = line.split()
            if len(words) > 2 and words[1] == "=>" and words[0].split(".")[0] in ("libsodium", "libinih"):
                needed[words[0].split(".")[0]] = words[2]
        if len(needed) != 2:
            raise Failed("ldd does not tell where libsodium and libinih are")
        nobody = dict(self.env("library"), OE_MQTT_STATE=str(self.rig.work / "none" / "such"))
        variants = {"native": {}, "control": {}, "libsodium alone": {"LD_PRELOAD": needed["libsodium"]},
                    "libinih alone": {"LD_PRELOAD": needed["libinih"]}, "libsodium and libinih": {"LD_PRELOAD": ":".join(needed.values())},
                    "the library, no state directory": nobody, "the library": self.env("library")}
        found = self.spawn(rounds, list(variants.values()), ["/bin/true"])
        result = {name: f["wall_ns"] for name, f in zip(variants, found)}
        launcher = self.spawn(max(20, rounds // 4), [dict(self.env("library"), LD_PRELOAD="")], [ROOT / "tools" / "oe-mqtt", "--", "/bin/true"])
        return result, launcher[0]["wall_ns"]

    def run(self, invalid):
        """All of it; what does not count is added to invalid."""
        repository = self.repository()
        port, _ = self.serve()
        n = 1 if self.quick else 10
        try:
            zeros = ["dd", "if=/dev/zero", "of=/dev/null", "status=none"]
            self.program("dd bs=4k, 1 GiB: 262,144 reads and writes", 21, *zeros, "bs=4k", f"count={GIB // 4096}")
            self.program("dd bs=1M, 4 GiB", 21, *zeros, "bs=1M", "count=4096")
            self.program("git status, 3,000 files", 61, "git", "status", cwd=repository)
            self.program("python3 -c pass", 101, "/usr/bin/python3", "-c", "pass")
            self.program("true", 401, "/bin/true")
            self.program("curl, 256 MiB over HTTP", 21, "curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/{GIB // 4}")
            self.program(f"a client that makes {n},000 short connections", 7, self.binary, "connects", port, n * 1000)
            self.served(f"a server that accepts {n},000 short connections", 7, n * 1000)
            calls = self.micro(7)
            startup, launcher = self.startup(301)
        finally:
            for p in self.servers:
                p.close()
            invalid += self.invalid
        return {"programs": self.rows, "calls": calls, "startup": startup, "launcher": launcher}


# -- what the figures say -------------------------------------------------------------------------------------------------------------------
def differences(row, field, variant):
    """This variant's figure less native's of the same round."""
    return [a - b for a, b in zip(row[variant][field], row["native"][field])]


def interval(values):
    """About 95 % that the median lies in it (order statistics)."""
    d = sorted(values)
    k = max(0, math.floor((len(d) - 1.96 * math.sqrt(len(d))) / 2))
    return d[k], d[len(d) - 1 - k]


def noise(row, field):
    """Half the distance of the quartiles of native less native."""
    low, _, high = statistics.quantiles(differences(row, field, "control"), n=4)
    return (high - low) / 2


def verdict(row, field):
    """Whether the library can be told from native by these figures."""
    d = differences(row, field, "library")
    low, high = interval(d)
    middle = statistics.median(d)
    if low <= 0 <= high:
        return "none"
    if abs(middle) <= noise(row, field):
        return "below the noise"
    return "slower" if middle > 0 else "faster"


def duration(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"


def signed(ns):
    return ("+" if ns >= 0 else "-") + duration(abs(ns))


def programs_table(programs):
    lines = ["| | | native | native again | library | 95 % of it | noise | difference |", "| --- | --- |" + " ---: |" * 5 + " --- |"]
    for name, row in programs.items():
        for field, what in (("wall_ns", "wall"), ("cpu_ns", "CPU")):
            native = statistics.median(row["native"][field])
            control, library = (statistics.median(differences(row, field, v)) for v in ("control", "library"))
            low, high = interval(differences(row, field, "library"))
            lines.append(f"| {name if what == 'wall' else ''} | {what} | {duration(native)} | {control / native * 100:+.1f} % | "
                         f"{library / native * 100:+.1f} % ({signed(library)}) | {low / native * 100:+.1f} to {high / native * 100:+.1f} % | "
                         f"{noise(row, field) / native * 100:.1f} % | {verdict(row, field)} |")
    return lines


CALLS = {"read": "`read` of 1 byte, /dev/zero", "write": "`write` of 1 byte, /dev/null", "fcntl": "`fcntl` F_GETFL", "dup_close": "`dup` and `close`",
         "open_close": "`open` and `close`", "unix": "`send` and `recv` of 1 byte, AF_UNIX",
         "tcp": "the same, a TCP connection that was let go as plain"}


def calls_table(calls):
    lines = ["| CPU time, ns | native | native again | library | 95 % of it |", "| --- |" + " ---: |" * 4]
    for name, of in calls.items():
        row = {v: {"ns": of[v]} for v in VARIANTS}
        control, library = (statistics.median(differences(row, "ns", v)) for v in ("control", "library"))
        low, high = interval(differences(row, "ns", "library"))
        lines.append(f"| {CALLS[name]} | {statistics.median(of['native']):.0f} | {control:+.0f} | {library:+.0f} | {low:+.0f} to {high:+.0f} |")
    return lines


def startup_table(startup, launcher):
    lines = ["| start of /bin/true, wall clock | median | more than native | 95 % of it |", "| --- | ---: | ---: | ---: |"]
    for name, ns in startup.items():
        d = [a - b for a, b in zip(ns, startup["native"])]
        low, high = interval(d)
        more = "" if name == "native" else f"{signed(statistics.median(d))}"
        lines.append(f"| {name} | {duration(statistics.median(ns))} | {more} | {'' if name == 'native' else f'{signed(low)} to {signed(high)}'} |")
    return lines + [f"| through the launcher: sh, its check, then the program | {duration(statistics.median(launcher))} | | |"]


def section(cost):
    """Markdown lines."""
    rounds = {len(row["native"]["wall_ns"]) for row in cost["programs"].values()}
    more = statistics.median(a - b for a, b in zip(cost["startup"]["the library"], cost["startup"]["native"]))
    return ["### The cost of being there", "",
            "Programs that do no MQTT. Each round runs every variant once, in an order that rotates; differences are taken within a round, medians "
            f"over the rounds ({min(rounds)} to {max(rounds)}), in percent of native. \"native again\" is the control. Noise: half the distance of "
            "the quartiles of native less native, what one run may be off by. Difference: `none`: the 95 % interval of the "
            "library's median difference includes 0; `below the noise`: it does not, but the median is smaller than one run's noise; else "
            "`slower` or `faster`.", "", *programs_table(cost["programs"]), "",
            "The same by calls on descriptors that are not tracked:", "", *calls_table(cost["calls"]), "",
            f"Where a start's time goes; the library adds {duration(more)}, the limit is 1 ms ({'kept' if more < 1e6 else 'NOT kept'}):", "",
            *startup_table(cost["startup"], cost["launcher"]), ""]
