"""One training loop for every stage that trains; pytorch_lightning runs it."""

import logging
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from serving.base.task import Task
from serving.engines import cpu_features
from training.data.loader import Loader
from training.data.samples import Samples, StreamedSamples
from training.data.sampling import (
    Batches,
    Identities,
    InOrder,
    Share,
    Shuffled,
    Windowed,
    balancing_weights,
    labels_of,
)
from training.errors import RecipeError
from training.fitting import distributed
from training.fitting.batch_norm import re_estimate
from training.fitting.callbacks import (
    EpochProgress,
    EpochReport,
    MidEpoch,
    OnEpoch,
    Patience,
    moving_average,
)
from training.fitting.lightning_module import History, Learner
from training.fitting.objective import build_objective
from training.fitting.progressive import check_progressive
from training.models.backbone import unfreeze_backbone
from training.recipes.data import Augment, Normalization
from training.recipes.train import Identities as IdentitiesChoice
from training.recipes.train import Train
from training.recipes.train import Weighted as WeightedChoice

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"

# Images of the batches whose statistics batch norms are given; more take memory, fewer tell a
# variance less well.
_BATCH_NORM_BATCH = 64

_LIGHTNING_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    network: on the CPU, in evaluation mode.
    history: the measurements after each epoch.
    precision: that of the training, fp32, bf16 or fp16.
    """

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
    objective: nn.Module | None = None,
    processes: int = 1,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Trains `network` (it is changed) and keeps FOLDER/checkpoints/best.ckpt and last.ckpt, and
    its curves for TensorBoard in FOLDER/tensorboard.

    `objective` is minimised: a module that maps (the network's answers, targets,
    images float32 NCHW as the network sees them) to a scalar, in training and in validation; by
    default `Supervised` with the loss of `config`. What it holds and requires a gradient is trained
    and saved beside the network, so a teacher in it must be frozen.

    Resumes where `folder` holds the last checkpoint of an interrupted run of the same settings: all
    that is drawn depends on the seed, the epoch and the step alone, so the rest runs as it would
    have. Where torchrun started several `processes` for this, all of them call it with the same
    arguments and see the same `folder`; the first one writes.

    `on_epoch` is told the number of each epoch, from 1, and its validation score; an exception of
    it ends the training. Raises KeyboardInterrupt when the user stops it, RecipeError for a value
    that does not suit the data or the number of processes, Diverged after the first epoch in which
    the loss, the score or a weight is not a finite number.
    """
    lightning.seed_everything(seed, verbose=False)
    share = Share(distributed.rank() if processes > 1 else 0, processes)
    _check_sharing(config, len(train), len(val), share)
    objective = objective or build_objective(network, config, train, classes, ignore_index)
    loaders = (
        Loader(train, _sampler(config, train, classes, seed, share)),
        Loader(val, InOrder(len(val), config.batch_size, share)),
    )
    if config.progressive is not None:
        whole = train.batch([0])[0].shape[1:3]
        for seen in filter(None, (network, getattr(objective, "teacher", None))):
            check_progressive(seen, config.progressive, len(normalization.mean), whole)
    network.train()
    learner = Learner(
        network, objective, config, task, classes, ignore_index, normalization, changes, seed, title
    )
    precision = chosen_precision(config.precision)
    trainer = _trainer(config, precision, folder, title, processes, on_epoch)
    interrupted = folder / CHECKPOINTS / "last.ckpt"
    resumes = _is_checkpoint(interrupted)
    if interrupted.exists() and not resumes:
        log.warning("%s: %s cannot be read; training begins anew", title, interrupted)
    with warnings.catch_warnings(), distributed.process_group(processes):
        # Batches are cut from memory or decoded by threads; worker processes would only copy.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        # A teacher in the objective shall stay in it.
        warnings.filterwarnings("ignore", message="Found .* module.* in eval mode at the start")
        try:
            trainer.fit(
                learner,
                *loaders,
                ckpt_path=interrupted if resumes else None,
                weights_only=True,
            )
        except SystemExit as stop:
            # Lightning turns Ctrl-C into it, after it has cleaned up.
            raise KeyboardInterrupt from stop
    # From the file in either case: averaged weights are in there, and in the learner only where
    # this run made them.
    kept = torch.load(
        folder / CHECKPOINTS / f"{config.keep}.ckpt",
        map_location="cpu",
        weights_only=True,
        # The states of the optimiser in it are not read.
        mmap=True,
    )
    learner.load_state_dict(kept["state_dict"])
    if config.freeze_backbone_epochs:
        # Training may have stopped before their end.
        unfreeze_backbone(network)
    network = network.cpu().to(memory_format=torch.contiguous_format).eval()
    if config.batch_norm_images is not None:
        learner.cpu()
        re_estimate(network, _seen(learner, train, config.batch_norm_images, seed))
    return Fitted(network, learner.history, precision)


