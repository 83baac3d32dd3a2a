"""A plugin of pytest (-p tests.lib.counts): one line at the end of a run, `NAME: P programs, S styles, C cases`, and in the file that OE_MQTT_COUNTS
names. Programs are those that were run under the library (harness.Proc, preload's Place), styles what tests name by harness.count(); a test that
passed is one case, or as many as it counts. Collected from the reports, so that it is right with xdist's workers too."""
import os
import pathlib
import sys

import pytest

KEY = "oe-counts"
totals = {"programs": set(), "styles": set(), "cases": 0}


def counted():
    harness = sys.modules.get("harness")
    return harness.counted if harness else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    now = counted()
    if now is not None:
        now["programs"].clear()
        now["styles"].clear()
        now["cases"] = 0


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.when == "call":
        now = counted() or {"programs": (), "styles": (), "cases": 0}
        item.user_properties.append((KEY, [sorted(now["programs"]), sorted(now["styles"]), max(1, now["cases"])]))
    yield


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        for key, value in report.user_properties:
            if key == KEY:
                totals["programs"].update(value[0])
                totals["styles"].update(value[1])
                totals["cases"] += value[2]


def pytest_terminal_summary(terminalreporter):
    if hasattr(terminalreporter.config, "workerinput") or not totals["cases"]:
        return
    path = os.environ.get("OE_MQTT_COUNTS")
    name = os.path.basename(path) if path else "tests"
    styles = f", {len(totals['styles'])} styles" if totals["styles"] else ""
    line = f"{name}: {len(totals['programs'])} programs{styles}, {totals['cases']} cases"
    terminalreporter.write_line(line)
    if os.environ.get("OE_MQTT_COUNTS_SHOW"):
        for what in ("programs", "styles"):
            terminalreporter.write_line(f"  {what}: {', '.join(sorted(totals[what]))}")
    if path:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(line + "\n", encoding="utf-8")
