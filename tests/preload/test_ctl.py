"""oe-mqttctl's commands about keys: keygen, peers, trust, forget. Writes into temporary directories only."""
import base64
import concurrent.futures
import fcntl
import json
import os
import pathlib
import re
import resource
import stat
import subprocess
import sys
import threading

import pytest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
CTL = ROOT / "build" / "oe-mqttctl"
FINGERPRINT = r"oe1:[A-Za-z0-9+/]{43}="
NOW = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
IS_ROOT = os.geteuid() == 0

if not CTL.exists():
    pytest.exit("the build is missing: run make", returncode=3)


def key(byte):
    return "oe1:" + base64.b64encode(bytes([byte] * 32)).decode()


class Ctl:
    def __init__(self, path):
        self.path = path
        self.state = path / "state"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("OE_MQTT_")} | {"OE_MQTT_STATE": str(self.state)}

    def __call__(self, *args, env=None, **more):
        return subprocess.run([CTL, *args], cwd=self.path, env=self.env if env is None else env, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, **more)

    def known(self):
        return self.state / "known_peers"

    def allowed(self):
        return self.state / "allowed_peers"

    def write(self, name, text):
        self.state.mkdir(mode=0o700, exist_ok=True)
        path = self.state / name
        path.write_text(text)
        path.chmod(0o600)
        return path


@pytest.fixture
def ctl(tmp_path):
    return Ctl(tmp_path)


def went_well(result):
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def failed(result, *parts, status=1, stdout=""):
    """Failed with one line that says why."""
    assert (result.returncode, result.stdout) == (status, stdout), result
    assert result.stderr.startswith("oe-mqttctl: ") and result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert str(part) in result.stderr, result.stderr


# ---- keygen ------------------------------------------------------------------------------------------------------------------------------
def test_keygen(ctl):
    out = went_well(ctl("keygen"))
    made = re.fullmatch(rf"identity: {re.escape(str(ctl.state))}/identity\nfingerprint: ({FINGERPRINT})\n", out)[1]
    assert went_well(ctl("id")) == made + "\n"
    assert stat.S_IMODE((ctl.state / "identity").stat().st_mode) == 0o600
    before = (ctl.state / "identity").read_bytes()
    failed(ctl("keygen"), f"{ctl.state}/identity: there is an identity already: {made}", "oe-mqttctl keygen --replace")
    assert (ctl.state / "identity").read_bytes() == before


def test_keygen_replace(ctl):
    old = went_well(ctl("id")).strip()
    secret = (ctl.state / "identity").read_text().splitlines()[1]
    lines = went_well(ctl("keygen", "--replace")).splitlines()
    assert lines[0] == f"identity: {ctl.state}/identity" and lines[2] == f"old fingerprint: {old}" and "started again" in lines[3]
    new = re.fullmatch(rf"fingerprint: ({FINGERPRINT})", lines[1])[1]
    assert new != old and went_well(ctl("id")).strip() == new
    assert [p.name for p in ctl.state.iterdir()] == ["identity"]
    assert secret not in (ctl.state / "identity").read_text()


def test_keygen_replace_where_there_is_none_or_a_bad_one(ctl):
    out = went_well(ctl("keygen", "--replace"))
    assert "old fingerprint" not in out
    (ctl.state / "identity").write_text("nonsense")
    failed(ctl("keygen"), "there is an identity already", "not an identity of OE-MQTT")
    lines = went_well(ctl("keygen", "--replace")).splitlines()
    assert lines[2].startswith("old fingerprint: not to be told: ") and "not an identity of OE-MQTT" in lines[2]
    assert lines[1] == "fingerprint: " + went_well(ctl("id")).strip()


def test_keygen_on_a_full_disk(ctl):
    old = went_well(ctl("id"))
    result = ctl("keygen", "--replace", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20)))
    assert result.returncode == 1 and "identity cannot be stored: File too large" in result.stderr
    assert went_well(ctl("id")) == old
    assert len(list(ctl.state.iterdir())) == 1


def test_keygen_many_at_once(ctl):
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda _: ctl("keygen"), range(20)))
    made = [r for r in results if r.returncode == 0]
    assert len(made) == 1 and went_well(ctl("id")).strip() in made[0].stdout


