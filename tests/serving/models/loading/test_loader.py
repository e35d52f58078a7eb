"""Models come, change and go while calls are under way, in one process, with a fake engine."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from serving.base.errors import (
    EngineUnavailable,
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
)
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.models.catalogue import Catalogue, State
from serving.models.loading import load_thread
from serving.models.loading import loaded as loaded_module
from serving.models.loading import loader as module
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.loader import Loader
from serving.models.servable import CallOptions
from serving.models.workers import Workers
from serving.repository.places import repositories as repositories_module
from serving.repository.places.repositories import Repositories
from tests.serving.models.conftest import FakeEngines, write_model

Drive = Callable[..., None]


@pytest.fixture
def drive(tmp_path: Path, workers: Workers) -> Drive:
    """Runs a coroutine of a loader over tmp_path and of its catalogue, and closes it."""

    def run(work: Callable[[Catalogue, Loader], Any], drain_seconds: float = 5.0) -> None:
        async def main() -> None:
            settings = LoadSettings(engine="onnxruntime", allow_ungated=True, threads=1)
            catalogue = Catalogue(Repositories.of(tmp_path), workers, FrontMetrics())
            loader = Loader(
                Repositories.of(tmp_path), settings, EngineMetrics(), catalogue, drain_seconds
            )
            try:
                await work(catalogue, loader)
            finally:
                await loader.close()

        asyncio.run(main())

    return run


def states(catalogue: Catalogue) -> dict[str, State]:
    return {f"{line.name}/{line.version}": line.state for line in catalogue.index()}


async def doubled(catalogue: Catalogue, value: float, version: str = "") -> float:
    model = catalogue.get("doubles", version)
    answer = await model.infer({"x": np.full((1, 2), value, np.float32)}, 1, CallOptions())
    return float(answer.outputs["y"][0, 0])


@pytest.mark.usefixtures("engines")
def test_everything_is_loaded_and_the_broken_are_named(tmp_path: Path, drive: Drive) -> None:
    write_model(tmp_path)
    (tmp_path / "typo").mkdir()
    (tmp_path / "typo" / "config.pbtxt").write_text("max_batch_sise: 4\n")
    (tmp_path / "lost+found").mkdir()

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        assert not catalogue.ready(strict=False)
        await loader.load_all()
        assert states(catalogue) == {
            "doubles/1": State.READY,
            "lost+found/": State.UNAVAILABLE,
            "typo/": State.UNAVAILABLE,
        }
        assert catalogue.ready(strict=False)
        assert not catalogue.ready(strict=True)
        assert await doubled(catalogue, 3) == 6
        with pytest.raises(ModelNotReady, match="max_batch_sise"):
            catalogue.get("typo")
        (tmp_path / "typo" / "config.pbtxt").unlink()
        (tmp_path / "typo").rmdir()
        await loader.poll()
        # A folder that is no model keeps nobody waiting.
        assert catalogue.ready(strict=True)

    drive(work)


def test_an_empty_repository_is_named_in_the_log(
    tmp_path: Path, drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(_: Catalogue, loader: Loader) -> None:
        await loader.load_all()

    drive(work)
    (said,) = [record for record in caplog.records if record.message == "no model here"]
    assert said.__dict__["repository"] == str(tmp_path)


def test_the_folder_of_one_model_is_told_from_a_repository(
    tmp_path: Path, drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()

    async def work(_: Catalogue, loader: Loader) -> None:
        await loader.load_all()

    drive(work)
    (said,) = [record for record in caplog.records if record.message == "no model here"]
    assert said.__dict__["reason"] == "versions of one model lie here: give the folder above"


def test_versions_that_are_asked_for_are_told_apart(
    tmp_path: Path, drive: Drive, engines: FakeEngines
) -> None:
    folder = write_model(tmp_path)
    write_model(tmp_path, version=2)
    (folder / "config.pbtxt").write_text("max_batch_size: 4 version_policy { all { } }")

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        await loader.load_all()
        assert catalogue.ready_versions("doubles") == ["1", "2"]
        assert catalogue.get("doubles").facts.version == "2"
        assert await doubled(catalogue, 1, "1") == 2
        for version in ("3", "x", "9" * 5000, "²"):
            with pytest.raises(ModelNotFound, match="has no version"):
                catalogue.get("doubles", version)
        with pytest.raises(ModelNotFound, match="no model 'none'"):
            catalogue.get("none")

    drive(work)
    assert len(engines.closed) == len(engines.loaded) == 2


def test_a_changed_file_takes_over_and_the_old_one_drains(
    tmp_path: Path, drive: Drive, engines: FakeEngines
) -> None:
    folder = write_model(tmp_path)

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        await loader.load_all()
        [first] = engines.loaded
        first.hold.clear()
        under_way = asyncio.ensure_future(doubled(catalogue, 5))
        while not first.running:
            await asyncio.sleep(0)
        file = folder / "1" / "model.onnx"
        stat = file.stat()
        other = tmp_path / ".other"
        other.write_bytes(file.read_bytes())
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.replace(file)
        await loader.poll()
        assert len(engines.loaded) == 2
        timed = len(engines.loaded[1].batches)
        assert engines.closed == []
        first.hold.set()
        assert await doubled(catalogue, 1) == 2
        assert len(engines.loaded[1].batches) > timed
        assert await under_way == 10

    drive(work)
    assert set(engines.closed) == set(engines.loaded)


def test_a_bad_change_leaves_what_serves(
    tmp_path: Path, drive: Drive, engines: FakeEngines, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(tmp_path)

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        await loader.load_all()
        engines.failure = EngineUnavailable("first line\n" + "trace\n" * 200)
        (folder / "1" / "model.onnx").touch()
        with caplog.at_level(logging.ERROR):
            await loader.poll()
        [line] = catalogue.index()
        assert line.state is State.READY
        assert 0 < len(line.reason) <= 300
        assert "\n" not in line.reason
        assert await doubled(catalogue, 1) == 2
        engines.failure = None
        await loader.load("doubles")
        assert catalogue.index()[0].reason == ""

    drive(work)
    [record] = [r for r in caplog.records if r.message == "model not loaded"]
    assert vars(record)["reason"].count("trace\n") == 200


def test_a_load_whose_caller_goes_away_goes_on(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch, engines: FakeEngines
) -> None:
    write_model(tmp_path)
    entered, go_on = threading.Event(), threading.Event()
    load_model = load_thread.load_model

    def slow(*arguments: Any, apart: bool) -> Any:
        entered.set()
        assert go_on.wait(10)
        return load_model(*arguments, apart=apart)

    monkeypatch.setattr(load_thread, "load_model", slow)

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        ready = asyncio.Event()
        catalogue.on_change(lambda: catalogue.ready(strict=True) and ready.set())
        caller = asyncio.ensure_future(loader.load("doubles"))
        await asyncio.to_thread(entered.wait, 10)
        caller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await caller
        assert states(catalogue) == {"doubles/1": State.LOADING}
        go_on.set()
        await asyncio.wait_for(ready.wait(), 10)
        assert await doubled(catalogue, 2) == 4

    drive(work)
    assert engines.closed == engines.loaded


@pytest.mark.usefixtures("engines")
def test_files_are_read_and_written_off_the_event_loop(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path)
    on_loop: list[str] = []

    def watched(place: ModuleType, name: str) -> None:
        real = getattr(place, name)

        def work(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                on_loop.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(place, name, work)

    watched(module, "prepare")
    watched(load_thread, "load_model")
    watched(repositories_module, "scan")
    watched(loaded_module, "trim_heap")

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        await loader.load_all()
        await loader.poll()
        await catalogue.repository_index()
        content = (tmp_path / "doubles" / "1" / "model.onnx").read_bytes()
        override = {"config": '{"max_batch_size": 2}', "file:1/model.onnx": content}
        await loader.load("doubles", override)
        assert catalogue.get("doubles").facts.max_rows == 2
        await loader.load("doubles")
        assert catalogue.get("doubles").facts.max_rows == 4
        await loader.unload("doubles")

    drive(work)
    assert on_loop == []


@pytest.mark.usefixtures("engines")
def test_nothing_stays_of_an_override_once_it_is_loaded(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path)
    staged = tmp_path / ".staged"
    staged.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(staged))

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        await loader.load("doubles", {"config": '{"max_batch_size": 2}'})
        assert list(staged.iterdir()) == []
        with pytest.raises(InvalidInput, match="config and file:"):
            await loader.load("doubles", {"other": "x"})
        with pytest.raises(ModelLoadError):
            await loader.load("doubles", {"config": '{"platform": "ensemble"}'})
        assert catalogue.get("doubles").facts.max_rows == 2
        served = catalogue.get("doubles")
        await loader.reload("doubles")
        assert catalogue.get("doubles") is served
        assert list(staged.iterdir()) == []
        await loader.load("doubles")
        served = catalogue.get("doubles")
        await loader.reload("doubles")
        assert catalogue.get("doubles") is not served

    drive(work)


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "none", ".hidden", "x\0y", "n" * 5000])
def test_names_that_are_no_folder_are_not_found(name: str, tmp_path: Path, drive: Drive) -> None:
    write_model(tmp_path, ".hidden")

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        with pytest.raises(ModelNotFound):
            await loader.load(name)
        assert catalogue.index() == []

    drive(work)


def test_unloading_answers_what_was_accepted(
    tmp_path: Path, drive: Drive, engines: FakeEngines
) -> None:
    write_model(tmp_path)

    async def work(catalogue: Catalogue, loader: Loader) -> None:
        await loader.load_all()
        [engine] = engines.loaded
        engine.hold.clear()
        under_way = asyncio.ensure_future(doubled(catalogue, 4))
        while not engine.running:
            await asyncio.sleep(0)
        unloading = asyncio.ensure_future(loader.unload("doubles"))
        await asyncio.sleep(0)
        with pytest.raises(ModelNotReady, match="unloaded"):
            catalogue.get("doubles")
        engine.hold.set()
        await unloading
        assert await under_way == 8

    drive(work)
    assert engines.closed == engines.loaded


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Whatever a loader starts ends with it."""
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith(("load", "infer-"))]
    assert left == []
