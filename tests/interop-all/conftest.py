import pathlib
import sys

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import harness  # noqa: E402
import work  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _all_is_there():
    why = harness.unusable() or work.missing(*work.HEAVY, *work.BROKERS)
    if why:
        pytest.exit(why, returncode=3)
    yield
    harness.end_all()


@pytest.fixture(scope="session")
def pairs():
    """{name: the broker without and with the library}, started when first asked for."""
    class Pairs(dict):
        def __missing__(self, name):
            self[name] = work.Pair(work.BROKERS[name])
            return self[name]
    made = Pairs()
    yield made
    for pair in made.values():
        pair.close()
