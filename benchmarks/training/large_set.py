"""A set of 1,000,000 images in 1,000 shards: time to the first batch, and memory along the stream.

All shards are one file under many names, so that the set is made in a second and lies in the page
cache. Measured in processes of their own: with the index, and as shards of others without one. A
peer of the memory is the same process before the stream.
"""

import argparse
import io
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from serving.base.machine.cpu import machine
from training.data import load_source
from training.data.loader import Loader
from training.data.samples import StreamedSamples
from training.data.sampling import Windowed
from training.data.shards.index import INDEX_FILE, Index, IndexedShard, IndexedSplit
from training.data.shards.tables import Layout, as_bytes, scan
from training.data.shards.write import tar_file
from training.data.storage.store import Store
from training.data.survey import survey
from training.recipes import parse_recipe

IN_SHARD = 1_000
CLASSES = 10
WINDOW = 10_000
# Seconds from the start to the first batch, the look at the data included; MB by which the stream
# grows from its second tenth to its end.
START_SECONDS, GROWTH_MB = 10.0, 64.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--stream", type=int, default=200_000, help="images that are streamed")
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        _write(folder, given.images // IN_SHARD)
        indexed = _measured(str(folder), given.stream)
        listed = _measured(f"{folder}/train-*.tar", 0)
    print(f"with an index: {json.dumps(indexed)}")
    print(f"without one: {json.dumps(listed)}")
    reached = indexed["first_batch_s"] <= START_SECONDS and indexed["growth_mb"] <= GROWTH_MB
    print("all reached" if reached else "MISSED")
    return 0 if reached else 1


def _write(folder: Path, shards: int) -> None:
    image = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(image, "JPEG")
    first = folder / "train-000000.tar"
    tar_file(first, ((f"{i:06}", ".jpg", image.getvalue(), i % CLASSES) for i in range(IN_SHARD)))
    size = first.stat().st_size
    table = first.with_suffix(".idx")
    table.write_bytes(as_bytes(scan(Store(), str(first), size, Layout(masks=False))))
    names = [f"train-{number:06}" for number in range(shards)]
    for name in [*names[1:], "val-000000", "test-000000"]:
        for file in (first, table):
            os.link(file, folder / f"{name}{file.suffix}")

    def split(names: list[str]) -> IndexedSplit:
        listed = tuple(IndexedShard(name=f"{x}.tar", images=IN_SHARD, bytes=size) for x in names)
        images = IN_SHARD * len(names)
        return IndexedSplit(images=images, by_class=(images // CLASSES,) * CLASSES, shards=listed)

    index = Index(
        holds="classes",
        classes=tuple(map(str, range(CLASSES))),
        splits={
            "train": split(names),
            "val": split(["val-000000"]),
            "test": split(["test-000000"]),
        },
    )
    (folder / INDEX_FILE).write_text(index.model_dump_json())


def _measured(train: str, stream: int) -> dict[str, float]:
    """The figures of a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (train, stream))


def _measure(train: str, stream: int) -> dict[str, float]:
    recipe = parse_recipe({
        "name": "large",
        "task": "classification",
        "data": {"source": "shards", "train": train, "shuffle_window": WINDOW},
        "transform": {"resize": [32, 32]},
        "model": {"name": "resnet20_cifar"},
        "train": {"epochs": 1, "batch_size": 256, "optimizer": {"name": "sgd", "lr": 0.1}},
    })  # fmt: skip
    began = time.monotonic()
    data = load_source(recipe)
    loaded = time.monotonic() - began
    samples = data.train
    assert isinstance(samples, StreamedSamples)
    findings = survey(data, Path(tempfile.mkdtemp()) / "sheet.npz")
    looked = time.monotonic() - began
    batches = iter(Loader(samples, Windowed(samples.groups, 256, 1, samples.window)))
    next(batches)
    figures = {
        "images": len(samples),
        "load_s": round(loaded, 2),
        "look_s": round(looked - loaded, 2),
        "looked_at": sum(findings["looked_at"].values()),
        "first_batch_s": round(time.monotonic() - began, 2),
    }
    if stream:
        process, memory = psutil.Process(), []
        began = time.monotonic()
        for number in range(stream // 256):
            next(batches)
            if number % (stream // 256 // 10) == 0:
                memory.append(process.memory_info().rss / 1e6)
        figures["images_per_s"] = round(stream / (time.monotonic() - began))
        figures["memory_mb"] = round(memory[-1])
        figures["growth_mb"] = round(max(memory[2:]) - memory[2], 1)
    return figures


if __name__ == "__main__":
    sys.exit(main())
