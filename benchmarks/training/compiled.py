"""A step of training without and with torch.compile, in turns, and the first one, which compiles.

On a GPU where there is one, else on the CPU. Training does not use torch.compile: this says whether
it should.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from serving.base.machine.cpu import machine
from training.evaluation.report.tables import print_table
from training.fitting.train import autocast
from training.models import build_model

ROUNDS = 3
SECONDS = 4.0
CLASSES = 11


class Work(NamedTuple):
    """A network, the height and width of its images, and the images of a step."""

    name: str
    height: int
    width: int
    batch: int


WORKS = (
    Work("resnet20_cifar", 32, 32, 64),
    Work("resnet56_cifar", 32, 32, 128),
    Work("unet_slim", 64, 64, 16),
    Work("unet_resnet18", 192, 256, 8),
    Work("resnet50", 224, 224, 16),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(torch.cuda.get_device_name() if device.type == "cuda" else machine())
    print_table("a step of training", [measure(work, device) for work in WORKS])
    return 0


def measure(work: Work, device: torch.device) -> dict[str, str]:
    """A row of the table."""
    torch.manual_seed(0)
    network = build_model(work.name, CLASSES).train()
    network = network.to(device, memory_format=torch.channels_last)
    plain, compiled = (
        stepping(run, network, work, device) for run in (network, torch.compile(network))
    )
    first = timed(compiled, device)
    timed(plain, device)
    # The second and the third step still choose kernels.
    for step in (plain, compiled) * 2:
        step()
    pairs = [(in_a_loop(plain, device), in_a_loop(compiled, device)) for _ in range(ROUNDS)]
    gains = [one / other for one, other in pairs]
    return {
        "network": work.name,
        "images": f"{work.batch} of {work.width}x{work.height}",
        "step, ms": f"{1e3 * median(one for one, _ in pairs):.1f}",
        "compiled, ms": f"{1e3 * median(other for _, other in pairs):.1f}",
        "gain": f"{median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})",
        "first step, s": f"{first:.0f}",
    }


def stepping(
    run: Callable[..., torch.Tensor], network: nn.Module, work: Work, device: torch.device
) -> Callable[[], None]:
    """A step on random images, in the precision that training takes here."""
    images = torch.rand(work.batch, 3, work.height, work.width, device=device)
    images = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        shape = network(images).shape
    targets = torch.randint(CLASSES, (shape[0], *shape[2:]), device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        with autocast(device, "auto"):
            loss = functional.cross_entropy(run(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of the clock until the device is done."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_a_loop(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of a step, in a loop of SECONDS."""
    steps = 0

    def loop() -> None:
        nonlocal steps
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            step()
            steps += 1

    return timed(loop, device) / steps


if __name__ == "__main__":
    sys.exit(main())