# ---- trust and peers -------------------------------------------------------------------------------------------------------------------
def test_trust_and_peers(ctl):
    assert went_well(ctl("peers")) == f"brokers in {ctl.known()}:\nnone\n"
    assert not ctl.state.exists()
    assert went_well(ctl("trust", "Broker.Example.org", key(1))) == f"broker.example.org:1883 {key(1)} added as pinned in {ctl.known()}\n"
    assert re.fullmatch(rf"broker\.example\.org:1883 {re.escape(key(1))} pinned {NOW} -\n", ctl.known().read_text())
    assert went_well(ctl("trust", "broker.example.org:1883", key(1))) == f"broker.example.org:1883 {key(1)} pinned in {ctl.known()}\n"
    assert went_well(ctl("trust", "::1", key(2))) == f"[::1]:1883 {key(2)} added as pinned in {ctl.known()}\n"
    assert went_well(ctl("trust", "[::1]:1883", key(3))).splitlines() == [
        f"[::1]:1883 {key(3)} added as pinned in {ctl.known()}",
        f"also accepted there: {key(2)} (pinned); to remove it: oe-mqttctl forget [::1]:1883 {key(2)}"]
    table = went_well(ctl("peers")).splitlines()
    assert table[0] == f"brokers in {ctl.known()}:" and table[1].split() == ["ENDPOINT", "STATE", "FIRST", "LAST", "FINGERPRINT"]
    rows = [row.split() for row in table[2:]]
    assert [(r[0], r[1], r[3], r[4]) for r in rows] == [("broker.example.org:1883", "pinned", "-", key(1)), ("[::1]:1883", "pinned", "-", key(2)),
                                                        ("[::1]:1883", "pinned", "-", key(3))]
    assert all(re.fullmatch(NOW, r[2]) for r in rows)
    assert len({row.index("oe1:") for row in table[2:]} | {table[1].index("FINGERPRINT")}) == 1
    assert stat.S_IMODE(ctl.known().stat().st_mode) == 0o600


def test_trust_confirms_what_was_remembered(ctl):
    ctl.write("known_peers", f"# mine\nh:1 {key(1)} tofu 2026-01-01T00:00:00Z 2026-02-01T00:00:00Z {'ab' * 16}\n")
    assert went_well(ctl("trust", "h:1", key(1))) == f"h:1 {key(1)} pinned in {ctl.known()}\n"
    assert ctl.known().read_text() == f"# mine\nh:1 {key(1)} pinned 2026-01-01T00:00:00Z 2026-02-01T00:00:00Z {'ab' * 16}\n"


def test_peers_with_clients(ctl):
    ctl.write("allowed_peers", f"# clients\nkitchen {key(4)}\ncellar-1 {key(5)}\n")
    assert went_well(ctl("peers")).splitlines()[2:] == [
        "", f"clients in {ctl.allowed()}:", "CLIENT    FINGERPRINT", f"kitchen   {key(4)}", f"cellar-1  {key(5)}"]
    ctl.write("allowed_peers", "")
    assert went_well(ctl("peers")).endswith(f"clients in {ctl.allowed()}:\nnone\n")


def test_allowed_peers_as_the_manual_writes_it(ctl):
    text = (ROOT / "docs" / "man" / "oe-mqtt-peers.5").read_text()
    command = re.search(r"^printf '%s %s.*allowed_peers$", text, re.M)[0].replace("\\en", "\\n")
    ctl.state.mkdir(mode=0o700)
    subprocess.run(["sh", "-c", "umask 022; " + command], cwd=ctl.state, check=True)
    client = json.loads(went_well(ctl("peers", "--json")))["allowed_peers"]["clients"][0]
    assert client["name"] == "kitchen" and re.fullmatch(FINGERPRINT, client["fingerprint"])
    example = re.search(r"^\.Bd -literal\n(broker\..*?)\.Ed", text, re.M | re.S)[1]
    ctl.write("known_peers", example)
    assert [b["state"] for b in json.loads(went_well(ctl("peers", "--json")))["known_peers"]["brokers"]] == ["pinned", "tofu"]


