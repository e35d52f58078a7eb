"""CPU of the parts of an image's way that are no server's: decoding, the engine, the answer.

    python -m benchmarks.job.parts --version DIR --variant V --engine E --images DIR

Prints one JSON document: CPU seconds an image of decode, engine (batches of 32) and answer, all
cores together.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving.base.machine.cpu import core_count
from serving.base.task import IMAGE_INPUT
from serving.base.tensor import Array
from serving.engines import EngineOptions, load_engine
from serving.images.decoding import LoadedImage
from serving.images.postprocess import class_areas, palette_png, resize_mask, top_k
from serving.images.preprocess import load_image
from serving.repository.manifest import read_manifest

_BATCH = 32
# Seconds of each measurement; more are steadier.
_SECONDS = 1.5


def main() -> None:
    """Measures the parts and prints the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", type=Path, required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--images", type=Path, required=True)
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.version)
    if manifest is None or manifest.transform is None:
        parser.error(f"{arguments.version}: no manifest of images")
    transform = manifest.transform
    [variant] = [v for v in manifest.variants if v.id == arguments.variant]
    paths = sorted(path for path in arguments.images.rglob("*") if path.is_file())
    files = [paths[i].read_bytes() for i in np.linspace(0, len(paths) - 1, _BATCH).astype(int)]
    loaded = [load_image(file, transform) for file in files]
    batch = np.stack([image.pixels for image in loaded])
    options = EngineOptions(variant.precision, 1, core_count(), _BATCH)
    engine = load_engine(arguments.engine, variant.path_in(arguments.version), options)
    outputs = {name: array.copy() for name, array in engine.infer({IMAGE_INPUT: batch}).items()}
    found = {
        "decode": _cpu(lambda: [load_image(file, transform) for file in files]),
        "engine": _cpu(lambda: engine.infer({IMAGE_INPUT: batch})),
        "answer": _cpu(lambda: _answer(outputs, loaded)),
    }
    engine.close()
    print(json.dumps(found))


def _answer(outputs: dict[str, Array], images: list[LoadedImage]) -> None:
    """Makes the answers of a batch: labels, or mask PNGs of the images' sizes."""
    if "logits" in outputs:
        top_k(outputs["logits"], 1)
        return
    for mask, confidence, image in zip(outputs["mask"], outputs["confidence"], images, strict=True):
        class_areas(mask, confidence)
        palette_png(resize_mask(mask, *image.size))


def _cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process an image."""
    work()
    begin, end, count = time.process_time(), time.monotonic() + _SECONDS, 0
    while time.monotonic() < end:
        work()
        count += _BATCH
    return (time.process_time() - begin) / count


if __name__ == "__main__":
    main()
