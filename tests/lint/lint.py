"""Looks at the source and at what was built. Each check returns its complaints; each is tried on a planted violation before it is trusted."""

import fnmatch
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

LEVELS = [["status", "limits", "bytes"],
          ["secret", "buf", "varint", "topic", "policy"],
          ["frame", "packet", "conf", "noise", "envelope"],
          ["link", "preface", "e2e"],
          ["conn", "conn_private", "reason", "conn_push", "conn_records", "initiator", "initiator_preface", "responder", "responder_preface"]]
LEVEL = {name: n for n, names in enumerate(LEVELS) for name in names}
MAY_INCLUDE = {"core": {"core"}, "os": {"os", "core"}, "hook": {"hook", "os", "core"}, "tools": {"tools", "core", "os", "calls.def"}}

FILE_LINES, FUNCTION_LINES, FUNCTION_LINES_SOFT = 500, 100, 60
FORBIDDEN = r"\b(?:exit|_exit|_Exit|quick_exit|abort|assert|(?:v|f|vf|d|vd)?printf|puts|putchar|perror|pthread_create|thrd_create|fork|vfork|" \
            r"system|popen|alloca|gets|strcpy|strcat|sprintf|vsprintf|strtok|setenv|putenv|unsetenv|signal)\s*\("
# what must not stand in a path: the trees of the people who wrote this
OUTSIDE = r"/(?:work|root|tmp|home|Users)/\w"
PATHS_ALLOWED = {"/var/lib/oe-mqtt", "/etc/oe-mqtt", "/dev/log", "/oe-mqtt", "/oe-mqtt.conf", "/.local/state/oe-mqtt",
                 "/dev/shm", "/proc"}

PROGRAMS = ["mosquitto", "mosquitto_pub", "mosquitto_sub", "mosquitto_rr"]
LIBRARIES = ["libmosquitto.so.1"]
# A name that moves data, or makes, hands on or closes a descriptor.
IO_NAMES = r"(?:__)?(?:p?(?:read|write)v?(?:64)?(?:v2|v64v2)?|recv(?:from|msg|mmsg)?|send(?:to|msg|mmsg|file|file64)?|splice|tee|vmsplice|connect|" \
           r"accept4?|close(?:_range|from)?|dup[23]?|fcntl(?:64)?|shutdown|ioctl|getsockopt|setsockopt|syscall|getaddrinfo|fdopen|v?dprintf|" \
           r"poll|ppoll|p?select|epoll_\w+|bind|listen|getpeername|getsockname|socket|socketpair|pipe2?|eventfd\w*|timerfd\w*|signalfd|" \
           r"open(?:at)?(?:64)?(?:_2)?|creat|f(?:re)?open(?:64)?|fclose|fread|fwrite|f?put[cs]|putchar|fgets|fgetc|getc|getline|fflush|fsync|" \
           r"v?f?printf|syslog|copy_file_range|io_uring_\w+|aio_\w+)(?:_chk|_time64|64)?"


def sources(root, *folders):
    return sorted(p for f in folders for p in (root / f).glob("*.[ch]"))


def table(name):
    lines = (HERE / name).read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def calls(root, *what):
    """The names in shim/calls.def."""
    return {name for name, w in re.findall(r"^OE_CALL\((\w+), (\w+), \w+\)$", (root / "shim/calls.def").read_text(), re.M) if w in what}


def run(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


# ---- the source ----------------------------------------------------------------------------------------------------------------------------

def part_of(root, path):
    parts = path.relative_to(root).parts
    return parts[1] if parts[0] == "shim" else parts[0]


def check_includes(root):
    for path in sources(root, "shim/core", "shim/os", "shim/hook", "tools"):
        part = part_of(root, path)
        if part == "core" and path.stem not in LEVEL:
            yield f"{path}: no level is known for {path.stem}: add it to LEVELS"
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M):
            target = (path.parent / name).resolve()
            if not target.exists() or root not in target.parents:
                yield f"{path}: includes {name}, which is not there"
                continue
            to = part_of(root, target)
            if to not in MAY_INCLUDE[part]:
                yield f"{path}: {part} must not include {to} ({name})"
            elif part == to == "core" and LEVEL.get(target.stem, 99) > LEVEL.get(path.stem, -1):
                yield f"{path}: includes {name}, of a higher level"
            elif target.stem.endswith("_private") and to != part:
                yield f"{path}: {name} is private to {to}"


def functions(text):
    """(name, first line, lines) of each function: this code's own layout, where the brace of a body stands in column 0."""
    lines, start = text.splitlines(), None
    for n, line in enumerate(lines):
        if line == "{":
            start = n
        elif line == "}" and start is not None:
            head = start
            while head > 0 and lines[head - 1].strip() and not lines[head - 1].startswith(("}", "#")) and not lines[head - 1].endswith((";", "*/")):
                head -= 1
            name = re.search(r"(\w+)\s*\(", " ".join(lines[head:start]))
            yield (name[1] if name else "?"), head + 1, n + 1 - head
            start = None


