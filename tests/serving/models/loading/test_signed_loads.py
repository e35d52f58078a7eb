"""Keys that come and go while versions are loaded and serve, with a fake engine."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.base.errors import ModelNotReady, NotAllowed, NotTrusted
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.models.catalogue import Catalogue
from serving.models.loading import load_thread
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.loader import Loader
from serving.models.workers import Workers
from serving.repository.places.repositories import Repositories
from serving.repository.signing.keys import Keys
from serving.repository.signing.private_copy import SignedVersions
from serving.repository.signing.statement import sign_version
from tests.serving.models.conftest import FakeEngines, write_model
from tests.support.signed import Signer

ONE, TWO = Signer(), Signer()


class Signed:
    """A loader that asks for signatures.

    keys: trusted at the moment.
    """

    def __init__(self, repository: Path, workers: Workers, cache: Path) -> None:
        self.keys: Keys = ONE.trusted | TWO.trusted
        self.metrics = EngineMetrics()
        self.catalogue = Catalogue(Repositories.of(repository), workers, FrontMetrics())
        settings = LoadSettings(engine="onnxruntime", allow_ungated=True, threads=1)
        refusals = self.metrics.signature_refusals
        signed = SignedVersions(lambda: self.keys, cache, refusals)
        places = Repositories.of(repository)
        self.loader = Loader(places, settings, self.metrics, self.catalogue, 1.0, signed)


Drive = Callable[[Callable[[Signed], Any]], None]


@pytest.fixture
def drive(tmp_path: Path, workers: Workers, engines: FakeEngines) -> Drive:
    """Runs work on a loader over tmp_path, and closes it."""

    def run(work: Callable[[Signed], Any]) -> None:
        async def main() -> None:
            signed = Signed(tmp_path, workers, tmp_path / ".cache")
            try:
                await work(signed)
            finally:
                await signed.loader.close()

        asyncio.run(main())

    return run


class Held:
    """Holds loads up until they may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        load_model = load_thread.load_model

        def held(*arguments: Any, apart: bool) -> Any:
            self.entered.set()
            assert self.go_on.wait(10)
            return load_model(*arguments, apart=False)

        monkeypatch.setattr(load_thread, "load_model", held)


def test_key_that_is_withdrawn_during_a_load_brings_nothing_up(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch, engines: FakeEngines
) -> None:
    sign_version(write_model(tmp_path) / "1", ONE.private)
    held = Held(monkeypatch)

    async def work(signed: Signed) -> None:
        loading = asyncio.ensure_future(signed.loader.load("doubles"))
        await asyncio.to_thread(held.entered.wait, 10)
        signed.keys = TWO.trusted
        await signed.loader.recheck()
        held.go_on.set()
        with pytest.raises(NotTrusted, match="is not trusted now"):
            await loading
        assert signed.metrics.signature_refusals.labels("doubles", "1").value == 1

    drive(work)
    assert engines.closed == engines.loaded
    assert len(engines.loaded) == 1


def test_version_of_a_withdrawn_key_is_gone_at_once_while_another_one_loads(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path)
    sign_version(folder / "1", ONE.private)

    async def work(signed: Signed) -> None:
        await signed.loader.load_all()
        sign_version(write_model(tmp_path, version=2) / "2", TWO.private)
        held = Held(monkeypatch)
        polling = asyncio.ensure_future(signed.loader.poll())
        await asyncio.to_thread(held.entered.wait, 10)
        signed.keys = TWO.trusted
        rechecking = asyncio.ensure_future(signed.loader.recheck())
        gone = asyncio.Event()
        signed.catalogue.on_change(gone.set)
        await asyncio.wait_for(gone.wait(), 10)
        with pytest.raises(ModelNotReady, match=f"doubles/1: key {ONE.id}, which signed it, is"):
            signed.catalogue.get("doubles")
        held.go_on.set()
        await asyncio.gather(polling, rechecking)
        assert signed.catalogue.ready_versions("doubles") == ["2"]
        assert signed.catalogue.get("doubles").facts.signed_by == (TWO.id,)

    drive(work)


def test_version_that_two_keys_have_signed_outlives_one_of_them(
    tmp_path: Path, drive: Drive
) -> None:
    folder = write_model(tmp_path)
    for signer in (ONE, TWO):
        sign_version(folder / "1", signer.private)

    async def work(signed: Signed) -> None:
        await signed.loader.load_all()
        model = signed.catalogue.get("doubles")
        assert model.facts.signed_by == (ONE.id, TWO.id)
        signed.keys = TWO.trusted
        await signed.loader.recheck()
        assert signed.catalogue.get("doubles") is model

    drive(work)


def test_version_that_another_key_has_signed_since_serves_while_it_is_loaded_anew(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is replaced so: no call fails, whatever the model control."""
    folder = write_model(tmp_path)
    sign_version(folder / "1", ONE.private)

    async def work(signed: Signed) -> None:
        await signed.loader.load_all()
        model = signed.catalogue.get("doubles")
        sign_version(folder / "1", TWO.private)
        held = Held(monkeypatch)
        signed.keys = TWO.trusted
        rechecking = asyncio.ensure_future(signed.loader.recheck())
        await asyncio.to_thread(held.entered.wait, 10)
        assert signed.catalogue.get("doubles") is model
        held.go_on.set()
        await rechecking
        assert signed.catalogue.get("doubles").facts.signed_by == (TWO.id,)

    drive(work)


def test_signature_of_other_files_does_not_keep_those_that_serve(
    tmp_path: Path, drive: Drive
) -> None:
    folder = write_model(tmp_path)
    sign_version(folder / "1", ONE.private)

    async def work(signed: Signed) -> None:
        await signed.loader.load_all()
        model = signed.catalogue.get("doubles")
        with (folder / "1" / "model.onnx").open("ab") as file:
            file.write(b"\x32\x01x")  # doc_string
        sign_version(folder / "1", TWO.private)
        seen = []
        signed.catalogue.on_change(
            lambda: seen.append(signed.catalogue.entry("doubles").versions[1].model)
        )
        signed.keys = TWO.trusted
        await signed.loader.recheck()
        assert seen[0] is None
        assert signed.catalogue.get("doubles") is not model

    drive(work)


def test_new_version_that_nobody_has_signed_leaves_the_old_one_serving(
    tmp_path: Path, drive: Drive
) -> None:
    sign_version(write_model(tmp_path) / "1", ONE.private)
    write_model(tmp_path, version=2)

    async def work(signed: Signed) -> None:
        await signed.loader.load_all()
        assert signed.catalogue.ready_versions("doubles") == ["1"]
        [reason] = [line.reason for line in signed.catalogue.index() if line.version == "2"]
        assert reason.endswith("doubles/2: no signature.json: nobody has signed it")
        with pytest.raises(NotAllowed, match="nobody has signed the files of a call"):
            await signed.loader.load("doubles", {"config": "{}", "file:1/model.onnx": b"x"})
        assert signed.catalogue.ready_versions("doubles") == ["1"]

    drive(work)


def test_refused_version_is_tried_again_with_new_keys(tmp_path: Path, drive: Drive) -> None:
    sign_version(write_model(tmp_path) / "1", ONE.private)

    async def work(signed: Signed) -> None:
        signed.keys = {}
        await signed.loader.load_all()
        assert signed.catalogue.ready_versions("doubles") == []
        signed.keys = ONE.trusted
        await signed.loader.recheck()
        assert signed.catalogue.ready_versions("doubles") == ["1"]

    drive(work)
