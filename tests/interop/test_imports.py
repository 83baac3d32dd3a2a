"""What the programs of these tests import of libc's input and output is in the library's table: see lib/imports.py. Heavy ones: tests/interop-all."""
import importlib.util
import subprocess
import sys

import pytest

import harness as h
import imports
import work

# a program, and what it loads that the loader does not know of: Python's extension modules
MODULES = ["_socket", "_ssl", "select", "_asyncio", "_posixsubprocess"]
PROGRAMS = {
    **{name: lambda name=name: [h.program(name)] for name in ("mosquitto", "mosquitto_pub", "mosquitto_sub", "mosquitto_rr", "curl")},
    **{name: lambda name=name: [work.BUILD / name] for name in ("work_libmosquitto", "work_paho_sync", "work_paho_async")},
    "python3": lambda: [sys.executable, *filter(None, (importlib.util.find_spec(m).origin for m in MODULES))],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_imports(name):
    files = [f for f in PROGRAMS[name]() if f != "built-in"]
    looked, wrong = imports.check_program(name, files)
    assert not wrong, "\n".join(wrong)
    assert looked > 10


def test_table_has_the_universe():
    """Every call that libc's headers declare with a descriptor or a stream, and every variant that libc exports, is in the table: those too that no
    program here uses yet."""
    universe, calls = imports.universe(), imports.table()
    assert not universe - set(calls), sorted(universe - set(calls))
    assert len(universe) > 350 and set(calls.values()) <= {"HOOKED", "HARMLESS", "BYPASS"}
    # what the universe would be worth nothing without
    for name in ("read", "__read_chk", "recvmmsg", "writev", "splice", "close_range", "fcntl64", "fdopen", "__dprintf_chk", "preadv64v2", "fclose",
                 "poll", "epoll_ctl", "copy_file_range", "aio_read64", "pipe2", "_IO_getc"):
        assert name in universe, name
    for name in ("printf_size_info", "malloc", "getpid", "strtol", "sigaction", "pthread_create", "memcpy", "setrlimit64"):
        assert name not in universe, name


PLANTED = """
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) { char b[1]; return (int)recv(argc, b, 1, 0) + (int)write(argc, argv[0], 1); }
"""


def test_planted(tmp_path):
    """A call that the table does not have, or has as one that gets past, is found, in a program and in a library that it loads."""
    (tmp_path / "p.c").write_text(PLANTED)
    program, library, user = tmp_path / "p", tmp_path / "libp.so", tmp_path / "user"
    subprocess.run(["gcc", "-o", program, tmp_path / "p.c"], check=True)
    subprocess.run(["gcc", "-Dmain=planted", "-shared", "-fPIC", "-o", library, tmp_path / "p.c"], check=True)
    (tmp_path / "u.c").write_text("int planted(int, char **); int main(int c, char **v) { return planted(c, v); }")
    subprocess.run(["gcc", "-o", user, tmp_path / "u.c", library, f"-Wl,-rpath,{tmp_path}"], check=True)
    text = imports.TABLE.read_text(encoding="utf-8")
    line = "OE_CALL(recv, HOOKED, stream)\n"
    assert line in text
    for path in (program, user):
        assert imports.check_program("p", [path])[1] == []
        looked, wrong = imports.check_program("p", [path], imports.table(text.replace(line, "")))
        assert looked and len(wrong) == 1 and "imports recv, which is not in calls.def" in wrong[0], wrong
        bypass = imports.table(text.replace(line, line.replace("HOOKED", "BYPASS")))
        wrong = imports.check_program("p", [path], bypass)[1]
        assert len(wrong) == 1 and "imports recv, which gets past the library" in wrong[0], wrong
        assert imports.check_program("p", [path], bypass, bypasses=["recv"])[1] == []


def test_new_call_is_in_the_universe():
    """A prototype that a later libc might have, and what is none of ours."""
    found = imports.prototypes("""extern int old (int __a);
        extern ssize_t recv_many (int __fd, struct many *__v, size_t __n) __attribute__ ((__nothrow__));
        ssize_t plain_one (unsigned int __outfd); extern int fnew (const char *__format, FILE *__restrict __stream) __asm__ ("" "fnew2");
        extern int dup9 (int __fildes[2]); typedef int (*callback) (int __fd); extern double other (double __x, int __n);""")
    assert sorted(name for name, p in found.items() if imports.takes_descriptor(p)) == ["dup9", "fnew", "plain_one", "recv_many"]
    assert "recv_many" in imports.stems("__recv_many64_chk")
