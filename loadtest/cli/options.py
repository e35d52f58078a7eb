"""Options that several sub-commands share, and readers of their values."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from loadtest.errors import LoadTestError
from loadtest.generator.worker import Workload
from loadtest.payloads.draws import ALWAYS_ZERO, Distribution, parse_distribution
from loadtest.report.checks import Condition, parse_condition
from loadtest.wire.messages import INFER
from loadtest.wire.prepare import Api, PayloadSource, Prepared
from loadtest.wire.rest_client import is_rest
from serving.client.tls import ClientTls

Value = TypeVar("Value")

_LOAD = "Load"
_CONTENT = "Payloads"

Url = Annotated[
    str,
    typer.Option(
        help="HOST:PORT for gRPC, http://HOST:PORT for REST; grpcs:// and https:// for TLS."
    ),
]
Models = Annotated[
    list[str],
    typer.Option("--model", help="NAME[:VERSION][=WEIGHT]; several are mixed by weight."),
]
Images = Annotated[
    list[str] | None,
    typer.Option(help="[MODEL=]FOLDER of images, sent as they are.", rich_help_panel=_CONTENT),
]
Labelled = Annotated[
    list[str] | None,
    typer.Option(
        help="[MODEL=]FOLDER with a folder of images per class; answers are checked.",
        rich_help_panel=_CONTENT,
    ),
]
Synthetic = Annotated[
    list[str] | None,
    typer.Option(
        help="[MODEL=]WIDTHxHEIGHT[,...]: made-up JPEGs of these sizes.", rich_help_panel=_CONTENT
    ),
]
Npy = Annotated[
    list[str] | None,
    typer.Option(help="[INPUT=]FILE.npy: rows for an input.", rich_help_panel=_CONTENT),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        help="INPUT=SIZE,SIZE: sizes that the model leaves open, without the batch.",
        rich_help_panel=_CONTENT,
    ),
]
Rows = Annotated[
    int,
    typer.Option(help="Images, or rows of tensors, in a request.", min=1, rich_help_panel=_CONTENT),
]
ApiOption = Annotated[
    Api,
    typer.Option(
        "--api",
        help="auto: images go to VisionService where the server has it; all else to OIP.",
        rich_help_panel=_CONTENT,
    ),
]
Streams = Annotated[
    int,
    typer.Option(
        help="gRPC streams of each worker; 0: one call a request.", min=0, rich_help_panel=_LOAD
    ),
]
Deadline = Annotated[
    str,
    typer.Option(
        help="Deadline of requests: 50ms, 20ms..100ms, or 50ms=3,1s=1 by weight.",
        rich_help_panel=_LOAD,
    ),
]
Priority = Annotated[
    str, typer.Option(help="Priority of requests: 1, or 1=1,2=9 by weight.", rich_help_panel=_LOAD)
]
Timeout = Annotated[
    str,
    typer.Option(help="Longest wait for an answer without a deadline.", rich_help_panel=_LOAD),
]
Trace = Annotated[
    float,
    typer.Option(
        help="Share of the requests with a traceparent of their own, which the server traces.",
        min=0,
        max=1,
        rich_help_panel=_LOAD,
    ),
]
Workers = Annotated[int, typer.Option(help="Generator processes.", min=1, rich_help_panel=_LOAD)]
Seed = Annotated[int, typer.Option(help="Seed of all that is random.", rich_help_panel=_LOAD)]
MaxInFlight = Annotated[
    int,
    typer.Option(
        help="Requests that an open loop has open at most; more are NOT_SENT, an error.",
        min=1,
        rich_help_panel=_LOAD,
    ),
]
MaxLateness = Annotated[
    str,
    typer.Option(
        help="The run is void where p99 of the generator's own lateness is more.",
        rich_help_panel=_LOAD,
    ),
]
MetricsUrl = Annotated[
    str | None, typer.Option(help="The server's http://HOST:PORT/metrics, read before and after.")
]
Output = Annotated[Path | None, typer.Option(help="Keep the raw results in this .npz file.")]
Html = Annotated[Path | None, typer.Option(help="Write a report with plots to this file.")]
JUnit = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option(help="Exit 1 where this holds: p99>50ms, errors>0, requests_per_second<100."),
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)?")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def duration(text: str) -> float:
    """Reads `250ms`, `1.5s`, `2m` or plain `10` as seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected a time such as 250ms, 10s or 2m, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def latency(text: str) -> float:
    """Reads `50ms` or `1s` as seconds: a time above 0 with its unit, since a latency that was meant
    in milliseconds would be a thousand times as long. Raises ValueError."""
    if text.strip()[-1:].isdigit():
        raise ValueError(f"expected a time with its unit, such as {text.strip()}ms, got {text!r}")
    return positive_duration(text)


def positive_duration(text: str) -> float:
    """Reads a duration above 0 as seconds. Raises ValueError."""
    seconds = duration(text)
    if not seconds:
        raise ValueError(f"expected a time above 0, got {text!r}")
    return seconds


