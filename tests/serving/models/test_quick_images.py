"""Short JPEGs, which the event loop decodes itself: to go to a thread and back would cost more."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.base.errors import DeadlineExpired, InvalidInput, ServingError
from serving.models import model as module
from serving.models.servable import AnsweredImage, CallOptions, EncodedImage, Servable
from serving.models.workers import Workers
from tests.support.in_process import in_process
from tests.support.pictures import encoded

RED = np.zeros((32, 32, 3), np.uint8)
RED[..., 0] = 200
QUICK = encoded(RED, "JPEG")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each piece of work that goes to a thread."""
    sent: list[int] = []
    run = Workers.run

    async def spied(
        self: Workers, caller: Hashable, work: Callable[[], Any], *, large: bool = False
    ) -> Any:
        sent.append(1)
        return await run(self, caller, work, large=large)

    monkeypatch.setattr(Workers, "run", spied)
    return sent


def serve(folder: Path, scenario: Callable[[Servable], Awaitable[None]]) -> None:
    async def main() -> None:
        async with in_process(folder) as served:
            await scenario(served.front.catalogue.get("colours"))

    asyncio.run(main())


async def loaded(
    model: Servable, *files: bytes, options: CallOptions | None = None
) -> list[AnsweredImage | ServingError]:
    sources = [EncodedImage(file) for file in files]
    return list((await model.infer_images(sources, options or CallOptions())).images)


def test_a_short_jpeg_needs_no_thread(tmp_path: Path, threads: list[int]) -> None:
    async def scenario(model: Servable) -> None:
        answer = await model.infer_images([EncodedImage(QUICK)], CallOptions())
        assert answer.outputs["logits"].argmax() == 0
        [image] = answer.images
        assert isinstance(image, AnsweredImage)
        assert image.size == (32, 32)
        assert image.timing.decode > 0

    serve(tmp_path, scenario)
    assert threads == []


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(encoded(RED, "PNG"), id="of another format"),
        pytest.param(encoded(np.resize(RED, (5, 2000, 3)), "JPEG"), id="wide"),
        pytest.param(
            encoded(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8), "JPEG"),
            id="long",
        ),
    ],
)
def test_any_other_file_goes_to_a_thread(tmp_path: Path, threads: list[int], file: bytes) -> None:
    async def scenario(model: Servable) -> None:
        assert isinstance((await loaded(model, file))[0], AnsweredImage)

    serve(tmp_path, scenario)
    assert len(threads) == 1


def test_a_broken_one_is_refused_as_by_a_thread_and_alone(tmp_path: Path) -> None:
    async def scenario(model: Servable) -> None:
        first, broken, last = await loaded(model, QUICK, QUICK[:-20], QUICK)
        assert isinstance(broken, InvalidInput)
        assert "truncated" in str(broken)
        assert isinstance(first, AnsweredImage)
        assert isinstance(last, AnsweredImage)

    serve(tmp_path, scenario)


def test_none_is_decoded_once_its_call_is_over(
    tmp_path: Path, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IN_ONE_GO", 1)

    async def scenario(model: Servable) -> None:
        options = CallOptions(deadline=time.monotonic() + 0.2)
        call = asyncio.create_task(loaded(model, *[QUICK] * 8, options=options))
        for _ in range(3):
            await asyncio.sleep(0)
        time.sleep(0.3)  # on the event loop, while the call waits for its next turn
        images = await call
        assert isinstance(images[0], AnsweredImage)
        assert isinstance(images[-1], DeadlineExpired)

    serve(tmp_path, scenario)
    assert 0 < len(threads) < 8  # a thread refuses what comes to it late


def test_many_of_one_call_let_others_have_their_turn(
    tmp_path: Path, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IN_ONE_GO", 2)
    decoded: list[int] = []
    here = module.Model._loaded_here

    def counted(self: module.Model, *arguments: Any) -> Any:
        decoded.append(1)
        return here(self, *arguments)

    monkeypatch.setattr(module.Model, "_loaded_here", counted)

    async def scenario(model: Servable) -> None:
        call, seen = asyncio.create_task(loaded(model, *[QUICK] * 8)), set()
        while not call.done():
            await asyncio.sleep(0)
            seen.add(len(decoded))
        assert {2, 4, 6, 8} <= seen
        assert len(await call) == 8

    serve(tmp_path, scenario)
    assert threads == []
