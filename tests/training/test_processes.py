"""Real processes: one that is killed, and two that train together."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.training.conftest import digits_document, merged
from training.pipeline import build
from training.recipe import parse_recipe


def document(**train: Any) -> dict[str, Any]:
    """ResNet-20 on digits; frozen for an epoch, in which batch normalisation takes no statistics
    of its batches, so that it does not matter how many images a process has."""
    changes = {
        "name": "processes",
        "transform.resize": [8, 8],
        "train.epochs": 3,
        "train.precision": "fp32",
        "train.freeze_backbone_epochs": 1,
        **{f"train.{key}": value for key, value in train.items()},
    }
    return merged(digits_document(), changes)


def written(folder: Path, recipe: dict[str, Any]) -> list[str]:
    """The arguments of a build up to the trained network."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return ["build", str(path), "--until", "train", "--out", str(folder / "runs")]


def history(out: Path) -> list[dict[str, float]]:
    rows = json.loads((out / "processes" / "metrics.json").read_text())["train"]["history"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights(out: Path) -> dict[str, torch.Tensor]:
    network = torch.load(out / "processes" / "train" / "network.pt", weights_only=False)
    state: dict[str, torch.Tensor] = network.state_dict()
    return state


def test_killed_build_resumes_to_the_same_weights(tmp_path: Path) -> None:
    recipe = document(ema_decay=0.99, accumulate=2, mixup_alpha=0.2, cutmix_alpha=1.0)
    command = [sys.executable, "-m", "convserve", *written(tmp_path, recipe)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 2/" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "runs" / "processes" / "train" / "done.json").exists()
    assert (tmp_path / "runs" / "processes" / "train" / "checkpoints" / "last.ckpt").exists()
    for out in ("runs", "unbroken"):
        build(parse_recipe(recipe), tmp_path / out, tmp_path / "repository", until="train")
    assert history(tmp_path / "runs") == history(tmp_path / "unbroken")
    resumed, whole = weights(tmp_path / "runs"), weights(tmp_path / "unbroken")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_two_processes_train_what_one_would(tmp_path: Path) -> None:
    recipe = document()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "convserve", *written(tmp_path, recipe)]
    subprocess.run([sys.executable, *command], check=True, timeout=300)
    build(parse_recipe(recipe), tmp_path / "alone", tmp_path / "repository", until="train")
    together, alone = history(tmp_path / "runs"), history(tmp_path / "alone")
    assert together[0] == pytest.approx(alone[0], rel=1e-4)
    # Then batches of half the size are normalised, so the curves part, to about the same end.
    assert together[-1]["loss"] < together[0]["loss"]
    assert together[-1]["val_top1"] > 0.5
