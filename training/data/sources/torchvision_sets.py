"""Public data sets by torchvision's name, in the format in which torchvision keeps them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from serving.base.folders import is_passed_over
from serving.images.postprocess import resize_mask
from serving.images.preprocess import transform
from serving.repository.manifest import EvalTransform
from training.data.readers import Loaded, Original, Pixels, Targets, as_png
from training.data.samples import Dataset, read_splits
from training.data.split import complete
from training.errors import DataError

Item = tuple[Any, str, int]


@dataclass(frozen=True)
class Source:
    """How torchvision offers a data set.

    make: its class.
    splits: the arguments that select each of its splits.
    labels: the attribute that holds the labels. torchvision has no public one for all sets, and
        reading every image for its label would take minutes.
    classes: their names, where torchvision does not give them.
    mask_values: segmentation only; the class of each mask value, other values are ignored.
    """

    make: Callable[..., Any]
    splits: Mapping[str, Mapping[str, Any]]
    labels: str = ""
    classes: tuple[str, ...] = ()
    mask_values: Mapping[int, int] = field(default_factory=dict)


class _EuroSat(datasets.EuroSAT):  # type: ignore[misc]
    """The only set that torchvision lists from folders: without the entries that we pass over."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The names of the class folders, and their numbers."""
        names = [name for name in super().find_classes(directory)[0] if not is_passed_over(name)]
        return names, {name: number for number, name in enumerate(names)}

    @staticmethod
    def make_dataset(*arguments: Any, **options: Any) -> list[tuple[str, int]]:
        """Paths of the images with the numbers of their classes."""
        listed = datasets.EuroSAT.make_dataset(*arguments, **options)
        return [
            (file, label)
            for file, label in listed
            if not any(is_passed_over(part) for part in Path(file).parts[-2:])
        ]


_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_ALL_THREE = {name: {"split": name} for name in ("train", "val", "test")}
_PET = {"train": {"split": "trainval"}, "test": {"split": "test"}}
_DIGITS = tuple("0123456789")
IGNORE_INDEX = 255

CLASSIFICATION: dict[str, Source] = {
    "MNIST": Source(datasets.MNIST, _TRAIN_FLAG, "targets"),
    "FashionMNIST": Source(datasets.FashionMNIST, _TRAIN_FLAG, "targets"),
    "KMNIST": Source(datasets.KMNIST, _TRAIN_FLAG, "targets"),
    "CIFAR10": Source(datasets.CIFAR10, _TRAIN_FLAG, "targets"),
    "CIFAR100": Source(datasets.CIFAR100, _TRAIN_FLAG, "targets"),
    "SVHN": Source(datasets.SVHN, _TRAIN_TEST, "labels", _DIGITS),
    "STL10": Source(datasets.STL10, _TRAIN_TEST, "labels"),
    "EuroSAT": Source(_EuroSat, {"train": {}}, "targets"),
    "Food101": Source(datasets.Food101, _TRAIN_TEST, "_labels"),
    "Flowers102": Source(datasets.Flowers102, _ALL_THREE, "_labels"),
    "DTD": Source(datasets.DTD, _ALL_THREE, "_labels"),
    "OxfordIIITPet": Source(datasets.OxfordIIITPet, _PET, "_labels"),
}

SEGMENTATION: dict[str, Source] = {
    "OxfordIIITPet": Source(
        partial(datasets.OxfordIIITPet, target_types="segmentation"),
        _PET,
        classes=("background", "pet", "border"),
        mask_values={2: 0, 1: 1, 3: 2},
    ),
    "VOCSegmentation": Source(
        datasets.VOCSegmentation,
        # The test masks are not public, so that the set's val split is the test split.
        {"train": {"image_set": "train"}, "test": {"image_set": "val"}},
        classes=(
            "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
            "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant",
            "sheep", "sofa", "train", "tvmonitor",
        ),
        mask_values={value: value for value in range(21)},
    ),
}  # fmt: skip


def torchvision_dataset(
    name: str,
    root: Path,
    eval_transform: EvalTransform,
    *,
    masks: bool,
    download: bool,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
) -> Dataset:
    """A data set below `root`, where torchvision looks for it; `masks` asks for its segmentation.

    The set's own splits are used; missing ones are cut from train, stratified by class.
    Raises DataError where the set is not there or cannot be fetched.
    """
    source = (SEGMENTATION if masks else CLASSIFICATION)[name]
    made = {
        split: _open(name, source, arguments, root, download)
        for split, arguments in source.splits.items()
    }
    labels = {
        split: [0] * len(opened) if masks else [int(x) for x in getattr(opened, source.labels)]
        for split, opened in made.items()
    }
    parts, words = complete(
        {
            split: [(opened, split, index) for index in range(len(opened))]
            for split, opened in made.items()
        },
        lambda item: labels[item[1]][item[2]],
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
    )
    height, width = eval_transform.size
    samples = read_splits(
        name,
        parts,
        lambda item: f"{item[1]}/{item[2]}",
        _Reader(eval_transform, _mask_lookup(source) if masks else None),
        height * width * (eval_transform.channels + masks),
    )
    return Dataset(
        name=name,
        description=f"torchvision's {name}; {words}",
        classes=source.classes or tuple(str(x) for x in made["train"].classes),
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        ignore_index=IGNORE_INDEX if masks else None,
    )


@dataclass(frozen=True)
class _Reader:
    """Reads an item of an opened set. mask_values: the class of each value of a mask, uint8 [256];
    None with labels."""

    transform: EvalTransform
    mask_values: NDArray[np.uint8] | None

    def __call__(self, item: Item) -> Loaded:
        image, target = self._read(item)
        if target.ndim:
            target = np.asarray(resize_mask(target, *self.transform.size), np.uint8)
        return Loaded(transform(image, self.transform), target, image.shape[:2])

    def original(self, item: Item) -> Original:
        """The image as a PNG: many sets hold no files."""
        image, target = self._read(item)
        return Original(as_png(image), target)

    def _read(self, item: Item) -> tuple[Pixels, Targets]:
        """The image, uint8 RGB [H, W, 3], and its class, or that of each of its pixels."""
        opened, _, index = item
        found, target = opened[index]
        image = np.asarray(found.convert("RGB"))
        if self.mask_values is None:
            return image, np.asarray(target, np.int64)
        return image, self.mask_values[np.asarray(target, np.uint8)]


def _open(
    name: str, source: Source, arguments: Mapping[str, Any], root: Path, download: bool
) -> Any:
    try:
        return source.make(root, download=download, **arguments)
    except RuntimeError as error:
        # torchvision raises it where files are missing or have another checksum.
        advice = "" if download else "; data.download: true fetches it"
        raise DataError(f"data.root: {root} does not hold torchvision's {name}{advice}") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be fetched or read in {root}: {error}") from error


def _mask_lookup(source: Source) -> NDArray[np.uint8]:
    lookup = np.full(256, IGNORE_INDEX, np.uint8)
    for value, index in source.mask_values.items():
        lookup[value] = index
    return lookup
