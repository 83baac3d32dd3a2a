"""The launcher tools/oe-mqtt: every option, everything it must refuse, and that what it runs really has the library.

Runs with the library of the build, or with OE_MQTT_LIBRARY. Needs no network; writes into temporary directories only.
"""
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import time

import pytest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "tools" / "oe-mqtt"
CTL = ROOT / "build" / "oe-mqttctl"
LIBRARY = pathlib.Path(os.environ.get("OE_MQTT_LIBRARY") or ROOT / "build" / "liboe-mqtt.so").absolute()
IS_ROOT = os.geteuid() == 0
USAGE = "usage: oe-mqtt [-c FILE] [-p POLICY] [-v|-q] [--force] [--] COMMAND [ARG...]\n"

if not CTL.exists() or not LIBRARY.exists():
    pytest.exit("the build is missing: run make", returncode=3)


class Box:
    """A temporary directory with a state directory, and the launcher run in it."""

    def __init__(self, path):
        self.path = path
        self.state = path / "state"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("OE_MQTT_")}
        self.env["OE_MQTT_STATE"] = str(self.state)
        self.env["OE_MQTT_LIBRARY"] = str(LIBRARY)

    def run(self, *args, launcher=LAUNCHER, **env):
        e = dict(self.env)
        for k, v in env.items():
            e.pop(k, None) if v is None else e.update({k: str(v)})
        return subprocess.run([str(launcher), *map(str, args)], cwd=self.path, env=e, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL)

    def script(self, name, text="#!/bin/sh\necho ran\n", mode=0o755):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def conf(self, text, name="conf"):
        path = self.path / name
        path.write_text(text)
        return path


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


def refused(result, status, *parts):
    """The command did not run, and why is told in one line."""
    assert result.returncode == status, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("oe-mqtt: ")
    for part in parts:
        assert str(part) in lines[0]


def ran(result, stdout="ran\n"):
    assert (result.returncode, result.stdout, result.stderr) == (0, stdout, "")


# ---- what it runs ------------------------------------------------------------------------------------------------------------------------
def test_command_has_the_library(box):
    result = box.run("grep", "-c", "liboe-mqtt.so", "/proc/self/maps")
    assert result.returncode == 0 and int(result.stdout) > 0 and result.stderr == ""


def test_arguments_status_and_streams_are_the_commands(box):
    args = ["", " ", "a b", "*", "$HOME", "`id`", "-v", "--", "\\", "\n", "ü"]
    result = box.run("sh", "-c", 'for a; do printf "<%s>" "$a"; done; echo err >&2; exit 42', "sh", *args)
    assert (result.returncode, result.stdout, result.stderr) == (42, "".join(f"<{a}>" for a in args), "err\n")


def test_it_is_replaced_by_the_command(box):
    with subprocess.Popen([LAUNCHER, "sh", "-c", "echo $$"], env=box.env, stdout=subprocess.PIPE, text=True) as p:
        assert int(p.communicate()[0]) == p.pid


def test_name_of_the_program_is_kept(box):
    box.script("bin/show", "#!/bin/sh\ntr '\\0' '\\n' </proc/$$/cmdline\n")
    assert box.run("sh", "-c", "tr '\\0' '\\n' </proc/$$/cmdline").stdout.splitlines()[0] == "sh"


def test_command_by_relative_path(box):
    box.script("my program")
    ran(box.run("./my program"))


def test_command_in_path(box):
    box.script("bin/oe-first", mode=0o644)
    box.script("bin2/oe-first")
    ran(box.run("oe-first", PATH=f"{box.path}/bin:{box.path}/bin2:{box.env['PATH']}"))


def test_command_in_the_last_part_of_path(box):
    box.script("bin/oe-last")
    ran(box.run("oe-last", PATH=f"{box.env['PATH']}:{box.path}/bin"))


def test_command_in_an_empty_part_of_path(box):
    box.script("oe-here")
    for path in (box.env["PATH"] + ":", ":" + box.env["PATH"]):
        ran(box.run("oe-here", PATH=path))


