"""One step of training and one of validation, in the form of pytorch_lightning."""

import time
from math import isfinite
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from serving.base.task import Task, measure_of
from training.data.changes.augment import augment
from training.data.changes.mixing import mix
from training.data.loader import Loader
from training.errors import Diverged
from training.fitting.epoch_metrics import build_metric
from training.fitting.optimizer import build_optimizer
from training.fitting.progressive import shrunk, size_at
from training.fitting.schedule import rate_factor
from training.models.backbone import freeze_backbone, unfreeze_backbone
from training.recipes.data import Augment, Normalization
from training.recipes.tasks import TRAINED_TASKS
from training.recipes.train import Train

History = list[dict[str, float]]


class Learner(lightning.LightningModule):
    """Network, objective, measure and optimiser for batches of uint8 NHWC images and their
    targets."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        objective: nn.Module,
        config: Train,
        task: Task,
        classes: int,
        ignore_index: int | None,
        normalization: Normalization,
        changes: Augment,
        seed: int,
        title: str,
    ) -> None:
        super().__init__()
        # channels_last is what oneDNN and cuDNN compute in; other layouts are reordered each time.
        self.network = network.to(memory_format=torch.channels_last)
        self.config = config
        self.objective = objective
        self.classes = classes
        self.task: Task = task
        self.measure = measure_of(task, binary=classes == 1)
        self.metric = build_metric(task, classes, ignore_index)
        # Lightning's own mean over processes counts images in whole numbers, which gloo refuses.
        # A loss that is no number stays one that is none: by default it would be left out.
        self.loss, self.val_loss = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.changes = changes
        self.seed = seed
        self.title = title
        self.register_buffer("mean", torch.tensor(normalization.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std) * 255, persistent=False)
        self.history: History = []
        self.epoch_started = 0.0
        self.rate = 0.0
        self.in_epoch = False
        # Of a checkpoint in the middle of an epoch: its seconds, learning rate, sums and batches.
        self.under_way: dict[str, Any] | None = None

    def forward(self, images: Tensor) -> Any:
        """uint8 [N, H, W, C] to the network's answer."""
        return self.network(self.normalized(images))

    def normalized(self, images: Tensor) -> Tensor:
        """[N, H, W, C] in 0 to 255 to float32 [N, C, H, W] as networks take it."""
        normalized = (images.float() - self.mean) / self.std
        # The permutation of a contiguous NHWC tensor is exactly a channels_last NCHW one.
        return normalized.permute(0, 3, 1, 2)

    def on_train_start(self) -> None:
        """Goes on in the middle of an epoch, where a checkpoint was written there."""
        if self.under_way is None:
            return
        self.epoch_started = time.monotonic() - self.under_way["seconds"]
        self.rate = self.under_way["rate"]
        self.loss.mean_value += self.under_way["loss"]
        self.loss.weight += self.under_way["weight"]
        self.in_epoch = True
        # Lightning would do so itself, had it not asked for the number of steps before.
        self._loader().load_state_dict(self.under_way["loader"])
        self._freeze()

    def on_train_epoch_start(self) -> None:
        self.epoch_started = time.monotonic()
        # At the epoch's end the schedule has taken the step to the next one's.
        self.rate = float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        self.in_epoch = True
        self._freeze()

    def _loader(self) -> Loader:
        loader = self.trainer.train_dataloader
        assert isinstance(loader, Loader)
        return loader

    def _freeze(self) -> None:
        frozen = self.config.freeze_backbone_epochs
        # Not before Lightning has handed the parameters to the processes' reducer, which knows of
        # none that is frozen then.
        if self.current_epoch < frozen:
            freeze_backbone(self.network)
        elif self.current_epoch == frozen > 0:
            unfreeze_backbone(self.network)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        entropy = [self.seed, self.current_epoch, index, self.global_rank]
        seeds = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        progressive, size = self.config.progressive, (batch[0].shape[1], batch[0].shape[2])
        if progressive is not None:
            size = size_at(progressive, self.current_epoch, self.config.epochs, size)
        loss = self.loss_of(batch, int(seeds[0] >> 1), size)
        self.loss.update(loss.detach(), len(batch[0]))
        self.log("loss", self.loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def loss_of(
        self, batch: tuple[Tensor, Tensor], seed: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """The loss of a batch of training images, changed and mixed as `seed` draws, and shown in
        `size` (height, width)."""
        # Dropout and mixing draw from the global generator: a resumed run must draw the same.
        torch.manual_seed(seed)
        images, targets = augment(*batch, self.changes, torch.Generator().manual_seed(seed))
        if self.config.mixes:
            images, targets = mix(
                images,
                targets,
                self.classes,
                mixup_alpha=self.config.mixup_alpha,
                cutmix_alpha=self.config.cutmix_alpha,
            )
        inputs = self.normalized(images)
        if size is not None:
            inputs, targets = shrunk(inputs, targets, size)
        loss: Tensor = self.objective(self.network(inputs), targets, inputs)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, targets = batch
        inputs = self.normalized(images)
        logits = self.network(inputs)
        self.metric.update(logits.float(), targets.long())
        if TRAINED_TASKS[self.task].validates_loss:
            self.val_loss.update(self.objective(logits, targets, inputs), len(images))
            self.log("val_loss", self.val_loss, on_epoch=True, prog_bar=True)
        self.log("val_score", self.metric, on_epoch=True, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        self.in_epoch, self.under_way = False, None
        measured = self.trainer.callback_metrics
        # Before a checkpoint is written: a resumed run shall not begin with these weights.
        self._require_finite({key: float(value) for key, value in measured.items()})
        losses: dict[str, float] = {
            key: float(measured[key]) for key in ("loss", "val_loss") if key in measured
        }
        if self.logger is not None:
            self.logger.log_metrics({"lr": self.rate}, step=self.trainer.global_step)
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                **losses,
                f"val_{self.measure}": float(measured["val_score"]),
                "lr": self.rate,
                "seconds": time.monotonic() - self.epoch_started,
            }
        )

    def _require_finite(self, measured: dict[str, float]) -> None:
        """Raises Diverged where a loss, the score or a weight is infinite or no number."""
        wrong = [f"{name} is {value}" for name, value in measured.items() if not isfinite(value)]
        state = self.network.state_dict().values()
        if not wrong and not all(bool(torch.isfinite(values).all()) for values in state):
            wrong = ["a weight of the network is not finite"]
        if wrong:
            raise Diverged(
                f"{self.title}: epoch {self.current_epoch + 1}: {', '.join(wrong)}; training ends "
                f"here. The learning rate is {self.rate:g}: try a lower one"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        # The sums of the first process stand for all: each has a like share of the images.
        checkpoint["under_way"] = (
            None
            if not self.in_epoch
            else {
                "seconds": time.monotonic() - self.epoch_started,
                "rate": self.rate,
                "loss": float(self.loss.mean_value),
                "weight": float(self.loss.weight),
                "loader": self._loader().state_dict(),
            }
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])
        self.under_way = checkpoint.get("under_way")

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(
            self.network, self.config.optimizer, self.objective.parameters()
        )
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = steps / self.config.epochs
        schedule = self.config.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(schedule, step, steps, per_epoch)
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
