"""Callbacks of the training loop: averaging, stopping, reporting."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping, WeightAveraging
from torch import Tensor

from serving.base.machine.progress import Progress, duration
from training.data.loader import Loader
from training.data.sampling import Identities

log = logging.getLogger(__name__)

# Seconds left, of all epochs, that are worth being told with an epoch's measurements.
_TOLD_LEFT = 60.0

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


class EpochProgress(Callback):
    """Tells how far an epoch and its validation are, how long they and all epochs will take, and
    the measurements of each epoch.

    batch_size: images of a batch of all processes together.
    """

    def __init__(self, title: str, epochs: int, batch_size: int) -> None:
        self.title = title
        self.epochs = epochs
        self.batch_size = batch_size
        self._shown: Progress | None = None
        # Seconds of an epoch's training and of its validation, as far as they are known.
        self._training = 0.0
        self._validating: float | None = None

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._begin(self._epoch(trainer), trainer.train_dataloader)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        if self._shown is None:
            # The run goes on in the middle of an epoch.
            self._begin(self._epoch(trainer), trainer.train_dataloader, batch_idx)
        shown = self._shown
        if shown is None:
            return
        # Told with the next step.
        shown.said = self._left_in_all(trainer, shown)
        shown.advance(len(batch[0]) * trainer.world_size)
        self._training = shown.seconds

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._end()
        self._begin(f"{self._epoch(trainer)}, validation", trainer.val_dataloaders)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._shown is not None:
            self._shown.advance(len(batch[0]) * trainer.world_size)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if self._shown is not None:
            self._validating = self._shown.seconds
        self._end()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._end()
        if not trainer.is_global_zero:
            return
        # Lightning calls callbacks before the module's own hook, which records the epoch.
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = "  ".join(f"{name} {value:.4f}" for name, value in sorted(measured.items()))
        took = self._training + (self._validating or 0.0)
        after = self.epochs - trainer.current_epoch - 1
        left = f"  {duration(after * took)} left" if after and after * took >= _TOLD_LEFT else ""
        log.info("%s  %s%s", self._epoch(trainer), shown, left)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._end()

    def _epoch(self, trainer: lightning.Trainer) -> str:
        return f"{self.title}: epoch {trainer.current_epoch + 1}/{self.epochs}"

    def _begin(self, title: str, loader: Any, batches_done: int = 0) -> None:
        assert isinstance(loader, Loader)
        # An epoch of identities is that many batches, another one every image.
        drawn = isinstance(loader.sampler, Identities)
        images = len(loader) * self.batch_size if drawn else len(loader.samples)
        self._shown = Progress(title, images - batches_done * self.batch_size)
        self._shown.__enter__()

    def _end(self) -> None:
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
            self._shown = None

    def _left_in_all(self, trainer: lightning.Trainer, shown: Progress) -> str:
        left = shown.left
        if left is None:
            return ""
        epoch = shown.seconds + left
        validation = self._validating
        if validation is None:
            # Until one was timed: an image without its gradients takes about a third.
            validation = epoch / 3 * sum(trainer.num_val_batches) / trainer.num_training_batches
        after = self.epochs - trainer.current_epoch - 1
        in_all = left + validation + after * (epoch + validation)
        return f"{duration(in_all)} to the end of epoch {self.epochs}"


class EpochReport(Callback):
    """Passes the number of each epoch, from 1, and its validation score on."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.on_epoch(trainer.current_epoch + 1, float(trainer.callback_metrics["val_score"]))


class MidEpoch(Checkpoint):
    """Writes `path` about every so many minutes in the middle of an epoch, so that a run that is
    interrupted in a long one goes on from there.

    All processes have to write at the same step. The first one's clock decides, and is asked only
    at steps that they agreed on, about a quarter of the time apart: asking at each would make them
    wait for each other.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.seconds = 60 * minutes
        self.written = self.looked = 0.0
        self.steps = self.steps_looked = self.next_look = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.written = self.looked = time.monotonic()
        self.steps, self.steps_looked, self.next_look = 0, 0, 1

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        # Gradients that are summed up over some batches are in no checkpoint.
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.steps += 1
        # The end of an epoch has a checkpoint of its own.
        if self.steps < self.next_look or batch_idx + 1 == trainer.num_training_batches:
            return
        now = time.monotonic()
        step_seconds = (now - self.looked) / (self.steps - self.steps_looked)
        # At most as many again as there were: the first steps are the slowest.
        ahead = int(min(self.seconds / 4 / max(step_seconds, 1e-6), self.steps))
        due, ahead = trainer.strategy.broadcast((now - self.written >= self.seconds, ahead))
        self.looked, self.steps_looked = now, self.steps
        self.next_look = self.steps + max(1, ahead)
        if due:
            trainer.save_checkpoint(self.path)
            self.written = time.monotonic()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.written = time.monotonic()
