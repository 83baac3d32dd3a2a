"""What Node.js, the JVM and Erlang's ERTS import of libc's input and output is in the library's table: see lib/imports.py."""
import pathlib
import shutil

import pytest

import imports


def node():
    return [shutil.which("node")]


def java():
    """The launcher, and every library of the runtime: it loads them by name."""
    program = pathlib.Path(shutil.which("java")).resolve()
    return [program, *(program.parents[1] / "lib").rglob("*.so")]


def erlang():
    """The emulator, the programs it starts, and the native parts of Erlang's libraries."""
    root = pathlib.Path("/usr/lib/erlang")
    bins = [p for pattern in ("erts-*/bin/*", "lib/*/priv/bin/*") for p in root.glob(pattern) if p.read_bytes()[:4] == b"\x7fELF"]
    return [*bins, *root.glob("lib/*/priv/lib/*.so"), *pathlib.Path("/usr/lib/rabbitmq").rglob("*.so")]


# what each must have among its files, or nothing is shown
NEEDED = {"node": (node, {"node"}), "java": (java, {"java", "libnio.so", "libnet.so", "libjvm.so"}),
          "erlang": (erlang, {"beam.smp", "epmd", "crypto.so"})}
SOCKETS = {"read", "write", "recv", "send", "sendmsg", "recvmsg", "writev", "accept4", "accept"}


@pytest.mark.parametrize("name", NEEDED)
def test_imports(name):
    find, needed = NEEDED[name]
    files = find()
    assert needed <= {pathlib.Path(f).name for f in files}, files
    looked, wrong = imports.check_program(name, files)
    assert not wrong, "\n".join(wrong)
    assert looked > 50
    assert len(SOCKETS & set().union(*(imports.symbols(f, False) for f in files))) >= 5
