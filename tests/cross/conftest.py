import os
import pathlib
import sys

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import foreign  # noqa: E402
import harness  # noqa: E402

ARCHITECTURES = os.environ.get("OE_MQTT_CROSS", " ".join(foreign.EMULATORS)).split()


def pytest_generate_tests(metafunc):
    if "machine" in metafunc.fixturenames:
        metafunc.parametrize("machine", [foreign.Machine(a) for a in ARCHITECTURES], ids=ARCHITECTURES, scope="session")


@pytest.fixture(scope="session", autouse=True)
def _all_is_there():
    why = harness.unusable() or next(filter(None, (foreign.Machine(a).missing() for a in ARCHITECTURES)), None)
    if why:
        pytest.exit(why, returncode=3)
    yield
    harness.end_all()