def check_sizes(root, say=None):
    for path in sources(root, "shim/core", "shim/os", "shim/hook", "tools"):
        text = path.read_text()
        count = text.count("\n")
        if count > FILE_LINES:
            yield f"{path}: {count} lines, more than {FILE_LINES}"
        for name, line, n in functions(text):
            if n > FUNCTION_LINES:
                yield f"{path}:{line}: {name} has {n} lines, more than {FUNCTION_LINES}"
            elif n > FUNCTION_LINES_SOFT and say:
                say(f"{path.relative_to(root)}:{line}: {name} has {n} lines")


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)


def without_strings(text):
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)


def check_calls(root):
    for path in sources(root, "shim/core", "shim/os", "shim/hook"):
        hooks = calls(root, "HOOKED") if path.name.startswith("hooks") else set()
        for n, line in enumerate(without_strings(without_comments(path.read_text())).splitlines(), 1):
            for found in re.findall(FORBIDDEN, line):
                if found.strip(" (") in hooks:
                    continue
                yield f"{path}:{n}: {found.strip(' (')} has no place in somebody else's process"


def check_paths(root):
    for path in sources(root, "shim/core", "shim/os", "shim/hook", "tools"):
        for n, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(OUTSIDE, line):
                yield f"{path}:{n}: a path of somebody's own"
            for found in re.findall(r'"(/[\w./-]{2,})"', line):
                if not any(found == a or found.startswith(a + "/") for a in PATHS_ALLOWED) and path.parts[-2] != "tools":
                    yield f"{path}:{n}: {found} is not one of {sorted(PATHS_ALLOWED)}"


# ---- what was built --------------------------------------------------------------------------------------------------------------------

def check_core_symbols(root):
    library = root / "build" / "libcore.a"
    own = set(re.findall(r" [TDRBVW] (\w+)$", run("nm", "--defined-only", library), re.M))
    wanted = set(re.findall(r"^ +U (\w+)", run("nm", "-u", library), re.M))
    allowed = table("core_symbols.txt")
    for name in sorted(wanted - own):
        if not any(fnmatch.fnmatchcase(name, a) for a in allowed):
            yield f"libcore.a uses {name}, which is not in tests/lint/core_symbols.txt"
    for section, name in re.findall(r"^\w{8,} .{7} (\.t?data\S*|\.t?bss\S*|\*COM\*)\s+\w+\s+(?:\.hidden )?(\w+)$", run("objdump", "-t", library), re.M):
        if not section.startswith(".data.rel.ro"):
            yield f"libcore.a has a global that changes: {name}"


def exported(root):
    return {line.split()[2] for line in run("nm", "-D", "--defined-only", root / "build" / "liboe-mqtt.so").splitlines()}


def defined_by_libc():
    library = re.search(r"libc\.so\.6 => (\S+)", run("ldd", sys.executable))[1]
    return {line.split()[2].split("@")[0] for line in run("nm", "-D", "--defined-only", library).splitlines()}


def check_exports(root):
    """calls.def, the version script, what was built and the document say the same."""
    hooked, have = calls(root, "HOOKED"), exported(root)
    script = set(re.findall(r"(\w+);", (root / "shim/hook/exports.map").read_text().split("local:")[0]))
    for name in sorted(hooked ^ script):
        yield f"{name} is in only one of shim/calls.def (HOOKED) and shim/hook/exports.map"
    for name in sorted(have - hooked):
        yield f"liboe-mqtt.so exports {name}, which is not HOOKED in shim/calls.def"
    for name in sorted((hooked & defined_by_libc()) - have):
        yield f"liboe-mqtt.so does not export {name}"
    document = set(re.findall(r"`(\w+)`", (root / "docs/INTERPOSITION.md").read_text()))
    for name in sorted(hooked - document):
        yield f"docs/INTERPOSITION.md does not say what becomes of {name}"


def imports_of(path):
    return {line.split()[-1].split("@")[0] for line in run("nm", "-D", "--undefined-only", path).splitlines()}


def programs():
    for name in PROGRAMS:
        path = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
        if path:
            yield pathlib.Path(path)
    for name in LIBRARIES:
        yield from list(pathlib.Path("/usr/lib").glob(f"*/{name}"))[:1]


def check_imports(root, files=None):
    known = calls(root, "HOOKED", "HARMLESS")
    for path in files or programs():
        for name in sorted(imports_of(path)):
            if re.fullmatch(IO_NAMES, name) and name not in known:
                yield f"{path} imports {name}: it is not in shim/calls.def"


# ---- each check on a planted violation -----------------------------------------------------------------------------------------------------

def append(path, text):
    path.write_text(path.read_text() + text)


def long_function(n):
    return "\nint oe_planted(int a);\nint oe_planted(int a)\n{\n" + "    a++;\n" * (n - 4) + "    return a;\n}\n"


