"""The memory and the disk that a build will need, told and held against what is there before the
first stage that trains or compresses."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

import torch
from torch import nn

from serving.base.machine.memory import free_memory
from training.compress.calibration import RUN_BYTES
from training.data.samples import StreamedSamples
from training.errors import DoesNotFit
from training.evaluation.network_answers import images_at_once
from training.fitting import distributed
from training.fitting.build import Build
from training.fitting.step_memory import BatchMemory, answering_memory, training_memory
from training.models.factory import user_forward
from training.models.files.source import file_bytes
from training.pipeline import file_network
from training.pipeline.fine_tuning import new_network
from training.pipeline.stage import Stage
from training.pipeline.stages.distill import load_teacher
from training.recipes.train import Train

log = logging.getLogger(__name__)

# Bytes that the process takes for a training beside tensors: libraries that are loaded then, the
# kernels' scratch memory, gaps in the heap. 0.27 to 0.5 GB in benchmarks/training/stage_memory.py.
AROUND = 350 << 20
# Copies of the weights that a runtime holds while it loads a file, and those of the conversion.
_COPIES = 4
# Share of the free memory from which on a warning is given.
_TIGHT = 0.8


@dataclass(frozen=True)
class Need:
    """The need of one stage.

    memory: bytes of RAM beside what the process has now.
    disk, published: bytes that it leaves in the run folder, and in the model repository.
    batch: of its training, and on the device `on_gpu` says; None where it trains nothing.
    key, images: the recipe's key of the batch size and its value in one process.
    """

    stage: str
    memory: int
    disk: int = 0
    published: int = 0
    batch: BatchMemory | None = None
    on_gpu: bool = False
    key: str = ""
    images: int = 0

    @property
    def title(self) -> str:
        """Its stage; quantising has a fine-tuning before it measures ranges."""
        return "quantize.qat" if self.stage == "quantize" and self.batch else self.stage


def tell_needs(current: Build, stages: Sequence[Stage]) -> None:
    """Logs what the `stages`, which are about to run, will need. Raises DoesNotFit where memory or
    disk is too small for one of them, naming the largest batch that fits."""
    with user_forward(current.recipe.model):
        needs = list(_needs(current, [stage.name for stage in stages]))
    free = free_memory() // distributed.processes_here()
    gpu = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    shown = ", ".join(
        f"{need.title} {_size(need.memory)}"
        + (
            f" and {_size(need.batch.of(need.images))} of the GPU"
            if need.batch and need.on_gpu
            else ""
        )
        for need in needs
    )
    log.info(
        "needs: memory for %s (%s free%s)",
        shown,
        _size(free),
        f", {_size(gpu)} of the GPU" if gpu else "",
    )
    for need in needs:
        _require_memory(need, current, free, gpu)
    _require_disk(current, needs)


def _require_memory(need: Need, current: Build, free: int, gpu: int) -> None:
    batch = need.batch
    wanted, there = need.memory, free
    if batch is not None and need.on_gpu:
        wanted, there = batch.of(need.images), gpu
    if wanted <= there:
        if wanted > _TIGHT * there:
            log.warning(
                "needs: warning: %s takes most of the memory: about %s of %s",
                need.stage, _size(wanted), _size(there),
            )  # fmt: skip
        return
    height, width = current.size
    network = current.recipe.model.architecture
    device = "of the GPU's memory " if need.on_gpu else ""
    if batch is None:
        raise DoesNotFit(
            f"{need.stage}: {network} on images of {width}x{height} needs about {_size(wanted)} of "
            f"memory, {_size(there)} are free"
        )
    processes = distributed.processes()
    fits = batch.largest(there - (0 if need.on_gpu else AROUND)) * processes
    advice = (
        f"the largest batch that fits is {fits}; accumulate joins several to one step"
        if fits
        else "not even one image fits: take a smaller network or transform.resize"
    )
    raise DoesNotFit(
        f"{need.key}: {need.images * processes} images of {width}x{height} need about "
        f"{_size(wanted)} {device}with {network}, {_size(there)} are free; {advice}"
    )


def _require_disk(current: Build, needs: Sequence[Need]) -> None:
    run, repository = _existing(current.folder), _existing(current.repository)
    wanted = {run: sum(need.disk for need in needs)}
    published = sum(need.published for need in needs)
    log.info(
        "needs: disk of about %s for %s (%s free)%s",
        _size(wanted[run]),
        current.folder,
        _size(disk_usage(run).free),
        f", {_size(published)} for {current.repository} ({_size(disk_usage(repository).free)} free)"
        if published
        else "",
    )
    if run.stat().st_dev == repository.stat().st_dev:
        wanted[run] += published
    else:
        wanted[repository] = published
    for folder, size in wanted.items():
        free = disk_usage(folder).free
        if size > free:
            raise DoesNotFit(
                f"{folder}: the build needs about {_size(size)} of disk, {_size(free)} are free; "
                "--out and --model-repository say where it writes"
            )


def _needs(current: Build, stages: Sequence[str]) -> list[Need]:
    recipe = current.recipe
    if recipe.model.file is not None:
        weights, answering = file_bytes(recipe.model), file_network.answering(current)
    else:
        network = new_network(current)
        weights, answering = _weights(network), _answering(current, network)
    batch = images_at_once(current.size)
    evaluated = _COPIES * weights + answering.of(batch)
    files = {"fp32": weights, "fp16": weights // 2}
    exported = sum(files.get(variant, weights // 4) for variant in recipe.export.variants)
    answers = len(current.data.test) * _answer_bytes(current)
    train = current.data.train
    streamed = train.held_bytes if isinstance(train, StreamedSamples) else 0
    needs = []
    learning: BatchMemory | None = None
    for stage in stages:
        config = _training(current, stage)
        if stage == "train" and recipe.model.file is not None:
            # The ways in which it may take an image are tried.
            needs.append(Need(stage, evaluated, weights))
        if config is not None:
            # Later stages train the same network, or a smaller one.
            learning = learning or _learning(current, config)
            memory = _taught(current, stage, learning)
            needs.append(_trained(stage, config, weights, memory, streamed))
        if stage == "quantize":
            images = recipe.quantize.calibration_images if recipe.quantize is not None else 0
            observed = min(RUN_BYTES, images * answering.image)
            needs.append(
                Need(stage, _COPIES * weights + max(observed, answering.of(batch)), 3 * weights)
            )
        elif stage == "export":
            needs.append(Need(stage, _COPIES * weights, exported))
        elif stage == "verify":
            # Answers of the reference, of one engine and of the best so far.
            needs.append(Need(stage, evaluated + weights, 3 * answers))
        elif stage == "publish":
            needs.append(Need(stage, 0, 0, exported))
    return needs


def _learning(current: Build, config: Train) -> BatchMemory:
    recipe = current.recipe
    return training_memory(
        new_network(current),
        config,
        current.data.train,
        task=recipe.task,
        classes=current.loss_classes,
        ignore_index=current.data.ignore_index,
        normalization=recipe.normalization,
        changes=recipe.augment,
    )


def _taught(current: Build, stage: str, learning: BatchMemory) -> BatchMemory:
    """With the answers of a teacher beside the training, where a stage has one."""
    recipe = current.recipe
    qat = recipe.quantize.qat if recipe.quantize is not None else None
    if stage == "distill" and recipe.distill is not None:
        teacher = load_teacher(current, recipe.distill.teacher)
    elif (stage == "prune" and recipe.prune is not None and recipe.prune.distill is not None) or (
        stage == "quantize" and qat is not None and qat.distill is not None
    ):
        # The network before, or a smaller one.
        teacher = new_network(current)
    else:
        return learning
    answering = _answering(current, teacher)
    return BatchMemory(
        learning.kept + _weights(teacher) + answering.kept, learning.image + answering.image
    )


def _trained(stage: str, config: Train, weights: int, memory: BatchMemory, streamed: int) -> Need:
    """The need of a stage that trains the recipe's network, or one that is made of it. `streamed`:
    bytes that the images of a stream take in RAM."""
    on_gpu = torch.cuda.is_available()
    images = config.batch_size // distributed.processes()
    held = BatchMemory(weights + memory.kept, memory.image)
    return Need(
        stage,
        memory=AROUND + streamed + (weights if on_gpu else held.of(images)),
        # Two checkpoints with the states of the optimiser, as large as what is kept beside the
        # weights; and the network.
        disk=2 * memory.kept + weights,
        batch=held,
        on_gpu=on_gpu,
        key=f"{_SECTIONS[stage]}.batch_size",
        images=images,
    )


# The sections of a recipe that hold a stage's training.
_SECTIONS = {
    "train": "train",
    "distill": "distill.train",
    "prune": "prune.train",
    "quantize": "quantize.qat.train",
}


def _training(current: Build, stage: str) -> Train | None:
    section: object = current.recipe
    for name in _SECTIONS.get(stage, "none").split("."):
        section = getattr(section, name, None)
    return section if isinstance(section, Train) else None


def _answering(current: Build, network: nn.Module) -> BatchMemory:
    deployed = current.deployed(network.eval())

    def run(count: int) -> None:
        with torch.inference_mode():
            deployed(torch.zeros((count, *current.inputs[0].shape[1:]), dtype=torch.uint8))

    return answering_memory(run, [*network.parameters(), *network.buffers()])


def _weights(network: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(value.nbytes for value in network.state_dict().values())


def _answer_bytes(current: Build) -> int:
    """Bytes of the answer to an image, as they lie on disk."""
    height, width = current.size
    match current.recipe.task:
        case "segmentation":
            # A mask; of a binary one its probabilities and the truth too.
            return height * width * (3 if current.channels == 1 else 1)
        case "classification":
            return 4 * current.channels
        case _:
            return 0


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(1, round(count / 1e6))} MB"
