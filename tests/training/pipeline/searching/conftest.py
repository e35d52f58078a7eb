"""Searches of tiny networks."""

from collections.abc import Callable
from typing import Any

import pytest

from training.pipeline.searching.chances import Chances
from training.recipes import Recipe

SETTINGS: dict[str, Any] = {"engine": "onnxruntime", "batch_size": 2, "seconds": 0.01}


def float_recipe(make: Callable[..., Recipe], **search_settings: object) -> Recipe:
    """A recipe of a search in FP32 whose trainings take an epoch."""
    return make(
        {
            "train.epochs": 1,
            "prune.train": {"epochs": 1},
            "quantize": None,
            "export.variants": ["fp32"],
            "verify.max_drop": 1.0,
            "verify.min_accuracy": 0.0,
            "search": {**SETTINGS, **search_settings},
        }
    )


@pytest.fixture
def any_latency_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No candidate is passed over for its latency: networks of fractions of a millisecond are told
    apart by chance."""
    monkeypatch.setattr(Chances, "is_fast_enough", lambda self, milliseconds: True)
