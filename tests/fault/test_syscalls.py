"""Every system call of the library fails in turn (inject.c) under victim.c: no crash, no hang, no plaintext, no descriptor left, and all is well
afterwards. A part of the cases, another one for each seed; OE_FAULT_ALL=1: all of them."""

import errno
import mmap
import os
import pathlib
import platform
import random
import re
import shutil
import struct
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "preload"))
import pre  # noqa: E402

sys.path.insert(0, str(pre.ROOT / "tests" / "lib"))
import harness  # noqa: E402

ALL = os.environ.get("OE_FAULT_ALL") == "1"
SEED = int(os.environ.get("OE_FAULT_SEED", "1"))
SAMPLE = 10  # cases of each test without OE_FAULT_ALL
NUMBERS = 512
ONE_BYTE = 0  # not an error: the call moves one byte

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="inject.c knows the registers of x86-64")

# name: (number on x86-64, what it may fail with). What the library does about EINTR, EAGAIN and one byte must not be seen by the program.
GROUPS = {
    "sockets": {
        "recvfrom": (45, "ECONNRESET ETIMEDOUT ENOMEM EAGAIN EINTR ONE_BYTE"), "sendto": (44, "ECONNRESET EPIPE ENOBUFS ENOMEM EAGAIN EINTR ONE_BYTE"),
        "getsockopt": (55, "ENOPROTOOPT ENOMEM EPERM"), "setsockopt": (54, "ENOPROTOOPT ENOMEM EPERM"), "getsockname": (51, "ENOBUFS"),
        "getpeername": (52, "ENOBUFS"), "shutdown": (48, "ENOTCONN"), "connect": (42, "ECONNREFUSED ENETUNREACH ETIMEDOUT EADDRNOTAVAIL"),
        "accept": (43, "EMFILE ENFILE ECONNABORTED ENOMEM EPROTO"), "socket": (41, "EMFILE ENFILE ENOBUFS EACCES"),
        "dup": (32, "EMFILE"), "listen": (50, "EADDRINUSE")},
    "waits": {
        "epoll_create1": (291, "EMFILE ENFILE ENOMEM ENOSYS"), "epoll_ctl": (233, "ENOMEM ENOSPC EPERM"), "epoll_pwait": (281, "EINTR"),
        "ppoll": (271, "EINTR ENOMEM"), "poll": (7, "EINTR ENOMEM"), "fcntl": (72, "EPERM"), "ioctl": (16, "EIO"), "kill": (62, "EPERM"),
        "getrandom": (318, "EINTR")},
    "memory": {
        "mmap": (9, "ENOMEM EAGAIN EPERM"), "mprotect": (10, "ENOMEM EACCES"), "madvise": (28, "EINVAL EAGAIN"), "mlock": (149, "ENOMEM EPERM"),
        "munmap": (11, "ENOMEM")},
    "files": {
        "openat": (257, "EMFILE ENFILE ENOMEM EIO EACCES ENOSPC"), "read": (0, "EIO EINTR ONE_BYTE"), "write": (1, "ENOSPC EIO EDQUOT EINTR ONE_BYTE"),
        "close": (3, "EIO EINTR"), "newfstatat": (262, "EIO ENOMEM EACCES"), "fstat": (5, "EIO"), "getdents64": (217, "EIO ENOMEM"),
        "mkdir": (83, "ENOSPC EROFS"), "fchmod": (91, "EPERM EIO"), "chmod": (90, "EPERM"), "fchown": (93, "EPERM"), "fstatfs": (138, "EIO ENOSYS"),
        "fallocate": (285, "ENOSPC EINTR EOPNOTSUPP"), "ftruncate": (77, "ENOSPC EINTR"), "fsync": (74, "EIO ENOSPC"), "fdatasync": (75, "EIO ENOSPC"),
        "renameat": (264, "ENOSPC EIO"), "rename": (82, "ENOSPC EIO"), "linkat": (265, "EPERM ENOSPC"), "link": (86, "EPERM ENOSPC"),
        "unlink": (87, "EIO EROFS"), "unlinkat": (263, "EIO EROFS"), "flock": (73, "EINTR ENOLCK"), "lseek": (8, "EIO")},
}
LASTING = {"EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EIO", "EACCES", "ENOSYS", "EPERM", "ENOPROTOOPT"}  # also from one call on
HARMLESS = {"EINTR", "EAGAIN", "ONE_BYTE"}  # but for memory, and a handshake that finds no room to be sent
MEANT = {"ECONNRESET", "ECONNABORTED", "EPIPE", "ENOMEM", "ENOBUFS", "0"}  # what a program sees when its network or memory fails
# what victim does: (its mode, does the other end run under the library, have the two met before, policy)
SCENES = {"client": ("client", True, False, None), "known": ("client", True, True, None), "poll": ("poll", True, False, None),
          "poll-known": ("poll", True, True, None), "require": ("client", True, False, "require"), "fork": ("fork", True, False, None),
          "plain": ("client", False, False, None), "server": ("server", True, False, None), "server-known": ("server", True, True, None)}


