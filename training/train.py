"""One training loop for every stage that trains; pytorch_lightning runs it."""

import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from serving.engines import cpu_features
from training.data.augment import augment
from training.data.samples import Samples
from training.losses import LossFunction, build_loss
from training.metrics import MEASURES, Task, build_metric
from training.recipe.data import Augment, Normalization
from training.recipe.optimizer import AdamW, Constant, Cosine, OneCycle, Sgd
from training.recipe.train import Train

log = logging.getLogger(__name__)

# OneCycle starts at this share of the peak rate, and ends at this share of the start (1708.07120).
_CYCLE_START = 1 / 25
_CYCLE_END = 1e-4

History = list[dict[str, float]]


@dataclass(frozen=True)
class Fitted:
    """A trained network, on the CPU in evaluation mode; what was measured after each epoch; the
    precision that it was trained in."""

    network: nn.Module
    history: History
    precision: str


def fit(
    network: nn.Module,
    config: Train,
    train: Samples,
    val: Samples,
    *,
    task: Task,
    classes: int,
    ignore_index: int | None,
    normalization: Normalization,
    changes: Augment,
    seed: int,
    folder: Path,
    title: str,
) -> Fitted:
    """Trains `network` (it is changed) and keeps a checkpoint of each epoch in `folder`.

    Resumes where `folder` holds the last checkpoint of an interrupted run of the same settings:
    order of images, augmentation and learning rate depend on the seed and the epoch alone, so the
    rest runs as it would have. Raises KeyboardInterrupt when the user stops it.
    """
    lightning.seed_everything(seed, verbose=False)
    network.train()
    learner = Learner(network, config, task, classes, ignore_index, normalization, changes, seed)
    # Two, since save_last would write only when the best changes; and at the end of the epoch, when
    # it is on record, so that a resumed run repeats nothing.
    best = ModelCheckpoint(
        folder, "best", monitor="val_score", mode="max", save_on_train_epoch_end=True,
        enable_version_counter=False,
    )  # fmt: skip
    last = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    on_terminal = sys.stderr.isatty()
    precision = chosen_precision(config.precision)
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        callbacks=[best, last, TQDMProgressBar() if on_terminal else PlainProgress(title)],
        enable_progress_bar=on_terminal,
        default_root_dir=folder,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
    )
    loaders = (
        DataLoader(_Indices(train), batch_size=None, sampler=Shuffled(len(train), config, seed)),
        DataLoader(_Indices(val), batch_size=None, sampler=InOrder(len(val), config.batch_size)),
    )
    interrupted = folder / "last.ckpt"
    with warnings.catch_warnings():
        # Batches are cut from memory or decoded by threads; worker processes would only copy.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        try:
            trainer.fit(
                learner,
                *loaders,
                ckpt_path=interrupted if interrupted.exists() else None,
                weights_only=False,
            )
        except SystemExit as stop:
            # What Lightning turns Ctrl-C into, after it has cleaned up.
            raise KeyboardInterrupt from stop
    if config.keep == "best":
        learner.load_state_dict(
            torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
        )
    network = network.cpu().to(memory_format=torch.contiguous_format).eval()
    return Fitted(network, learner.history, precision)


def chosen_precision(wanted: str) -> str:
    """What "auto" means here: "fp32" or "bf16". BF16 is taken where the hardware multiplies in it;
    elsewhere it is emulated, and slower than FP32."""
    if wanted != "auto":
        return wanted
    fast = torch.cuda.is_available() or {"amx_bf16", "avx512_bf16"} & set(cpu_features())
    return "bf16" if fast else "fp32"


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


def build_optimizer(network: nn.Module, config: Sgd | AdamW) -> torch.optim.Optimizer:
    """The optimiser of a recipe; vectors (biases, scales and shifts of norm layers) do not decay:
    pulling them to 0 helps nothing (arXiv 1812.01187, §3.1)."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    match config:
        case Sgd():
            return torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
            )
        case AdamW():
            return torch.optim.AdamW(groups, lr=config.lr)


def rate_factor(
    schedule: Constant | OneCycle | Cosine, step: int, steps: int, steps_per_epoch: float
) -> float:
    """What the optimiser's lr is multiplied with at `step` of `steps`, counted from 0."""
    match schedule:
        case Constant():
            return 1.0
        case OneCycle():
            up = schedule.warmup * steps
            if step < up:
                return _cosine(_CYCLE_START, 1.0, step / up)
            return _cosine(1.0, _CYCLE_START * _CYCLE_END, (step - up) / max(1.0, steps - up))
        case Cosine():
            up = schedule.warmup_epochs * steps_per_epoch
            if step < up:
                return (step + 1) / up
            return _cosine(1.0, 0.0, (step - up) / max(1.0, steps - up))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


class _Indices(Dataset[tuple[Tensor, Tensor]]):
    """Samples for a DataLoader whose sampler gives whole batches of indices."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, targets = self.samples.batch(indices)
        return torch.from_numpy(images), torch.from_numpy(targets)


class Shuffled(Sampler[list[int]]):
    """Batches of indices in an order that depends on the seed and the epoch alone, so that an
    interrupted run goes on as it would have. A last batch of one image joins the one before it:
    batch normalisation cannot learn from a single image."""

    def __init__(self, count: int, config: Train, seed: int) -> None:
        self.count = count
        self.batch_size = config.batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        batches, rest = divmod(self.count, self.batch_size)
        return max(1, batches + (rest > 1))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count).tolist()
        for number in range(len(self)):
            last = number == len(self) - 1
            end = self.count if last else (number + 1) * self.batch_size
            yield order[number * self.batch_size : end]


class InOrder(Sampler[list[int]]):
    """Batches of indices from first to last."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count = count
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.count, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.count)))


class PlainProgress(Callback):
    """A line an epoch, for logs and pipes."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        # Lightning calls callbacks before the module's own hook, which records the epoch.
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = "  ".join(f"{name} {value:.4f}" for name, value in sorted(measured.items()))
        log.info(
            "%s: epoch %d/%d  %s", self.title, trainer.current_epoch + 1, trainer.max_epochs, shown
        )
