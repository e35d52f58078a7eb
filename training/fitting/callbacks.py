"""Callbacks of the training loop: averaging, stopping, reporting."""

import logging
from collections.abc import Callable

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback, EarlyStopping, WeightAveraging
from torch import Tensor

log = logging.getLogger(__name__)

OnEpoch = Callable[[int, float], None]


def moving_average(decay: float) -> WeightAveraging:
    """Keeps a running mean of the weights: w ← d · w + (1 - d) · new after every step, with
    d = min(decay, (1 + n) / (10 + n)) after n steps, so that a short run does not end on its first
    weights. Validation and checkpoints take the mean."""

    def averaged(mean: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        factor = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return mean * factor + current * (1 - factor)

    return WeightAveraging(avg_fn=averaged)


class Patience(EarlyStopping):
    """Stops after `patience` epochs without a better validation score."""

    def __init__(self, patience: int) -> None:
        super().__init__("val_score", mode="max", patience=patience, check_on_train_epoch_end=True)

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        # A run that was killed after it had stopped: Lightning would go on for another epoch.
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class PlainProgress(Callback):
    """A line an epoch, for logs and pipes."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if not trainer.is_global_zero:
            return
        # Lightning calls callbacks before the module's own hook, which records the epoch.
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = "  ".join(f"{name} {value:.4f}" for name, value in sorted(measured.items()))
        log.info(
            "%s: epoch %d/%d  %s", self.title, trainer.current_epoch + 1, trainer.max_epochs, shown
        )


class EpochReport(Callback):
    """Passes the number of each epoch, from 1, and its validation score on."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.on_epoch(trainer.current_epoch + 1, float(trainer.callback_metrics["val_score"]))
