"""The entries of a folder that are images, for training, evaluation, client and load tester."""

import os
from pathlib import Path
from typing import Any

import pytest

from loadtest.payloads.content import image_folder
from serving.base.errors import InvalidInput
from serving.base.folders import is_passed_over, list_class_folders, list_images, told
from serving.client.images import each_image

PASSED_OVER = (
    "._a.jpg", ".a.png", ".DS_Store", "Thumbs.db", "thumbs.DB", "desktop.ini",
    ".ipynb_checkpoints/a.png", "__MACOSX/a.png", "__MACOSX/cat/._a.jpg", "@eaDir/a.jpg",
    "lost+found/a.jpg", "deep/.git/a.png", "$RECYCLE.BIN/a.bmp", "System Volume Information/a.png",
)  # fmt: skip
IMAGES = ("a.jpg", "b.JPEG", "c.jpe", "d.jfif", "e.PNG", "f.webp", "g.bmp", "deep/er/a.png")
OTHERS = ("a.tif", "b.TIF", "c.gif", "d.heic", "e.svg", "deep/README", "notes.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Only entries below the folder are passed over, never the folder that is asked for.
    root = tmp_path / ".cache" / "lost+found"
    for name in (*PASSED_OVER, *IMAGES, *OTHERS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_images_are_listed_and_other_files_counted_by_ending(folder: Path) -> None:
    found = list_images(folder)
    assert found.images == sorted(folder / name for name in IMAGES)
    assert found.left_out == {
        ".tif": 2, ".gif": 1, ".heic": 1, ".svg": 1, ".txt": 1, "no ending": 1,
    }  # fmt: skip
    assert told(found.left_out).startswith("2 .tif, 1 .gif")


def test_client_and_load_tester_take_the_same_images(folder: Path) -> None:
    assert list(each_image(folder)) == list_images(folder).images
    for image in list_images(folder).images:
        image.write_text(image.name)
    sent = [payload.images[0].decode() for payload in image_folder(folder, 1, 0)]
    assert sorted(sent) == sorted(image.name for image in list_images(folder).images)


def test_class_folders_are_those_that_a_person_made(folder: Path) -> None:
    found = list_class_folders(folder)
    assert list(found.images) == ["deep"]
    assert found.left_out["beside the class folders"] == len(IMAGES) - 1


@pytest.mark.parametrize("name", ["train", "MACOSX", "a._b", "thumbs", "lost"])
def test_other_names_are_not_passed_over(name: str) -> None:
    assert not is_passed_over(name)


def test_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path == str(folder / "deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InvalidInput, match="deep: cannot be read: Permission denied"):
        list_images(folder)
    with pytest.raises(PermissionError):
        list(each_image(folder))


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="none: cannot be read"):
        list_images(tmp_path / "none")
