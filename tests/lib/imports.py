"""What real programs import of libc's input and output, against the table of the library (shim/calls.def).

The universe, all calls of libc's that take a descriptor or a stream, is not a list: it is read from the prototypes in libc's own headers, and from the names
that libc.so.6 exports and that are variants of those (`__read_chk`, `fopen64`, `__recvmsg64`). So a call that comes with a new libc is in it."""
import functools
import os
import pathlib
import re
import subprocess

import harness as h

TABLE = h.ROOT / "shim" / "calls.def"
# a parameter that is a descriptor has such a name in glibc's headers; `__s`, `__fp`, `__from` are those of setsourcefilter, preadv2, addclosefrom_np
DESCRIPTOR = re.compile(r"(?:const |unsigned )?int (?:\w*fd\w*|__fil\w*des|__pipedes|__s|__fp|__from|___?sock\w*)(?: *\[\d*\])?")
# or is part of what a parameter points to
STREAMS = re.compile(r"\b(?:FILE|__FILE|_IO_FILE|DIR|aiocb|aiocb64|pollfd|fd_set|mqd_t|posix_spawn_file_actions_t)\b")
# what a name may have on top of that of the call it is a variant of
VARIANT = re.compile(r"^(?:_IO_|__isoc\d+_|__)|(?:_chk|_2|64v2|_?time64|64|_unlocked|_time64_chk|_cancel|_alias|_nocancel)$")


def _run(*command, **kw):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True, **kw).stdout


# ---- the universe ------------------------------------------------------------------------------------------------------------------------
def _headers():
    """Those of libc6-dev that a program includes, by the name it includes them by."""
    package = _run("dpkg-query", "-L", "libc6-dev").splitlines()
    multiarch = _run("gcc", "-print-multiarch").strip()
    found = []
    for path in package:
        m = re.fullmatch(rf"/usr/include/(?:{re.escape(multiarch)}/)?((?!.*(?:bits|gnu)/).*\.h)", path)
        if m:
            found.append(m[1])
    assert {"unistd.h", "sys/socket.h", "stdio.h", "fcntl.h", "sys/uio.h", "aio.h"} <= set(found), found
    return found


def _preprocessed():
    """All headers in one, but for those that say themselves that they are not to be included (here)."""
    headers = _headers()
    for _ in range(20):
        source = "".join(f"#include <{name}>\n" for name in headers)
        p = subprocess.run(["gcc", "-D_GNU_SOURCE", "-std=gnu11", "-U_FORTIFY_SOURCE", "-E", "-P", "-x", "c", "-"], input=source, capture_output=True,
                           text=True, check=False)
        if p.returncode == 0:
            return p.stdout
        # of a fatal error only the includer is named: by the line of the source
        bad = {os.path.normpath(m) for m in re.findall(r"^/usr/include/(\S+?):\d+:\d+: error", p.stderr, re.M)}
        bad |= {headers[int(n) - 1] for n in re.findall(r"<stdin>:(\d+)", p.stderr)}
        left = [name for name in headers if name not in bad and not any(b.endswith("/" + name) for b in bad)]
        assert len(left) < len(headers), p.stderr
        headers = left
    raise AssertionError("the headers do not go together")


def _without(word, text):
    """Without `word ((...))`, to the matching parenthesis."""
    out, at = [], 0
    for m in re.finditer(rf"\b{word}\s*\(", text):
        if m.start() < at:
            continue
        out.append(text[at:m.start()])
        depth, at = 1, m.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
    return "".join(out) + text[at:]


def prototypes(text):
    """{name: [parameters]} of the functions declared in preprocessed headers."""
    for word in ("__attribute__", "__asm__", "__nonnull"):
        text = _without(word, text)
    text = re.sub(r"\s+", " ", text)
    found = {}
    for name, parameters in re.findall(r"(?<=[;}]) ?(?!typedef\b)[\w *]+?\b(\w+) ?\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\) *(?=[;{])", text):
        found[name] = [p.strip() for p in re.split(r",(?![^(]*\))", parameters)]
    return found


def takes_descriptor(parameters):
    return any(DESCRIPTOR.fullmatch(p) or STREAMS.search(p) for p in parameters)


@functools.lru_cache(None)
def libc():
    """The path of libc.so.6."""
    return re.search(r"libc\.so\.6 => (\S+)", _run("ldd", "/bin/sh"))[1]


@functools.lru_cache(None)
def symbols(path, defined):
    """Names in the dynamic symbol table, but for those that only libc's own parts may use. defined: what it offers; else what it wants."""
    which = "--defined-only" if defined else "--undefined-only"
    out = subprocess.run(["nm", "-D", which, str(path)], capture_output=True, text=True, check=False).stdout
    return frozenset(line.split()[-1].split("@")[0] for line in out.splitlines() if line.split()[-2:-1] != ["A"] and "@GLIBC_PRIVATE" not in line)


def stems(name):
    """A name, and those it is a variant of."""
    found, todo = set(), [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            for m in VARIANT.finditer(name):
                rest = name[:m.start()] + name[m.end():]
                if len(rest) > 1:
                    todo.append(rest)
    return found


@functools.lru_cache(None)
def universe():
    """What libc exports that takes a descriptor or a stream."""
    direct = {name for name, parameters in prototypes(_preprocessed()).items() if takes_descriptor(parameters)}
    return frozenset(name for name in symbols(libc(), True) if stems(name) & direct)


# ---- the table ---------------------------------------------------------------------------------------------------------------------------
def table(text=None):
    """{name: HOOKED, HARMLESS or BYPASS}"""
    text = TABLE.read_text(encoding="utf-8") if text is None else text
    return {name: what for name, what in re.findall(r"^OE_CALL\((\w+), (\w+),", text, re.M)}


# ---- programs ----------------------------------------------------------------------------------------------------------------------------
def libraries(program):
    """A program or module and all shared libraries that the loader brings with it, libc's and the loader itself aside."""
    out = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    assert "statically linked" not in out or program.name.endswith(".so"), f"{program} is static"
    found = {pathlib.Path(program).resolve()}
    for path in re.findall(r"^(?:.*=> |\s+)(/\S+) \(", out, re.M):
        if not re.match(r"(libc|ld-linux.*|libpthread|libdl)\.so\.\d", os.path.basename(path)):
            found.add(pathlib.Path(path).resolve())
    return found


def check_program(name, files, calls=None, bypasses=()):
    """The imports of a program's files that get past the library; those that are wanted are `bypasses`. (how many were looked at, wrong ones)"""
    calls = table() if calls is None else calls
    wrong, looked = [], 0
    for path in sorted(set().union(*(libraries(pathlib.Path(f)) for f in files))):
        for symbol in sorted(symbols(path, False) & universe()):
            looked += 1
            what = calls.get(symbol)
            if what is None:
                wrong.append(f"{name}: {path} imports {symbol}, which is not in {TABLE.name}")
            elif what not in ("HOOKED", "HARMLESS") and symbol not in bypasses:
                wrong.append(f"{name}: {path} imports {symbol}, which gets past the library ({what})")
    assert looked, f"{name}: nothing imported"
    return looked, wrong
