"""Servers answer as a model here does; each is asked as much as it takes, and none is hurried."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from protos.gen import vision_pb2 as pb
from scoring.errors import ImageFault, ScoringError
from scoring.facts import Identity
from scoring.scorers import servers
from scoring.scorers.scorer import Question
from scoring.scorers.servers import ServerScorer, _Server
from serving.client import CallFailed
from tests.scoring.conftest import Score, rows_of
from tests.support.process import ServerProcess
from tests.support.published import publish

IDENTITY = Identity(
    model="m", version="1", variant="fp32", engine="", sha256="", task="classification",
    length=0, classes=3,
)  # fmt: skip


class Stub:
    """A server that answers by a function of the images."""

    def __init__(self, answer: Callable[[Sequence[bytes]], pb.ClassifyResponse]) -> None:
        self._answer = answer
        self.calls: list[float] = []
        self.images = 0

    async def classify(self, model: str, images: Sequence[bytes], **_: Any) -> pb.ClassifyResponse:
        self.calls.append(time.monotonic())
        await asyncio.sleep(0)
        response = self._answer(images)
        self.images += len(images)
        return response


def answered(images: Sequence[bytes], version: str = "1") -> pb.ClassifyResponse:
    label = pb.Label(index=1, name="one", score=0.5)
    return pb.ClassifyResponse(
        served=pb.Served(version=version, variant="fp32"),
        results=[pb.Classification(labels=[label]) for _ in images],
    )


def asked(stubs: Sequence[Any], groups: int = 1, size: int = 4, image: bytes = b"x") -> list[Any]:
    """The answers to so many groups of images."""

    async def ask() -> list[Any]:
        scorer = ServerScorer(
            [_Server(f"s{i}", stub) for i, stub in enumerate(stubs)], IDENTITY, Question("m")
        )
        given = [[image] * (size - 1) + [b"last"] for _ in range(groups)]
        return [x for found in await asyncio.gather(*map(scorer.score, given)) for x in found]

    return asyncio.run(ask())


@pytest.mark.parametrize("model", ["colours", "regions", "points"])
def test_servers_give_the_rows_of_a_model_here(
    images: Path, score: Score, server: ServerProcess, tmp_path: Path, model: str
) -> None:
    masks = {"masks": tmp_path / "masks"} if model == "regions" else {}
    score(images, tmp_path / "far.parquet", model, servers=(server.url, server.url), **masks)
    masks = {"masks": tmp_path / "other"} if model == "regions" else {}
    score(images, tmp_path / "near.parquet", model, **masks)
    far, near = rows_of(tmp_path / "far.parquet"), rows_of(tmp_path / "near.parquet")
    assert [row["image"] for row in far] == [row["image"] for row in near]
    for ours, theirs in zip(far, near, strict=True):
        assert (ours["error"] is None) == (theirs["error"] is None)
        for column in ours.keys() - {"error"}:
            _assert_close(ours[column], theirs[column])
    assert pq.read_schema(tmp_path / "far.parquet").equals(
        pq.read_schema(tmp_path / "near.parquet")
    )


def _assert_close(one: Any, other: Any) -> None:
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            _assert_close(a, b)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_close(one[key], other[key])
    else:
        assert one == (pytest.approx(other, rel=1e-3) if isinstance(other, float) else other)


def test_a_server_that_dies_leaves_its_images_to_the_others(
    images: Path,
    colours: Path,
    score: Score,
    server: ServerProcess,
    start_server: Callable[..., ServerProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = start_server(colours).wait_ready()
    call = servers._call
    calls = 0

    async def killing(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # the first two ask who they are
            other.process.kill()
        return await call(*given)

    monkeypatch.setattr(servers, "_call", killing)
    monkeypatch.setattr(ServerScorer, "rows", 4)
    outcome = score(images, tmp_path / "o.parquet", servers=(other.url, server.url))
    assert outcome.failed == 1
    assert calls > 4


def test_a_delay_that_a_server_asks_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_SEATS", 1)
    refusals = [0.2, 0.1]

    def busy(images: Sequence[bytes]) -> pb.ClassifyResponse:
        if refusals:
            raise CallFailed("RESOURCE_EXHAUSTED", "later", retry_after=refusals.pop(0))
        return answered(images)

    stub = Stub(busy)
    assert all(isinstance(x, dict) for x in asked([stub]))
    first, second, third = stub.calls
    assert second - first >= 0.2
    assert third - second >= 0.1


def test_a_slow_server_has_no_more_images_than_it_has_seats() -> None:
    quick = Stub(answered)

    class Slow(Stub):
        async def classify(self, *given: Any, **options: Any) -> pb.ClassifyResponse:
            response = await super().classify(*given, **options)
            while quick.images < 26 * 4:
                await asyncio.sleep(0)
            return response

    slow = Slow(answered)
    assert len(asked([slow, quick], groups=30)) == 30 * 4
    assert (slow.images, quick.images) == (servers._SEATS * 4, 26 * 4)


def test_images_that_are_refused_for_the_moment_are_asked_again() -> None:
    seen = 0

    def one_busy(images: Sequence[bytes]) -> pb.ClassifyResponse:
        nonlocal seen
        response = answered(images)
        if seen < 2:
            seen += 1
            response.results[0].Clear()
            response.results[0].status.code = 8  # RESOURCE_EXHAUSTED
        return response

    stub = Stub(one_busy)
    assert all(isinstance(x, dict) for x in asked([stub]))
    assert stub.images == 4 + 1 + 1


def test_an_image_that_breaks_its_calls_is_found_and_the_others_are_answered() -> None:
    def broken(images: Sequence[bytes]) -> pb.ClassifyResponse:
        if b"last" in images:
            raise CallFailed("INVALID_ARGUMENT", "the answer is too large")
        return answered(images)

    found = asked([Stub(broken)])
    assert [isinstance(x, ImageFault) for x in found] == [False, False, False, True]
    assert str(found[3]) == "the answer is too large"


def test_an_image_that_stops_every_server_is_given_up_while_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "_LONGEST_PAUSE", 0.0)

    def poisoned(images: Sequence[bytes]) -> pb.ClassifyResponse:
        if b"last" in images:
            raise CallFailed("UNAVAILABLE", "engine restarts")
        return answered(images)

    async def ask() -> list[Any]:
        scorer = ServerScorer([_Server("s", Stub(poisoned))], IDENTITY, Question("m"))  # type: ignore[arg-type]
        asking = asyncio.create_task(scorer.score([b"x", b"last"]))
        while not asking.done():  # somebody else's images
            await scorer.score([b"x"])
        return list(await asking)

    found = asyncio.run(ask())
    assert isinstance(found[0], dict)
    assert str(found[1]) == f"refused {servers._ALONE} times: UNAVAILABLE: engine restarts"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda images: answered(images, version="2"), "s0: version 2, fp32 answers now"),
        (lambda images: _raised("NOT_FOUND", "no model"), "s0: NOT_FOUND: no model"),
        (lambda images: _raised("PERMISSION_DENIED", "no"), "s0: PERMISSION_DENIED: no"),
        (
            lambda images: _labelled(images, 7),
            "s0: its answer does not fit: class 7, the model has 3",
        ),
        (lambda images: _labelled(images, None), "s0: its answer does not fit: no labels"),
    ],
)
def test_what_would_hold_for_every_image_ends_the_job(answer: Any, reason: str) -> None:
    with pytest.raises(ScoringError, match=reason):
        asked([Stub(answer)])


def _raised(code: str, message: str) -> pb.ClassifyResponse:
    raise CallFailed(code, message)


def _labelled(images: Sequence[bytes], index: int | None) -> pb.ClassifyResponse:
    response = answered(images)
    for result in response.results:
        if index is None:
            del result.labels[:]
        else:
            result.labels[0].index = index
    return response


def test_a_job_ends_when_no_server_has_answered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_PATIENCE", 0.1)
    with pytest.raises(ScoringError, match="s0: no answer for 0 s: UNAVAILABLE: gone"):
        asked([Stub(lambda images: _raised("UNAVAILABLE", "gone"))])


def test_servers_that_disagree_are_refused(
    images: Path,
    score: Score,
    server: ServerProcess,
    start_server: Callable[..., ServerProcess],
    tmp_path: Path,
) -> None:
    publish(tmp_path / "models", version=3)
    other = start_server(tmp_path / "models").wait_ready()
    with pytest.raises(
        ScoringError, match=r"has colours version 3, fp32, .* version 1, fp32; serv"
    ):
        score(images, tmp_path / "o.parquet", servers=(server.url, other.url))
