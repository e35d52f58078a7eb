"""A version is chosen in another process, whose end harms nothing that serves."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving.base.errors import EngineUnavailable, ModelLoadError, ModelNotReady
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.batching.core_turns import CoreTurns
from serving.engines import Engine, EngineOptions, load_engine, loaded_facts
from serving.models.catalogue import Catalogue
from serving.models.loading import helper, loader_process
from serving.models.loading import version as loading
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.choice import Decision
from serving.models.loading.config_completion import read_config
from serving.models.loading.loaded import LoadedVersion
from serving.models.loading.loader import Loader
from serving.models.loading.loader_process import LoaderProcesses
from serving.models.loading.version import load_model
from serving.models.workers import Workers
from serving.repository.layout import scan_model
from serving.repository.manifest import Gate, read_manifest, write_manifest
from serving.repository.model_config import read_model_config
from serving.repository.places.repositories import Repositories
from tests.serving.models.conftest import write_model
from tests.support.apart import open_files
from tests.support.deadly_runtime import deadly_path, doom
from tests.support.published import CPU_ENGINES, publish


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that this process has loaded."""
    names: list[str] = []

    def counted(name: str, file: Path, options: EngineOptions) -> Engine:
        names.append(name)
        return load_engine(name, file, options)

    monkeypatch.setattr(loading, "load_engine", counted)
    return names


def settings(cache: Path | None, **others: Any) -> LoadSettings:
    return LoadSettings(**{"threads": 1, "cache_dir": cache} | others)


def load(
    model: Path, given: LoadSettings, metrics: EngineMetrics | None = None, *, apart: bool
) -> LoadedVersion:
    config = read_model_config(model)
    metrics = metrics or EngineMetrics()
    choose = partial(LoaderProcesses(given, metrics).choose, model, config, 1)
    return load_model(model, config, 1, given, metrics, CoreTurns(1), choose, apart=apart)


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_loader_process_decides_as_this_process_does(
    engine: str, tmp_path: Path, loaded: list[str]
) -> None:
    folder = publish(tmp_path / "repository").parent
    given = settings(tmp_path / "cache", engine=engine)
    here = load(folder, given, apart=False)
    here.close()
    loaded.clear()
    there = load(folder, given, apart=True)
    there.close()
    assert there.facts == here.facts
    assert loaded == [here.facts.engine_name]


def test_large_files_are_timed_apart_even_where_nothing_serves(
    tmp_path: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path / "repository").parent
    monkeypatch.setattr(loading, "_CHOSEN_APART_BYTES", 0)
    model = load(folder, settings(tmp_path / "cache"), apart=False)
    model.close()
    assert loaded == [model.facts.engine_name]
    assert list(model.facts.latency) == [1, 2, 4, 8]
    assert "slower here" in model.facts.rejected[0]
    assert len(list((tmp_path / "cache" / "latency").glob("*.json"))) >= len(CPU_ENGINES)


def test_refusals_come_with_their_reasons_and_are_counted(
    tmp_path: Path, loaded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    metrics = EngineMetrics()
    folder = publish(tmp_path / "repository", gate=Gate(passed=False, reason="drops 3 points"))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(EngineUnavailable, match="drops 3 points") as error,
    ):
        load(folder.parent, settings(tmp_path / "cache"), metrics, apart=True)
    assert error.value.detail.count("drops 3 points") == len(CPU_ENGINES)
    failures = metrics.self_check_failures.labels("colours", "1", "fp32")
    assert failures.value == len(CPU_ENGINES)
    assert not caplog.records
    assert not loaded


def test_a_file_that_is_not_there_leaves_the_others_to_serve(
    tmp_path: Path, loaded: list[str]
) -> None:
    folder = publish(tmp_path / "repository")
    manifest = read_manifest(folder)
    assert manifest is not None
    [there] = manifest.variants
    missing = there.model_copy(update={"id": "fp16", "file": "model.fp16.onnx"})
    write_manifest(folder, manifest.model_copy(update={"variants": (missing, there)}))
    model = load(folder.parent, settings(tmp_path / "cache"), apart=True)
    model.close()
    assert model.facts.variant == "fp32"
    assert len(loaded) == 1
    assert any("model.fp16.onnx: cannot be read" in line for line in model.facts.rejected)


