"""Our server, its peers and ceilings, and the cases that measure them."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.archives import extracted
from benchmarks.echo import SIDE, echo_server
from benchmarks.serving.networks import (
    COLD_SECONDS,
    Exported,
    eval_transform,
    export,
    export_trivial,
    publish,
)
from benchmarks.serving.speed import identity, measure, peers
from benchmarks.serving.speed.peers import PeerModel
from benchmarks.serving.speed.rounds import Case, Measurement
from tests.helm.tools import free_ports
from tests.peers.triton import TritonProcess
from tests.support.certified import Certified
from tests.support.process import ServerProcess

FILES = Path("build/benchmarks")
SEGMENTATION = (352, 480)
CLASSIFIERS = ("resnet18", "resnet50")
SEGMENTER = "unet_slim"
SEGMENTER_OPTIONS = {"width": 0.25}


ENGINES = ("onnxruntime", "openvino")
OIP = ("--api", "oip")


@dataclass
class Subjects:
    """The servers that run.

    urls: by name.
    failed: the reason by name of a peer that could not be started.
    networks: by model.
    chosen: variant and engine that our server chose, by model.
    photos: folder of JPEG files, where a workload needs them.
    ca: authority of the servers of grpcs://.
    callers: those of W0-auth.
    """

    urls: dict[str, str]
    networks: dict[str, Exported]
    chosen: dict[str, tuple[str, str]]
    photos: Path | None
    ca: Path
    callers: identity.Subjects = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def running(
    wanted: set[str], workloads: set[str], before: Path | None = None
) -> Iterator[Subjects]:
    """Starts our server and the wanted peers, each with every model that it needs; with `before`, a
    checkout, the server of that code as well."""
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
        made = Certified(root / "tls")
        subjects = Subjects(urls, networks, ours.chosen(), photos, made.ca)
        if workloads & {"W0", "W0-auth"}:
            context = made.trusting.context()
            secured = ServerProcess(
                repository, *made.flags(), cache=FILES / "cache", context=context
            )
            stack.callback(secured.kill)
            urls["ours, TLS"] = f"grpcs://{secured.wait_ready(COLD_SECONDS).url}"
        if "W0-auth" in workloads:
            cache = FILES / "cache"
            subjects.callers = identity.start(root, repository, cache, urls, made, stack)
        if before is not None:
            urls["before"] = _start_before(before, repository, subjects.chosen, stack)
        for name, start in (("triton", _start_triton), ("mlserver", _start_mlserver)):
            if name not in wanted:
                continue
            try:
                urls[name] = start(root, models, stack)
            # Where a peer does not start, the figures of the others are kept.
            except Exception as error:
                subjects.failed[name] = f"did not start: {error}"
        yield subjects


def _start_before(
    checkout: Path,
    repository: Path,
    chosen: dict[str, tuple[str, str]],
    stack: contextlib.ExitStack,
) -> str:
    """The server of another checkout. Raises RuntimeError where it chose other variants or engines
    than ours, since the difference would not be due to the code."""
    # Without the safe path, Python would import from this checkout first.
    env = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    server = ServerProcess(repository, cache=FILES / "cache", env=env)
    stack.callback(server.kill)
    server.wait_ready(COLD_SECONDS)
    if server.chosen() != chosen:
        raise RuntimeError(f"{checkout} serves {server.chosen()}, this checkout {chosen}")
    return server.url


def _start_triton(root: Path, models: list[PeerModel], stack: contextlib.ExitStack) -> str:
    peers.install_triton()
    for model in models:
        peers.write_triton(root / "triton", model)
    names = [model.name for model in models]
    triton = TritonProcess(root / "triton", names, free_ports(3), root / "triton.log")
    stack.callback(triton.stop)
    return triton.wait_ready().url


def _start_mlserver(root: Path, models: list[PeerModel], stack: contextlib.ExitStack) -> str:
    peers.install_mlserver()
    peers.write_mlserver(root / "mlserver", models)
    mlserver = peers.MlServerProcess(root / "mlserver", free_ports(3), root / "ml.log")
    stack.callback(mlserver.stop)
    return mlserver.wait_ready().url


def _peer_models(networks: dict[str, Exported]) -> Iterator[PeerModel]:
    """The models of the peers: each network in each engine, in the variant that is best there."""
    side = eval_transform((SIDE, SIDE))
    yield PeerModel("trivial", "numpy", None, "tensor", side, _names(3))
    for name, exported in networks.items():
        if name == "trivial":
            continue
        kinds = ["segment"] if exported.task == "segmentation" else ["tensor", "classify"]
        for engine, variant in (("onnxruntime", "int8-u8"), ("openvino", "int8-s8")):
            for kind in kinds:
                file = exported.files[variant]
                label = f"{name}-{engine}-{kind}"
                transform, names = eval_transform(exported.size), _names(exported.classes)
                yield PeerModel(label, engine, file, kind, transform, names)


def _names(classes: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(classes))


def cases(subjects: Subjects, workloads: set[str]) -> Iterator[Case]:
    """Every row, in the order in which they take turns."""
    if "W0" in workloads:
        yield from _fronts(subjects)
    if "W0-auth" in workloads:
        yield from identity.cases(subjects.callers, "trivial")
    for label, workload in (("W1", "tensor"), ("W2", "classify")):
        if label in workloads:
            for model in CLASSIFIERS:
                yield from _engines(subjects, f"{label} {model}, 32 callers", model, workload)
                if workload == "tensor":
                    alone = f"{label} {model}, 1 caller"
                    yield Case(alone, "ours", _loaded(subjects, "ours", model, 1, *OIP))
    if "W3" in workloads:
        row = f"W3 {SEGMENTER} 480x352, 32 callers"
        yield from _engines(subjects, row, SEGMENTER, "segment")


def _fronts(subjects: Subjects) -> Iterator[Case]:
    """A trivial model: the cost of the front."""
    names = [*subjects.urls, *subjects.failed]
    for concurrency in (1, 8, 32):
        for name in names:
            run = _loaded(subjects, name, "trivial", concurrency, *OIP)
            yield Case(f"W0 unary, {concurrency} callers", name, run)
    row = "W0 stream, 32 callers"
    for name in ("ours", "ours, TLS", "before", "echo"):
        if name in subjects.urls:
            yield Case(row, name, _loaded(subjects, name, "trivial", 32, *OIP, "--streams", "4"))
    yield Case(row, "VisionClient", partial(measure.client, subjects.urls["ours"], "trivial", SIDE))
    if "before" in subjects.urls:
        for name in ("ours", "before"):
            run = partial(measure.client, subjects.urls[name], "trivial", SIDE)
            yield Case("W0 VisionClient", name, run)


def _engines(subjects: Subjects, row: str, model: str, workload: str) -> Iterator[Case]:
    """A network: its ceiling, ours, the floor, and the peers with each engine."""
    images = () if workload == "tensor" else ("--images", str(subjects.photos))
    calls = images or OIP
    yield Case(row, "ceiling", partial(_ceiling, subjects, model, workload))
    ours = Case(row, "ours", _loaded(subjects, "ours", model, 32, *calls))
    yield ours
    if "before" in subjects.urls:
        yield Case(row, "before", _loaded(subjects, "before", model, 32, *calls))
    if workload != "segment":
        yield Case(row, "engine and echo", partial(_floor, subjects, model, workload, ours, calls))
    for name in ("triton", "mlserver"):
        if name in subjects.urls or name in subjects.failed:
            for engine in ENGINES:
                run = _loaded(subjects, name, f"{model}-{engine}-{workload}", 32, *OIP, *images)
                yield Case(row, f"{name} {engine}", run)


def _loaded(
    subjects: Subjects, name: str, model: str, concurrency: int, *flags: str
) -> Callable[[float], Measurement]:
    """Measures a server in a closed loop."""

    def run(seconds: float) -> Measurement:
        if name in subjects.failed:
            raise RuntimeError(subjects.failed[name])
        url = subjects.urls[name]
        tls = ("--tls-ca", str(subjects.ca)) if url.startswith("grpcs://") else ()
        return measure.load(url, model, concurrency, seconds, *flags, *tls)

    return run


def _ceiling(subjects: Subjects, model: str, workload: str, seconds: float) -> Measurement:
    """The ceiling with the variant and engine that our server chose."""
    return measure.ceiling(*_ceiling_flags(subjects, model, workload, seconds))


def _floor(
    subjects: Subjects,
    model: str,
    workload: str,
    ours: Case,
    calls: Sequence[str],
    seconds: float,
) -> Measurement:
    """The ceiling beside an echo of the same calls, at our server's rate in this round."""
    latest = ours.found[-1]
    if not isinstance(latest, Measurement):
        raise RuntimeError("ours was not measured in this round")
    with echo_server(subjects.networks[model].size[0]) as url:
        flags = _ceiling_flags(subjects, model, workload, seconds)
        return measure.floor(url, latest.rate, calls, *flags)


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