def test_peers_json(ctl):
    assert json.loads(went_well(ctl("peers", "--json"))) == {
        "known_peers": {"file": str(ctl.known()), "error": None, "brokers": []}, "allowed_peers": None}
    ctl.write("known_peers", f"h:1883 {key(1)} tofu 2026-01-01T00:00:00Z 2026-02-01T00:00:00Z -\nnonsense\n[::1]:1 {key(2)} pinned\n")
    ctl.write("allowed_peers", f"kitchen {key(4)}\n")
    result = ctl("peers", "--json")
    error = f"{ctl.known()}:2: 1 field; allowed: ENDPOINT KEY STATE [FIRST LAST [EPOCH]]"
    assert result.returncode == 1 and result.stderr == f"oe-mqttctl: {error}\n"
    assert json.loads(result.stdout) == {
        "known_peers": {"file": str(ctl.known()), "error": error, "brokers": [
            {"endpoint": "h:1883", "state": "tofu", "first": "2026-01-01T00:00:00Z", "last": "2026-02-01T00:00:00Z", "fingerprint": key(1)},
            {"endpoint": "[::1]:1", "state": "pinned", "first": None, "last": None, "fingerprint": key(2)}]},
        "allowed_peers": {"file": str(ctl.allowed()), "error": None, "clients": [{"name": "kitchen", "fingerprint": key(4)}]}}


def test_peers_json_in_a_directory_that_is_no_utf8(ctl):
    state = os.fsencode(ctl.path) + b"/\xff\xfe"
    os.mkdir(state, 0o700)
    result = subprocess.run([CTL, "peers", "--json"], env={**ctl.env, "OE_MQTT_STATE": os.fsdecode(state)}, capture_output=True, timeout=60)
    assert result.returncode == 0
    assert json.loads(result.stdout)["known_peers"]["file"] == f"{ctl.path}/??/known_peers"


def test_peers_complains_of_a_bad_line_behind_the_list(ctl):
    ctl.write("known_peers", f"h:1 {key(1)} tofu\nh:2 {key(2)} known\nh:3 {key(3)} tofu\n")
    ctl.write("allowed_peers", f"a/b {key(1)}\nkitchen {key(2)}\n")
    result = ctl("peers")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f'oe-mqttctl: {ctl.known()}:2: state "known" is wrong; allowed: tofu, pinned',
        f"oe-mqttctl: {ctl.allowed()}:1: name \"a/b\" is wrong; allowed: 1 to 63 letters, digits, '.', '-', '_', '@'"]
    assert [line.split()[0] for line in result.stdout.splitlines() if "oe1:" in line] == ["h:1", "h:3", "kitchen"]


def test_files_that_cannot_be_used(ctl):
    path = ctl.write("known_peers", f"h:1 {key(1)} tofu\n")
    path.chmod(0o660)
    failed(ctl("peers"), f"{path}: mode 0660 lets others write it; run: chmod go-w {path}", stdout=f"brokers in {path}:\nnot to be told\n")
    failed(ctl("trust", "h:1", key(1)), "chmod go-w")
    failed(ctl("forget", "h:1"), "chmod go-w")
    assert path.read_text() == f"h:1 {key(1)} tofu\n"


# ---- forget ------------------------------------------------------------------------------------------------------------------------------
def test_forget(ctl):
    ctl.write("known_peers", f"# 1\nh:1 {key(1)} tofu\nh:1 {key(2)} pinned\nhh:1 {key(1)} tofu\n# 2\nh:1 {key(3)} tofu\n")
    assert went_well(ctl("forget", "H:1", key(1))).splitlines() == [
        f"h:1 {key(1)} removed from {ctl.known()}",
        f"still there: {key(2)} (pinned); to remove it: oe-mqttctl forget h:1 {key(2)}",
        f"still there: {key(3)} (tofu); to remove it: oe-mqttctl forget h:1 {key(3)}"]
    assert went_well(ctl("forget", "h:1")) == f"h:1 and its 2 keys removed from {ctl.known()}\n"
    assert ctl.known().read_text() == f"# 1\nhh:1 {key(1)} tofu\n# 2\n"
    assert went_well(ctl("forget", "hh:1")) == f"hh:1 and its 1 key removed from {ctl.known()}\n"


def test_forget_what_is_unknown(ctl):
    failed(ctl("forget", "h"), f"{ctl.known()}: h:1883 is not there")
    assert not ctl.state.exists()
    text = f"h:1 {key(1)} tofu\n"
    ctl.write("known_peers", text)
    failed(ctl("forget", "h"), f"{ctl.known()}: h:1883 is not there")
    result = ctl("forget", "h:1", key(2))
    assert result.returncode == 1 and result.stderr == f"oe-mqttctl: {ctl.known()}: h:1 is not there with this key\n"
    assert ctl.known().read_text() == text


