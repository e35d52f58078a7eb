"""A model that answers the commands: on a server, or out of repositories in this process."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import numpy as np
import typer
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from protos.gen import vision_pb2 as pb
from serving.base.errors import InvalidInput, ServingError
from serving.base.machine.cpu import core_count
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.base.storage.address import is_url
from serving.base.storage.messages import StorageError
from serving.base.text import first_problem
from serving.cli.output import fail, warn
from serving.cli.signing import refuse_signatures_of, signed_by
from serving.client import AsyncVisionClient, CallFailed, ClientTls, ModelInfo, mask_of
from serving.models.catalogue import WAITING, Catalogue, State
from serving.models.loading.candidates import LoadSettings, open_cache
from serving.models.loading.loader import Loader
from serving.models.servable import CallOptions, EncodedImage, Servable
from serving.models.workers import Workers
from serving.repository.layout import ModelFolder
from serving.repository.places.addresses import Addresses
from serving.repository.places.repositories import Repositories
from serving.repository.places.state import Cache
from serving.repository.signing.private_copy import SignedVersions
from serving.server.config import ServerConfig
from serving.server.endpoints import vision

Url = Annotated[str | None, typer.Option(help="A server's host:port, or grpcs://host:port.")]
Repository = Annotated[
    list[str] | None,
    typer.Option(help="Load the model into this process instead, out of a repository."),
]

CACHE_DIR: Path = ServerConfig.model_fields["cache_dir"].default
_CACHE_MIB: int = ServerConfig.model_fields["repository_cache_mib"].default
_PLACE_TIMEOUT: float = ServerConfig.model_fields["repository_timeout_seconds"].default

# Seconds that a call may take. In one process all images wait for the cores together, so shorter
# would fail large folders; longer waits longer for a server that hangs.
_TIMEOUT = 60.0
# Tries of an image after the first: a command waits where its caller has a limit, or the server is
# busy, until its time is up.
_RETRIES = 1000


# Seconds that a server which was just started may take to listen, and a model to be loaded, before
# a command gives up; and between two looks. More bear slower ones, and say later that an address is
# wrong.
_LISTENING, _LOADING, _AGAIN = 5.0, 120.0, 0.5
# Of grpcio's messages, where nobody listens and where an address is none.
_NO_CONNECTION = ("failed to connect", "errors resolving")


@dataclass(frozen=True)
class Labels:
    """The best classes of one image.

    labels: (index, name, score), best first.
    variant: the variant that answered.
    """

    labels: list[tuple[int, str, float]]
    variant: str


class Embedded(NamedTuple):
    """The point of one image on the unit sphere, float32 [D], and the variant that answered."""

    values: NDArray[np.float32]
    variant: str


@dataclass(frozen=True)
class MaskResult:
    """The class map of one image.

    mask: uint16 [H, W] at the image's size.
    areas: (index, name, share of pixels, confidence) of each class in it.
    overlay_png: a PNG of it over the image; empty where none was asked for.
    variant: the variant that answered.
    """

    mask: NDArray[np.uint16]
    areas: list[tuple[int, str, float, float]]
    overlay_png: bytes
    variant: str


class Local(NamedTuple):
    """A repository, or several, whose models are loaded into this process.

    signed: opens those that have to be signed; None where nobody asks for signatures.
    """

    repository: Sequence[str]
    signed: SignedVersions | None


def one_place(
    url: str | None, repository: Sequence[str] | None, signatures: Path | None
) -> Local | None:
    """The repository; None for the server at `url`. Ends the command with a usage error unless one
    says where the model is, and where keys cannot be used."""
    if (url is None) == (not repository):
        raise typer.BadParameter("give either --url or --model-repository")
    refuse_signatures_of(url, signatures)
    if not repository:
        return None
    return Local(repository, None if signatures is None else signed_by(signatures))


def repository_words(addresses: Sequence[str] | None) -> list[str]:
    """--model-repository, as often as it was given, for the next command."""
    return [word for address in addresses or () for word in ("--model-repository", address)]


def place_words(url: str | None, addresses: Sequence[str] | None) -> list[str]:
    """--url or --model-repository as it was given, for the next command."""
    return ["--url", url] if url is not None else repository_words(addresses)


def repositories_at(addresses: Sequence[str], cache_dir: Path = CACHE_DIR) -> Repositories:
    """The repositories, of which nothing is fetched yet; URLs are kept where a server keeps them.
    Raises InvalidInput for one that cannot be opened."""
    try:
        checked = TypeAdapter(Addresses).validate_python(list(addresses))
    except ValidationError as error:
        raise InvalidInput(f"--model-repository: {first_problem(error)[1]}") from error
    cache = None
    if any(map(is_url, checked)):
        folder = open_cache(cache_dir)
        if folder is None:
            raise InvalidInput(f"--model-repository: URLs need a folder for a cache, {cache_dir}")
        cache = Cache(folder / "repositories", _CACHE_MIB << 20, _PLACE_TIMEOUT)
    found = Repositories.of(*checked, cache=cache, metrics=EngineMetrics())
    try:
        found.check()
    except StorageError as error:
        raise InvalidInput(f"--model-repository: {error}") from error
    return found


def folders_at(addresses: Sequence[str], cache_dir: Path = CACHE_DIR) -> dict[str, ModelFolder]:
    """The models of the repositories, those of URLs fetched. Ends the command where they cannot be
    read; warns of what is older than it should be."""
    try:
        repositories = repositories_at(addresses, cache_dir)
        repositories.fetch_now()
        folders = repositories.scan()
    except InvalidInput as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    for address, reason in repositories.unreachable().items():
        warn(f"{address}: {reason.removeprefix(f'{address}: ')}")
    if not folders and repositories.unreachable():
        fail("nothing was fetched before")
    for name, folder in folders.items():
        if folder.stale:
            warn(f"{name}: {folder.stale}")
    return folders


class Predictor(Protocol):
    """One model, here or on a server. Failures raise ServingError or CallFailed."""

    info: ModelInfo

    async def classify(self, image: bytes, top_k: int) -> Labels: ...

    async def segment(self, image: bytes, overlay: bool) -> MaskResult: ...

    async def embed(self, image: bytes) -> Embedded: ...


class RemotePredictor:
    """A model of a running server. Answers that do not fit the model fail as INTERNAL."""

    def __init__(self, client: AsyncVisionClient, info: ModelInfo) -> None:
        self._client = client
        self._length = 0
        self.info = info

    async def classify(self, image: bytes, top_k: int) -> Labels:
        """The `top_k` best classes."""
        response = await self._client.classify(self.info.name, image, top_k=top_k)
        labels = [(x.index, x.name, x.score) for x in response.results[0].labels]
        if not labels:
            raise CallFailed("INTERNAL", "the server's answer has no labels")
        self._check_classes(max(index for index, _, _ in labels))
        return Labels(labels, response.served.variant)

    async def segment(self, image: bytes, overlay: bool) -> MaskResult:
        """The class map; `overlay` asks for the PNG too."""
        response = await self._client.segment(
            self.info.name, image, mask_format="rle", overlay=overlay
        )
        result: pb.Segmentation = response.results[0]
        try:
            mask = mask_of(result)
        except ValueError as error:
            raise CallFailed("INTERNAL", f"the server's answer cannot be read: {error}") from error
        self._check_classes(int(mask.max(initial=0)))
        areas = [(x.index, x.name, x.fraction, x.confidence) for x in result.areas]
        return MaskResult(mask, areas, result.overlay_png, response.served.variant)

    async def embed(self, image: bytes) -> Embedded:
        """The point on the unit sphere."""
        response = await self._client.embed(self.info.name, image)
        values = np.array(response.results[0].values, np.float32)
        self._length = self._length or len(values)
        if not len(values) or len(values) != self._length or not np.isfinite(values).all():
            raise CallFailed(
                "INTERNAL", "the server's answer is no embedding, or one of other length"
            )
        return Embedded(values, response.served.variant)

    def _check_classes(self, highest: int) -> None:
        if self.info.labels and highest >= len(self.info.labels):
            raise CallFailed(
                "INTERNAL",
                f"the server's answer names class {highest}, its model has {len(self.info.labels)}",
            )


class LocalPredictor:
    """A model loaded into this process; calls take the server's own path."""

    def __init__(self, model: Servable) -> None:
        self._model = model
        self.info = ModelInfo(model.facts.name, model.facts.task or "", model.facts.labels)

    async def classify(self, image: bytes, top_k: int) -> Labels:
        """The `top_k` best classes."""
        sources = [EncodedImage(image)]
        found = vision.only(await vision.classify(self._model, sources, CallOptions(), top_k=top_k))
        return Labels([(x.index, x.name, x.score) for x in found.labels], self._model.facts.variant)

    async def segment(self, image: bytes, overlay: bool) -> MaskResult:
        """The class map; `overlay` asks for the PNG too."""
        results: list[
            vision.Segmentation[NDArray[np.uint16]] | ServingError
        ] = await vision.segment(
            self._model,
            [EncodedImage(image)],
            CallOptions(),
            lambda mask: mask.astype(np.uint16),
            overlay=overlay,
            most=sys.maxsize,
            take=lambda found: found,
        )
        found = vision.only(results)
        return MaskResult(
            found.mask,
            [(x.index, x.name, x.fraction, x.confidence) for x in found.areas],
            found.overlay_png or b"",
            self._model.facts.variant,
        )

    async def embed(self, image: bytes) -> Embedded:
        """The point on the unit sphere."""
        found = await vision.embed(self._model, [EncodedImage(image)], CallOptions())
        return Embedded(vision.only(found).values, self._model.facts.variant)


