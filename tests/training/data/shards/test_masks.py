"""Masks in shards."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.shards.archives import mask, picture, tar
from tests.training.data.shards.conftest import recipe
from training.data import load_source
from training.data.loader import Loader
from training.data.samples import StreamedSamples
from training.data.sampling import Windowed
from training.errors import DataError


def segmentation(train: Path, **data: object) -> dict[str, object]:
    return {
        "source": "shards", "train": str(train), "val": str(train), "test": str(train), **data
    }  # fmt: skip


def masks_recipe(data: dict[str, object], **changes: object):  # type: ignore[no-untyped-def]
    return recipe(data, task="segmentation", model={"name": "unet_slim"}, **changes)


def test_masks_are_read_and_checked(tmp_path: Path) -> None:
    files = [("a.png", picture()), ("a.seg.png", mask(0, 1, 255, 2))]
    train = tar(tmp_path / "a.tar", *files)
    data = load_source(masks_recipe(segmentation(train, classes=["x", "y", "z"])))
    assert data.ignore_index == 255
    assert np.unique(data.train.batch([0])[1]).tolist() == [0, 1, 2, 255]
    loss = {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}}
    loss["loss"] = {"name": "bce"}
    binary = load_source(
        masks_recipe(segmentation(train, classes=["x", "y", "z"]), binary=True, train=loss)
    )
    assert isinstance(binary.train, StreamedSamples)
    _, masks = next(iter(Loader(binary.train, Windowed(binary.train.groups, 1, 1, 5))))
    assert np.unique(masks.numpy()).tolist() == [0, 1, 255]
    wrong = load_source(masks_recipe(segmentation(train, classes=["x", "y"])))
    with pytest.raises(DataError, match=r"a\.tar: a: mask: expected classes 0 to 1 or 255"):
        wrong.train.batch([0])
    with pytest.raises(DataError, match=r"data\.classes: missing; expected a name for each value"):
        load_source(masks_recipe(segmentation(train)))


def test_folder_of_masks_becomes_shards(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for number in range(count):
            for kind, content in (("images", picture(number)), ("masks", mask(0, 1, number % 3))):
                file = tmp_path / "set" / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    (tmp_path / "set" / "classes.txt").write_text("x\ny\nz\n")
    near = masks_recipe({"source": "mask_folder", "root": str(tmp_path / "set")})
    from training.data.samples import files_alone
    from training.data.shards.write import Limits, write_shards
    from training.data.storage.store import Store

    with files_alone():
        write_shards(load_source(near), str(tmp_path / "out"), Limits(4, 10**6), 0, Store())
    far = load_source(masks_recipe({"source": "shards", "train": str(tmp_path / "out")}))
    assert far.classes == ("x", "y", "z")
    here = load_source(near)
    for one, other in zip(far.val.batch([0, 1]), here.val.batch([0, 1]), strict=True):
        assert np.array_equal(one, other)


def test_more_classes_than_masks_hold_are_told(tmp_path: Path) -> None:
    pairs = [((f"{x}.png", picture()), (f"{x}.seg.png", mask(0, 1))) for x in range(20)]
    file = tar(tmp_path / "x.tar", *chain.from_iterable(pairs))
    data = {"source": "shards", "train": str(file), "classes": [str(x) for x in range(300)]}
    segmenter = {"task": "segmentation", "model": {"name": "unet_slim"}}
    with pytest.raises(DataError, match="300 classes of masks; expected at most 255"):
        load_source(recipe(data, **segmenter))
