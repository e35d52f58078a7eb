"""How much of a training step's speed is left where images are decoded and changed on the way.

Two loops take turns: steps on batches that are there, and the same steps on batches that the
loader decodes ahead and that are changed at random. 90 % is wanted. ResNet-20 on CIFAR-10's JPEGs,
a network that leaves little room.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.archives import extracted
from serving.base.machine.cpu import machine
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.changes.augment import augment
from training.data.loader import Loader
from training.data.readers import Loaded
from training.data.samples import FileSamples
from training.data.sampling import Shuffled
from training.evaluation.report.tables import print_table
from training.fitting.train import autocast
from training.models import build_model
from training.recipes.data import Augment

BATCH, BATCHES, ROUNDS = 128, 40, 5
WANTED = 0.9
CHANGES: dict[str, dict[str, object]] = {
    "flip, crop": {"flip": True, "padding_crop": {"pixels": 4}},
    "flip, crop, colours": {
        "flip": True, "padding_crop": {"pixels": 4}, "brightness": 0.2, "saturation": 0.2,
    },
    "trivial_augment": {"flip": True, "policy": {"name": "trivial_augment"}},
    "rand_augment": {"flip": True, "policy": {"name": "rand_augment"}},
}  # fmt: skip

Batch = tuple[Tensor, Tensor]


def main() -> int:
    print(machine())
    loader = Loader(jpegs(), Shuffled(BATCH * BATCHES, BATCH, seed=0))
    held = list(loader)
    step = stepping()
    rows, reached = [], True
    for name, keys in CHANGES.items():
        changes = Augment.model_validate(keys)
        seconds(held[:3], step)
        shares, alone = [], []
        for _ in range(ROUNDS):
            alone.append(seconds(held, step))
            shares.append(alone[-1] / seconds(changed(loader, changes), step))
        share = median(shares)
        reached &= share >= WANTED
        rows.append(
            {
                "augment": name,
                "images/s, the step": f"{BATCH * BATCHES / median(alone):,.0f}",
                "of that, training": f"{share:.0%} ({min(shares):.0%} to {max(shares):.0%})",
            }
        )
    print_table(f"{ROUNDS} rounds of {BATCHES} batches of {BATCH}", rows)
    return 0 if reached else 1


def jpegs() -> FileSamples:
    """The first images of each class, decoded whenever they are asked for."""
    folders = sorted((extracted("cifar10") / "train").iterdir())
    each = BATCH * BATCHES // len(folders)
    files = [(file, k) for k, path in enumerate(folders) for file in sorted(path.iterdir())[:each]]
    shown = EvalTransform(resize=(32, 32))
    labels = dict(files)

    def load(file: Path) -> Loaded:
        pixels = load_image(file.read_bytes(), shown).pixels
        return Loaded(pixels, np.asarray(labels[file]), (32, 32))

    return FileSamples([file.name for file in labels], list(labels), load)


def changed(batches: Iterable[Batch], changes: Augment) -> Iterator[Batch]:
    """The batches with random changes, as training makes them."""
    generator = torch.Generator().manual_seed(0)
    for images, labels in batches:
        yield augment(images, labels, changes, generator)


def stepping() -> Callable[[Tensor, Tensor], None]:
    """A step on a batch of uint8 [N, H, W, C] and its labels, in the precision that training takes
    here."""
    network = build_model("resnet20_cifar", 10).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step(images: Tensor, labels: Tensor) -> None:
        inputs = (images.float() / 255).permute(0, 3, 1, 2)
        with autocast(torch.device("cpu"), "auto"):
            loss = functional.cross_entropy(network(inputs), labels.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(batches: Iterable[Batch], step: Callable[[Tensor, Tensor], None]) -> float:
    """Seconds on the clock for a step on each batch."""
    began = time.perf_counter()
    for images, labels in batches:
        step(images, labels)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