@pytest.mark.parametrize(
    ("python", "reason"),
    [("/bin/false", "it ended with status 1"), ("/no/python", "it cannot be started: .*No such")],
)
def test_a_process_that_cannot_be_had_is_a_failed_load(
    python: str, reason: str, tmp_path: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path / "repository").parent
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(ModelLoadError, match=f"colours/1: the loader process failed: {reason}"):
        load(folder, settings(None), apart=True)
    assert not loaded


@pytest.mark.parametrize(
    "decision",
    [
        Decision("int4", "onnxruntime", 1, {}, ()),
        Decision("fp32", "none", 1, {}, ()),
        Decision("fp32", "onnxruntime", 64, {}, ()),
        Decision("fp32", "onnxruntime", 0, {}, ()),
    ],
)
def test_only_a_candidate_can_have_been_chosen(
    decision: Decision, tmp_path: Path, loaded: list[str]
) -> None:
    folder = publish(tmp_path).parent
    config, metrics = read_model_config(folder), EngineMetrics()
    with pytest.raises(ModelLoadError, match="is no candidate here"):
        load_model(
            folder, config, 1, settings(None), metrics, CoreTurns(1), lambda: decision, apart=True
        )
    assert not loaded


def test_answers_are_still_checked_where_the_file_is_opened(tmp_path: Path) -> None:
    """On one sample: a cache of compiled networks may be damaged."""
    folder = publish(tmp_path)
    decision = Decision("fp32", CPU_ENGINES[0], 1, {1: 0.001}, ())
    other = publish(tmp_path / "other", gain=9.0)
    (other / "model.onnx").replace(folder / "model.onnx")
    config, metrics = read_model_config(folder.parent), EngineMetrics()
    with pytest.raises(ModelLoadError, match="answers wrongly on this machine"):
        load_model(
            folder.parent, config, 1, settings(None), metrics, CoreTurns(1), lambda: decision,
            apart=True,
        )  # fmt: skip