@asynccontextmanager
async def open_predictor(
    model: str,
    url: str | None,
    local: Local | None,
    tls: ClientTls | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Predictor]:
    """The model at `url`, or else out of a repository here.

    Raises ServingError or CallFailed where it is not there or does not load.
    """
    if url is not None:
        # Without tries of its own, each of which would wait for longer where nobody listens.
        async with AsyncVisionClient(url, retries=0, tls=tls, headers=headers) as client:
            info = await model_info(client, model, url)
        async with AsyncVisionClient(
            url, timeout=_TIMEOUT, retries=_RETRIES, tls=tls, headers=headers
        ) as client:
            yield RemotePredictor(client, info)
        return
    if local is None:
        raise InvalidInput("say where the model is: --url or --model-repository")
    with tempfile.TemporaryDirectory() as cache:
        settings = LoadSettings(cache_dir=Path(cache))
        async with open_servable(model, local, settings) as servable:
            yield LocalPredictor(servable)


@asynccontextmanager
async def open_servable(
    model: str, local: Local, settings: LoadSettings
) -> AsyncIterator[Servable]:
    """The newest version of a model out of a repository, loaded into this process as a server with
    these settings loads it. Raises ServingError where it is not there or does not load."""
    with Workers(core_count()) as workers:
        places = repositories_at(local.repository)
        catalogue = Catalogue(places, workers, FrontMetrics())
        loader = Loader(places, settings, EngineMetrics(), catalogue, _TIMEOUT, local.signed)
        try:
            await loader.load(model)
            yield catalogue.get(model)
        finally:
            await loader.close()


async def model_info(client: AsyncVisionClient, model: str, url: str) -> ModelInfo:
    """What a server tells of a model, also of one that it is about to load, or to a caller who has
    to wait. Raises CallFailed."""
    started, told = time.monotonic(), False
    while True:
        try:
            return await client.model_info(model)
        except CallFailed as error:
            loads = WAITING in error.message or f": {State.LOADING}" in error.message
            busy = error.code == "RESOURCE_EXHAUSTED"
            limit = _LOADING if loads else _TIMEOUT if busy else _LISTENING
            if not error.for_now or time.monotonic() - started > limit:
                if any(words in error.message for words in _NO_CONNECTION):
                    said = f"no server at {url}; expected HOST:PORT of its gRPC port"
                    raise CallFailed(error.code, f"{said}: {error.message}") from error
                raise
            if not loads and "is not ready" in error.message:
                raise
            if not told:
                warn(f"waiting for {model} on {url}")
                told = True
            delay = error.retry_after or _AGAIN
        await asyncio.sleep(delay)
