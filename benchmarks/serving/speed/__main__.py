"""Runs the workloads and prints the table.

    python -m benchmarks.serving.speed [--only W0 W1] [--rounds 5] [--seconds 5] [--peers ...]

W0: a trivial model, 32x32 raw tensors: what the front costs. W1: ResNet-18 and ResNet-50 INT8, raw
tensors. W2: the same from JPEG files to five labels. W3: a U-Net at 480x352 from JPEG files to mask
PNGs. Subjects take turns; figures are medians over the rounds that count, ratios are medians of
ratios within a round. W4, the start, is benchmarks.serving.startup.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.archives import extracted
from benchmarks.echo import SIDE, echo_server
from benchmarks.serving.networks import COLD_SECONDS, Exported, export, export_trivial, publish
from benchmarks.serving.speed import measure, peers
from benchmarks.serving.speed.measure import Measurement
from benchmarks.serving.speed.peers import PeerModel
from tests.helm.tools import free_ports
from tests.peers.triton import TritonProcess
from tests.support.process import ServerProcess

FILES = Path("build/benchmarks")
SEGMENTATION = (352, 480)
CLASSIFIERS = ("resnet18", "resnet50")
SEGMENTER = "unet_slim"
SEGMENTER_OPTIONS = {"width": 0.25}


@dataclass
class Subjects:
    """What is running: URLs by name, and the engine that our server chose by model."""

    urls: dict[str, str]
    networks: dict[str, Exported]
    chosen: dict[str, tuple[str, str]]
    photos: Path | None


@dataclass
class Case:
    """One row: a name, and what measures it."""

    workload: str
    name: str
    run: Callable[[], Measurement]
    found: list[Measurement] = field(default_factory=list)


@contextlib.contextmanager
def running(wanted: set[str], workloads: set[str]) -> Iterator[Subjects]:
    """Starts our server and the peers that are wanted, each with every model it needs."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        photos = extracted("photos") if workloads & {"W2", "W3"} else None
        repository = root / "ours"
        networks = {"trivial": export_trivial(SIDE, FILES)}
        if workloads & {"W1", "W2"}:
            networks |= {name: export(name, FILES) for name in CLASSIFIERS}
        if "W3" in workloads:
            networks[SEGMENTER] = export(SEGMENTER, FILES, SEGMENTATION, **SEGMENTER_OPTIONS)
        for name, exported in networks.items():
            publish(repository, name, exported)
        models = list(_peer_models(networks))
        ours = ServerProcess(repository, cache=FILES / "cache")
        stack.callback(ours.kill)
        ours.wait_ready(COLD_SECONDS)
        urls = {"ours": ours.url, "echo": stack.enter_context(echo_server())}
        if "triton" in wanted:
            peers.install_triton()
            for model in models:
                peers.write_triton(root / "triton", model)
            names = [model.name for model in models]
            triton = TritonProcess(root / "triton", names, free_ports(3), root / "triton.log")
            stack.callback(triton.stop)
            urls["triton"] = triton.wait_ready().url
        if "mlserver" in wanted:
            peers.install_mlserver()
            peers.write_mlserver(root / "mlserver", models)
            mlserver = peers.MlServerProcess(root / "mlserver", free_ports(3), root / "ml.log")
            stack.callback(mlserver.stop)
            urls["mlserver"] = mlserver.wait_ready().url
        yield Subjects(urls, networks, ours.chosen(), photos)


def _peer_models(networks: dict[str, Exported]) -> Iterator[PeerModel]:
    """The same for the peers: each network in each engine, in the variant that suits it there."""
    yield PeerModel("trivial", "numpy", None, "tensor", SIDE, SIDE, 3)
    for name, exported in networks.items():
        if name == "trivial":
            continue
        kinds = ["segment"] if exported.task == "segmentation" else ["tensor", "classify"]
        for engine, variant in (("onnxruntime", "int8-u8"), ("openvino", "int8-s8")):
            for kind in kinds:
                file = exported.files[variant]
                label = f"{name}-{engine}-{kind}"
                yield PeerModel(label, engine, file, kind, *exported.size, exported.classes)


def ceiling_of(subjects: Subjects, model: str, workload: str, seconds: float) -> Measurement:
    """The ceiling with the variant and engine that our server took."""
    return measure.ceiling(*_ceiling_flags(subjects, model, workload, seconds))


def floor_of(
    subjects: Subjects,
    model: str,
    workload: str,
    seconds: float,
    ours: list[Measurement],
    calls: tuple[str, ...],
) -> Measurement:
    """The ceiling beside an echo of the same calls, at the rate that ours has just had."""
    with echo_server(subjects.networks[model].size[0]) as url:
        flags = _ceiling_flags(subjects, model, workload, seconds)
        return measure.floor(url, ours[-1].rate, calls, seconds, *flags)


def _ceiling_flags(subjects: Subjects, model: str, workload: str, seconds: float) -> list[str]:
    exported = subjects.networks[model]
    variant, engine = subjects.chosen[model]
    file = exported.files[variant]
    height, width = exported.size
    flags = ["--file", str(file), "--engine", engine, "--workload", workload]
    flags += ["--precision", variant.split("-")[0], "--seconds", str(seconds)]
    flags += ["--height", str(height), "--width", str(width)]
    if workload != "tensor":
        flags += ["--images", str(subjects.photos)]
    return flags


