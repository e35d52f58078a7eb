"""The subjects of a work: Triton with the FP32 network and with our INT8 file, and our server."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.job.building import BuildFailed, Built, Workshop
from benchmarks.job.data import FOLDER, Images
from benchmarks.job.masks import MaskCheck, facts_of
from benchmarks.job.measuring import Asked, Figures
from benchmarks.job.works import Load, Work
from benchmarks.serving.speed.measure import json_of
from benchmarks.serving.speed.peers import PeerModel, install_triton, write_triton
from benchmarks.serving.speed.rounds import Case
from tests.helm.tools import free_ports
from tests.peers.triton import TritonProcess
from tests.support.process import ServerProcess

# Seconds until our server has compiled and timed two networks for the first time, in every variant
# and engine, on a machine that may have other work.
_COLD_SECONDS = 600.0

FP32 = {
    "onnxruntime": "a FP32, Triton, ONNX Runtime",
    "openvino": "a FP32, Triton, OpenVINO",
}
INT8_IN_TRITON = "b our INT8, Triton"
INT8 = "c ours, INT8"
SEARCHED = "d ours, searched"


@dataclass(frozen=True)
class Served:
    """What a subject serves.

    url: "" where it could not be started.
    failed: the reason then.
    variant, engine: those that run.
    megabytes: of the network's file.
    seconds: of its build.
    parts: CPU seconds of the parts of an image's way, of our server; None in Triton.
    """

    url: str = ""
    model: str = ""
    failed: str = ""
    variant: str = ""
    engine: str = ""
    megabytes: float = 0.0
    seconds: float = 0.0
    parts: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Row:
    """A subject under one load."""

    case: Case
    served: Served


def rows(work: Work, images: Images, classes: int, served: Mapping[str, Served]) -> list[Row]:
    """Every subject under every load, in the order in which they take turns."""
    return [
        Row(Case(f"{work.title}, {load}", name, _run(one, load, images, classes)), one)
        for load in work.loads
        for name, one in served.items()
    ]


def _run(served: Served, load: Load, images: Images, classes: int) -> Any:
    def run(seconds: float) -> Figures:
        if served.failed:
            raise RuntimeError(served.failed)
        check = None
        if images.masks is not None and images.ignore is not None:
            facts = facts_of(served.model, vision_task=served.parts is not None)
            folders = (images.load, images.masks)
            check = partial(MaskCheck, served.url, facts, *folders, classes, images.ignore)
        return Asked(served.url, served.model, load, images, check).measure(seconds)

    return run


@contextlib.contextmanager
def running(
    work: Work, images: Images, workshop: Workshop, *, search: bool, triton: bool
) -> Iterator[tuple[dict[str, Served], int]]:
    """Builds what is not built yet, and starts the servers with it. Gives the subjects by name and
    the number of classes. Raises BuildFailed where there is nothing to serve."""
    built = {INT8: workshop.int8()}
    served: dict[str, Served] = {}
    failed: dict[str, Served] = {}
    if search and work.bound:
        try:
            built[SEARCHED] = workshop.searched()
        except BuildFailed as error:
            failed[SEARCHED] = Served(failed=str(error))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ours = ServerProcess(workshop.repository, cache=FOLDER / "cache")
        stack.callback(ours.kill)
        ours.wait_ready(_COLD_SECONDS)
        own = {name: _ours(ours, one, images) for name, one in built.items()}
        if triton:
            served |= _in_triton(work, built[INT8], own[INT8], workshop, Path(folder), stack)
        yield served | own | failed, len(built[INT8].manifest.classes)


def _ours(server: ServerProcess, built: Built, images: Images) -> Served:
    variant, engine = server.chosen()[built.name]
    parts = json_of(
        "benchmarks.job.parts",
        *("--version", str(built.version), "--variant", variant),
        *("--engine", engine, "--images", str(images.load)),
    )
    size = built.megabytes(variant)
    return Served(server.url, built.name, "", variant, engine, size, built.seconds, parts)


def _in_triton(
    work: Work,
    built: Built,
    ours: Served,
    workshop: Workshop,
    folder: Path,
    stack: contextlib.ExitStack,
) -> dict[str, Served]:
    """Triton's subjects; the reason for each where it does not start."""
    wanted = {name: ("fp32", engine, workshop.training_seconds) for engine, name in FP32.items()}
    wanted[INT8_IN_TRITON] = (ours.variant, ours.engine, built.seconds)
    manifest = built.manifest
    kind = "segment" if manifest.task == "segmentation" else "logits"
    models = {}
    for name, (variant, engine, _) in wanted.items():
        label = f"{work.name}-{name[0]}-{engine}"
        assert manifest.transform is not None
        models[name] = PeerModel(
            label, engine, built.file(variant), kind, manifest.transform, manifest.classes
        )
    try:
        install_triton()
        for model in models.values():
            write_triton(folder / "triton", model)
        labels = [model.name for model in models.values()]
        server = TritonProcess(folder / "triton", labels, free_ports(3), folder / "triton.log")
        stack.callback(server.stop)
        url = server.wait_ready().url
    # Where it does not start, the figures of our own subjects are kept.
    except Exception as error:
        return {name: Served(failed=f"Triton did not start: {error}") for name in wanted}
    return {
        name: Served(url, models[name].name, "", variant, engine, built.megabytes(variant), seconds)
        for name, (variant, engine, seconds) in wanted.items()
    }
