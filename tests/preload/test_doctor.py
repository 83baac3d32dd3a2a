"""oe-mqttctl doctor and the launcher's pre-flight.

Each verdict is held against the truth: what is refused is run all the same (--force) and nothing of the library is seen, neither in its log nor on the
wire; what is accepted is encrypted.
"""

import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import tempfile
import time

import pytest

import pre
from pre import harness

ROOT = pre.ROOT
LAUNCHER = harness.LAUNCHER
CTL = ROOT / "build" / "oe-mqttctl"
IS_ROOT = os.geteuid() == 0
NOBODY = 65534
MARK = b"hello-from-a-program"
LOADER = subprocess.run(["sh", "-c", "readelf -l /bin/sh | sed -n 's/.*interpreter: \\(.*\\)]/\\1/p'"], capture_output=True, text=True).stdout.strip()

if harness.unusable() or not CTL.exists():
    pytest.exit(harness.unusable() or "the build is missing: run make", returncode=3)

needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")


# ---- programs ----------------------------------------------------------------------------------------------------------------------------
def built(name, *flags):
    """hello.c, built in a certain way; skips where that cannot be done here."""
    try:
        return pathlib.Path(pre.build(name, *flags, source="hello.c"))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"cannot be built here: {error}")


def hello():
    return built("hello")


def static():
    return built("hello-static", "-static")


def musl():
    """Built by musl-gcc, which is not among the packages that make check installs."""
    if shutil.which("musl-gcc") is None:
        pytest.skip("there is no musl-gcc")
    out = pre.OUT / "hello-musl"
    made = out.with_name(f"{out.name}.{os.getpid()}")
    pre.OUT.mkdir(parents=True, exist_ok=True)
    subprocess.run(["musl-gcc", "-O2", "-o", made, pre.HERE / "hello.c"], check=True)
    os.replace(made, out)
    return out


class Box:
    """A directory that others can look into, a state directory for each user, and a broker under the library behind a recording relay."""

    def __init__(self, broker):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="oe-mqtt-doctor-"))
        self.dir.chmod(0o755)
        self.broker = broker
        self.relay = harness.Relay(broker.port)
        self.port = str(self.relay.port)

    def copy(self, program, name, mode=0o755, uid=None, gid=None):
        to = self.dir / name
        shutil.copy(program, to)
        if uid is not None or gid is not None:
            os.chown(to, -1 if uid is None else uid, -1 if gid is None else gid)
        to.chmod(mode)
        return to

    def script(self, name, text, mode=0o755):
        to = self.dir / name
        to.write_bytes(text if isinstance(text, bytes) else text.encode())
        to.chmod(mode)
        return to

    def env(self, user=None, **more):
        state = self.dir / f"state-{user}"
        if not state.exists():
            state.mkdir(mode=0o700)
            if user is not None:
                os.chown(state, user, user)
        env = {**harness.child_env(state), "OE_MQTT_LIBRARY": str(pre.LIBRARY), "HOME": str(self.dir), "LC_ALL": "C", **more}
        return {k: v for k, v in env.items() if v is not None}

    def run(self, *command, user=None, wrap=(), options=("-v",), timeout=60, **env):
        """Under the launcher; as another user; wrap: what the launcher itself is run by."""
        who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        r = subprocess.run([*wrap, LAUNCHER, *options, "--", *map(str, command)], env=self.env(user, **env), cwd=self.dir, capture_output=True,
                           text=True, timeout=timeout, stdin=subprocess.DEVNULL, **who)
        self.relay.wait_closed()
        r.wire = self.relay.recording()
        self.relay.connections.clear()
        r.oe = harness.oe_lines(r.stderr)
        return r

    def doctor(self, *args, user=None, **env):
        who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        return subprocess.run([CTL, "doctor", *map(str, args)], env=self.env(user, **env), cwd=self.dir, capture_output=True, text=True, timeout=60,
                              errors="surrogateescape", **who)

    def report(self, program, **kw):
        r = self.doctor("--json", program, **kw)
        assert r.stderr == "", r.stderr
        one, = json.loads(r.stdout)["programs"]
        assert r.returncode == (1 if one["helped"] is False else 0)
        return one

    def close(self):
        self.relay.close()
        harness.remove_dir(self.dir)


@pytest.fixture(scope="module")
def broker():
    with harness.Broker(library=True) as b:
        yield b


@pytest.fixture
def box(broker):
    b = Box(broker)
    yield b
    b.close()


def others_can_look():
    can = ["sh", "-c", 'for f; do test -r "$f" || exit 1; done', "sh", CTL, pre.LIBRARY, LAUNCHER, hello()]
    return subprocess.run(can, user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 0


@pytest.fixture
def nobody(box):
    if not IS_ROOT:
        pytest.skip("needs root, to become somebody else")
    if not others_can_look():
        pytest.skip("the tree cannot be read by an ordinary user")
    return NOBODY


def hooked(r):
    """It published, the library saw the connection and encrypted it, and nothing is in plain."""
    assert (r.returncode, r.stdout) == (0, "published\n"), r
    assert [line.state in ("unauthenticated", "tofu") for line in r.oe] == [True], r.stderr
    assert MARK not in r.wire and len(r.wire) > 100


def plain(r):
    """It published, the library saw nothing, and all is in plain."""
    assert (r.returncode, r.stdout) == (0, "published\n"), r
    assert r.oe == [] and MARK in r.wire


def refused(r, *parts, status=1):
    """It did not run; what was found, what would have happened and what to use instead are told, each in a line."""
    assert (r.returncode, r.stdout) == (status, ""), r
    lines = r.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines[1:]] == ([["oe-mqtt", "it was not started"], ["oe-mqtt", "use instead"]] if status == 1 else []), r
    assert lines[0].startswith("oe-mqtt: ") and len(lines) == (3 if status == 1 else 1)
    for part in parts:
        assert str(part) in lines[0]
    assert r.oe == [] and r.wire == b""
    assert status != 1 or lines[2].endswith("or oe-mqtt --force, if that is what you want")