def test_command_that_begins_with_a_dash(box):
    box.script("bin/-dash")
    ran(box.run("--", "-dash", PATH=f"{box.path}/bin:{box.env['PATH']}"))


def test_path_is_not_expanded_as_a_pattern(box):
    box.script("bin/oe-only")
    refused(box.run("oe-only", PATH=f"{box.path}/*:{box.env['PATH']}"), 127, "oe-only: not found")


# ---- options -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(box, option):
    result = box.run(option)
    assert result.returncode == 0 and result.stdout.startswith(USAGE) and result.stderr == ""
    for part in ("-c FILE", "-p POLICY", "-v ", "-q ", "-h, --help", "--version"):
        assert part in result.stdout
    assert not box.state.exists()


def test_version(box):
    result = box.run("--version")
    assert result.returncode == 0 and re.fullmatch(r"oe-mqtt \d+\.\d+\.\d+\n", result.stdout) and result.stderr == ""


@pytest.mark.parametrize("args, part", [
    (["-x", "true"], "unknown option -x"),
    (["-vx", "true"], "unknown option -x"),
    (["--verbose", "true"], "unknown option --verbose"),
    (["--help2"], "unknown option --help2"),
    (["-c"], "option -c needs an argument"),
    (["-p"], "option -p needs an argument"),
])
def test_wrong_option(box, args, part):
    result = box.run(*args)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"oe-mqtt: {part}\n{USAGE}")


@pytest.mark.parametrize("args", [[], ["--"], ["-v"], ["-p", "off", "--"]])
def test_no_command(box, args):
    result = box.run(*args)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", USAGE)


@pytest.mark.parametrize("args", [["-c", "", "true"], ["-p", "", "true"]])
def test_empty_argument(box, args):
    refused(box.run(*args), 2, f"{args[0]} needs")


@pytest.mark.parametrize("args, env, expect", [
    ([], {}, "stderr:error"),
    ([], {"OE_MQTT_LOG": ""}, "stderr:error"),
    ([], {"OE_MQTT_LOG": "none"}, "none"),
    (["-v"], {"OE_MQTT_LOG": "none"}, "stderr:info"),
    (["-q"], {"OE_MQTT_LOG": "none"}, "syslog:error"),
    (["-q", "-v"], {}, "stderr:info"),
    (["-vq"], {}, "syslog:error"),
])
def test_log_setting(box, args, env, expect):
    ran(box.run(*args, "sh", "-c", "echo $OE_MQTT_LOG", **env), expect + "\n")


def test_log_setting_that_is_wrong(box):
    refused(box.run("true", OE_MQTT_LOG="stdout"), 1, 'OE_MQTT_LOG: "stdout" is wrong; allowed: none, or TARGET')


@pytest.mark.parametrize("policy", ["off", "prefer", "require"])
def test_policy(box, policy):
    ran(box.run("-p", policy, "sh", "-c", "echo $OE_MQTT_POLICY", OE_MQTT_POLICY="off"), policy + "\n")


@pytest.mark.parametrize("policy", ["required", "refuse", "on", "OFF"])
def test_policy_that_is_wrong(box, policy):
    refused(box.run("-p", policy, "echo", "ran"), 1, f'"{policy}"', "allowed: off, prefer")
    refused(box.run("echo", "ran", OE_MQTT_POLICY=policy), 1, f'"{policy}"', "allowed: off, prefer")


def test_configuration(box):
    box.conf("[link]\npolicy = off\n", "my conf")
    for name in ("my conf", "./my conf", box.path / "my conf"):
        result = box.run("-c", name, "sh", "-c", 'echo "$OE_MQTT_CONFIG"; cd /; cat "$OE_MQTT_CONFIG"')
        assert result.returncode == 0 and result.stderr == ""
        first, rest = result.stdout.split("\n", 1)
        assert first.startswith("/") and rest == "[link]\npolicy = off\n"


def test_example_configuration(box):
    ran(box.run("-c", ROOT / "oe-mqtt.conf.example", "echo", "ran"))


