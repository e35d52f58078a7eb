"""How far an epoch has come is told in images that there are."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.base.machine.progress import Progress
from training.data.loader import Loader
from training.data.samples import ArraySamples
from training.data.sampling import Batches, Identities, InOrder, Shuffled
from training.fitting import callbacks

SAMPLES = ArraySamples(np.zeros((720, 2, 2, 3), np.uint8), np.arange(720) % 3)


@pytest.mark.parametrize(
    ("sampler", "images"),
    [
        (Shuffled(720, 64, 0), 720),
        (InOrder(720, 64), 720),
        (Identities(np.arange(720) % 3, 2, 32, 0), 64 * 11),
    ],
)
def test_an_epoch_has_as_many_images_as_are_trained_on(
    sampler: Batches, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Progress] = []
    monkeypatch.setattr(Progress, "__enter__", lambda self: begun.append(self))
    loader = Loader(SAMPLES, sampler)
    trainer: Any = SimpleNamespace(train_dataloader=loader, val_dataloaders=loader, current_epoch=0)
    told = callbacks.EpochProgress("net", 1, 64)
    told.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    told.on_validation_start(trainer, None)  # type: ignore[arg-type]
    assert [progress.total for progress in begun] == [images, images]
