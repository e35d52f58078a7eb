"""Time saved, and pixels changed, by reducing large JPEGs while they are decoded.

    python -m benchmarks.serving.decoding [--images 20]

Photographs are enlarged to camera sizes, with noise like a sensor's, then resized to 224x224 from a
full decode and by `load_image`, in turns on one thread. The difference is that of the network's
images, in levels of 255. The exit status is 1 where it is over 1 on average.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from statistics import mean, median

import numpy as np
from PIL import Image

from benchmarks.archives import extracted
from serving.base.machine.cpu import machine
from serving.images.decoding import Pixels, decode
from serving.images.preprocess import load_image, transform
from serving.repository.manifest import EvalTransform
from training.evaluation.report.tables import print_table

SIZES = ((500, 375), (1000, 750), (2000, 1500), (4000, 3000))
FILTERS = ("area", "bilinear")
NOISE = 4.0
MOST_DIFFERENT = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20)
    count = parser.parse_args().images
    files = sorted(extracted("photos").glob("*.jpg"))
    rng = np.random.default_rng(0)
    rows = []
    reached = True
    for size in SIZES:
        images = [enlarged(file.read_bytes(), size, rng) for file in files[:count]]
        for name in FILTERS:
            shown = EvalTransform(resize=256, crop=(224, 224), filter=name)
            full, reduced, differences = [], [], []
            for data in images:
                seconds, whole = timed(lambda: transform(decode(data), shown))  # noqa: B023
                full.append(seconds)
                seconds, loaded = timed(lambda: load_image(data, shown).pixels)  # noqa: B023
                reduced.append(seconds)
                differences.append(float(np.abs(whole.astype(int) - loaded).mean()))
            reached &= mean(differences) <= MOST_DIFFERENT
            gains = [before / after for before, after in zip(full, reduced, strict=True)]
            rows.append(
                {
                    "image": f"{size[0]}x{size[1]}",
                    "filter": name,
                    "full decode, ms": f"{median(full) * 1e3:.1f}",
                    "load_image, ms": f"{median(reduced) * 1e3:.1f}",
                    "times as fast": f"{median(gains):.2f}",
                    "mean difference": f"{mean(differences):.2f}",
                    "largest mean": f"{max(differences):.2f}",
                }
            )
    print_table(machine(), rows)
    return 0 if reached else 1


def enlarged(data: bytes, size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """A JPEG of quality 90 and `size` (width, height)."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    noisy = np.asarray(image) + rng.normal(0, NOISE, (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def timed(load: Callable[[], Pixels]) -> tuple[float, Pixels]:
    begin = time.perf_counter()
    pixels = load()
    return time.perf_counter() - begin, pixels


if __name__ == "__main__":
    sys.exit(main())
