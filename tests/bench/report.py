"""bench.json to a Markdown table and a plot. `report.py DIR` does it again from DIR/bench.json."""
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import cost

LABEL = {"plain": "plain", "link": "link scope", "tls": "TLS 1.3", "stunnel": "stunnel"}
# kind, field, title, unit of the plain figure, what is better
METRICS = (
    ("throughput", "rate", "Throughput", "messages/s", "more"),
    ("throughput", "server_us", "CPU per message, broker side", "us", "less"),
    ("throughput", "client_us", "CPU per message, publisher and subscriber", "us", "less"),
    ("ping", "p50_us", "Ping-pong p50, TCP_NODELAY", "us", "less"),
    ("ping", "p99_us", "Ping-pong p99, TCP_NODELAY", "us", "less"),
    ("wire", "wire_bytes", "Bytes on the wire per message, both legs", "bytes", "less"),
)
# kind, case, field, title, unit
SINGLE = (
    ("connect", "connect", "message_us", "Connect to first message, TCP_NODELAY", "us"),
    ("connect", "connect", "connack_us", "Connect to CONNACK, TCP_NODELAY", "us"),
    ("connect", "stock", "message_us", "Connect to first message, stock settings", "us"),
    ("connect", "stock", "connack_us", "Connect to CONNACK, stock settings", "us"),
    ("connect", "connect", "server_us", "CPU per connection, broker side", "us"),
    ("connect", "connect", "client_us", "CPU per connection, client side", "us"),
    ("memory", "memory", "idle_pss", "Memory per idle connection, broker side (Pss)", "bytes"),
    ("memory", "memory", "idle_rss", "Memory per idle connection, broker side (Rss)", "bytes"),
    ("memory", "memory", "used_pss", "Memory per connection after 4 KiB each way (Pss)", "bytes"),
)
# what the prototype of the design reached: kind, case, field, ratio to plain, whether more is better
REFERENCE = (
    ("throughput", "16/0", "rate", 1.2, True), ("throughput", "256/0", "rate", 1.2, True), ("throughput", "4096/0", "rate", 0.95, True),
    ("throughput", "16/0", "server_us", 0.89, False), ("throughput", "256/0", "server_us", 0.89, False),
)


class Table:
    def __init__(self, raw):
        self.raw, self.results = raw, raw["results"]
        self.variants = [v for v in LABEL if any(v in case for kind in self.results.values() for case in kind.values())]

    def rounds(self, kind, case, variant, field):
        return [r[field] if r else None for r in self.results.get(kind, {}).get(case, {}).get(variant, [])]

    def median(self, kind, case, variant, field):
        values = self.rounds(kind, case, variant, field)
        return statistics.median(values) if values and None not in values else None

    def ratio(self, kind, case, variant, field):
        """Median over the rounds of this variant's figure to plain's of the same round. None if one round of it was invalid."""
        mine, plain = self.rounds(kind, case, variant, field), self.rounds(kind, case, "plain", field)
        if not mine or len(mine) != len(plain) or None in mine or None in plain or 0 in plain:
            return None
        return statistics.median(a / b for a, b in zip(mine, plain))

    def spread(self, kind, case, variant, field):
        """Half the distance of the quartiles, in percent of the median: how far to trust the last digit."""
        values = [v for v in self.rounds(kind, case, variant, field) if v is not None]
        if len(values) < 4:
            return None
        low, mid, high = statistics.quantiles(values, n=4)
        return (high - low) / 2 / mid * 100 if mid else None


def size_label(size):
    size = int(size)
    return f"{size} B" if size < 1024 else f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"


def number(x):
    return "-" if x is None else f"{x:,.0f}" if x >= 100 else f"{x:.1f}"


def ratio_cell(table, kind, case, variant, field):
    r = table.ratio(kind, case, variant, field)
    if r is None:
        return "invalid" if table.rounds(kind, case, variant, field) else "-"
    return f"{r:.2f}"


def cases(table, kind):
    return sorted(table.results.get(kind, {}), key=lambda c: [int(x) for x in reversed(c.split("/"))])


