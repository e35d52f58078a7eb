"""Searches of tiny networks."""

import pytest

from training.pipeline.searching.chances import Chances


@pytest.fixture
def any_latency_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No candidate is passed over for its latency: networks of fractions of a millisecond are told
    apart by chance."""
    monkeypatch.setattr(Chances, "is_fast_enough", lambda self, milliseconds: True)