def refused_rightly(box, finding, command, *parts, truth=plain, **kw):
    """Refused, and with --force it is seen that this was right; doctor says the same."""
    refused(box.run(*command, **kw), *parts)
    forced = box.run(*command, options=("-v", "--force"), **kw)
    warnings = [line for line in forced.stderr.splitlines() if line.startswith("oe-mqtt: warning: ")]
    assert len(warnings) == 1 and all(str(part) in warnings[0] for part in parts), forced
    truth(forced)
    assert "warning" not in box.run(*command, options=("-q", "--force"), **kw).stderr
    if finding and "wrap" not in kw:
        told = box.report(command[0], user=kw.get("user"))
        assert (told["helped"], told["finding"]) == (False, finding)
        assert told["would"] and told["instead"] and told["detail"] in forced.stderr


def test_bridge_that_the_refusal_advises(box, broker):
    """The configuration of oe-mqtt(1): a static client talks to a broker on loopback, which carries it to the far one, encrypted."""
    page = (ROOT / "docs" / "man" / "oe-mqtt.1").read_text()
    conf = re.search(r"^# cat bridge.conf\n(.*)^# oe-mqtt mosquitto -c bridge.conf$", page, re.M | re.S)[1]
    listener, anonymous, *bridge = conf.splitlines()
    assert (listener, anonymous) == ("listener 1883 127.0.0.1", "allow_anonymous true")  # the harness's own
    assert bridge[1] == "address broker.example.org:1883"
    bridge[1] = f"address 127.0.0.1:{box.relay.port}"
    sub = harness.start_sub(broker.port, "h", str(box.dir), broker=broker, count=1)
    with harness.Broker(library=True, config="\n".join(bridge)) as near:
        near.wait_log("state=(unauthenticated|tofu)")
        done = subprocess.run([static(), str(near.port)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "published\n")
        sub.wait()
        assert [(m.topic, m.payload) for m in sub.messages()] == [("h", MARK)]
        wire = box.relay.recording()
    assert MARK not in wire and len(wire) > 200


# ---- what is linked otherwise ------------------------------------------------------------------------------------------------------------
def test_accepted(box):
    hooked(box.run(hello(), box.port))
    told = box.report(hello())
    assert (told["helped"], told["finding"], told["preloaded"], told["notes"]) == (True, "none", True, [])
    assert told["files"] == [{"path": str(hello()), "real_path": str(hello().resolve()), "kind": "elf", "loader": LOADER,
                              "machine": told["files"][0]["machine"]}]


def test_static(box):
    refused_rightly(box, "static", (static(), box.port), f"{static()} is statically linked: ")


def test_static_pie(box):
    program = built("hello-static-pie", "-static-pie", "-fPIE")
    refused_rightly(box, "static", (program, box.port), "statically linked (static-pie)")


def test_stripped_static(box):
    program = box.copy(static(), "stripped")
    subprocess.run(["strip", program], check=True)
    refused_rightly(box, "static", (program, box.port), "statically linked")


@pytest.mark.parametrize("section", [".go.buildinfo", ".note.go.buildid"])
def test_go_by_its_sections(box, section):
    """A program with raw system calls that is marked like one of Go's."""
    raw = built("hello-raw", "-DRAW")
    plain(box.run(raw, box.port))  # nothing tells such a program, unless it is marked
    marked, content = box.dir / "marked", box.script("content", b"\xff Go buildinf:" + bytes(32))
    subprocess.run(["objcopy", "--add-section", f"{section}={content}", raw, marked], check=True)
    refused_rightly(box, "go", (marked, box.port), "is a Go program, which makes its system calls itself")


def test_go_by_its_note(box):
    """The note stays when there are no names of sections."""
    note = box.script("note.s", '.section .note.own,"a"\n.align 4\n.long 4, 8, 4\n.asciz "Go\\0"\n.ascii "build-id"\n')
    program = box.dir / "noted"
    subprocess.run([*pre.CC, "-DRAW", "-o", program, pre.HERE / "hello.c", note], check=True)
    refused_rightly(box, "go", (program, box.port), "is a Go program")


def test_gccgo_is_no_go(box):
    """gccgo's library calls libc: DT_NEEDED libgo.so.N tells it."""
    libgo = box.dir / "libgo.so.21"
    subprocess.run([*pre.CC, "-shared", "-fPIC", "-x", "c", "/dev/null", "-Wl,-soname,libgo.so.21", "-o", libgo], check=True)
    program = box.dir / "gccgo"
    subprocess.run([*pre.CC, "-o", program, pre.HERE / "hello.c", "-Wl,--no-as-needed", libgo, f"-Wl,-rpath,{box.dir}"], check=True)
    content = box.script("content", b"\xff Go buildinf:" + bytes(32))
    subprocess.run(["objcopy", "--add-section", f".go.buildinfo={content}", program], check=True)
    hooked(box.run(program, box.port))


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no go")
def test_go_itself(box):
    source = box.script("hello.go", 'package main\nimport ("fmt"; "net"; "os")\nfunc main() {\n c, e := net.Dial("tcp", "127.0.0.1:" + os.Args[1])\n'
                        ' if e != nil { os.Exit(3) }\n b := make([]byte, 4)\n c.Write([]byte("\\x10\\x0d\\x00\\x04MQTT\\x04\\x02\\x00\\x00\\x00\\x01d"))\n'
                        ' c.Read(b)\n c.Write([]byte("\\x32\\x19\\x00\\x01h\\x00\\x01hello-from-a-program"))\n c.Read(b)\n fmt.Println("published")\n}\n')
    program = box.dir / "go-hello"
    subprocess.run(["go", "build", "-o", program, source], check=True, env={**os.environ, "GOCACHE": str(box.dir / "cache")})
    refused_rightly(box, "go", (program, box.port), "Go program")


def fails(r):
    """It did not run, or not to the end, and the library saw nothing."""
    assert r.returncode != 0 and r.stdout == "" and r.oe == [] and r.wire == b""


def patched(box, program, name, offset, code, value):
    path = box.copy(program, name)
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("machine, name", [(3, "machine 3 (64 bit)"), (183, "arm64"), (243, "riscv64"), (21, "64-bit POWER")])
def test_other_machine(box, machine, name):
    if struct.unpack_from("<H", hello().read_bytes(), 18)[0] == machine:
        pytest.skip("that is this machine")
    program = patched(box, hello(), "other", 18, "<H", machine)
    refused_rightly(box, "machine", (program, box.port), f"{program} is for {name}, the library for", truth=fails)


def test_32_bit(box):
    refused_rightly(box, "machine", (built("hello-32", "-m32"), box.port), "the library for")


def test_library_for_another_machine(box):
    library = patched(box, pre.LIBRARY, "liboe-mqtt.so", 18, "<H", 40)
    refused(box.run(hello(), box.port, OE_MQTT_LIBRARY=str(library)), "the library for machine 40 (64 bit)")


def test_musl(box):
    refused_rightly(box, "libc", (musl(), box.port), "is linked with musl (loader /lib/ld-musl-", truth=fails)


def test_musl_static(box):
    if shutil.which("musl-gcc") is None:
        pytest.skip("there is no musl-gcc")
    program = box.dir / "musl-static"
    subprocess.run(["musl-gcc", "-static", "-o", program, pre.HERE / "hello.c"], check=True)
    refused_rightly(box, "static", (program, box.port), "statically linked")


@pytest.mark.parametrize("name, libc", [("ld-musl-x86_64.so.1", "musl"), ("ld-uClibc.so.0", "uClibc"), ("linker64", "Android's bionic")])
def test_libc_by_its_loader(box, name, libc):
    """The name decides: whose loader is under a name is not looked at."""
    program = built(f"hello-{name}", f"-Wl,--dynamic-linker=/nowhere-of-oe-mqtt/{name}")
    refused(box.run(program, box.port), f"not found is the loader that it names, /nowhere-of-oe-mqtt/{name} (of {libc})", status=127)
    (box.dir / name).symlink_to(LOADER)
    program = box.dir / "program"
    subprocess.run([*pre.CC, "-o", program, pre.HERE / "hello.c", f"-Wl,--dynamic-linker={box.dir}/{name}"], check=True)
    refused(box.run(program, box.port), f"is linked with {libc} (loader {box.dir}/{name})")


def test_loader_that_is_missing(box):
    program = built("hello-no-loader", "-Wl,--dynamic-linker=/nowhere-of-oe-mqtt/ld-linux.so.9")
    refused(box.run(program, box.port), "not found is the loader", "/nowhere-of-oe-mqtt/ld-linux.so.9", status=127)
    assert box.run(program, box.port, options=("--force",)).returncode == 127  # sh says the same, but not why
    told = box.report(program)
    assert (told["helped"], told["finding"]) == (False, "not-there")


def test_another_loader_of_glibc(box):
    """It may or may not work: it does here, for the loader is a copy of this system's."""
    loader = box.copy(os.path.realpath(LOADER), "ld-linux-own.so.2")
    program = box.dir / "program"
    subprocess.run([*pre.CC, "-o", program, pre.HERE / "hello.c", f"-Wl,--dynamic-linker={loader}"], check=True)
    r = box.run(program, box.port)
    assert f"oe-mqtt: warning: {program} has a loader that is not this system's, {loader}: " in r.stderr
    hooked(r)
    told = box.report(program)
    assert (told["helped"], told["finding"], told["preloaded"]) == (None, "not-seen", None)
    assert any("its loader" in note and "not run" in note for note in told["notes"])


def test_loader_as_a_program(box):
    hooked(box.run(LOADER, hello(), box.port))
    told = box.report(LOADER)
    assert told["helped"] is True and "runs another program" in told["notes"][0]


# ---- rights ------------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode, uid, gid", [(0o4755, 0, 0), (0o2755, 0, 0), (0o6755, 0, NOBODY), (0o4755, 1, NOBODY), (0o2711, NOBODY, 1)])
def test_set_id_refused(box, nobody, mode, uid, gid):
    program = box.copy(hello(), "setid", mode, uid, gid)
    refused_rightly(box, "set-id", (program, box.port), "is set-", f"{mode:04o}", user=nobody)


@pytest.mark.parametrize("mode, uid, gid", [(0o4755, NOBODY, 0), (0o2755, 0, NOBODY), (0o2745, NOBODY, 0), (0o1755, 0, 0)])
def test_set_id_that_changes_nothing(box, nobody, mode, uid, gid):
    program = box.copy(hello(), "setid", mode, uid, gid)
    hooked(box.run(program, box.port, user=nobody))
    assert box.report(program, user=nobody)["finding"] == "none"


def test_set_id_of_the_system(box):
    """What every system has; root is what it becomes already."""
    told = box.report("/usr/bin/passwd", user=None if not IS_ROOT or not others_can_look() else NOBODY)
    assert (told["helped"], told["finding"]) == ((False, "set-id") if not IS_ROOT or others_can_look() else (True, "none"))


@needs_root
def test_set_id_as_its_owner(box):
    hooked(box.run(box.copy(hello(), "setid", 0o6755), box.port))


def test_set_id_without_new_privileges(box, nobody):
    hooked(box.run(box.copy(hello(), "setid", 0o6755), box.port, user=nobody, wrap=(harness.SETPRIV, "--no-new-privs")))


def test_set_id_where_it_is_ignored(box, nobody):
    """On a file system mounted nosuid, in a mount namespace of the test's own."""
    place, program = box.dir / "mount", box.copy(hello(), "setid")
    place.mkdir()
    inner = f'mount -t tmpfs -o nosuid tmpfs {place} && cp {program} {place}/setid && chmod 6755 {place}/setid && ' \
            f'exec {harness.SETPRIV} --reuid {nobody} --regid {nobody} --clear-groups {LAUNCHER} -v {place}/setid {box.port}'
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    r = subprocess.run(["unshare", "-m", "sh", "-c", inner], env=box.env(nobody), cwd=box.dir, capture_output=True, text=True, timeout=60)
    box.relay.wait_closed()
    r.oe, r.wire = harness.oe_lines(r.stderr), box.relay.recording()
    hooked(r)


@pytest.fixture
def capable(box, nobody):
    """A copy of the program with file capabilities."""
    def make(text):
        program = box.copy(hello(), "capable")
        if shutil.which("setcap", path=harness.PATH) is None:
            pytest.skip("there is no setcap")
        if subprocess.run(["setcap", text, program], env=box.env(), capture_output=True).returncode != 0:
            pytest.skip("capabilities cannot be set here")
        return program
    return make


@pytest.mark.parametrize("text", ["cap_net_bind_service=ep", "cap_net_bind_service=p", "cap_net_bind_service=ei"])
def test_capabilities_refused(box, nobody, capable, text):
    refused_rightly(box, "capabilities", (capable(text), box.port), "has file capabilities", user=nobody)


def test_capabilities_that_give_nothing(box, nobody, capable):
    hooked(box.run(capable("cap_net_bind_service=i"), box.port, user=nobody))


def test_capabilities_that_are_inherited(box, nobody, capable):
    """The same file, run by one who has something to inherit."""
    program, wrap = capable("cap_net_bind_service=i"), (harness.SETPRIV, "--reuid", str(nobody), "--inh-caps", "+net_bind_service")
    os.chown(box.dir / "state-None", nobody, nobody) if (box.dir / "state-None").exists() else box.env() and os.chown(box.dir / "state-None", nobody, nobody)
    refused_rightly(box, None, (program, box.port), "has file capabilities", wrap=wrap)


def test_capabilities_as_root(box, capable):
    hooked(box.run(capable("cap_net_bind_service=ep"), box.port))


@pytest.mark.parametrize("text, gets_in", [("cap_net_bind_service=ep", False), ("cap_net_bind_service=p", True)])
def test_capabilities_without_new_privileges(box, nobody, capable, text, gets_in):
    """The flag of effective capabilities alone makes the kernel tell ld.so to be careful."""
    command, kw = (capable(text), box.port), {"user": nobody, "wrap": (harness.SETPRIV, "--no-new-privs")}
    if gets_in:
        hooked(box.run(*command, **kw))
    else:
        refused_rightly(box, None, command, "has file capabilities", **kw)


def test_program_that_cannot_be_read(box, nobody):
    program = box.copy(hello(), "unreadable", 0o711)
    r = box.run(program, box.port, user=nobody)
    assert f"oe-mqtt: warning: {program} may be run but not read: " in r.stderr
    hooked(r)
    told = box.report(program, user=nobody)
    assert (told["helped"], told["finding"], told["files"][0]["kind"]) == (None, "not-seen", "unreadable")
    assert "warning" not in box.run(program, box.port, user=nobody, options=("-q",)).stderr


# ---- scripts -----------------------------------------------------------------------------------------------------------------------------
def as_sh_does(box, r, command):
    """The launcher's exit status is that of sh, which exec's the command."""
    sh = subprocess.run(["sh", "-c", 'exec "$@"', "sh", *map(str, command)], cwd=box.dir, env=box.env(), capture_output=True, text=True, timeout=60)
    assert sh.returncode == r.returncode


@pytest.mark.parametrize("line", ["#!{p} {port}\n", "#! \t{p}\t {port} \t\n", "#!{p} {port}", "#!/usr/bin/env -S {p} {port}\n", "#!/usr/bin/env -S {p} {port}\r\n",
                                  "#!/usr/bin/env -iS OE=1 {p} {port}\n", "#!/usr/bin/env -vS A=b '{p}' \"{port}\"\n"])
def test_script_for(box, line):
    for program, judge in ((hello(), hooked), (static(), None)):
        script = box.script("script", line.format(p=program, port=box.port))
        if "-iS" in line:
            refused_rightly(box, None, (script,), "clear the environment")
        elif judge:
            r = box.run(script)
            r.stderr = "\n".join(x for x in r.stderr.splitlines() if x.startswith("oe-mqtt"))
            judge(r)
        else:
            refused_rightly(box, "static", (script,), f"{program} is statically linked")
        assert [f["kind"] for f in box.report(script)["files"]][:1] == ["script"]


def test_script_for_a_program_in_path(box):
    box.copy(static(), "hello-in-path")
    script = box.script("script", "#!/usr/bin/env hello-in-path\n")
    path = f"{box.dir}:{harness.PATH}"
    refused(box.run(script, PATH=path), f"{box.dir}/hello-in-path is statically linked")
    refused(box.run("script", PATH=path), f"{box.dir}/hello-in-path is statically linked")
    assert [f["path"] for f in box.report("script", PATH=path)["files"]] == [f"{box.dir}/script", "/usr/bin/env", f"{box.dir}/hello-in-path"]


def test_script_of_scripts(box):
    """Linux follows five in a row."""
    for program, judge in ((hello(), hooked), (static(), None)):
        box.script("s1", f"#!{program} {box.port}\n")
        for n in range(2, 7):
            box.script(f"s{n}", f"#!{box.dir}/s{n - 1}\n")
        if judge:
            judge(box.run("./s5"))
        else:
            refused(box.run("./s5"), f"{program} is statically linked")
        refused(box.run("./s6"), "the kernel follows 5", status=126)
        assert subprocess.run(["sh", "-c", "exec ./s6"], cwd=box.dir, capture_output=True).returncode in (126, 127)


def test_script_that_is_its_own_interpreter(box):
    script = box.script("self", f"#!{box.dir}/self\n")
    refused(box.run(script), "the kernel follows 5", status=126)
    box.script("self", f"#!/usr/bin/env {box.dir}/self\n")
    assert "too many" in box.report(script)["detail"]


@pytest.mark.parametrize("line, part", [("#!/nowhere-of-oe-mqtt/sh\n", "/nowhere-of-oe-mqtt/sh: not found"), ("#!/bin\n", "/bin: is a directory"),
                                        ("#!sh\n", "interpreter sh: not found"),
                                        ("#!/etc/passwd\n", "/etc/passwd: not executable"), ("#!/usr/bin/env nowhere-of-oe-mqtt\n", "nowhere-of-oe-mqtt: not found"),
                                        ("#!/bin/sh\r\n", "CR LF"), ("#!/usr/bin/env python3\r\n", "CR LF")])
def test_script_with_an_interpreter_that_cannot_be_run(box, line, part):
    script = box.script("script", line)
    r = box.run(script)
    refused(r, part, script, status=r.returncode)
    assert r.returncode in (126, 127)
    as_sh_does(box, r, [script])


@pytest.mark.parametrize("text", ["exec {p} {port}\n", "\nexec {p} {port}\n", "#!\nexec {p} {port}\n", "#! \nexec {p} {port}\n",
                                  "\ufeff#!/nowhere\nexec {p} {port}\n".replace("\ufeff", ": \ufeff"), "#!/" + 300 * "x" + "\nexec {p} {port}\n"])
def test_text(box, text):
    """A shell takes it for its own script, and the launcher is one."""
    r = box.run(box.script("text", text.format(p=hello(), port=box.port)))
    hooked(r)
    told = box.report(box.dir / "text")
    assert [f["kind"] for f in told["files"]] == ["text", "elf"] and told["files"][1]["path"] == "/bin/sh"


def test_neither(box):
    """What binfmt_misc might know."""
    program = box.script("neither", b"MZ\x90\0\n")
    r = box.run(program)
    assert f"oe-mqtt: warning: {program} is neither an ELF program nor a script" in r.stderr and r.oe == []
    assert box.report(program)["helped"] is None


def test_script_with_rights_has_none(box, nobody):
    """The kernel ignores the mode of a script; that of its interpreter counts."""
    hooked(box.run(box.script("setid", f"#!{hello()} {box.port}\n", 0o6755), user=nobody))
    program = box.copy(hello(), "interpreter", 0o4755, 0, 0)
    refused_rightly(box, "set-id", (box.script("script", f"#!{program} {box.port}\n"),), "is set-user-id", user=nobody)


# ---- programs that run another -----------------------------------------------------------------------------------------------------------
WRAPPERS = [["env"], ["env", "A=1", "B=2"], ["env", "-u", "A", "--"], ["env", "--unset=A", "-v"], ["nice"], ["nice", "-n", "1"], ["nice", "-1"], ["nohup"],
            ["timeout", "50"], ["timeout", "-k", "5", "--signal=TERM", "50"], ["timeout", "--foreground", "50"], ["setsid", "-w"], ["stdbuf", "-oL", "-e", "0"],
            ["ionice", "-c", "3"], ["ionice", "-c3", "-t"], ["taskset", "-c", "0"], ["taskset", "1"], ["chrt", "-o", "0"], ["nice", "env", "timeout", "50", "nohup"]]


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=" ".join)
def test_wrapper_is_looked_through(box, wrapper):
    if shutil.which(wrapper[0]) is None:
        pytest.skip(f"there is no {wrapper[0]}")
    r = box.run(*wrapper, hello(), box.port)
    r.stdout = r.stdout.removeprefix("nohup: ignoring input\n")
    hooked(r)
    refused_rightly(box, None, (*wrapper, static(), box.port), f"{static()} is statically linked")