def _seen(learner: Learner, train: Samples, images: int, seed: int) -> Iterator[Tensor]:
    """Batches of some training images as they are, as the network sees them."""
    rows = np.random.default_rng(seed).permutation(len(train))[:images]
    # All of a size, as each counts as much; one of a few images would tell too little.
    batches = max(1, len(rows) // _BATCH_NORM_BATCH)
    for part in np.array_split(rows, batches):
        yield learner.normalized(torch.from_numpy(train.batch(part)[0]))


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint that holds nothing but data. A power cut may leave half of
    one; and where runs share a folder, another user may have put a pickle there."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # damaged files make the unpickler raise almost anything
        return False
    return True


def _check_sharing(
    config: Train, training_images: int, validation_images: int, share: Share
) -> None:
    sampler = config.sampler
    if config.batch_size % share.processes:
        raise RecipeError(
            f"batch_size: {config.batch_size} images cannot be shared evenly by "
            f"{share.processes} processes"
        )
    if isinstance(sampler, IdentitiesChoice) and sampler.people % share.processes:
        raise RecipeError(
            f"sampler.people: {sampler.people} cannot be shared evenly by "
            f"{share.processes} processes"
        )
    for images, split in ((training_images, "training"), (validation_images, "validation")):
        if images < share.processes:
            raise RecipeError(
                f"{images} {split} images are too few for {share.processes} processes"
            )


def _sampler(config: Train, train: Samples, classes: int, seed: int, share: Share) -> Batches:
    if isinstance(train, StreamedSamples):
        return Windowed(train.groups, config.batch_size, seed, train.window, share)
    match config.sampler:
        case IdentitiesChoice(people=people, pictures=pictures):
            try:
                return Identities(labels_of(train), people, pictures, seed, share)
            except ValueError as error:
                raise RecipeError(f"sampler.{error}") from error
        case WeightedChoice():
            labels = labels_of(train)
            counts = np.bincount(labels, minlength=classes)
            weights = balancing_weights(counts)[labels]
            return Shuffled(len(train), config.batch_size, seed, share, weights)
        case _:
            return Shuffled(len(train), config.batch_size, seed, share)


def _trainer(
    config: Train,
    precision: str,
    folder: Path,
    title: str,
    processes: int,
    on_epoch: OnEpoch | None,
) -> lightning.Trainer:
    # Two, since save_last would write only when the best changes; and at the end of the epoch, when
    # it is on record, so that a resumed run repeats nothing.
    best = ModelCheckpoint(
        folder / CHECKPOINTS, "best", monitor="val_score", mode="max", save_on_train_epoch_end=True,
        enable_version_counter=False,
    )  # fmt: skip
    last = ModelCheckpoint(
        folder / CHECKPOINTS, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    under_way = MidEpoch(folder / CHECKPOINTS / "last.ckpt", config.checkpoint_minutes)
    callbacks: list[Callback] = [best, last, under_way]
    callbacks.append(EpochProgress(title, config.epochs, config.batch_size))
    if config.ema_decay is not None:
        callbacks.append(moving_average(config.ema_decay))
    if config.patience is not None:
        callbacks.append(Patience(config.patience))
    if on_epoch is not None:
        callbacks.append(EpochReport(on_epoch))
    here = distributed.processes_here() if processes > 1 else 1
    return lightning.Trainer(
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm,
        precision=_LIGHTNING_PRECISIONS[precision],
        devices=here,
        num_nodes=processes // here,
        # The head's gradients come without the backbone's while that is frozen.
        strategy=DDPStrategy(find_unused_parameters=config.freeze_backbone_epochs > 0)
        if processes > 1
        else "auto",
        # One process is alone even where torchrun started several, for the stage before.
        plugins=None if processes > 1 else [LightningEnvironment()],
        use_distributed_sampler=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        default_root_dir=folder,
        enable_model_summary=False,
        logger=TensorBoardLogger(folder, name=TENSORBOARD, version=""),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )


def chosen_precision(wanted: str) -> str:
    """The precision to train in. "auto" is "bf16" where the hardware multiplies in it, else "fp32":
    emulated, BF16 is slower. Raises RecipeError for "fp16" without a GPU."""
    on_gpu = torch.cuda.is_available()
    if wanted == "fp16" and not on_gpu:
        raise RecipeError(
            "precision: fp16 is for GPUs, and none is here; CPUs have no fast kernels for its "
            "gradients: take auto, bf16 or fp32"
        )
    if wanted != "auto":
        return wanted
    if on_gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if {"amx_bf16", "avx512_bf16"} & set(cpu_features()) else "fp32"


def autocast(device: torch.device, wanted: str) -> torch.autocast:
    """The context in which a step is computed in a precision, as Lightning computes it."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[chosen_precision(wanted)]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