def test_forget_warns_of_a_bad_line(ctl):
    ctl.write("known_peers", f"h:1 {key(1)} tofu\nh:1 {key(1)} trusted\n")
    result = ctl("forget", "h:1")
    assert result.returncode == 0 and "removed from" in result.stdout
    assert result.stderr == f'oe-mqttctl: warning: {ctl.known()}:1: state "trusted" is wrong; allowed: tofu, pinned\n'


# ---- what they share -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("args", [["keygen", "x"], ["keygen", "-r"], ["keygen", "--replace=1"], ["peers", "x"], ["peers", "--xml"], ["trust"],
                                  ["trust", "h"], ["trust", "h", key(1), "x"], ["trust", "-x", "h", key(1)], ["forget"], ["forget", "-a"],
                                  ["forget", "h", key(1), "x"], ["forget", "--", "h", key(1), "x"]])
def test_wrong_usage(ctl, args):
    result = ctl(*args)
    assert result.returncode == 2 and result.stdout == "" and f"usage: oe-mqttctl {args[0]} " in result.stderr
    assert not ctl.state.exists()


@pytest.mark.parametrize("command", ["trust", "forget"])
def test_wrong_arguments(ctl, command):
    for wrong in ("oe1:", "x", key(1)[:-1], key(1) + "=", key(1).replace("oe1", "oe2"), "AA:BB:CC"):
        failed(ctl(command, "h", wrong), f'"{wrong}" is no fingerprint: a fingerprint is oe1: and 44 characters (oe-mqttctl id shows one\'s own)',
               status=2)
    for wrong in ("", "h:0", "h:x", "h h", "[::1", "h:1:1", key(1), "x" * 300):
        failed(ctl(command, wrong, key(1)), f'"{wrong}" is no endpoint; allowed: HOST, HOST:PORT', status=2)
    assert not ctl.state.exists()


@pytest.mark.parametrize("args", [["keygen"], ["peers"], ["trust", "h", key(1)], ["forget", "h"]])
def test_without_a_state_directory(ctl, args):
    failed(ctl(*args, env={**ctl.env, "OE_MQTT_STATE": "relative"}), "OE_MQTT_STATE", "allowed: an absolute path")
    assert not (ctl.path / "relative").exists()
    if not IS_ROOT:
        failed(ctl(*args, env={k: v for k, v in ctl.env.items() if k not in ("OE_MQTT_STATE", "HOME", "XDG_STATE_HOME")}),
               "there is no state directory: set HOME or OE_MQTT_STATE")


def test_a_wrong_configuration_does_not_matter(ctl):
    env = {**ctl.env, "OE_MQTT_POLICY": "nonsense"}
    assert "added as pinned" in went_well(ctl("trust", "h", key(1), env=env))
    assert "h:1883" in went_well(ctl("peers", env=env))


def test_full_disk(ctl):
    text = f"h:1 {key(1)} tofu\n"
    ctl.write("known_peers", text)
    result = ctl("trust", "i:1", key(2), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (80, 80)))
    assert result.returncode == 1 and f"{ctl.known()}: cannot be written: File too large" in result.stderr
    assert ctl.known().read_text() == text and sorted(p.name for p in ctl.state.iterdir()) == ["known_peers", "known_peers.lock"]


def test_output_that_cannot_be_written(ctl):
    for args in (["peers"], ["peers", "--json"], ["trust", "h", key(1)], ["keygen"]):
        with open("/dev/full", "w") as full:
            result = subprocess.run([CTL, *args], env=ctl.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert result.returncode == 1 and "No space left" in result.stderr


def test_many_at_once(ctl):
    def one(i):
        return ctl("trust", f"h{i}", key(i)) if i % 5 else ctl("trust", "same", key(200))

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        for result in pool.map(one, range(50)):
            assert result.returncode == 0, result.stderr
    lines = [line.split()[:3] for line in ctl.known().read_text().splitlines()]
    assert sorted(lines) == sorted([f"h{i}:1883", key(i), "pinned"] for i in range(50) if i % 5) + [["same:1883", key(200), "pinned"]]


def test_it_waits_for_others(ctl):
    ctl.write("known_peers", f"h:1 {key(1)} tofu\n")
    with open(ctl.write("known_peers.lock", ""), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(1.5, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        timer.start()
        assert "added" in went_well(ctl("trust", "i:1", key(2)))
        timer.join()
