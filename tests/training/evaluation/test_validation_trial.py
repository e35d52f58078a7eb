"""The images that trials are made on: spread evenly, and not held where they are many."""

import numpy as np
import pytest

from training.data.samples import ArraySamples, ChosenSamples
from training.evaluation import validation_trial
from training.evaluation.validation_trial import spread

SAMPLES = ArraySamples(
    np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8),
    np.arange(100),
)


def test_all_samples_are_taken_where_they_are_few() -> None:
    assert spread(SAMPLES, 100) is SAMPLES


@pytest.mark.parametrize("kept_bytes", [1 << 28, 100])
def test_samples_are_spread_evenly_whether_they_are_kept_or_not(
    kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_trial, "_KEPT_BYTES", kept_bytes)
    chosen = spread(SAMPLES, 4)
    assert len(chosen) == 4
    assert isinstance(chosen, ChosenSamples) == (kept_bytes == 100)
    images, targets = chosen.batch([3, 0])
    assert targets.tolist() == [99, 0]
    assert images[:, 0, 0, 0].tolist() == [99, 0]
    assert [int(one.target) for one in chosen.read([1, 2]) if not isinstance(one, str)] == [33, 66]