def cases(subjects: Subjects, workloads: set[str], seconds: float) -> Iterator[Case]:
    """Every row, in the order in which they take turns."""

    def loaded(name: str, model: str, concurrency: int, *flags: str) -> Callable[[], Measurement]:
        url = subjects.urls[name]
        return lambda: measure.load(url, model, concurrency, seconds, *flags)

    oip = ("--api", "oip")
    names = list(subjects.urls)
    if "W0" in workloads:
        for concurrency in (1, 8, 32):
            for name in names:
                yield Case(
                    f"W0 unary, {concurrency} callers", name,
                    loaded(name, "trivial", concurrency, *oip),
                )  # fmt: skip
        for name in ("ours", "echo"):
            yield Case(
                "W0 stream, 32 callers", name,
                loaded(name, "trivial", 32, *oip, "--streams", "4"),
            )  # fmt: skip
        yield Case(
            "W0 stream, 32 callers", "VisionClient",
            lambda: measure.client(subjects.urls["ours"], "trivial", SIDE, seconds),
        )  # fmt: skip
    others = [name for name in names if name in ("triton", "mlserver")]
    for label, workload in (("W1", "tensor"), ("W2", "classify")):
        if label not in workloads or (workload == "classify" and subjects.photos is None):
            continue
        images = ("--images", str(subjects.photos)) if workload == "classify" else ()
        calls = images if workload == "classify" else oip
        for model in CLASSIFIERS:
            row = f"{label} {model}, 32 callers"
            yield Case(
                row, "ceiling",
                partial(ceiling_of, subjects, model, workload, seconds),
            )  # fmt: skip
            own = Case(row, "ours", loaded("ours", model, 32, *calls))
            yield own
            yield Case(
                row, "engine and echo",
                partial(floor_of, subjects, model, workload, seconds, own.found, calls),
            )  # fmt: skip
            for name in others:
                for engine in ("onnxruntime", "openvino"):
                    peer = f"{model}-{engine}-{workload}"
                    yield Case(row, f"{name} {engine}", loaded(name, peer, 32, *oip, *images))
            if workload == "tensor":
                alone = f"{label} {model}, 1 caller"
                yield Case(alone, "ours", loaded("ours", model, 1, *oip))
    if "W3" in workloads and subjects.photos is not None:
        row, images = f"W3 {SEGMENTER} 480x352, 32 callers", ("--images", str(subjects.photos))
        yield Case(
            row, "ceiling",
            partial(ceiling_of, subjects, SEGMENTER, "segment", seconds),
        )  # fmt: skip
        yield Case(row, "ours", loaded("ours", SEGMENTER, 32, *images))
        for name in others:
            for engine in ("onnxruntime", "openvino"):
                peer = f"{SEGMENTER}-{engine}-segment"
                yield Case(row, f"{name} {engine}", loaded(name, peer, 32, *oip, *images))


def table(rows: list[Case]) -> str:
    """Markdown: medians with the lowest and highest, and ratios to ours within the rounds."""
    lines = [
        "| workload | subject | answers/s | CPU ms an answer | p50 ms | p99 ms | generator | "
        "others | ours ÷ it: answers/s | CPU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    by_row: dict[str, dict[str, list[Measurement]]] = defaultdict(dict)
    for row in rows:
        by_row[row.workload][row.name] = row.found
    for workload, subjects in by_row.items():
        ours = subjects.get("ours", [])
        for name, found in subjects.items():
            pairs = [(a, b) for a, b in zip(ours, found, strict=False) if not (a.void or b.void)]
            pairs = pairs or list(zip(ours, found, strict=False))
            counted = [m for m in found if not m.void] or found
            void = "" if not all(m.void for m in found) else " (void)"
            rate = statistics.median(a.rate / b.rate for a, b in pairs) if pairs else np.nan
            cpu = statistics.median(a.cpu / b.cpu for a, b in pairs) if pairs else np.nan
            lines.append(
                f"| {workload} | {name}{void} | {_spread([m.rate for m in counted], 0)} | "
                f"{_spread([m.cpu * 1e3 for m in counted], 3)} | "
                f"{_spread([m.p50 for m in counted], 2)} | "
                f"{_spread([m.p99 for m in counted], 1)} | "
                f"{statistics.median(m.generator for m in counted):.0%} | "
                f"{statistics.median(m.others for m in counted):.1%} | {rate:.2f} | {cpu:.2f} |"
            )
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    if any(np.isnan(values)):
        return ""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main() -> None:
    """Runs; prints the table as it grows, writes it and the raw figures beside the networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=["W0", "W1", "W2", "W3"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--peers", nargs="*", default=["triton", "mlserver"])
    arguments = parser.parse_args()
    workloads = set(arguments.only)
    with running(set(arguments.peers), workloads) as subjects:
        rows = list(cases(subjects, workloads, arguments.seconds))
        for turn in range(arguments.rounds):
            for row in rows:
                row.found.append(row.run())
                found = row.found[-1]
                print(
                    f"round {turn + 1}: {row.workload}, {row.name}: {found.rate:,.0f}/s, "
                    f"{found.cpu * 1e3:.3f} ms CPU, others {found.others:.1%}",
                    flush=True,
                )
        chosen = ", ".join(f"{m}: {v} in {e}" for m, (v, e) in subjects.chosen.items())
    text = f"{table(rows)}\n\nOur server chose {chosen}."
    print(text)
    FILES.mkdir(parents=True, exist_ok=True)
    (FILES / "speed.md").write_text(text + "\n")
    raw = {f"{row.workload}: {row.name}": [vars(m) for m in row.found] for row in rows}
    (FILES / "speed.json").write_text(json.dumps(raw, indent=2))


if __name__ == "__main__":
    main()
