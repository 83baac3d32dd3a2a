"""Programs of another architecture under qemu-user: what `make cross-check` builds in build/ARCH, and Debian's own in build/cross/ARCH."""
import os
import shutil

import harness

EMULATORS = {"arm64": "qemu-aarch64", "armhf": "qemu-arm"}
TRIPLES = {"arm64": "aarch64-linux-gnu", "armhf": "arm-linux-gnueabihf"}
ELF = {"arm64": (2, 183), "armhf": (1, 40)}  # class, machine
LOG = {"-v": "stderr:info", "-q": "syslog:error"}


class Machine:
    """One architecture. Where the harness takes `machine=`, this stands for the launcher too: a preload in qemu's own environment would be qemu's."""

    def __init__(self, arch):
        self.arch, self.triple = arch, TRIPLES[arch]
        self.sysroot = harness.ROOT / "build" / "cross" / arch
        self.build = harness.ROOT / "build" / arch
        self.library = self.build / "liboe-mqtt.so"

    def missing(self):
        """What is not there, or None."""
        if shutil.which(EMULATORS[self.arch], path=harness.PATH) is None:
            return f"{EMULATORS[self.arch]} is missing: make deps-cross"
        for path in (self.library, self.build / "oe-mqttctl", self.build / "preload" / "life", self.build / "cross" / "time64", self.sysroot / "usr"):
            if not path.exists():
                return f"{path} is missing: make cross-{self.arch}"
        return None

    def program(self, name):
        for folder in ("usr/bin", "usr/sbin"):
            path = self.sysroot / folder / name
            if path.exists():
                return str(path)
        raise RuntimeError(f"{self.arch} has no {name}")

    def emulator(self, *guest_env):
        command = [harness.program(EMULATORS[self.arch]), "-L", str(self.sysroot)]
        for setting in guest_env:
            command += ["-E", setting]
        return command

    def under(self, command, library, options=("-v",)):
        """The command line; of the launcher's options those that stand alone, and -p."""
        env, options = [], list(options)
        if library:
            env.append(f"LD_PRELOAD={self.library}")
            while options:
                option = options.pop(0)
                env.append(f"OE_MQTT_POLICY={options.pop(0)}" if option == "-p" else f"OE_MQTT_LOG={LOG[option]}")
        return self.emulator(*env) + [str(c) for c in command]

    def is_of(self, path):
        """Whether a file is of this architecture."""
        with open(os.path.realpath(path), "rb") as f:
            head = f.read(20)
        return head[:4] == b"\x7fELF" and (head[4], int.from_bytes(head[18:20], "little")) == ELF[self.arch]