class Scene:
    """victim, two relays and the program at the other end."""

    def __init__(self, name):
        self.mode, self.secure, self.known, self.policy = SCENES[name]
        self.place = pre.Place()
        self.dir = self.place.dir
        self.place.conf.write_text("[link]\nhandshake-timeout = 1s\n")
        self.serves = self.mode == "server"
        self.program, self.inject = pre.build("victim", source="../fault/victim.c"), pre.build("inject.so", source="../fault/inject.c")
        port = 1
        if not self.serves:
            self.echo = self.place.start([self.program, "echo", *([] if self.secure else ["answers"])], self.secure, env=self.state("other"))
            port = int(self.echo.stdout.readline())
        self.relays = [harness.Relay(port), harness.Relay(port)]
        self.a, self.b = (r.port for r in self.relays)
        self.number = 0
        if self.known:
            self.run(None, "prepared")

    def close(self):
        for r in self.relays:
            r.close()
        self.place.close()

    def state(self, name):
        path = self.dir / f"state-{name}"
        return {"OE_MQTT_STATE": str(path)} if self.secure or name != "other" else {}

    def run(self, at, state=None):
        """One run: (status, output, log, the other end's log, what crossed on each relay, calls counted, fired)."""
        self.number += 1
        name = state or f"{self.number}"
        if state is None and self.known:
            for end in ("victim", "partner"):
                if (self.dir / f"state-{end}-prepared").exists():
                    shutil.copytree(self.dir / f"state-{end}-prepared", self.dir / f"state-{end}-{name}")
        shared = self.dir / "inject"
        shared.write_bytes(bytes(mmap.PAGESIZE))
        env = {**self.state(f"victim-{name}"), "OE_INJECT": str(shared), "OE_MQTT_POLICY": self.policy,
               "LD_PRELOAD": f"{pre.FIRST} {pre.LIBRARY} {self.inject}".strip()}
        if at:
            env["OE_INJECT_AT"] = at
        seen = [len(r.connections) for r in self.relays]
        before = len(pre.log_of(self.echo)) if not self.serves else 0
        victim = self.place.start([self.program, self.mode, self.a, self.b], env=env)
        other = None
        head = ""
        if self.serves:
            while re.fullmatch(r"\d+ \d+\n", head.splitlines(keepends=True)[-1] if head else "") is None:
                line = victim.stdout.readline()
                head += line
                if not line:
                    break
            else:
                for relay, port in zip(self.relays, head.split()[-2:]):
                    relay.target = ("127.0.0.1", int(port))
                other = self.place.start([self.program, "client", self.a, self.b], env=self.state(f"partner-{name}"))
        status, out, err = pre.finish(victim, 40)
        if other is not None:
            other_status, other_out, other_err = pre.finish(other, 40)
            err += other_err
            out += "".join(f"partner: {line}\n" for line in other_out.splitlines() if not line.startswith("1 "))
            out += "" if other_status == 0 else f"partner: status {other_status}\n"
        other_log = pre.log_of(other) if other is not None else "" if self.serves else pre.log_of(self.echo)[before:]
        wires = [b"\0\0\0\0".join(bytes(w) for c in r.connections[n:] for w in (c.to_server, c.to_client)) for r, n in zip(self.relays, seen)]
        *counts, fired, own, _ = struct.unpack(f"{NUMBERS + 3}I", shared.read_bytes()[:4 * (NUMBERS + 3)])
        if state is None:
            for end in ("victim", "partner"):
                folder = self.dir / f"state-{end}-{name}"
                if folder.exists():
                    forget(folder)
        for r in self.relays:
            if not any(c.open for c in r.connections):
                r.connections.clear()
        return status, head + out + err, pre.log_of(victim), other_log, wires, counts, fired, own


def forget(folder):
    st = folder.stat()
    for shown in pathlib.Path("/dev/shm").glob(f"oe-mqtt.{st.st_dev:x}.{st.st_ino:x}.*"):
        shutil.rmtree(shown, ignore_errors=True)
    shutil.rmtree(folder)


SECURE = r"state=(?:unauthenticated|tofu|pinned)\b"


