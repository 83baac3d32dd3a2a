"""What the preload tests share: building the C programs, running them with and without the library."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "preload"
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests" / "lib"))
import harness  # noqa: E402

LIBRARY = pathlib.Path(os.environ.get("OE_MQTT_LIBRARY") or ROOT / "build" / "liboe-mqtt.so").absolute()
FIRST = os.environ.get("LD_PRELOAD_FIRST", "")  # a sanitizer's runtime
OUT = pathlib.Path(os.environ.get("OE_MQTT_PRELOAD_DIR") or ROOT / "build" / "preload")
CC = os.environ.get("CC", "cc").split()
FLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-pthread"]


def build(name, *flags, source=None):
    """The path of a program (or, name.so, a library) made from name.c, compiled again when a source is newer."""
    out = OUT / name
    source = HERE / (source or ("lib/" if name.endswith(".so") else "") + name.removesuffix(".so") + ".c")
    newest = max(p.stat().st_mtime for p in (source, HERE / "peer.h"))
    if not out.exists() or out.stat().st_mtime < newest:
        OUT.mkdir(parents=True, exist_ok=True)
        made = out.with_name(f"{name}.{os.getpid()}")
        shared = ["-shared", "-fPIC"] if name.endswith(".so") else []
        subprocess.run([*CC, *FLAGS, *(flags or ["-U_FORTIFY_SOURCE"]), *shared, "-o", made, source, "-ldl"], check=True)
        os.replace(made, out)
    return str(out)


class Place:
    """A scratch directory with a state directory, a log and an empty configuration."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="oe-mqtt-preload-"))
        self.conf = self.dir / "conf"
        self.conf.write_text("")
        self.started = []
        self.count = 0

    def env(self, shim, log=None, **more):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.dir), "LC_ALL": "C"}
        if shim:
            env.update(LD_PRELOAD=f"{FIRST} {LIBRARY}".strip(), OE_MQTT_STATE=str(self.dir / "state"), OE_MQTT_CONFIG=str(self.conf))
            if log:
                env["OE_MQTT_LOG"] = f"{log}:debug"
        env.update(more)
        return {k: v for k, v in env.items() if v is not None}

    def start(self, command, shim=True, **kw):
        """A process with .log, the path of its own log, and text pipes on stdin, stdout and stderr."""
        self.count += 1
        log = self.dir / f"log{self.count}"
        env = kw.pop("env", {})
        if shim:
            harness.count_command(command)
        kw.setdefault("stdin", subprocess.PIPE)
        p = subprocess.Popen([str(c) for c in command], env=self.env(shim, log, **env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, cwd=self.dir, start_new_session=True, **kw)
        p.log = log
        self.started.append(p)
        return p

    def close(self):
        for p in self.started:
            if p.poll() is None:
                try:
                    os.killpg(p.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                p.wait()
            for f in (p.stdin, p.stdout, p.stderr):
                if f is not None:
                    f.close()
        harness.forget_status(self.dir)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def wait_line(p, text, timeout=40):
    """Until its stderr has a line with this text."""
    stuck = threading.Timer(timeout, p.kill)
    stuck.start()
    try:
        assert any(text in line for line in p.stderr), f"{text!r} never came from {p.args}"
    finally:
        stuck.cancel()


def log_of(p):
    try:
        return p.log.read_text()
    except FileNotFoundError:
        return ""


def finish(p, timeout=20):
    """(status, stdout, stderr); status None: it hung and was killed."""
    if p.stdin is not None and not p.stdin.closed:
        p.stdin.close()
        p.stdin = None
    try:
        out, err = p.communicate(timeout=timeout)
        return p.returncode, out, err
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, err = p.communicate()
        return None, out, err


def encrypted(p):
    """How many of its connections were encrypted, in whichever state."""
    return len(re.findall(r"state=(?:unauthenticated|tofu|pinned)\b", log_of(p)))


def in_parallel(jobs, run, workers=3):
    """run(job) for all jobs in threads; the results in the order of the jobs."""
    results, lock, it = [None] * len(jobs), threading.Lock(), iter(range(len(jobs)))

    def work():
        while True:
            with lock:
                i = next(it, None)
            if i is None:
                return
            try:
                results[i] = run(jobs[i])
            except Exception as error:
                results[i] = error

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results
