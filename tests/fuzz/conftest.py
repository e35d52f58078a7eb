"""How long targets run, and what they may take.

A target is a file here. `make test` draws a few examples for each of its tests. With FUZZ_SECONDS
they are repeated, with other examples each time, until that many seconds are over, in equal shares
(`make fuzz SECONDS=...`).
"""

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
# MiB that the process may grow by in a target. Inputs have 256 KB at most, images 300,000 pixels.
GROWTH_MIB = 200
# A decoder that hangs takes far longer, a busy machine does not.
_PATIENCE = timedelta(seconds=10)

settings.register_profile(
    "fuzz",
    max_examples=300 if SECONDS else 40,
    deadline=_PATIENCE,
    suppress_health_check=list(HealthCheck),
)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Repeats a test until its time is up; pytest then runs it once more."""
    sharing = sum(item.path == pyfuncitem.path for item in pyfuncitem.session.items)
    arguments = pyfuncitem._fixtureinfo.argnames
    given = {name: pyfuncitem.funcargs[name] for name in arguments}
    end = time.monotonic() + SECONDS / sharing
    while time.monotonic() < end:
        pyfuncitem.obj(**given)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """Fails where a target has taken too much memory at any moment."""
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        yield
        return
    _tables()
    reset.write_text("5")
    before = _peak_mib()
    yield
    assert _peak_mib() - before < GROWTH_MIB


@settings(max_examples=1, database=None)
@given(st.text())
def _tables(_: str) -> None:
    """Has hypothesis make its tables of Unicode, which take 300 MiB where no run left any."""


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
