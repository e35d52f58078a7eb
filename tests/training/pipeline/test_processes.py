"""Real processes: one that is killed, and two that train together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from training.cli.shards import app
from training.models.checkpoint import load_network
from training.pipeline.pipeline import build
from training.recipes import parse_recipe


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few red and blue images, in splits that two processes can halve."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        for channel, name in ((0, "red"), (2, "blue")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 120, (16, 16, 3), np.uint8)
                image[:, :, channel] += 100
                Image.fromarray(image).save(root / split / name / f"{index:02}.png")
    return root


def document(photos: Path, **train: Any) -> dict[str, Any]:
    return {
        "name": "colours",
        "task": "classification",
        "seed": 3,
        "data": {"source": "image_folder", "root": str(photos)},
        "transform": {"resize": [16, 16]},
        "model": {"name": "resnet20_cifar"},
        "train": {
            "epochs": 8,
            "batch_size": 16,
            "optimizer": {"name": "sgd", "lr": 0.02},
            "precision": "fp32",
            "keep": "last",
            # No statistics are taken of batches then, so it does not matter how large they are.
            "freeze_backbone_epochs": 1,
            **train,
        },
        "prune": {"ratio": 0.3, "round_to": 8, "train": {"epochs": 1, "freeze_backbone_epochs": 0}},
    }


def written(folder: Path, recipe: dict[str, Any]) -> list[str]:
    """How a process of its own builds a recipe into FOLDER/runs."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return ["-m", "convserve", "build", str(path), "--out", str(folder / "runs"), "--until"]


def history(out: Path) -> list[dict[str, float]]:
    rows = json.loads((out / "colours" / "metrics.json").read_text())["train"]["history"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_network(out / "colours" / "train" / "network.safetensors").state_dict())


def test_killed_build_resumes_to_the_same_weights(photos: Path, tmp_path: Path) -> None:
    recipe = document(photos, ema_decay=0.99, accumulate=2, mixup_alpha=0.2, cutmix_alpha=1.0)
    command = [sys.executable, *written(tmp_path, recipe), "train"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 3/" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    train = tmp_path / "runs" / "colours" / "train"
    assert (train / "checkpoints" / "last.ckpt").exists()
    assert not (train / "done.json").exists()
    for out in ("runs", "unbroken"):
        build(parse_recipe(recipe), tmp_path / out, tmp_path / "repository", until="train")
    assert history(tmp_path / "runs") == history(tmp_path / "unbroken")
    resumed, whole = weights(tmp_path / "runs"), weights(tmp_path / "unbroken")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_build_killed_in_an_epoch_goes_on_there(photos: Path, tmp_path: Path) -> None:
    sharded(photos, tmp_path / "shards")
    recipe = document(
        photos, epochs=2, batch_size=4, accumulate=2, ema_decay=0.9, checkpoint_minutes=1e-6
    )
    recipe |= {"data": {"source": "shards", "train": str(tmp_path / "shards"), "shuffle_window": 9}}
    command = [sys.executable, *written(tmp_path, recipe), "train"]
    last = tmp_path / "runs" / "colours" / "train" / "checkpoints" / "last.ckpt"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not last.exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    reached = torch.load(last, weights_only=True)
    assert reached["epoch"] == 0
    assert 0 < reached["under_way"]["loader"]["batches"] < 12
    for out in ("runs", "unbroken"):
        build(parse_recipe(recipe), tmp_path / out, tmp_path / "repository", until="train")
    resumed_rows, whole_rows = history(tmp_path / "runs"), history(tmp_path / "unbroken")
    assert resumed_rows == [pytest.approx(row) for row in whole_rows]
    resumed, whole = weights(tmp_path / "runs"), weights(tmp_path / "unbroken")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def sharded(photos: Path, out: Path) -> None:
    """`photos` as shards of 20 images: 20, 20 and 8 of train, 16 of val and test."""
    result = CliRunner().invoke(app, ["shards", str(photos), str(out), "--images", "20"])
    assert result.exit_code == 0, result.output


# Each process writes down the images of its batches, a line a batch.
STREAMED = """
import sys, torch
from training.fitting import distributed
from training.data.loader import Loader
from training.data.sampling import InOrder, Share, Windowed
from training.data import load_dataset
from training.recipes import load_recipe
from pathlib import Path
share = Share(distributed.rank(), 2)
seen = open(f"{sys.argv[2]}/seen-{share.rank}", "w")
data = load_dataset(load_recipe(Path(sys.argv[1])))
with distributed.process_group(2):
    for epoch in range(2):
        sampler = Windowed(data.train.groups, 8, 3, data.train.window, share)
        sampler.set_epoch(epoch)
        for split, order in (("train", sampler), ("val", InOrder(len(data.val), 8, share))):
            loader = Loader(getattr(data, split), order)
            for images, targets in loader:
                # Every process has to come as often as the other, as in DDP.
                if split == "train":
                    torch.distributed.all_reduce(torch.ones(1))
                digests = [hash(image.numpy().tobytes()) for image in images]
                print(epoch, split, *digests, file=seen)
seen.close()
"""


def test_two_processes_see_each_image_of_shards_once(photos: Path, tmp_path: Path) -> None:
    sharded(photos, tmp_path / "shards")
    recipe = document(photos)
    recipe |= {"data": {"source": "shards", "train": str(tmp_path / "shards"), "shuffle_window": 9}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "streamed.py").write_text(STREAMED)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*torchrun, "--nproc-per-node", "2", str(tmp_path / "streamed.py")]
    ended = subprocess.run(
        [sys.executable, *command, str(tmp_path / "recipe.yaml"), str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert ended.returncode == 0, ended.stderr
    seen = [(tmp_path / f"seen-{rank}").read_text().splitlines() for rank in range(2)]
    for epoch in "01":
        for split, total in (("train", 48), ("val", 16)):
            own = [
                [
                    image
                    for line in lines
                    if line.startswith(f"{epoch} {split} ")
                    for image in line.split()[2:]
                ]
                for lines in seen
            ]
            assert [len(images) for images in own] == [total // 2] * 2
            assert len({*own[0], *own[1]}) == total


@pytest.mark.slow  # The two tests around it show its parts.
def test_two_processes_train_on_shards(photos: Path, tmp_path: Path) -> None:
    sharded(photos, tmp_path / "shards")
    # 24 images each: five batches, the last of 8.
    recipe = document(photos, epochs=2, batch_size=8, checkpoint_minutes=1e-6)
    recipe |= {"data": {"source": "shards", "train": str(tmp_path / "shards")}}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*torchrun, "--nproc-per-node", "2", *written(tmp_path, recipe), "train"]
    ended = subprocess.run([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(history(tmp_path / "runs")) == 2


def test_two_processes_train_what_one_would(photos: Path, tmp_path: Path) -> None:
    # Both write a checkpoint at most of the steps, at the same ones.
    recipe = document(photos, checkpoint_minutes=1e-6)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*torchrun, "--nproc-per-node", "2", *written(tmp_path, recipe), "prune"]
    ended = subprocess.run([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr
    # Fine-tuning after pruning is the first process's alone, and told once, as all stages are.
    for said in ("train: started", "train: epoch 1/8", "prune: started", "prune: epoch 1/1"):
        assert ended.stderr.count(said) == 1
    build(parse_recipe(recipe), tmp_path / "alone", tmp_path / "repository", until="train")
    together, alone = history(tmp_path / "runs"), history(tmp_path / "alone")
    assert together[0] == pytest.approx(alone[0], rel=1e-3)
    assert together[-1]["val_top1"] == alone[-1]["val_top1"] == 1.0