@pytest.mark.parametrize("wrapper", [["env", "--chdir=/"], ["timeout", "--no-such-option", "5"], ["ionice", "-p", "1"]], ids=" ".join)
def test_wrapper_that_is_not_understood(box, wrapper):
    """Then the program behind it is not seen, and nothing is said."""
    assert "statically" not in box.run(*wrapper, static(), box.port).stderr


@pytest.mark.parametrize("wrapper, what", [(["env", "-i"], "clear the environment"), (["env", "-"], "clear the environment"), (["env", "-i0vu", "A"], "clear"),
                                           (["env", "-u", "LD_PRELOAD"], "take LD_PRELOAD out"), (["env", "LD_PRELOAD="], "set another LD_PRELOAD")],
                         ids=lambda v: " ".join(v))
def test_preload_lost(box, wrapper, what):
    if "-i0vu" in wrapper:  # env refuses -0 with a command, but what it is told is understood
        refused(box.run(*wrapper, hello(), box.port), what)
    else:
        refused_rightly(box, None, (*wrapper, hello(), box.port), what)


def test_preload_kept(box):
    hooked(box.run("env", f"LD_PRELOAD={pre.LIBRARY}", hello(), box.port))
    hooked(box.run("env", "-i", *(f"{k}={v}" for k, v in box.env().items() if k.startswith("OE_")), "OE_MQTT_LOG=stderr:info",
                   f"LD_PRELOAD={pre.LIBRARY}", hello(), box.port))
    hooked(box.run("env", "-i", *(f"{k}={v}" for k, v in box.env().items()), LAUNCHER, "-v", hello(), box.port, options=("--force", "-q")))


