"""Adoptions that are interrupted, killed, short of disk, or meet another."""

import errno
import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import Result

from serving.repository.manifest import read_manifest
from tests.training.pipeline.adopt.conftest import adopt, listing, refused
from training.pipeline.adopt import adopt as work
from training.pipeline.adopt import plan, publishing, variants


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_adoption_is_taken_up_by_the_next(
    after: int, model: Path, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(model)
    replace, moved = os.replace, 0

    def replacing(*paths: Any) -> None:
        nonlocal moved
        if moved == after:
            raise KeyboardInterrupt
        moved += 1
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "replace", replacing)
        assert "interrupted" in refused(adopt(model, items, "--variants", "int8-u8"), 130)
    assert before.items() <= listing(model).items()
    assert not (model / "1" / "manifest.json").exists()
    assert adopt(model, items, "--variants", "int8-u8").exit_code == 0
    assert read_manifest(model / "1") is not None
    assert {path.name for path in model.iterdir()} == {"1", "config.pbtxt", "names.txt"}


def test_one_adoption_at_a_time(model: Path, items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second: list[Result] = []
    make = work.make_variants

    def making(*given: Any) -> Any:
        second.append(adopt(model, items))
        return make(*given)

    monkeypatch.setattr(work, "make_variants", making)
    assert adopt(model, items, "--variants", "fp16").exit_code == 0
    assert "is being adopted by another process" in refused(second[0])


def test_a_network_that_changes_meanwhile_is_not_published(
    model: Path, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = work.make_variants

    def making(*given: Any) -> Any:
        network = onnx.load(model / "1" / "model.onnx")
        network.doc_string = "another"
        onnx.save(network, model / "1" / "model.onnx")
        return make(*given)

    monkeypatch.setattr(work, "make_variants", making)
    assert "changed while it was adopted" in refused(adopt(model, items, "--variants", "fp16"))
    assert {path.name for path in (model / "1").iterdir()} == {"model.onnx"}


def test_an_adoption_that_ended_meanwhile_is_replaced(model: Path, items: Path) -> None:
    given = plan.Request(model, items, variants=("fp32", "fp16"))
    planned = plan.plan(given)
    assert adopt(model, items, "--variants", "fp16,int8-s8").exit_code == 0
    assert work.adopt(given, planned).published
    names = {path.name for path in (model / "1").iterdir()}
    assert names == {"model.onnx", "model.fp16.onnx", "samples.npz", "manifest.json"}


def test_files_of_a_killed_adoption_go_with_the_next(model: Path, items: Path) -> None:
    (model / ".adopt").mkdir()
    (model / ".adopt" / "moved").write_text("model.int8-s8.onnx\n../../x\nmodel.onnx\n")
    (model / "1" / "model.int8-s8.onnx").write_bytes(b"cut off")
    assert adopt(model, items, "--variants", "fp16").exit_code == 0
    names = {path.name for path in (model / "1").iterdir()}
    assert names == {"model.onnx", "model.fp16.onnx", "samples.npz", "manifest.json"}
    (model / ".adopt").mkdir()
    assert "Nothing has changed" in adopt(model, items, "--variants", "fp16").stdout
    assert not (model / ".adopt").exists()


@pytest.mark.parametrize("file", ["model.fp16.onnx", "samples.npz", "manifest.json"])
def test_a_full_disk_is_told_and_changes_nothing(
    file: str, model: Path, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    places = {
        "model.fp16.onnx": (variants, "to_half"),
        "samples.npz": (publishing, "write_samples"),
        "manifest.json": (publishing, "write_manifest"),
    }
    monkeypatch.setattr(*places[file], full)
    before = listing(model)
    assert "No space left on device" in refused(adopt(model, items, "--variants", "fp16"))
    assert listing(model) == before
