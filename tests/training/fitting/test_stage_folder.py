"""A finished stage is kept, an interrupted one goes on, a changed one starts anew."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from training.fitting.stage_folder import Results, copy_stage, finished, run_stage, stage_key


def test_key_depends_on_settings_and_the_key_before() -> None:
    keys = {
        stage_key("train", {"epochs": 1}, ""),
        stage_key("train", {"epochs": 2}, ""),
        stage_key("prune", {"epochs": 1}, ""),
        stage_key("train", {"epochs": 1}, "a"),
    }
    assert len(keys) == 4
    assert stage_key("train", {"a": 1, "b": 2}, "") == stage_key("train", {"b": 2, "a": 1}, "")


def test_finished_stage_is_found_by_its_key_only(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    assert finished(folder, "k") is None
    assert run_stage(folder, "k", lambda: {"accuracy": 0.5}).ran
    kept = finished(folder, "k")
    assert kept is not None
    assert kept.results == {"accuracy": 0.5}
    assert not kept.ran
    assert finished(folder, "other") is None


def test_interrupted_stage_finds_what_it_left(tmp_path: Path) -> None:
    folder = tmp_path / "train"

    def interrupted() -> Results:
        (folder / "last.ckpt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(folder, "k", interrupted)
    assert finished(folder, "k") is None
    resumed = run_stage(folder, "k", lambda: {"left": (folder / "last.ckpt").read_text()})
    assert resumed.results == {"left": "half"}


def test_stage_of_another_key_starts_in_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    run_stage(folder, "old", dict)
    (folder / "last.ckpt").write_text("old")
    run_stage(folder, "new", lambda: {"files": [path.name for path in folder.glob("*.ckpt")]})
    kept = finished(folder, "new")
    assert kept is not None
    assert kept.results == {"files": []}


@pytest.mark.parametrize(
    "record",
    ["{", "[]", '{"key": "k"}', '{"key": "k", "files": [], "results": null, "seconds": 1}'],
)
def test_damaged_record_counts_as_not_done(tmp_path: Path, record: str) -> None:
    folder = tmp_path / "train"
    run_stage(folder, "k", dict)
    (folder / "done.json").write_text(record)
    assert finished(folder, "k") is None
    assert run_stage(folder, "k", lambda: {"again": True}).results == {"again": True}


def test_stage_that_lost_a_file_counts_as_not_done(tmp_path: Path) -> None:
    folder = tmp_path / "train"

    def work() -> Results:
        (folder / "network.safetensors").write_text("weights")
        (folder / "checkpoints").mkdir()
        return {}

    run_stage(folder, "k", work)
    (folder / "checkpoints").rmdir()
    assert finished(folder, "k") is not None
    (folder / "network.safetensors").unlink()
    assert finished(folder, "k") is None


def test_stage_is_copied_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, own = tmp_path / "beside" / "train", tmp_path / "own" / "train"
    run_stage(former, "k", lambda: {"accuracy": 0.5})
    (former / "network.safetensors").write_text("weights")
    (former / "checkpoints").mkdir()
    (former / "checkpoints" / "last.ckpt").write_text("weights")
    run_stage(own, "old", dict)
    copytree = shutil.copytree

    def disk_full(*arguments: Any, **named: Any) -> None:
        copytree(*arguments, **named)
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", disk_full)
        with pytest.raises(OSError, match="no space left"):
            copy_stage(former, own)
    assert finished(own, "k") is None
    assert finished(own, "old") is not None
    copy_stage(former, own, "checkpoints")
    assert finished(own, "k") is not None
    assert (own / "network.safetensors").read_text() == "weights"
    assert not (own / "checkpoints").exists()
    assert [path.name for path in own.parent.iterdir()] == ["train"]