@pytest.mark.parametrize("name", ["sudo", "doas", "pkexec", "systemd-run", "docker", "flatpak", "snap"])
def test_programs_that_run_elsewhere(box, name):
    """By name."""
    program = box.copy(hello(), name)
    r = box.run(program, hello(), box.port)
    refused(r, program)
    assert "oe-mqtt PROGRAM" in r.stderr or "package" in r.stderr
    assert box.report(program)["finding"] == "elsewhere"


def test_scope_of_systemd(box):
    program = box.copy(hello(), "systemd-run")
    hooked(box.run(program, box.port, "--scope"))


def test_wrapper_with_rights(box, nobody):
    wrapper = box.copy("/usr/bin/nice", "nice", 0o4755, 0, 0)
    refused_rightly(box, None, (wrapper, hello(), box.port), f"{wrapper} is set-user-id", user=nobody)


# ---- names -------------------------------------------------------------------------------------------------------------------------------
def test_names(box):
    box.script("data", "x\n", 0o644)
    (box.dir / "sub").mkdir()
    for name, finding, part in [("nowhere-of-oe-mqtt", "not-there", "not found"), ("./nowhere", "not-there", "not found"), ("./data", "not-runnable", "not executable"),
                                ("./sub", "not-runnable", "is a directory"), ("./data/x", "not-there", "not found"), ("", "not-there", "not found"),
                                ("/dev/null", "not-runnable", "not executable"), ("x" * 5000, "not-there", "not found")]:
        told = box.report(name)
        assert (told["helped"], told["finding"]) == (False, finding) and part in told["detail"], told
        assert told["objects"] == []


