"""Changes of training, of pruning's fine-tuning, and of batch norms' statistics, each over three
seeds beside the plain way, with the interval of the difference
(training/pipeline/study/ablation.py).

The whole takes about a day on two cores, --part, of 10,000 images of CIFAR-10 for 15 epochs, about
two hours. --quick takes 2,000 for 6 epochs and tells little: it shows that every row runs, and the
seconds of each. An interrupted one goes on.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.archives import extracted
from serving.base.machine.cpu import machine
from training.data import load_source
from training.evaluation.report.tables import print_table
from training.fitting.batch_norm import re_estimate
from training.models.checkpoint import NETWORK_FILE, load_network
from training.models.export.deployed import Deployed, run_deployed
from training.pipeline.study.ablation import paired_difference
from training.pipeline.study.definition import load_study
from training.pipeline.study.run import run_study
from training.pipeline.study.trials import Trials
from training.recipes import read_document, replace

HERE = Path(__file__).parent
RUNS = Path("runs/ablation")
SEEDS = (0, 1, 2)


class Part(NamedTuple):
    """A part of the images, and a shorter training.

    images: of a class, to train on, to validate on and to test.
    """

    name: str
    images: dict[str, int]
    overrides: dict[str, int]


PART = Part(
    "part",
    {"train": 1000, "val": 500, "test": 500},
    {"train.epochs": 15, "prune.train.epochs": 3},
)
QUICK = Part(
    "quick", {"train": 200, "val": 20, "test": 100}, {"train.epochs": 6, "prune.train.epochs": 1}
)
# Ways of fine-tuning after pruning.
PRUNING: dict[str, dict[str, Any]] = {
    "plain": {},
    "from the parent, 0.5": {"prune.distill": {"weight": 0.5}},
    "from the parent, 0.9": {"prune.distill": {"weight": 0.9}},
}
# Images whose statistics batch norms are given.
STATISTICS = (256, 2048)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    works = {"training": training, "pruning": pruning, "statistics": statistics}
    parser.add_argument("work", nargs="*", help=f"of {', '.join(works)}; all without")
    parts = parser.add_mutually_exclusive_group()
    for part in (PART, QUICK):
        parts.add_argument(f"--{part.name}", action="store_const", const=part, dest="part")
    given = parser.parse_args()
    if unknown := sorted(set(given.work) - set(works)):
        parser.error(f"unknown: {', '.join(unknown)}; expected some of {', '.join(works)}")
    print(machine())
    document = read_document(HERE / "recipe.yaml")
    if given.part is None:
        document["data"]["root"] = str(extracted("cifar10"))
    else:
        document["data"] = {"source": "image_folder", "root": str(some(given.part))}
        for path, value in given.part.overrides.items():
            replace(document, path, value)
    for work in given.work or works:
        works[work](document, RUNS / (given.part.name if given.part is not None else "full"))
    return 0


def training(document: dict[str, Any], folder: Path) -> None:
    """The rows of training.yaml, and a training of twice the epochs."""
    study = HERE / "training.yaml"
    definition = load_study(study)
    assert definition.ablation is not None
    longer = {"train.epochs": 2 * document["train"]["epochs"]}
    rows = {**definition.ablation.rows, "twice-as-long": longer}
    definition = definition.model_copy(
        update={"ablation": definition.ablation.model_copy(update={"rows": rows})}
    )
    outcome = run_study(document, definition, study, folder).outcome
    print_table(outcome.title, outcome.rows)
    print(outcome.note)


def pruning(document: dict[str, Any], folder: Path) -> None:
    """Validation accuracy after pruning; the ways share the trained network of a seed."""
    trials = Trials(document, folder / "pruning")
    scores: dict[str, list[float]] = {way: [] for way in PRUNING}
    seconds = dict.fromkeys(PRUNING, 0.0)
    for seed in SEEDS:
        for number, (way, overrides) in enumerate(PRUNING.items()):
            recipe = trials.recipe({**overrides, "seed": seed}, way)
            trained = trials.train(recipe, f"{number}-{seed}", until="prune")
            scores[way].append(trained.score)
            seconds[way] += trained.seconds
    show("after pruning", scores, {way: f"{spent:.0f}" for way, spent in seconds.items()})


def statistics(document: dict[str, Any], folder: Path) -> None:
    """Test accuracy as trained and pruned plainly, and with batch norms re-estimated afterwards."""
    trials = Trials(document, folder / "pruning")
    for stage in ("train", "prune"):
        ways = ["as trained", *(f"{images} images" for images in STATISTICS)]
        scores: dict[str, list[float]] = {way: [] for way in ways}
        for seed in SEEDS:
            recipe = trials.recipe({"seed": seed}, "plain")
            trials.train(recipe, f"0-{seed}", until="prune")
            data = load_source(recipe)
            network = load_network(folder / "pruning" / f"0-{seed}" / stage / NETWORK_FILE)
            deployed = Deployed(network, recipe.task, recipe.normalization)
            scores["as trained"].append(accuracy(deployed, data.test))
            for images in STATISTICS:
                rows = np.random.default_rng(seed).permutation(len(data.train))[:images]
                parts = np.array_split(rows, max(1, images // 64))
                shown = (
                    deployed.normalized(torch.from_numpy(data.train.batch(part)[0]))
                    for part in parts
                )
                re_estimate(network, shown)
                scores[f"{images} images"].append(accuracy(deployed, data.test))
        show(f"batch norms after {stage}, test", scores, {})


def accuracy(deployed: Deployed, samples: Any) -> float:
    right = 0
    for start in range(0, len(samples), 200):
        images, labels = samples.batch(range(start, min(start + 200, len(samples))))
        logits = run_deployed(deployed, ("logits",), images)["logits"]
        right += int((logits.argmax(axis=1) == labels).sum())
    return right / len(samples)


def show(title: str, scores: Mapping[str, Sequence[float]], seconds: Mapping[str, str]) -> None:
    """The mean of each way, and its difference to the first."""
    first = next(iter(scores.values()))
    rows = []
    for way, values in scores.items():
        mean, low, high = (100 * value for value in paired_difference(values, first))
        difference = "" if values is first else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        row = {"way": way, "n": str(len(values)), "mean %": f"{100 * np.mean(values):.2f}"}
        rows.append({**row, "difference": difference, "seconds": seconds.get(way, "")})
    print_table(title, rows)


def some(part: Part) -> Path:
    """A folder with its images: what it validates on lies behind what it trains on."""
    whole, root = extracted("cifar10"), RUNS / "data" / part.name
    images = part.images
    places = {
        "train": ("train", 0, images["train"]),
        "val": ("train", images["train"], images["val"]),
        "test": ("test", 0, images["test"]),
    }
    for split, (source, first, count) in places.items():
        for folder in sorted((whole / source).iterdir()):
            target = root / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[first : first + count]:
                if not (target / file.name).exists():
                    shutil.copy(file, target)
    return root


if __name__ == "__main__":
    sys.exit(main())