def read(option: str, text: str, reader: Callable[[str], Value]) -> Value:
    """Reads the value of an option by `reader`; a value that it refuses is wrong usage."""
    try:
        return reader(text)
    except (ValueError, LoadTestError) as error:
        said = str(error)
        message = said if "expected" in said else f"cannot read {text!r}"
        raise typer.BadParameter(message, param_hint=f"'{option}'") from error


def deadlines(text: str) -> Distribution:
    """Reads --deadline as a distribution in seconds; "" is no deadline."""
    if not text:
        return ALWAYS_ZERO
    return read("--deadline", text, lambda t: parse_distribution(t, latency))


def priorities(text: str) -> Distribution:
    """Reads --priority as a distribution; "" leaves the priority to the server."""
    if not text:
        return ALWAYS_ZERO

    def priority(part: str) -> float:
        number = int(part)
        if not 0 <= number <= 255:
            raise ValueError(f"expected a priority from 0 to 255, got {number}")
        return number

    return read("--priority", text, lambda t: parse_distribution(t, priority))


def weighted(models: Sequence[str]) -> dict[str, float]:
    """Reads --model, `NAME[=WEIGHT]`, as weights by model."""
    found: dict[str, float] = {}
    for text in models:
        name, _, weight = text.partition("=")
        found[name] = read("--model", weight or "1", float)
        if not name or not 0 < found[name] < float("inf"):
            raise typer.BadParameter(f"cannot read {text!r}", param_hint="'--model'")
    return found


def contents(
    models: Sequence[str],
    images: Sequence[str] | None,
    labelled: Sequence[str] | None,
    synthetic: Sequence[str] | None,
    npy: Sequence[str] | None,
    shape: Sequence[str] | None,
    rows: int,
) -> dict[str, PayloadSource]:
    """Source of the payloads of each model."""
    found = {}
    for model in models:
        folder = _of_model("--images", images, model, models)
        classes = _of_model("--labelled", labelled, model, models)
        sizes = _of_model("--synthetic", synthetic, model, models)
        if sum(x is not None for x in (folder, classes, sizes, npy or None)) > 1:
            raise typer.BadParameter(
                f"give model {model!r} one of --images, --labelled, --synthetic and --npy"
            )
        found[model] = PayloadSource(
            images=None if folder is None else Path(folder),
            labelled=None if classes is None else Path(classes),
            synthetic=() if sizes is None else read("--synthetic", sizes, _sizes),
            npy={name: Path(path) for name, path in map(_split, npy or ())},
            shapes={
                name: read("--shape", text, lambda t: tuple(int(x) for x in t.split(",")))
                for name, text in map(_split, shape or ())
            },
            rows=rows,
        )
    return found


def _of_model(
    option: str, values: Sequence[str] | None, model: str, models: Sequence[str]
) -> str | None:
    """The value of an option for a model: the one that names it, else the one that names none."""
    general = None
    own = None
    for value in values or ():
        name, rest = _split(value)
        if name == model:
            own = rest
        elif name not in models:
            if general is not None:
                raise typer.BadParameter(
                    f"two values for every model; write MODEL={value}", param_hint=f"'{option}'"
                )
            general = value
    return own if own is not None else general


def _split(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    return (name, rest) if equals else ("", text)


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    sizes = []
    for part in text.split(","):
        width, _, height = part.partition("x")
        if not (1 <= int(width) <= 16384 and 1 <= int(height) <= 16384):
            raise ValueError(f"expected sizes from 1x1 to 16384x16384, got {part!r}")
        sizes.append((int(width), int(height)))
    return tuple(sizes)


def conditions(texts: Sequence[str] | None) -> list[Condition]:
    """Reads --fail-if."""
    return [read("--fail-if", text, parse_condition) for text in texts or ()]


def to_workload(
    requests: Mapping[str, Prepared],
    weights: Mapping[str, float],
    *,
    deadline: str,
    priority: str,
    seed: int,
    timeout: str,
    streams: int,
    tls: ClientTls | None,
    trace: float = 0.0,
    headers: Mapping[str, str] | None,
) -> Workload:
    """The workload of the workers; `requests` are by URL, as many for each model at each."""
    if any(is_rest(url) for url in requests) and (streams or priority):
        raise typer.BadParameter("REST has neither --streams nor --priority: give HOST:PORT")
    every = [request for prepared in requests.values() for request in prepared.requests]
    if trace and streams and any(request.method == INFER for request in every):
        raise typer.BadParameter("--trace: messages of ModelStreamInfer have no trace of their own")
    sizes = next(iter(requests.values())).sizes
    return Workload(
        requests={url: prepared.requests for url, prepared in requests.items()},
        groups=tuple(zip(sizes, weights.values(), strict=True)),
        deadlines=deadlines(deadline),
        priorities=priorities(priority),
        seed=seed,
        timeout=read("--timeout", timeout, duration),
        streams=streams,
        tls=tls,
        trace=trace,
        headers=headers,
    )