def test_path_search(box):
    """As sh does it: what cannot be run does not hide what can."""
    (box.dir / "a").mkdir()
    (box.dir / "b").mkdir()
    shutil.copy(static(), box.dir / "a" / "prog")
    (box.dir / "a" / "prog").chmod(0o644)
    shutil.copy(hello(), box.dir / "b" / "prog")
    path = f"/nowhere::{box.dir}/a:{box.dir}/b"
    assert box.report("prog", PATH=path)["files"][0]["path"] == f"{box.dir}/b/prog"
    hooked(box.run("prog", box.port, PATH=f"{path}:{harness.PATH}"))
    told = box.report("prog", PATH=f"{box.dir}/a")
    assert (told["finding"], told["detail"]) == ("not-runnable", f"{box.dir}/a/prog: not executable")


def test_name_that_begins_with_a_dash(box):
    box.copy(static(), "-v")
    refused(box.run("-v", box.port, PATH=f"{box.dir}:{harness.PATH}"), "-v is statically linked")


def test_control_bytes_stay_out_of_the_report(box):
    script = box.script("es\x1b[31mc", "#!/no\x1b[31mwhere\n")
    for r in (box.doctor(script), box.run(script)):
        assert r.returncode in (1, 127) and "\x1b" not in r.stdout + r.stderr and "no?[31mwhere" in r.stdout + r.stderr


