"""One training loop for every stage that trains; pytorch_lightning runs it."""

import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from torch import nn

from serving.engines import cpu_features
from training.data.samples import Samples
from training.data.sampling import InOrder, Shuffled, loader
from training.learner import History, Learner
from training.metrics import Task
from training.recipe.data import Augment, Normalization
from training.recipe.train import Train

log = logging.getLogger(__name__)


# Told the number of each epoch, from 1, and its validation score; what it raises ends the training.
OnEpoch = Callable[[int, float], None]


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
    on_epoch: OnEpoch | None = None,
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
        callbacks=[
            best,
            last,
            TQDMProgressBar() if on_terminal else PlainProgress(title),
            *([] if on_epoch is None else [EpochReport(on_epoch)]),
        ],
        enable_progress_bar=on_terminal,
        default_root_dir=folder,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
    )
    loaders = (
        loader(train, Shuffled(len(train), config, seed)),
        loader(val, InOrder(len(val), config.batch_size)),
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


class EpochReport(Callback):
    """Passes the validation score on after each epoch."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.on_epoch(trainer.current_epoch + 1, float(trainer.callback_metrics["val_score"]))
