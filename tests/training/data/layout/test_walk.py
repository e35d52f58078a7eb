"""The walk over a folder: bounded, without what is passed over."""

from pathlib import Path

import pytest

from training.data.layout.walk import walk
from training.errors import DataError


def test_images_and_other_files_are_counted_by_folder(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.PNG", "a/list.csv", ".hidden/3.jpg", "b/c/4.jpg", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tree = walk(tmp_path)
    assert tree.complete
    assert list(tree.root.folders) == ["a", "b"]
    assert tree.root.folders["a"].image_count == 2
    assert tree.root.folders["a"].endings == {".csv": 1}
    assert tree.root.images_below() == 3


def test_a_folder_that_is_too_large_is_seen_in_part(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.jpg").touch()
    tree = walk(tmp_path, max_entries=10)
    assert not tree.complete
    assert tree.root.images_below() == 10


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        walk(tmp_path / "nowhere")