# ---- the report --------------------------------------------------------------------------------------------------------------------------
def table():
    """{name: (what, text)} of shim/calls.def, read by other means than doctor's."""
    text = (ROOT / "shim" / "calls.def").read_text()
    whys = dict(re.findall(r'^OE_WHY\((\w+), "(.*)"\)$', text, re.M))
    return {name: (what, whys[why]) for name, what, why in re.findall(r"^OE_CALL\((\w+), (\w+), (\w+)\)$", text, re.M)}


def names_of(path, *options):
    out = subprocess.run(["nm", "-D", *options, path], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in out.splitlines()}


def libraries_of(path):
    out = subprocess.run([LOADER, "--list", path], check=True, capture_output=True, text=True).stdout
    return [p for p in re.findall(r"(/\S+) \(0x", out) if not re.search(r"/(libc\.so\.6|ld-linux[^/]*)$", p)]


REAL = ["mosquitto_pub", "mosquitto_sub", "mosquitto_rr", "mosquitto", "/usr/bin/python3", "node", "curl", "java", "git"]


@pytest.mark.parametrize("name", REAL)
def test_real_program(box, name):
    path = shutil.which(name, path=harness.PATH)
    if path is None:
        pytest.skip(f"there is no {name}")
    path = os.path.realpath(path)
    told = box.report(path)
    assert (told["helped"], told["preloaded"]) == (True, True), told["detail"]
    assert [o["path"] for o in told["objects"]] == [path, *libraries_of(path)]
    calls, exported, count = table(), names_of(pre.LIBRARY, "--defined-only"), 0
    for o in told["objects"]:
        want = {}
        for n in names_of(o["path"], "--undefined-only") & set(calls):
            is_missing = calls[n][0] == "HOOKED" and n not in exported
            want[n] = ("past", "to be hooked, but this library does not hook it") if is_missing else (calls[n][0].lower(), calls[n][1])
        assert {i["name"]: (i["call"], i["why"]) for i in o["imports"] if i["call"] not in ("unknown", "own")} == want
        assert [i["name"] for i in o["imports"] if i["call"] in ("unknown", "own")] == []
        count += len(want)
    assert count > 10
    text = box.doctor(path).stdout
    assert f"program: {path}\n" in text and "verdict: OE-MQTT can help it; its loader takes the library\n" in text
    for o in told["objects"]:
        for i in o["imports"]:
            assert re.search(rf" {i['name']}\b", text)


