"""Candidates for the network, timed on this machine with a few steps of real training."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data.samples import ArraySamples
from training.fitting.lightning_module import Learner
from training.fitting.objective import build_objective
from training.fitting.optimizer import build_optimizer
from training.fitting.train import autocast
from training.models import build_model
from training.recipes import Recipe

# Runs that are timed after the first, which also prepares kernels; at least, at most, and seconds
# of work and of the clock after which no further one begins. The fastest counts: others were
# disturbed.
_LEAST_RUNS, _RUNS = 2, 5
_SECONDS, _CLOCK_SECONDS = 1.5, 15.0


@dataclass(frozen=True)
class Timing:
    """Seconds an image, on this machine when nothing else runs on it.

    step: of training: augmentation, forward, backward, optimiser.
    forward: of the network alone, as in validation.
    busy: share of the time in which other processes had the cores.
    """

    step: float
    forward: float
    busy: float = 0.0


def timed(recipe: Recipe, samples: ArraySamples, classes: int) -> Timing:
    """Trains the recipe's network on the samples, again and again as one batch.

    Raises RecipeError where the recipe does not fit them.
    """
    config = recipe.train
    if config is None:
        raise ValueError("the recipe trains nothing")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    network = build_model(
        recipe.model.architecture,
        recipe.channels(classes),
        channels=recipe.transform.channels,
        **recipe.model.options,
    )
    loss_classes = recipe.loss_classes(classes)
    objective = build_objective(network, config, samples, loss_classes, 255)
    learner = Learner(
        network.train(), objective, config, recipe.task, loss_classes, 255, recipe.normalization,
        recipe.augment, recipe.seed, "",
    ).to(device)  # fmt: skip
    optimizer = build_optimizer(learner.network, config.optimizer, objective.parameters())
    images, targets = (
        torch.from_numpy(held).to(device) for held in samples.batch(range(len(samples)))
    )

    def step() -> None:
        with autocast(device, config.precision):
            loss = learner.loss_of((images, targets), 0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def forward() -> None:
        with torch.no_grad(), autocast(device, config.precision):
            learner(images)

    trained, busy = _fastest(step, device)
    learner.eval()
    return Timing(trained / len(samples), _fastest(forward, device)[0] / len(samples), busy)


def _fastest(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds of the fastest of a few runs without the time in which it waited for a core, and the
    share of that wait in all runs."""
    taken, waited, began = list[float](), 0.0, time.monotonic()
    for _ in range(1 + _RUNS):
        before, started = _waits(), time.monotonic()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
        # Threads of a kernel wait for each other: the one that waited longest held up all.
        wait = max((now - before.get(thread, 0.0) for thread, now in _waits().items()), default=0.0)
        # Threads that started within the run bring along waits of other work.
        wait = min(wait, 0.99 * seconds)
        waited += wait
        taken.append(seconds - wait)
        enough = sum(taken) > _SECONDS and len(taken) > _LEAST_RUNS
        if enough or time.monotonic() > began + _CLOCK_SECONDS:
            break
    return min(taken[1:] or taken), waited / max(time.monotonic() - began, 1e-9)


def _waits() -> dict[str, float]:
    """Seconds that each thread of this process was ready to run and had no core, by its number;
    empty where the kernel does not tell (proc(5), schedstat)."""
    found = {}
    for thread in Path("/proc/self/task").glob("*"):
        try:
            found[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            continue
    return found
