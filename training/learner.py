"""What one step of training does, as pytorch_lightning wants it told."""

import time
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from training.data.augment import augment
from training.losses import LossFunction, build_loss
from training.metrics import MEASURES, Task, build_metric
from training.optimizer import build_optimizer
from training.recipe.data import Augment, Normalization
from training.recipe.train import Train
from training.schedule import rate_factor

History = list[dict[str, float]]


class Learner(lightning.LightningModule):
    """Network, loss, measure and optimiser for batches of uint8 NHWC images and their targets."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        config: Train,
        task: Task,
        classes: int,
        ignore_index: int | None,
        normalization: Normalization,
        changes: Augment,
        seed: int,
    ) -> None:
        super().__init__()
        # channels_last is what oneDNN and cuDNN compute in; other layouts are reordered each time.
        self.network = network.to(memory_format=torch.channels_last)
        self.config = config
        self.loss: LossFunction = build_loss(config.loss, ignore_index)
        self.measure = MEASURES[task]
        self.metric = build_metric(task, classes, ignore_index)
        self.changes = changes
        self.seed = seed
        self.register_buffer("mean", torch.tensor(normalization.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std) * 255, persistent=False)
        self.history: History = []
        self.epoch_started = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] to the network's logits."""
        normalized = (images.float() - self.mean) / self.std
        # The permutation of a contiguous NHWC tensor is exactly a channels_last NCHW one.
        logits: Tensor = self.network(normalized.permute(0, 3, 1, 2))
        return logits

    def on_train_epoch_start(self) -> None:
        self.epoch_started = time.monotonic()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        generator = torch.Generator()
        seeds = np.random.SeedSequence([self.seed, self.current_epoch, index])
        generator.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
        images, targets = augment(*batch, self.changes, generator)
        loss = self.loss(self(images), targets)
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, targets = batch
        logits = self(images)
        self.metric.update(logits.float(), targets.long())
        self.log("val_loss", self.loss(logits, targets), batch_size=len(images), prog_bar=True)
        self.log("val_score", self.metric, on_epoch=True, prog_bar=True, batch_size=len(images))

    def on_train_epoch_end(self) -> None:
        measured = self.trainer.callback_metrics
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "loss": float(measured["loss"]),
                "val_loss": float(measured["val_loss"]),
                f"val_{self.measure}": float(measured["val_score"]),
                "lr": float(self.optimizers().param_groups[0]["lr"]),  # type: ignore[union-attr]
                "seconds": time.monotonic() - self.epoch_started,
            }
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.network, self.config.optimizer)
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = steps / self.config.epochs
        schedule = self.config.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(schedule, step, steps, per_epoch)
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