def plant_symbol(root):
    (root / "p.c").write_text("#include <time.h>\nlong oe_planted(void); long oe_planted(void) { return time(0); }\n")
    run("cc", "-c", "-o", root / "p.o", root / "p.c")
    run("ar", "r", root / "build" / "libcore.a", root / "p.o")


def plant_global(root):
    (root / "p.c").write_text("int oe_planted; int oe_set(void); int oe_set(void) { return ++oe_planted; }\n")
    run("cc", "-c", "-o", root / "p.o", root / "p.c")
    run("ar", "r", root / "build" / "libcore.a", root / "p.o")


def plant_export(root):
    (root / "p.c").write_text("int oe_planted(void); int oe_planted(void) { return 1; }\n")
    run("cc", "-shared", "-fPIC", "-o", root / "build" / "liboe-mqtt.so", root / "p.c")


def plant_program(root):
    (root / "p.c").write_text("int recvmmsg_chk(void); int f(void); int f(void) { return recvmmsg_chk(); }\n")
    run("cc", "-shared", "-fPIC", "-o", root / "p", root / "p.c")


PLANTS = [
    (check_includes, lambda r: append(r / "shim/core/varint.h", '\n#include "conn.h"\n'), "higher level"),
    (check_includes, lambda r: append(r / "shim/core/conn.h", '\n#include "../os/log.h"\n'), "core must not include os"),
    (check_includes, lambda r: append(r / "shim/os/log.c", '\n#include "../hook/io.h"\n'), "os must not include hook"),
    (check_includes, lambda r: append(r / "shim/hook/io.c", '\n#include "../core/conn_private.h"\n'), "private to core"),
    (check_includes, lambda r: (r / "shim/core/novel.c").write_text("int x;\n"), "no level"),
    (check_sizes, lambda r: append(r / "shim/os/log.c", long_function(FUNCTION_LINES + 1)), "oe_planted has"),
    (check_sizes, lambda r: append(r / "shim/os/log.h", "\n" * FILE_LINES), "lines, more than 500"),
    (check_calls, lambda r: append(r / "shim/hook/io.c", "\nstatic void f(void)\n{\n    abort();\n}\n"), "abort"),
    (check_calls, lambda r: append(r / "shim/os/log.c", '\nstatic void f(void)\n{\n    printf("x");\n}\n'), "printf"),
    (check_calls, lambda r: append(r / "shim/hook/life.c", "\nstatic void f(void)\n{\n    pthread_create (0, 0, 0, 0);\n}\n"), "pthread_create"),
    (check_paths, lambda r: append(r / "shim/os/file.c", '\n#define X "/home/somebody/x"\n'), "somebody's own"),
    (check_paths, lambda r: append(r / "shim/os/file.c", '\n#define X "/usr/lib/x"\n'), "/usr/lib/x"),
    (check_core_symbols, plant_symbol, "uses time"),
    (check_core_symbols, plant_global, "oe_planted"),
    (check_exports, plant_export, "exports oe_planted"),
    (check_exports, plant_export, "does not export write"),
    (lambda r: check_imports(r, [r / "p"] if (r / "p").exists() else None), plant_program, "imports recvmmsg_chk"),
    (check_exports, lambda r: append(r / "shim/calls.def", "OE_CALL(novel, HOOKED, stream)\n"), "novel is in only one"),
    (check_exports, lambda r: (r / "docs/INTERPOSITION.md").write_text("`read`\n"), "does not say what becomes of write"),
]


def self_test():
    with tempfile.TemporaryDirectory(prefix="oe-mqtt-lint-") as folder:
        for n, (check, plant, words) in enumerate(PLANTS):
            root = pathlib.Path(folder).resolve() / str(n)
            shutil.copytree(ROOT / "shim", root / "shim")
            shutil.copytree(ROOT / "tools", root / "tools")
            shutil.copytree(ROOT / "docs", root / "docs")
            (root / "build").mkdir()
            for name in ("libcore.a", "liboe-mqtt.so"):
                shutil.copy(ROOT / "build" / name, root / "build")
            before = list(check(root))
            plant(root)
            found = [c for c in check(root) if c not in before and words in c]
            if not found:
                yield f"the self-test of lint.py planted \"{words}\" and nothing noticed (plant {n})"


def main():
    notes = []
    checks = [self_test(), check_includes(ROOT), check_sizes(ROOT, notes.append), check_calls(ROOT), check_paths(ROOT), check_core_symbols(ROOT),
              check_exports(ROOT), check_imports(ROOT)]
    complaints = [str(c).removeprefix(f"{ROOT}/") for check in checks for c in check]
    for line in notes:
        print(f"note: {line}")
    for line in complaints:
        print(line, file=sys.stderr)
    print(f"lint: {len(checks) - 1} checks, {len(PLANTS)} planted violations, {len(complaints)} complaints")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