def test_real_commands(box):
    """As somebody would name them, scripts and links included."""
    names = [n for n in ("mosquitto_pub", "python3", "node", "npm", "java", "sh", "pip", "git", "perl") if shutil.which(n, path=harness.PATH)]
    r = box.doctor("--json", *names)
    assert r.returncode == 0, r.stdout
    told = json.loads(r.stdout)
    assert told["library"] == str(pre.LIBRARY) and [p["program"] for p in told["programs"]] == names
    assert {p["helped"] for p in told["programs"]} == {True}


def compile_text(box, name, text, *flags):
    source, out = box.script(f"{name}.c", text), box.dir / name
    subprocess.run([*pre.CC, "-w", "-o", out, source, *flags], check=True)
    return out


def test_what_gets_past(box):
    """io_uring, functions of the program's own, a name the table does not have, libraries made with Go."""
    compile_text(box, "libodd.so", "int io_uring_submit(void *p) { return 0; } int __send_time64(void) { return 0; } int __recv_chk2(void) { return 0; }",
                 "-shared", "-fPIC", "-Wl,-soname,libodd.so")
    content = box.script("content", b"\xff Go buildinf:" + bytes(32))
    subprocess.run(["objcopy", "--add-section", f".go.buildinfo={content}", box.dir / "libodd.so"], check=True)
    program = compile_text(box, "odd", "int io_uring_submit(void *p); int __send_time64(void); int __recv_chk2(void);\n"
                           "int connect(int a, const void *b, unsigned c) { return -1; }\n"
                           "int main(void) { return io_uring_submit(0) + __send_time64() + __recv_chk2(); }", "-rdynamic", str(box.dir / "libodd.so"),
                           f"-Wl,-rpath,{box.dir}")
    told = box.report(program)
    assert told["helped"] is True
    assert {(i["name"], i["call"]) for i in told["objects"][0]["imports"]} == {("io_uring_submit", "past"), ("__send_time64", "unknown"), ("connect", "own")}
    assert any("is made with Go" in note for note in told["notes"]) and [o["go"] for o in told["objects"]] == [False, True]
    assert any("neither the program nor what is loaded with it imports connect" in note for note in told["notes"])
    os.unlink(box.dir / "libodd.so")
    told = box.report(program)
    assert (told["helped"], told["finding"]) == (False, "not-runnable")
    assert any(n.startswith("the loader says: error while loading shared libraries: libodd.so: ") for n in told["notes"])