# Deaths, with a real process in which ONNX Runtime crashes or hangs.


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose model `doomed` awaits its fate."""
    path = deadly_path(tmp_path / "lib").split(os.pathsep)[0]
    monkeypatch.syspath_prepend(path)
    return write_model(tmp_path / "repository", "doomed")


def choose_doomed(processes: LoaderProcesses, folder: Path) -> Decision:
    return processes.choose(folder, read_config(scan_model(folder)), 1)


ONNX_RUNTIME = LoadSettings(engine="onnxruntime", allow_ungated=True, threads=1)


def test_a_runtime_that_crashes_is_a_failed_load_that_names_the_candidate(deadly: Path) -> None:
    doom(deadly / "1" / "model.onnx", "crash")
    files = open_files()
    processes = LoaderProcesses(ONNX_RUNTIME, EngineMetrics())
    reason = (
        "doomed/1: the loader process failed: at 'default in onnxruntime': "
        "it was ended by SIGSEGV: last words"
    )
    with pytest.raises(ModelLoadError, match=reason):
        choose_doomed(processes, deadly)
    with pytest.raises(ModelLoadError, match=r"model\.onnx': it was ended by SIGSEGV"):
        processes.describe(deadly / "1" / "model.onnx")
    assert open_files() == files


def test_a_load_that_hangs_is_ended_in_time(deadly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doom(deadly / "1" / "model.onnx", "hang")
    monkeypatch.setattr(loader_process, "_SECONDS", 0.3)
    with pytest.raises(ModelLoadError, match=r"doomed/1: .* it was not done after 0\.3 s"):
        choose_doomed(LoaderProcesses(ONNX_RUNTIME, EngineMetrics()), deadly)


def test_a_load_ends_before_it_takes_the_last_memory(
    deadly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doom(deadly / "1" / "model.onnx", "hang")
    free = iter([1 << 30, 1 << 30, 1000])
    monkeypatch.setattr(helper, "free_memory", lambda: next(free))
    with pytest.raises(ModelLoadError, match="memory ran short: 1,000 bytes were still free"):
        choose_doomed(LoaderProcesses(ONNX_RUNTIME, EngineMetrics()), deadly)


class Started(logging.Handler):
    """Waits for the line that names a loader process."""

    def __init__(self) -> None:
        super().__init__()
        self.pids: list[int] = []
        self.begun = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "helper process":
            self.pids.append(vars(record)["pid"])
            self.begun.set()


@pytest.fixture
def started(caplog: pytest.LogCaptureFixture) -> Iterator[Started]:
    handler = Started()
    with caplog.at_level(logging.INFO):
        logging.getLogger().addHandler(handler)
        yield handler
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda processes, pid: os.kill(pid, signal.SIGKILL), "it was ended by SIGKILL"),
        (lambda processes, pid: processes.stop(), "the server stops"),
    ],
    ids=["kill -9", "stop"],
)
def test_a_process_that_is_ended_while_it_works_is_a_failed_load(
    end: Callable[[LoaderProcesses, int], None], reason: str, deadly: Path, started: Started
) -> None:
    doom(deadly / "1" / "model.onnx", "hang")
    processes = LoaderProcesses(ONNX_RUNTIME, EngineMetrics())
    with ThreadPoolExecutor(1) as thread:
        choosing = thread.submit(choose_doomed, processes, deadly)
        assert started.begun.wait(20)
        end(processes, started.pids[0])
        with pytest.raises(ModelLoadError, match=f"the loader process failed: {reason}"):
            choosing.result(20)
    assert not Path(f"/proc/{started.pids[0]}").exists()


# With a loader.


def test_what_serves_serves_on_and_the_first_load_stays_here(
    tmp_path: Path, started: Started, loaded: list[str]
) -> None:
    publish(tmp_path / "repository", "first")
    given = settings(tmp_path / "cache", engine="onnxruntime")

    async def run() -> None:
        with Workers(1) as workers:
            repository = tmp_path / "repository"
            catalogue = Catalogue(Repositories.of(repository), workers, FrontMetrics())
            loader = Loader(Repositories.of(repository), given, EngineMetrics(), catalogue, 1.0)
            publish(repository, "second")
            await loader.load_all()
            assert started.pids == []
            assert len(loaded) == 2
            publish(repository, "third")
            await loader.load("third")
            assert len(started.pids) == 1
            assert len(loaded) == 3
            await loader.load("third", {"config": '{"max_batch_size": 2}'})
            assert catalogue.get("third").facts.max_rows == 2
            await loader.load("second", starting=True)
            assert len(started.pids) == 2
            folder = publish(repository, "third", version=2)
            (folder / "model.onnx").write_bytes(b"something else")
            with pytest.raises(ModelLoadError, match=r"no variant can be served: .*sha256"):
                await loader.load("third")
            assert catalogue.ready_versions("third") == ["1"]
            loader.stop_loading()
            with pytest.raises(ModelLoadError, match="the server stops"):
                await loader.load("third")
            await loader.close()

    asyncio.run(run())
    assert not any(Path(f"/proc/{pid}").exists() for pid in started.pids)


def test_files_that_change_between_check_and_opening_are_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "first")
    file = publish(tmp_path, "second") / "model.onnx"

    def swapped(self: LoaderProcesses, *arguments: Any) -> Decision:
        file.rename(file.with_suffix(".old"))
        file.write_bytes(file.with_suffix(".old").read_bytes())
        return Decision("fp32", "onnxruntime", 1, {1: 0.001}, ())

    monkeypatch.setattr(LoaderProcesses, "choose", swapped)
    given = settings(None, engine="onnxruntime")

    async def run() -> None:
        with Workers(1) as workers:
            catalogue = Catalogue(Repositories.of(tmp_path), workers, FrontMetrics())
            loader = Loader(Repositories.of(tmp_path), given, EngineMetrics(), catalogue, 1.0)
            await loader.load("first")
            with pytest.raises(ModelLoadError, match="second/1: its files changed while"):
                await loader.load("second")
            with pytest.raises(ModelNotReady):
                catalogue.get("second")
            await loader.close()

    asyncio.run(run())


def test_a_file_that_only_a_runtime_can_read_is_described_as_here(tmp_path: Path) -> None:
    file = publish(tmp_path) / "model.onnx"
    processes = LoaderProcesses(LoadSettings(), EngineMetrics())
    assert processes.describe(file) == loaded_facts(file)
    file.write_bytes(b"no network")
    with pytest.raises(EngineUnavailable, match="nothing here can read it"):
        processes.describe(file)