@pytest.mark.parametrize("text, line, part", [
    ("[link]\npolicy = required\n", 2, "allowed: off, prefer"),
    ("\n[connect \"h:0\"]\n", 2, "allowed: [connect"),
    ("[link]\n\nhandshake-timeout = 5\n", 3, "allowed: 100ms to 60s"),
    ("nonsense\n", 1, "allowed: NAME = VALUE"),
])
def test_configuration_that_is_wrong(box, text, line, part):
    path = box.conf(text)
    refused(box.run("-c", "conf", "echo", "ran"), 1, f"{path}:{line}: ", part)
    refused(box.run("echo", "ran", OE_MQTT_CONFIG=path), 1, f"{path}:{line}: ", part)


def test_configuration_that_is_missing(box):
    refused(box.run("-c", "no such", "echo", "ran"), 1, box.path / "no such", "No such file")
    refused(box.run("echo", "ran", OE_MQTT_CONFIG="relative"), 1, "allowed: an absolute path")


@pytest.mark.skipif(IS_ROOT, reason="root reads everything")
def test_configuration_that_is_unreadable(box):
    box.conf("").chmod(0)
    refused(box.run("-c", "conf", "echo", "ran"), 1, box.path / "conf", "Permission denied")


# ---- commands that cannot be run ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["no-such-command", "./no-such", "/no/such", "cd", "", "sub/"])
def test_command_that_is_missing(box, command):
    refused(box.run(command), 127, "not found" if command else "empty")
    assert not box.state.exists()


def test_command_that_is_not_executable(box):
    path = box.script("data", mode=0o644)
    refused(box.run("./data"), 126, "./data: not executable")
    refused(box.run(path), 126, "not executable")
    refused(box.run("data", PATH=f"{box.path}:{box.env['PATH']}"), 126, f"{path}: not executable")


def test_command_that_is_a_directory(box):
    refused(box.run(box.path), 126, "is a directory")


# ---- the library -------------------------------------------------------------------------------------------------------------------------
def test_library_that_is_missing(box):
    refused(box.run("echo", "ran", OE_MQTT_LIBRARY=box.path / "liboe-mqtt.so"), 1, box.path / "liboe-mqtt.so", "missing")


@pytest.mark.parametrize("name", ["a b", "a:b", "a$b", "a\tb"])
def test_library_with_a_path_that_ld_so_would_split(box, name):
    (box.path / name).mkdir()
    shutil.copy(LIBRARY, box.path / name / "liboe-mqtt.so")
    refused(box.run("echo", "ran", OE_MQTT_LIBRARY=box.path / name / "liboe-mqtt.so"), 1, "cannot be preloaded")


def test_library_by_relative_path(box):
    shutil.copy(LIBRARY, box.path / "liboe-mqtt.so")
    result = box.run("sh", "-c", "cd /; grep -o '[^ ]*/liboe-mqtt.so' /proc/self/maps | sort -u", OE_MQTT_LIBRARY="liboe-mqtt.so")
    assert result.stdout == f"{box.path}/liboe-mqtt.so\n"


def test_library_that_does_not_load(box):
    (box.path / "liboe-mqtt.so").write_text("not a library")
    refused(box.run("echo", "ran", OE_MQTT_LIBRARY=box.path / "liboe-mqtt.so"), 1, "liboe-mqtt.so is not a library")
    shutil.copy(CTL, box.path / "liboe-mqtt.so")  # a program
    result = box.run("echo", "ran", OE_MQTT_LIBRARY=box.path / "liboe-mqtt.so")
    assert result.returncode == 1 and result.stdout == ""
    assert "oe-mqtt: the library was not loaded" in result.stderr  # behind ld.so's own line


def test_preloads_stay_in_front(box):
    preload = str(LIBRARY.parent / "libother.so")
    seen = box.run("sh", "-c", "echo $LD_PRELOAD", LD_PRELOAD=preload)  # ld.so warns that it is missing
    assert seen.stdout == f"{preload}:{LIBRARY}\n"


def test_under_itself(box):
    ran(box.run(LAUNCHER, "echo", "ran"))


# ---- where it stands ---------------------------------------------------------------------------------------------------------------------
def test_by_symbolic_link(box):
    (box.path / "link").symlink_to(LAUNCHER)
    (box.path / "link2").symlink_to("link")
    ran(box.run("echo", "ran", launcher=box.path / "link2"))