def judge(scene, how, lasting, result, harmless=False):
    """What is wrong, as a list of words."""
    status, out, log, other_log, wires, _, _, _ = result
    wrong = []
    if status != 0 or not re.search(r"^end$", out, re.M):
        return [f"status {status}"]
    lines = out.splitlines()
    # a configuration that cannot be read never means plain: nothing is carried
    closed = "configuration cannot be used" in log or re.search("^2 connect-packet EACCES$", out, re.M)
    stranger = scene.serves and scene.known and "the broker has another key" in other_log
    shut = "the connection is shut down" in log
    if "2 ok" not in lines and not closed and not stranger:
        wrong.append("the next connection does not work")
    if "fds ok" not in lines:
        wrong.append("a descriptor is left")
    for line in lines:
        if stranger and re.fullmatch(r"(1|2|partner: 2) (connect-packet|connack|refused) \S+", line):
            continue  # the client knows another key
        m = re.fullmatch(r"1 (\S+) (\S+)", line)
        if m and (m[1], m[2]) == ("connect", "EACCES") and shut:
            continue
        if m and m[1] == "other-bytes" and scene.known and "the connection stays plain" in log:
            continue  # a preface, to a program that is not protected: the client is refused
        if m and m[2] in ("ETIME", "EILSEQ") or re.search("other-bytes|child-died|partner: [^2fe]|FAILED", line):
            wrong.append(line)
        elif m and harmless and not closed:
            wrong.append(f"{line} for a harmless failure")
        elif m and m[2] not in MEANT | {how} and not closed and m[1] != "refused":
            wrong.append(f"{line}: not an error it could have met")
    if not scene.secure:
        return wrong + (["no plain"] if b"MARKER-2" not in wires[1] and not closed else [])
    for i, (wire, port) in enumerate(zip(wires, (scene.a, scene.b))):
        told = re.search(rf":{port} {SECURE}", other_log if scene.serves else log)
        plain = f"MARKER-{i + 1}".encode() in wire
        if plain and (told or scene.known or scene.policy):
            wrong.append(f"plaintext on connection {i + 1}")
        if (scene.known or scene.policy) and b"NAME-MARK" in wire:
            wrong.append(f"the CONNECT of connection {i + 1} is plain")
        if i == 1 and plain:
            wrong.append("the next connection is plain")
    if harmless and not lasting and not closed and b"MARKER-1" in wires[0]:
        wrong.append("plain after a harmless failure")
    if b"MARKER-1" in wires[0] and len(re.findall(f"accept .*{SECURE}", log if scene.serves else other_log)) > 1:
        wrong.append("plaintext on a connection that the other end takes for encrypted")
    return wrong


def cases(scene, group, counts):
    """(name, number, which, error name, lasting)"""
    found = []
    for name, (number, errors) in GROUPS[group].items():
        for which in range(1, counts[number] + 1):
            for error in errors.split():
                found.append((name, number, which, error, False))
                if error in LASTING and name not in ("socket", "accept") and which in (1, 2, 3, counts[number] // 2, counts[number]):
                    found.append((name, number, which, error, True))
    if ALL or len(found) <= SAMPLE:
        return found
    return random.Random(f"{SEED} {group} {scene}").sample(found, SAMPLE)


def describe(case):
    name, _, which, error, lasting = case
    return f"{name} #{which} {error}{' and all that follow' if lasting else ''}"


@pytest.mark.parametrize("group", list(GROUPS))
@pytest.mark.parametrize("name", list(SCENES))
def test_one_fails(name, group):
    scene = Scene(name)
    try:
        result = scene.run(None)
        if result[0] == 77:
            pytest.skip("no seccomp here")
        assert judge(scene, "", False, result) == [] and "1 ok" in result[1], result[:4]
        assert not scene.secure or all(f"MARKER-{i + 1}".encode() not in w and w for i, w in enumerate(result[4])), result[2]
        reached = made_by_library = 0
        bad, todo = [], cases(name, group, result[5])
        for case in todo:
            _, number, which, error, lasting = case
            at = f"{number}:{which}:{0 if error == 'ONE_BYTE' else getattr(errno, error)}{':on' if lasting else ''}"
            result = scene.run(at)
            if result[0] == 75:
                result = scene.run(at)
            reached += result[6] != 0
            made_by_library += result[7] != 0
            harmless = error in HARMLESS and group != "memory" and case[0::3] != ("sendto", "EAGAIN")
            harmless = harmless and result[7] != 0  # where libc makes the call it is the program's own, and what it gets
            wrong = judge(scene, error, lasting, result, harmless) if result[6] else []
            if wrong:  # twice: a busy machine is no failure
                result = scene.run(at)
                wrong = judge(scene, error, lasting, result, harmless)
            if wrong:
                bad.append(f"{describe(case)}: {'; '.join(wrong)}\n" + "".join(f"    {line}\n" for line in (result[1] + result[2]).splitlines()))
        print(f"fault: {name}, {group}: {len(todo)} cases, {reached} reached, {made_by_library} in calls of the library's own")
        assert not bad, f"{len(bad)} of {len(todo)} cases:\n" + "".join(bad)
        assert reached >= len(todo) * 3 // 4, f"{reached} of {len(todo)} cases were reached"
    finally:
        scene.close()


def test_all_calls_have_errors():
    """What the library calls in a scene is in the table, or cannot fail."""
    never = {"getpid": 39, "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108, "gettid": 186, "clock_gettime": 228, "umask": 95,
             "sigaltstack": 131, "rt_sigaction": 13, "exit_group": 231, "sendmsg": 46, "readlink": 89}
    known = {n for group in GROUPS.values() for n, _ in group.values()} | set(never.values())
    for name in ("known", "server-known", "fork"):
        scene = Scene(name)
        try:
            result = scene.run(None)
            if result[0] == 77:
                pytest.skip("no seccomp here")
            assert {n for n, count in enumerate(result[5]) if count} <= known
            assert sum(result[5]) > 100
        finally:
            scene.close()