def metric_table(table, kind, field, title, unit, better):
    others = [v for v in table.variants if v != "plain"]
    spread = any(table.spread(kind, c, "plain", field) is not None for c in cases(table, kind))
    head = ["QoS", "payload", f"plain, {unit}"] + (["spread"] if spread else []) + [LABEL[v] for v in others]
    lines = [f"### {title} ({better} is better)", "", "| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * (len(head) - 2)]
    for case in cases(table, kind):
        size, qos = case.split("/")
        s = table.spread(kind, case, "plain", field)
        row = [qos, size_label(size), number(table.median(kind, case, "plain", field))] + (["-" if s is None else f"{s:.0f} %"] if spread else [])
        row += [ratio_cell(table, kind, case, v, field) for v in others]
        lines.append("| " + " | ".join(row) + " |")
    return lines + [""]


def single_table(table):
    rows = [m for m in SINGLE if table.results.get(m[0])]
    if not rows:
        return []
    lines = ["### Per connection (less is better)", "", "| | " + " | ".join(LABEL[v] for v in table.variants) + " |",
             "| --- |" + " ---: |" * len(table.variants)]
    for kind, case, field, title, unit in rows:
        cells = []
        for v in table.variants:
            x = table.median(kind, case, v, field)
            ratio = "" if v == "plain" else f" ({ratio_cell(table, kind, case, v, field)})"
            cells.append("invalid" if x is None else number(x) + ratio)
        lines.append(f"| {title}, {unit} | " + " | ".join(cells) + " |")
    return lines + [""]


def reference_table(table):
    lines = ["### Against the prototype's figures", "", "| link scope, where nothing else is said | prototype | here | |", "| --- | ---: | ---: | --- |"]

    def row(what, limit, got, ok):
        lines.append(f"| {what} | {limit} | {'-' if got is None else got} | {'' if got is None else 'reached' if ok else 'NOT reached'} |")

    for kind, case, field, limit, higher in REFERENCE:
        r = table.ratio(kind, case, "link", field)
        size, qos = case.split("/")
        row(f"{'throughput' if field == 'rate' else 'broker CPU'}, {size_label(size)}, QoS {qos}, to plain",
            f"{'at least' if higher else 'at most'} {limit:.2f}", r and f"{r:.2f}", r and (r >= limit if higher else r <= limit))
    for size in ("65536", "1048576"):
        link, tls = (table.ratio("throughput", f"{size}/0", v, "rate") for v in ("link", "tls"))
        r = link / tls if link and tls else None
        row(f"throughput, {size_label(size)}, QoS 0, to TLS", "at least 1.00", r and f"{r:.2f}", r and r >= 0.95)
    for variant, limit in (("link", 2.6), ("tls", 14)):
        a, b = (table.median("memory", "memory", v, "idle_pss") for v in (variant, "plain"))
        kib = (a - b) / 1024 if a is not None and b is not None else None
        row(f"memory of an idle connection above plain, {LABEL[variant]}", f"{limit} KiB", None if kib is None else f"{kib:.1f} KiB",
            kib is not None and kib <= limit)
    return lines + ["", "Level with TLS counts as reached from 0.95 on: below that is noise of this measurement.", ""]


def cipher_table(raw, table):
    """What no implementation of these records on this libsodium can be below, beside what the link scope needs."""
    if not raw.get("cipher"):
        return []
    lines = ["### The cipher's part of the broker's CPU", "",
             "The broker opens and seals each message once. Cipher: libsodium's ChaCha20-Poly1305 for one open and one seal, measured alone in this run. "
             "Without it: what the link scope needs beside the cipher, to all of plain. Floor: plain and cipher together, to plain.", "",
             "| QoS | payload | plain, us | cipher, us | link scope | without it | floor | TLS 1.3 |", "| --- | --- |" + " ---: |" * 6]
    for case in cases(table, "throughput"):
        size, qos = case.split("/")
        plain, link = (table.median("throughput", case, v, "server_us") for v in ("plain", "link"))
        cipher = statistics.median(raw["cipher"][size])
        if plain and link:
            lines.append(f"| {qos} | {size_label(size)} | {number(plain)} | {cipher:.1f} | {ratio_cell(table, 'throughput', case, 'link', 'server_us')} | "
                         f"{(link - cipher) / plain:.2f} | {(plain + cipher) / plain:.2f} | {ratio_cell(table, 'throughput', case, 'tls', 'server_us')} |")
    return lines + [""]


def proof(raw, table):
    """Says only what every measurement of the link variant has shown: a valid wire row is one in which the search found nothing."""
    if any(i["variant"] == "link" for i in raw["invalid"]) or not raw["about"]["encrypted_connections"]:
        return ["**No proof that the link was encrypted**: measurements of the link variant are invalid, see below.", ""]
    searched = "; neither payload nor topic was found in the bytes a relay recorded, where the plain variant shows both"
    plain_shows = table.results.get("wire") and not any(i["kind"] == "wire" for i in raw["invalid"])
    said = "; ".join(f"the {side}s' logs say " + ", ".join(f"`state={s}` {n} times" for s, n in seen.items())
                     for side, seen in raw["about"].get("states", {}).items())
    return [f"Proof that the link was encrypted: {raw['about']['encrypted_connections']} connections of the link variant were logged as such by both "
            f"of their ends, none otherwise{f' ({said})' if said else ''}{searched if plain_shows else ''}.", ""]


def markdown(raw):
    a, table = raw["about"], Table(raw)
    nodelay = "on for ping-pong and connect, else off as it comes" if a["nodelay"] else "off"
    lines = ["# OE-MQTT benchmark", "",
             f"{a['date']}, {a['cores']} cores of {a['cpu']}, Linux {a['kernel']}, {a['mosquitto']}, {a['openssl']}, {a['stunnel']}; "
             f"OE-MQTT {a['revision']}; {a['rounds']} rounds{' (quick)' if a['quick'] else ''}, load average {a['load_average'][0]:.1f} at the start; "
             f"TCP_NODELAY {nodelay}" + ("; glibc's heap keeps its memory." if a["steady_heap"] else "."), "",
             "Everything on the loopback interface of one machine; publisher, subscriber and broker are processes of their own that share the cores. "
             "Figures of variants are ratios to plain, paired within a round, median over the rounds; spread is half the distance of the quartiles of "
             "the plain figure. Client and broker side include that side's stunnel. Every message was counted and its order checked.", ""]
    for metric in METRICS:
        if table.results.get(metric[0]):
            lines += metric_table(table, *metric)
    lines += single_table(table)
    if "link" in table.variants:
        lines += cipher_table(raw, table)
        lines += reference_table(table)
        lines += proof(raw, table)
    if raw.get("cost"):
        lines += cost.section(raw["cost"])
    if raw["invalid"]:
        lines += ["### Invalid", ""] + [f"- {i['kind']} {i['case']} {i['variant']}: {i['why']}" for i in raw["invalid"]] + [""]
    text = "\n".join(lines)
    return text if a["nodelay"] else text.replace(", TCP_NODELAY", "")


def plot(raw, out):
    """One panel a metric and QoS, ratios as bars."""
    table = Table(raw)
    others = [v for v in table.variants if v != "plain"]
    panels = [(m, q) for m in METRICS if m[0] in ("throughput", "ping") for q in ("0", "1") if
              any(c.endswith("/" + q) and table.ratio(m[0], c, v, m[1]) for c in cases(table, m[0]) for v in others)]
    if not panels or not others:
        return
    script = ["set terminal svg size 1000,%d font 'sans,11' background '#ffffff'" % (60 + 220 * ((len(panels) + 1) // 2)), f"set output '{out}'",
              "set multiplot layout %d,2 title 'OE-MQTT: ratio to plain mosquitto'" % ((len(panels) + 1) // 2),
              "set style data histograms", "set style histogram clustered gap 1", "set style fill solid 0.85 noborder", "set boxwidth 0.9",
              "set yrange [0:*]", "set grid ytics lc '#dddddd'", "set key outside bottom center horizontal samplen 1 font ',9'",
              "set tics nomirror", "set border 3"]
    colour = {"link": "#1b6ca8", "tls": "#e08e0b", "stunnel": "#8c8c8c"}
    for i, ((kind, field, title, _, better), qos) in enumerate(panels):
        script.append(f"$d{i} << EOD")
        script.append("payload " + " ".join(f'"{LABEL[v]}"' for v in others))
        for case in (c for c in cases(table, kind) if c.endswith("/" + qos)):
            values = [table.ratio(kind, case, v, field) for v in others]
            script.append(f'"{size_label(case.split("/")[0])}" ' + " ".join("NaN" if x is None else f"{x:.4f}" for x in values))
        script += ["EOD", f"set title '{title}, QoS {qos} ({better} is better)' noenhanced font ',11'",
                   "plot 1 with lines lc '#000000' dt 2 notitle, " + ", ".join(
                       f"$d{i} using {c + 2}:xtic(1) title columnheader lc '{colour[v]}'" for c, v in enumerate(others))]
    with tempfile.NamedTemporaryFile("w", suffix=".gp") as f:
        f.write("\n".join(script) + "\nunset multiplot\n")
        f.flush()
        done = subprocess.run(["gnuplot", f.name], capture_output=True, text=True)
    if done.returncode:
        print(f"bench: gnuplot: {done.stderr.strip()[-400:]}", file=sys.stderr)


def write(raw, out):
    (out / "bench.md").write_text(markdown(raw))
    plot(raw, out / "bench.svg")


if __name__ == "__main__":
    directory = pathlib.Path(sys.argv[1])
    write(json.loads((directory / "bench.json").read_text()), directory)