def test_in_path(box):
    env = dict(box.env, PATH=f"{LAUNCHER.parent}:{box.env['PATH']}", CDPATH="/")
    ran(subprocess.run(["oe-mqtt", "echo", "ran"], env=env, capture_output=True, text=True, timeout=60))


def test_outside_of_a_tree(box):
    lonely = box.path / "lonely" / "oe-mqtt"
    lonely.parent.mkdir()
    shutil.copy(LAUNCHER, lonely)
    refused(box.run("echo", "ran", launcher=lonely), 1, "run make")


def test_installed(box):
    prefix = box.path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib").mkdir()
    text = LAUNCHER.read_text().replace("@LIBDIR@", f"{prefix}/lib").replace("@BINDIR@", f"{prefix}/bin")
    launcher = box.script("prefix/bin/oe-mqtt", text)
    refused(box.run("echo", "ran", launcher=launcher), 1, f"{prefix}/bin/oe-mqttctl is missing")
    shutil.copy(CTL, prefix / "bin" / "oe-mqttctl")
    refused(box.run("echo", "ran", launcher=launcher, OE_MQTT_LIBRARY=None), 1, f"{prefix}/lib/liboe-mqtt.so is missing")
    shutil.copy(LIBRARY, prefix / "lib" / "liboe-mqtt.so")
    result = box.run("sh", "-c", "grep -o '[^ ]*/liboe-mqtt.so' /proc/self/maps | sort -u", launcher=launcher, OE_MQTT_LIBRARY=None)
    assert result.stdout == f"{prefix}/lib/liboe-mqtt.so\n", result
    assert re.fullmatch(r"oe-mqtt \d+\.\d+\.\d+\n", box.run("--version", launcher=launcher).stdout)


# ---- the state directory -----------------------------------------------------------------------------------------------------------------
def test_identity_is_made(box):
    ran(box.run("echo", "ran"))
    identity = box.state / "identity"
    assert stat.S_IMODE(box.state.stat().st_mode) == 0o700 and stat.S_IMODE(identity.stat().st_mode) == 0o600
    text = identity.read_bytes()
    assert re.fullmatch(rb"oe-mqtt identity 1\n[A-Za-z0-9+/]{43}=\n", text)
    ran(box.run("echo", "ran"))
    assert identity.read_bytes() == text and [p.name for p in box.state.iterdir()] == ["identity"]
    fingerprint = subprocess.run([CTL, "id"], env=box.env, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"oe1:[A-Za-z0-9+/]{43}=\n", fingerprint.stdout) and fingerprint.stderr == ""


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_identity_with_wrong_permissions(box, mode):
    ran(box.run("echo", "ran"))
    (box.state / "identity").chmod(mode)
    for args in ([], ["-q"]):
        refused(box.run(*args, "echo", "ran"), 1, f"run: chmod 600 {box.state}/identity")


def test_identity_that_is_corrupt(box):
    box.state.mkdir()
    identity = box.state / "identity"
    identity.write_bytes(b"")
    identity.chmod(0o600)
    refused(box.run("echo", "ran"), 1, identity, "not an identity of OE-MQTT")
    assert identity.read_bytes() == b""


def read_only(box):
    """A state directory below a place that cannot be written, also for root."""
    if IS_ROOT:
        return "/proc/oe-mqtt-test/state"
    place = box.path / "read-only"
    place.mkdir()
    place.chmod(0o500)
    return place / "state"


def test_state_directory_that_cannot_be_made(box):
    state = read_only(box)
    result = box.run("echo", "ran", OE_MQTT_STATE=state)
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert result.stderr.startswith(f"oe-mqtt: warning: {state}: the state directory cannot be made: ") and result.stderr.count("\n") == 1
    ran(box.run("-q", "echo", "ran", OE_MQTT_STATE=state))