def test_library_that_the_loader_does_not_take(box):
    """A program, and half a library."""
    library = box.copy(hello(), "liboe-mqtt.so")
    for text in ("the loader says: ERROR: ld.so: object", None):
        r = box.doctor("--json", hello(), OE_MQTT_LIBRARY=str(library))
        told, = json.loads(r.stdout)["programs"]
        assert r.returncode == 1 and (told["helped"], told["finding"], told["preloaded"]) == (False, "not-loaded", False)
        assert text is None or any(n.startswith(text) for n in told["notes"]), told
        if text:
            library.write_bytes(pre.LIBRARY.read_bytes()[:4096])


def test_notes_about_the_library(box):
    other = compile_text(box, "libother.so", "int other;", "-shared", "-fPIC")
    assert any(f'LD_PRELOAD is set already, to "{other}"' in n for n in box.report(hello(), LD_PRELOAD=str(other))["notes"])
    (box.dir / "a b").mkdir()
    blank = shutil.copy(pre.LIBRARY, box.dir / "a b" / "liboe-mqtt.so")
    r = box.doctor("--json", hello(), OE_MQTT_LIBRARY=blank)
    told, = json.loads(r.stdout)["programs"]
    assert r.returncode == 1 and any("splits or expands" in n for n in told["notes"]) and told["finding"] == "not-loaded"
    r = box.doctor(hello(), OE_MQTT_LIBRARY="/nowhere/liboe-mqtt.so")
    assert r.returncode == 1 and "/nowhere/liboe-mqtt.so is missing" in r.stderr


@needs_root
def test_library_on_a_file_system_without_exec(box):
    place = box.dir / "mount"
    place.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    inner = f"mount -t tmpfs -o noexec tmpfs {place} && cp {pre.LIBRARY} {place} && OE_MQTT_LIBRARY={place}/{pre.LIBRARY.name} exec {CTL} doctor {hello()}"
    r = subprocess.run(["unshare", "-m", "sh", "-c", inner], env=box.env(), cwd=box.dir, capture_output=True, text=True, timeout=60)
    assert r.returncode == 1 and "is mounted noexec" in r.stdout and "verdict: OE-MQTT cannot help it: the loader of" in r.stdout


def test_nothing_of_the_program_runs(box):
    """Neither its constructors nor those of its libraries."""
    sign = box.dir / "it-ran"
    text = f'#include <fcntl.h>\n__attribute__((constructor)) static void run(void) {{ open("{sign}", O_CREAT | O_WRONLY, 0600); }}\n'
    compile_text(box, "librun.so", text + "int x;", "-shared", "-fPIC")
    program = compile_text(box, "runs", text + "extern int x; int main(void) { return x; }", str(box.dir / "librun.so"), f"-Wl,-rpath,{box.dir}")
    told = box.report(program)
    assert told["helped"] is True and not sign.exists() and len(told["objects"]) == 2
    subprocess.run([program])
    assert sign.exists()


def test_loader_that_a_file_names_is_not_run(box):
    sign = box.dir / "it-ran"
    box.script("evil", f"#!/bin/sh\necho >{sign}\n")
    program = compile_text(box, "victim", "int main(void) { return 0; }", f"-Wl,--dynamic-linker={box.dir}/evil")
    assert box.report(program)["helped"] is None and not sign.exists()


def test_broken_files(box):
    """Cut off and changed at random: an answer or an error, no crash."""
    whole, dice = hello().read_bytes(), random.Random(4711)
    broken = box.dir / "broken"
    for n in range(150):
        data = bytearray(whole[:dice.choice([len(whole), dice.randrange(len(whole)), dice.randrange(1000)])])
        for _ in range(dice.choice([0, 1, 20])):
            if data:
                data[dice.randrange(4, 1000 if n % 2 else len(whole)) % len(data)] = dice.randrange(256)
        broken.write_bytes(data)
        broken.chmod(0o755)
        r = box.doctor("--preflight", "-q", "--", broken)
        assert r.returncode in (0, 1, 126, 127), (n, r)
        if n % 3 == 0:
            assert box.doctor(broken).returncode in (0, 1), n


@pytest.mark.parametrize("args", [[], ["--json"], ["--nonsense", "sh"], ["-x", "sh"], ["--force", "sh"], ["-q", "sh"], ["--preflight"], ["--preflight", "--json", "sh"]])
def test_wrong_usage(box, args):
    r = box.doctor(*args)
    assert (r.returncode, r.stdout) == (2, "") and "usage: oe-mqttctl doctor" in r.stderr


def test_several_programs(box):
    r = box.doctor(hello(), static(), "--json")
    assert r.returncode == 1 and [p["helped"] for p in json.loads(r.stdout)["programs"]] == [True, False]
    r = box.doctor(hello(), static())
    assert r.returncode == 1 and re.findall(r"^program: (.*)$", r.stdout, re.M) == [str(hello()), str(static())]
    assert "\n\nprogram: " in r.stdout


def test_it_costs_little(box):
    """The pre-flight, over the start of any other program; the best of many runs: a busy machine makes single ones slow."""
    script, times = box.script("script", f"#!/usr/bin/env -S {hello()} 1\n"), {}
    for name, command in (("true", ["true"]), ("preflight", [CTL, "doctor", "--preflight", "--", script])):
        for _ in range(40):
            start = time.perf_counter()
            subprocess.run(command, env=box.env(), check=True)
            times[name] = min(times.get(name, 9), time.perf_counter() - start)
    assert times["preflight"] - times["true"] < 0.005, times
