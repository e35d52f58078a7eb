"""Processor time of decoding and of random changes beside that of a training step, an image.

On a CPU all three share the cores, so that training reaches step / (step + others) of the step's
own speed: 90 % is wanted. ResNet-20 on CIFAR-10's JPEGs, a network that leaves little room. Time of
the processor, not of the clock, so that other work on the machine changes little.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.archives import extracted
from serving.base.machine.cpu import machine
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.augment import augment
from training.data.readers import Loaded
from training.data.samples import FileSamples
from training.evaluation.report.tables import print_table
from training.models import build_model
from training.recipes.data import Augment

BATCH = 128
WANTED = 0.9
CHANGES: dict[str, dict[str, object]] = {
    "flip, crop": {"flip": True, "padding_crop": {"pixels": 4}},
    "flip, crop, colours": {
        "flip": True, "padding_crop": {"pixels": 4}, "brightness": 0.2, "saturation": 0.2,
    },
    "trivial_augment": {"flip": True, "policy": {"name": "trivial_augment"}},
    "rand_augment": {"flip": True, "policy": {"name": "rand_augment"}},
}  # fmt: skip


def main() -> int:
    print(machine())
    torch.set_num_threads(1)
    samples = jpegs()
    pixels, _ = samples.batch(range(BATCH))
    images, labels = torch.from_numpy(pixels), torch.arange(BATCH) % 10
    step, decoding = seconds(stepping(images, labels)), seconds(lambda: samples.batch(range(BATCH)))
    generator = torch.Generator().manual_seed(0)
    rows, reached = [], True
    for name, keys in CHANGES.items():
        changes = Augment.model_validate(keys)
        changing = seconds(partial(augment, images, labels, changes, generator))
        share = step / (step + decoding + changing)
        reached &= share >= WANTED
        times = {"step": step, "decoding": decoding, "changes": changing}
        shown = {f"{key}, us": f"{1e6 * spent / BATCH:.0f}" for key, spent in times.items()}
        rows.append({"augment": name, **shown, "of the step's speed": f"{100 * share:.0f} %"})
    print_table("an image", rows)
    return 0 if reached else 1


def jpegs() -> FileSamples:
    """The first images of each class, decoded whenever they are asked for."""
    folders = sorted((extracted("cifar10") / "train").iterdir())
    files = [file for folder in folders for file in sorted(folder.iterdir())[:13]]
    shown = EvalTransform(resize=(32, 32))

    def load(file: Path) -> Loaded:
        return Loaded(load_image(file.read_bytes(), shown).pixels, np.asarray(0), (32, 32))

    return FileSamples([file.name for file in files], files, load, threads=2)


def stepping(images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step of training on one batch."""
    network = build_model("resnet20_cifar", 10).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        loss = functional.cross_entropy(network((images.float() / 255).permute(0, 3, 1, 2)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Of the processor's time, in the median round."""
    work()
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return float(np.median(spent))


if __name__ == "__main__":
    sys.exit(main())
