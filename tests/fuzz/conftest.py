"""How long targets run, and what they may take.

`make test` draws a few examples of each. With FUZZ_SECONDS a target is repeated, with other
examples each time, until that many seconds are over (`make fuzz SECONDS=...`).
"""

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
# MiB that a target's process may grow by. The largest input has 256 KB, an image 300,000 pixels.
GROWTH_MIB = 200
# A decoder that hangs takes far longer, a busy machine does not.
_PATIENCE = timedelta(seconds=10)

settings.register_profile(
    "fuzz",
    max_examples=2000 if SECONDS else 60,
    deadline=_PATIENCE,
    suppress_health_check=list(HealthCheck),
)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Repeats a target until its time is up; pytest then runs it once more."""
    arguments = pyfuncitem._fixtureinfo.argnames
    given = {name: pyfuncitem.funcargs[name] for name in arguments}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pyfuncitem.obj(**given)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """Fails where the targets of a module have taken too much memory at any moment."""
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        yield
        return
    reset.write_text("5")
    before = _peak_mib()
    yield
    assert _peak_mib() - before < GROWTH_MIB


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
