"""Time of a server from process start to ready and to its first answer (W4).

    python -m benchmarks.serving.startup [--rounds 5]

ResNet-18, ResNet-50, MobileNet-v2 and a small U-Net, each published as FP32 and INT8. Cold: an
empty cache, so every variant is compiled, checked and timed in every engine. Warm: with the
cache of the cold start. Figures are seconds of wall clock and of CPU; imports are those of
`convserve serve`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.serving.networks import COLD_SECONDS, export, publish
from loadtest.measurement.server_process import usage
from serving.client import VisionClient
from tests.support.process import ServerProcess

FILES = Path("build/benchmarks")
IMPORT_TARGET, READY_TARGET = 0.6, 2.5
NETWORKS = {"resnet18": {}, "resnet50": {}, "mobilenet_v2": {}, "unet_slim": {"width": 0.25}}


def imports() -> float:
    """Seconds that a fresh interpreter takes to import the command."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import serving.cli.serve"], check=True)
    whole = time.monotonic() - begin
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return whole - (time.monotonic() - begin)


def start(repository: Path, cache: Path) -> tuple[float, float, float]:
    """Seconds to ready and to the first answer, and CPU seconds until then."""
    image = np.zeros((224, 224, 3), np.uint8)
    begin = time.monotonic()
    server = ServerProcess(repository, "--strict-readiness", cache=cache)
    try:
        server.wait_ready(COLD_SECONDS)
        ready = time.monotonic() - begin
        with VisionClient(server.url) as client:
            client.classify("resnet18", image)
        return ready, time.monotonic() - begin, usage(server.process.pid)[0]
    finally:
        server.terminate()


def spread(measure: Callable[[], float], rounds: int) -> list[float]:
    """As many measurements."""
    return [measure() for _ in range(rounds)]


def main() -> None:
    """Prints the table; exit status 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    # Modules are compiled once, as in an installation; here the first start does it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    spread(imports, 1)
    imported = statistics.median(spread(imports, rounds))
    print(f"imports: {imported:.2f} s (target {IMPORT_TARGET})")
    with tempfile.TemporaryDirectory() as folder:
        repository, cache = Path(folder) / "models", Path(folder) / "cache"
        for name, options in NETWORKS.items():
            publish(repository, name, export(name, FILES, **options))
        cold, warm = [], []
        for _ in range(rounds):
            shutil.rmtree(cache, ignore_errors=True)
            cold.append(start(repository, cache))
            warm.append(start(repository, cache))
    for label, found in (("cold", cold), ("warm", warm)):
        ready, first, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        print(
            f"{label}: ready after {ready:.2f} s, first answer after {first:.2f} s, "
            f"{cpu:.1f} s of CPU (medians of {rounds})"
        )
    warm_ready = statistics.median(ready for ready, _, _ in warm)
    sys.exit(0 if imported <= IMPORT_TARGET and warm_ready <= READY_TARGET else 1)


if __name__ == "__main__":
    main()
