import pathlib
import sys

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import harness  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _library_is_there():
    why = harness.unusable()
    if why:
        pytest.exit(why, returncode=3)
    yield
    harness.end_all()