def test_full_disk(box):
    box.script("limited", f'#!/bin/sh\nulimit -f 0\nexec {LAUNCHER} "$@"\n')
    result = box.run("true", launcher=box.path / "limited")
    assert result.returncode == 0 and "warning" in result.stderr and "File too large" in result.stderr
    assert list(box.state.iterdir()) == []


def test_no_home(box):
    env = {k: v for k, v in box.env.items() if k not in ("OE_MQTT_STATE", "HOME", "XDG_STATE_HOME")}
    user = {}
    if IS_ROOT:  # root has a state directory whatever its home is
        user = {"user": 65534, "group": 65534, "extra_groups": []}
        can = ["sh", "-c", 'test -x "$0" && test -r "$1" && test -r "$2"', CTL, LIBRARY, LAUNCHER]
        if subprocess.run(can, **user).returncode != 0:
            pytest.skip("the tree cannot be read by an ordinary user")
    result = subprocess.run([LAUNCHER, "echo", "ran"], cwd="/", env=env, capture_output=True, text=True, timeout=60, **user)
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "warning: identity: there is no state directory: set HOME or OE_MQTT_STATE" in result.stderr


def test_state_directory_that_is_relative(box):
    refused(box.run("echo", "ran", OE_MQTT_STATE="state"), 1, "OE_MQTT_STATE", "allowed: an absolute path")


# ---- oe-mqttctl --------------------------------------------------------------------------------------------------------------------------
def ctl(box, *args, **env):
    return subprocess.run([CTL, *map(str, args)], cwd=box.path, env={**box.env, **{k: str(v) for k, v in env.items()}}, capture_output=True,
                          text=True, timeout=60)


def test_ctl_check(box):
    path = box.conf("[link]\npolicy = off\n[accept \"1\"]\npolicy = prefer\n")
    result = ctl(box, "check", "-c", "conf")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"policy: off\ndowngrade: refuse\nhandshake-timeout: 2000 ms\nrules: 1\nstate directory: {box.state}\n"
    assert not box.state.exists()
    assert ctl(box, "check", "-q", "--config", path).stdout == ""
    path.write_text("[link]\npolice = off\n")
    result = ctl(box, "check", "-c", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f'oe-mqttctl: {path}:2: key "police" is not known; allowed in [link]: policy, handshake-timeout, downgrade\n'


def test_ctl_check_preloaded_needs_the_library(box):
    result = ctl(box, "check", "--preloaded")
    assert result.returncode == 1 and result.stderr.startswith("oe-mqtt: the library was not loaded")
    assert not box.state.exists()


def test_ctl_id_makes_the_identity_once(box):
    first = ctl(box, "id")
    assert first.returncode == 0 and (box.state / "identity").exists()
    assert ctl(box, "id").stdout == first.stdout
    result = ctl(box, "id", OE_MQTT_STATE=read_only(box))
    assert result.returncode == 1 and result.stdout == "" and "cannot be made" in result.stderr


@pytest.mark.parametrize("args", [[], ["nonsense"], ["-x"], ["--nonsense"], ["check", "x"], ["check", "-x"], ["id", "x"], ["id", "-x"],
                                  ["check", "-c"]])
def test_ctl_wrong_usage(box, args):
    result = ctl(box, *args)
    assert result.returncode == 2 and result.stdout == "" and "usage: oe-mqttctl" in result.stderr


def test_ctl_help_and_version(box):
    for option in ("-h", "--help"):
        result = ctl(box, option)
        assert result.returncode == 0 and "check" in result.stdout and result.stderr == ""
    assert re.fullmatch(r"oe-mqttctl \d+\.\d+\.\d+\n", ctl(box, "--version").stdout)


def test_ctl_output_that_cannot_be_written(box):
    with open("/dev/full", "w") as full:
        result = subprocess.run([CTL, "id"], env=box.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1 and "No space left" in result.stderr


# ---- cost --------------------------------------------------------------------------------------------------------------------------------
def test_it_costs_little(box):
    """The best of many runs: a busy machine makes single ones slow."""
    def best(args):
        times = []
        for _ in range(30):
            start = time.perf_counter()
            subprocess.run(args, env=box.env, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    box.run("true")
    assert best([LAUNCHER, "true"]) - best(["true"]) < 0.05
