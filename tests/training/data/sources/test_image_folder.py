"""Image folders: splits, evaluation pixels, and files that are not what they seem."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data import fingerprint, samples
from training.data.samples import Dataset, FileSamples
from training.data.sources.image_folder import image_folder
from training.errors import BrokenFiles, DataError
from training.recipes import parse_recipe
from training.recipes.data import ImageFolderData

TRANSFORM = EvalTransform(resize=(8, 8))


def write_images(folder: Path, count: int, value: int = 100) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.full((12, 10, 3), value + index, np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def load(*roots: Path, **keys: Any) -> Dataset:
    document = {"source": "image_folder", "root": roots if len(roots) > 1 else roots[0], **keys}
    data = ImageFolderData.model_validate({"val_fraction": 0.2, **document})
    return image_folder(data, TRANSFORM)


def test_splits_are_cut_by_class_where_there_are_none(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 10)
    write_images(tmp_path / "dog", 20)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 30
    _, labels = data.test.batch(range(len(data.test)))
    assert np.bincount(labels).tolist() == [2, 4]
    names = [*data.train.names, *data.val.names, *data.test.names]
    assert len(set(names)) == 30


def test_given_splits_are_used_and_the_missing_one_is_cut(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 3)):
        write_images(tmp_path / split / "cat", count)
        write_images(tmp_path / split / "dog", count)
    data = load(tmp_path)
    assert len(data.test) == 6
    assert all(name.startswith("test/") for name in data.test.names)
    assert len(data.train) == 16
    assert len(data.val) == 4


def test_pixels_are_the_servers(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    data = load(tmp_path)
    images, _ = data.train.batch([0])
    file = tmp_path / data.train.names[0]
    assert images.shape == (1, 8, 8, 3)
    assert np.array_equal(images[0], load_image(file.read_bytes(), TRANSFORM).pixels)


def test_corrupt_files_are_reported_by_name(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 6)
    write_images(tmp_path / "dog", 6)
    (tmp_path / "cat" / "3.png").write_bytes((tmp_path / "cat" / "3.png").read_bytes()[:40])
    (tmp_path / "dog" / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert "2 of 13 files cannot be used" in str(error.value)
    assert "cat/3.png: " in str(error.value)
    assert "dog/empty.jpg: image is empty" in str(error.value)


def test_images_that_do_not_fit_in_memory_are_decoded_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    kept, _ = load(tmp_path).train.batch([1, 0])
    monkeypatch.setattr(samples, "MEMORY_LIMIT_BYTES", 100)
    data = load(tmp_path)
    assert isinstance(data.train, FileSamples)
    decoded, labels = data.train.batch([1, 0])
    assert np.array_equal(decoded, kept)
    assert labels.dtype == np.int64
    (tmp_path / data.train.names[0]).write_bytes(b"gone bad")
    with pytest.raises(DataError, match=data.train.names[0]):
        data.train.batch([0])


@pytest.mark.parametrize("folders", [[], ["only"]])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, folders: list[str]) -> None:
    for folder in folders:
        write_images(tmp_path / folder, 3)
    with pytest.raises(DataError, match="expected at least two folders"):
        load(tmp_path)


def test_missing_root_and_strange_class_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    for name in ("train/cat", "train/dog", "test/cat", "test/cow"):
        write_images(tmp_path / name, 4)
    with pytest.raises(DataError, match=r"test: folders \['cow'\] are not classes of .*train"):
        load(tmp_path)


def junk(folder: Path) -> None:
    """Entries as tools leave them, which hold no image."""
    for name in (
        ".ipynb_checkpoints/0.png", "__MACOSX/._0.png", "@eaDir/0.png", "lost+found/0.png",
        ".hidden/0.png", "._0.png", ".DS_Store", "Thumbs.db",
    ):  # fmt: skip
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"junk")


def test_entries_of_tools_are_passed_over(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, 3)
            junk(tmp_path / split / name)
        junk(tmp_path / split)
    junk(tmp_path)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (6, 6, 6)
    assert not data.left_out


def test_entries_of_tools_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 3)
    document = {
        "name": "tiny",
        "task": "classification",
        "data": {"source": "image_folder", "root": str(tmp_path)},
        "transform": {"resize": [16, 16]},
        "model": {"name": "resnet20_cifar"},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    recipe = parse_recipe(document)
    before = fingerprint(recipe)
    junk(tmp_path / "cat")
    assert fingerprint(recipe) == before
    (tmp_path / "cat" / "0.png").unlink()
    assert fingerprint(recipe) != before


@pytest.mark.parametrize(
    "names",
    [("Train", "Valid", "Test"), ("training", "validation", "testing"), ("TRAIN", "val", "test")],
)
def test_split_folders_have_the_names_that_people_give_them(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    for count, split in zip((5, 2, 3), names, strict=True):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, count)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)
    assert "splits as given" in data.description


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("Train/cat", "Train/dog", "train/cat", "train/dog"), "Train/, train/ are both train"),
        (("train/cat", "train/dog", "val/cat", "valid/cat"), "val/, valid/ are both val"),
        (("Test/cat", "Test/dog", "val/cat"), "got Test/, val/; expected a folder train"),
        (("Train", "Test"), "Test/, Train/ are called as splits; expected a folder of images a"),
    ],
)
def test_split_folders_that_are_not_clear_are_refused(
    tmp_path: Path, folders: tuple[str, ...], said: str
) -> None:
    for name in folders:
        write_images(tmp_path / name, 3)
    with pytest.raises(DataError, match=said):
        load(tmp_path)


def test_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        write_images(tmp_path / name, 5)
    assert load(tmp_path).classes == ("bus", "car", "train")


def test_files_that_are_left_out_are_counted(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, 5)
            for other in ("a.tif", "b.GIF", "c.heic", "d"):
                (tmp_path / split / name / other).touch()
    write_images(tmp_path / "extra" / "cat", 7)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "cat" / "e.jfif", "JPEG")
    data = load(tmp_path)
    assert data.left_out == {".tif": 4, ".gif": 4, ".heic": 4, "no ending": 4, "in extra/": 7}
    names = [*data.train.names, *data.val.names]
    assert "train/cat/e.jfif" in names


@pytest.mark.parametrize("split", ["", "train"])
def test_class_without_an_image_for_training_is_refused(tmp_path: Path, split: str) -> None:
    write_images(tmp_path / split / "cat", 5)
    (tmp_path / split / "cow").mkdir()
    with pytest.raises(DataError, match=r"no images for train of cow \(1 of 2 classes\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    "names", [("seg_train", "seg_test"), ("training_set", "test_set"), ("trainset", "Test-Images")]
)
def test_folders_that_look_like_splits_are_no_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for split in names:
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, 3)
    with pytest.raises(DataError, match="look like splits; expected them to be called train/"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("outer", "inner", "told"),
    [
        (("Trn", "Tst"), ("cat", "dog"), True),
        (("cat", "dog"), ("test", "train"), True),
        (("cat", "dog"), ("one", "two"), True),
        (("cat", "dog"), ("one",), False),
    ],
)
def test_classes_that_hold_the_same_folders_are_told(
    tmp_path: Path, outer: tuple[str, ...], inner: tuple[str, ...], told: bool
) -> None:
    for one in outer:
        for other in inner:
            write_images(tmp_path / one / other, 5)
    data = load(tmp_path)
    assert data.classes == outer
    shown = ", ".join(f"{name}/" for name in inner)
    assert [f"hold folders of the same names ({shown})" in note for note in data.notes] == (
        [True] if told else []
    )


def test_message_on_missing_images_counts_the_files_that_are_left_out(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tif").touch()
    with pytest.raises(DataError, match=r"no images for train of cat, dog .*left out: 2 \.tif"):
        load(tmp_path)
    write_images(tmp_path / "train" / "cat", 3)
    write_images(tmp_path / "train" / "dog", 3)
    write_images(tmp_path / "test", 3)
    with pytest.raises(DataError, match=r"no images for test; .* 3 beside the class folders"):
        load(tmp_path)


def test_images_of_several_roots_are_taken_together(tmp_path: Path) -> None:
    for root, count in (("a", 5), ("deep/b", 5)):
        write_images(tmp_path / root / "cat", count)
        write_images(tmp_path / root / "dog", count)
    write_images(tmp_path / "c" / "emu", 5)
    data = load(tmp_path / "a", tmp_path / "deep/b", tmp_path / "c")
    assert data.classes == ("cat", "dog", "emu")
    names = [*data.train.names, *data.val.names, *data.test.names]
    assert len(set(names)) == 25
    assert {name.split("/")[0] for name in names} == {"a", "deep", "c"}
    labels = np.concatenate([x.batch(range(len(x)))[1] for x in (data.train, data.val, data.test)])
    assert np.bincount(labels).tolist() == [10, 10, 5]


def described(folder: Path, text: str, name: str = "metadata.csv") -> Path:
    """Ten images in one folder and a table of them."""
    write_images(folder, 10)
    (folder / name).write_text(text)
    return folder


def test_metadata_gives_the_labels_as_hugging_face_has_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        lines = [f"a note, {i},{i}.png,{('cat', 'dog')[i % 2]}" for i in range(10)]
        described(tmp_path / "a" / split, "\n".join(["text,n,file_name,label", *lines]))
    data = load(tmp_path / "a")
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (8, 10)
    assert data.test.names[0] == "test/0.png"
    lines = [json.dumps({"file_name": f"{i}.png", "kind": i % 3}) for i in range(10)]
    described(tmp_path / "b", "\n".join(lines), "metadata.jsonl")
    assert load(tmp_path / "b", label_column="kind").classes == ("0", "1", "2")
    with pytest.raises(DataError, match=r"metadata\.jsonl: no column 'sort'"):
        load(tmp_path / "b", label_column="sort")


def test_metadata_without_labels_describes_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/0.png,a cat\n")
    assert load(tmp_path).classes == ("cat", "dog")


def test_metadata_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    described(tmp_path / "a", "file_name,label\n../../x.png,cat\n1.png,dog\n")
    with pytest.raises(DataError, match=r"'../../x\.png' leads out of"):
        load(tmp_path / "a")


def test_links_to_devices_and_pipes_are_told_and_not_read(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 10)
    write_images(tmp_path / "dog", 10)
    (tmp_path / "cat" / "x.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "dog" / "y.png")
    with pytest.raises(BrokenFiles) as told:
        load(tmp_path)
    assert told.value.files == dict.fromkeys(
        ("cat/x.png", "dog/y.png"), "cannot be read: is no regular file"
    )


def test_images_that_metadata_do_not_name_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "all", 20)
    rows = [f"all/{index}.png,{'ab'[index % 2]}" for index in range(12)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    data = load(tmp_path)
    assert len(data.train) + len(data.val) + len(data.test) == 12
    assert data.left_out == {"in no row of metadata.csv": 8}
