"""The training loop learns, and goes on after a kill as if nothing had happened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from training.data.samples import ArraySamples, Pair
from training.recipe.data import Augment, Normalization
from training.recipe.train import Train
from training.train import Fitted, chosen_precision, fit

EPOCHS = 4


def colours(count: int) -> ArraySamples:
    """Noise that is red or blue on average: anything can learn which."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 2
    images = rng.integers(0, 120, (count, 8, 8, 3), np.uint8)
    images[np.arange(count), :, :, 2 * labels] += 100
    return ArraySamples(images, labels.astype(np.int64))


class KilledAt(ArraySamples):
    """Stands for a kill: the n-th batch never comes."""

    def __init__(self, samples: ArraySamples, batches: int) -> None:
        super().__init__(samples.images, samples.targets)
        self.left = batches

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().batch(indices)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


def run(folder: Path, train: ArraySamples, keep: str = "last") -> Fitted:
    config = Train.model_validate(
        {
            "epochs": EPOCHS,
            "batch_size": 8,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "schedule": {"name": "one_cycle"},
            "precision": "fp32",
            "keep": keep,
        }
    )
    return fit(
        network(),
        config,
        train,
        colours(16),
        task="classification",
        classes=2,
        ignore_index=None,
        normalization=Normalization(),
        changes=Augment(shift=1, brightness=0.1),
        seed=5,
        folder=folder,
        title="test",
    )


def curve(fitted: Fitted) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in fitted.history]


def test_training_learns_a_plain_difference(tmp_path: Path) -> None:
    fitted = run(tmp_path, colours(64))
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3, 4]
    assert fitted.history[-1]["val_top1"] == 1.0
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    assert not fitted.network.training


def test_killed_training_resumes_on_the_same_curve(tmp_path: Path) -> None:
    unbroken = run(tmp_path / "unbroken", colours(64))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", KilledAt(colours(64), batches=20))
    resumed = run(tmp_path / "broken", colours(64))
    assert curve(resumed) == curve(unbroken)
    for left, right in zip(
        resumed.network.parameters(), unbroken.network.parameters(), strict=True
    ):
        assert torch.equal(left, right)


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path, colours(64))
    # A whole epoch would take eight batches; Lightning looks at a few before it stops.
    again = run(tmp_path, KilledAt(colours(64), batches=7))
    assert curve(again) == curve(first)


def test_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    run(tmp_path, colours(64), keep="best")
    saved = torch.load(
        tmp_path / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True
    )
    assert saved["epoch"] < EPOCHS


def test_precision_is_taken_as_said() -> None:
    assert chosen_precision("fp32") == "fp32"
    assert chosen_precision("bf16") == "bf16"
    assert chosen_precision("auto") in ("fp32", "bf16")
