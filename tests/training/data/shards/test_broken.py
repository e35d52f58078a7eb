"""Images of shards that are broken are named, and skipped where a recipe says so."""

import logging
from pathlib import Path

import pytest

from tests.training.data.shards.archives import labelled, tar
from tests.training.data.shards.conftest import recipe
from training.data import load_source
from training.data.loader import Loader
from training.data.sampling import Windowed
from training.data.shards.samples import ShardSamples
from training.data.survey import survey
from training.errors import DataError


def broken(tmp_path: Path, bad: int, total: int) -> dict[str, object]:
    """A recipe's data with so many images that cannot be decoded, in the middle of train."""
    files = labelled(*"01" * (total // 2))
    for number in range(bad):
        files[2 * (total // 2 + number)] = (f"{total // 2 + number:04}.png", b"no image")
    good = str(tar(tmp_path / "good.tar", *labelled("0", "1")))
    train = str(tar(tmp_path / "train.tar", *files))
    return {"source": "shards", "train": train, "val": good, "test": good}


def test_broken_image_is_named_with_shard_and_key(tmp_path: Path) -> None:
    data = load_source(recipe(broken(tmp_path, 1, 40)))
    with pytest.raises(DataError, match=r"train\.tar: 0020: not an image"):
        data.train.batch(range(40))
    with pytest.raises(DataError, match=r"1 of 44 files .* train\.tar/0020: not an image"):
        survey(data, tmp_path / "sheet.npz")


def test_broken_images_are_skipped_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = load_source(recipe({**broken(tmp_path, 3, 40), "on_error": "skip"}))
    assert isinstance(data.train, ShardSamples)
    findings = survey(data, tmp_path / "sheet.npz")
    assert "images that will be skipped: 3, such as train.tar/0020: not an im" in str(findings)
    with caplog.at_level(logging.WARNING):
        batches = list(Loader(data.train, Windowed(data.train.groups, 8, 1, 20)))
    assert [len(images) for images, _ in batches] == [8] * 5
    seen = {int(x) for images, _ in batches for x in images[:, 0, 0, 0]}
    assert seen == set(range(40)) - {20, 21, 22}
    assert "data: 3 of 40 images skipped" in caplog.text
    assert "train.tar: 0020: not an image" in caplog.text


def test_more_broken_images_than_skip_bears_end_the_build(tmp_path: Path) -> None:
    data = load_source(recipe({**broken(tmp_path, 15, 40), "on_error": "skip"}))
    with pytest.raises(DataError, match=r"11 images cannot be used, more than data\.on_error: sk"):
        list(Loader(data.train, Windowed([range(40)], 8, 1, 20)))


def test_broken_image_of_val_is_never_skipped(tmp_path: Path) -> None:
    source = broken(tmp_path, 1, 40)
    source |= {"val": source["train"], "train": source["val"], "on_error": "skip"}
    data = load_source(recipe(source))
    with pytest.raises(DataError, match=r"train\.tar: 0020"):
        data.val.batch(range(40))


def test_shard_that_changes_under_a_build_is_noticed(tmp_path: Path) -> None:
    source = broken(tmp_path, 0, 40)
    data = load_source(recipe(source))
    shard = Path(str(source["train"]))
    content = shard.read_bytes()
    shard.write_bytes(content[:512] + b"x" * 512 + content[1024:])
    assert data.train.read([0])[0] != data.train.read([5])[0]
    tar(shard, *labelled(*"01" * 3))
    with pytest.raises(DataError, match=r"train\.tar"):
        data.train.batch([39])


def test_survey_of_a_large_set_looks_at_some_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.shards.source.SAMPLED_IMAGES", 11)
    data = load_source(recipe(broken(tmp_path, 0, 40)))
    findings = survey(data, tmp_path / "sheet.npz")
    assert findings["images"] == {"train": 40, "val": 2, "test": 2}
    assert findings["looked_at"] == {"train": 10, "val": 1, "test": 1}
    assert findings["classes"]["0"] == {"train": 20, "val": 1, "test": 1}
    assert any("looked at 12 of 44 images" in warning for warning in findings["warnings"])
