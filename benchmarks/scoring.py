"""Images a second of a batch job, beside a bare loop of decoder and engine, and over a server.

    python -m benchmarks.scoring [--rounds 5]

Photographs through MobileNet-v2 and pictures of 32x32 through ResNet-56, in turns: `convserve
score` with the model in its process, the same file and engine in a loop that decodes the next batch
while one runs and keeps nothing (benchmarks.serving.speed.ceiling), and `convserve score --server`
with server and job on the same cores. Figures are medians; the exit status is 1 where a job here
has less than TARGET of the loop's rate.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.archives import extracted
from benchmarks.serving.networks import COLD_SECONDS, PRECISIONS, Exported, export, publish
from serving.base.machine.cpu import machine
from tests.support.process import ServerProcess
from training.evaluation.report.tables import print_table

FILES = Path("build/benchmarks")
TARGET = 0.9
# Seconds of the bare loop.
_LOOP_SECONDS = 4


def document(*arguments: object) -> dict[str, Any]:
    """What a program of ours prints. Ends this one where it fails."""
    command = [sys.executable, "-m", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def flat(name: str, pattern: str, copies: int, folder: Path) -> Path:
    """The images of an archive in one folder, some times."""
    folder.mkdir()
    for number, file in enumerate(sorted(extracted(name).glob(pattern))):
        for copy in range(copies):
            (folder / f"{copy}-{number:05}.jpg").hardlink_to(file)
    return folder


def rates(
    name: str, exported: Exported, images: Path, folder: Path, rounds: int
) -> dict[str, list[float]]:
    """Images a second of each way, by round."""
    repository = folder / f"models-{name}"
    # One cache for job and server; the server's sockets lie beside it.
    cache = Path(os.environ["HOME"], ".cache", "convserve")
    publish(repository, name, exported)
    out = folder / "out.parquet"
    job = ("convserve", "score", images, "--model", name, "--out", out, "--json", "--quiet")
    local = (*job, "--model-repository", repository)
    chosen = document(*local)
    out.unlink()
    height, width = exported.size
    loop = (
        "benchmarks.serving.speed.ceiling", "--file", exported.files[chosen["variant"]],
        "--engine", chosen["engine"], "--precision", PRECISIONS[chosen["variant"]],
        "--workload", "classify", "--height", height, "--width", width, "--images", images,
        "--seconds", _LOOP_SECONDS,
    )  # fmt: skip

    def scored(*command: object) -> float:
        rate = float(document(*command)["images_per_second"])
        out.unlink()
        return rate

    def looped() -> float:
        found = document(*loop)
        return float(found["images"] / found["seconds"])

    def served() -> float:
        server = ServerProcess(repository, cache=cache)
        try:
            server.wait_ready(COLD_SECONDS)
            return scored(*job, "--server", server.url)
        finally:
            server.kill()

    ways: dict[str, Callable[[], float]] = {
        "loop": looped, "job": lambda: scored(*local), "servers": served,
    }  # fmt: skip
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            found[way].append(measure())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    folder = Path(tempfile.mkdtemp(dir=FILES, prefix="scoring-")).resolve()
    os.environ["HOME"] = str(folder)
    (folder / ".cache").mkdir(mode=0o700)
    try:
        cases = {
            "mobilenet_v2": (
                export("mobilenet_v2", FILES),
                flat("photos", "*.jpg", 2, folder / "photos"),
            ),
            "resnet56_cifar": (
                export("resnet56_cifar", FILES, (32, 32)),
                flat("cifar10", "test/*/*.jpg", 1, folder / "cifar10"),
            ),
        }  # fmt: skip
        rows, reached = [], True
        for name, (exported, images) in cases.items():
            found = rates(name, exported, images, folder, rounds)
            medians = {way: statistics.median(values) for way, values in found.items()}
            ratio = medians["job"] / medians["loop"]
            reached &= ratio >= TARGET
            rows.append(
                {
                    "network": name,
                    "images": len(list(images.iterdir())),
                    "loop images/s": f"{medians['loop']:.0f}",
                    "job": f"{medians['job']:.0f}",
                    "over a server": f"{medians['servers']:.0f}",
                    "job ÷ loop": f"{ratio:.2f}",
                    "server ÷ loop": f"{medians['servers'] / medians['loop']:.2f}",
                }
            )
    finally:
        shutil.rmtree(folder)
    print_table(f"batch jobs, medians of {rounds} rounds, {machine()}", rows)
    return 0 if reached else 1


if __name__ == "__main__":
    FILES.mkdir(parents=True, exist_ok=True)
    sys.exit(main())
