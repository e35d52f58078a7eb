"""Encodes the requests of a run: asks the server about its models and fits the payloads to them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loadtest.errors import LoadTestError
from loadtest.payloads.content import (
    Payload,
    image_folder,
    labelled_folder,
    npy_tensors,
    random_tensors,
)
from loadtest.payloads.synthetic_images import synthetic_images
from loadtest.wire import grpc_models, rest_client
from loadtest.wire.messages import (
    METHODS,
    ModelFacts,
    Request,
    infer_request,
    rest_request,
    vision_request,
)
from loadtest.wire.rest_client import is_rest
from serving.client.tls import ClientTls

Api = Literal["auto", "vision", "oip"]


@dataclass(frozen=True)
class PayloadSource:
    """Where the payloads of a model come from; random tensors where no source is set.

    images, labelled: folders.
    synthetic: (width, height) of JPEGs.
    npy: files by input.
    shapes: sizes of inputs of random tensors, without the batch dimension.
    rows: images, or rows of tensors, in one request.
    """

    images: Path | None = None
    labelled: Path | None = None
    synthetic: tuple[tuple[int, int], ...] = ()
    npy: Mapping[str, Path] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rows: int = 1


@dataclass(frozen=True)
class Prepared:
    """Requests of all models, numbered through, and their number for each model."""

    requests: tuple[Request, ...]
    sizes: tuple[int, ...]


def prepare(
    url: str,
    contents: Mapping[str, PayloadSource],
    *,
    api: Api,
    seed: int,
    tls: ClientTls | None = None,
    headers: Mapping[str, str] | None = None,
) -> Prepared:
    """Encodes the requests of each model (NAME, or NAME:VERSION). Raises LoadTestError."""
    names = list(contents)
    binary = False
    if is_rest(url):
        facts, binary = asyncio.run(rest_client.describe(url, names, tls, headers))
    else:
        facts = asyncio.run(grpc_models.describe(url, names, tls, headers))
    requests: list[Request] = []
    sizes = []
    for number, (model, content) in enumerate(zip(facts, contents.values(), strict=True)):
        payloads = _payloads(model, content, seed)
        if is_rest(url):
            if api == "vision":
                raise LoadTestError("--api vision is gRPC: give --url HOST:PORT")
            encoded = [rest_request(number, model, p, binary=binary) for p in payloads]
        elif _is_vision(model, content, api):
            encoded = [vision_request(number, model, p) for p in payloads]
        else:
            encoded = [infer_request(number, model, p) for p in payloads]
        requests += encoded
        sizes.append(len(encoded))
    return Prepared(tuple(requests), tuple(sizes))


def _payloads(model: ModelFacts, content: PayloadSource, seed: int) -> Sequence[Payload]:
    rows = content.rows
    if content.labelled is not None:
        return labelled_folder(content.labelled, rows, seed)
    if content.images is not None:
        return image_folder(content.images, rows, seed)
    if content.synthetic:
        return synthetic_images(content.synthetic, rows, seed)
    if content.npy:
        return npy_tensors(content.npy, model.inputs, rows)
    return random_tensors(model.inputs, content.shapes, rows, seed)


def _is_vision(model: ModelFacts, content: PayloadSource, api: Api) -> bool:
    """Whether requests go to VisionService, as images do where the model has a task of it."""
    has_images = bool(content.images or content.labelled or content.synthetic)
    if api == "vision":
        if not has_images:
            raise LoadTestError(
                "--api vision takes images: give --images, --labelled or --synthetic"
            )
        if model.task not in METHODS:
            raise LoadTestError(f"model {model.name!r} has no task that VisionService offers")
    return has_images and model.task in METHODS and api != "oip"
