"""From a recipe's data section to training, validation and test images with their answers."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving.manifest import EvalTransform
from serving.postprocess import resize_mask
from serving.preprocess import transform as shown_to_network
from training.data import connectors, digits
from training.data.classification import image_folder
from training.data.fold import folded
from training.data.samples import ArraySamples, Dataset, Pixels, Samples, Targets
from training.data.segmentation import mask_folder
from training.recipe import Recipe
from training.recipe.data import ConnectorsData, DigitsData, ImageFolderData, MaskFolderData

__all__ = ["Dataset", "Samples", "fingerprint", "load_dataset", "load_source"]

# First seeds of the rendered splits: so far apart that no count in a recipe makes them meet.
_CONNECTOR_SEEDS = {"train": 0, "val": 1_000_000_000, "test": 2_000_000_000}


def load_source(recipe: Recipe) -> Dataset:
    """The splits of a recipe's source, through its evaluation transform; they depend on the
    sections `data` and `transform` alone. Raises DataError."""
    match recipe.data:
        case DigitsData():
            return _digits(recipe.data, recipe.transform)
        case ConnectorsData():
            return _connectors(recipe.data, recipe.transform)
        case ImageFolderData():
            return image_folder(
                recipe.data.root,
                recipe.transform,
                val_fraction=recipe.data.val_fraction,
                test_fraction=recipe.data.test_fraction,
                split_seed=recipe.data.split_seed,
            )
        case MaskFolderData():
            return mask_folder(
                recipe.data.root,
                recipe.transform,
                ignore_index=recipe.data.ignore_index,
                val_fraction=recipe.data.val_fraction,
                test_fraction=recipe.data.test_fraction,
                split_seed=recipe.data.split_seed,
            )


def load_dataset(recipe: Recipe, source: Callable[[Recipe], Dataset] = load_source) -> Dataset:
    """The splits that a build works with: those of the recipe's source, or a fold of them. `source`
    stands in for load_source where one source serves many builds. Raises DataError."""
    dataset = source(recipe)
    if recipe.fold is None:
        return dataset
    return folded(dataset, recipe.fold, stratified=recipe.task == "classification")


def fingerprint(recipe: Recipe) -> str:
    """Changes when the files of a folder source do: sha256 over their names, sizes and times of
    change. Sources that are computed have nothing to look at."""
    if isinstance(recipe.data, DigitsData | ConnectorsData):
        return ""
    return _listing_sha256(recipe.data.root)


def _listing_sha256(root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")):
        if file.is_file():
            status = file.stat()
            line = f"{file.relative_to(root)}\t{status.st_size}\t{status.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()


def _digits(data: DigitsData, transform: EvalTransform) -> Dataset:
    def split(name: digits.Split) -> Samples:
        images, labels = digits.load_digits_split(name, seed=data.split_seed)
        return _transformed(images, labels, transform)

    return Dataset(
        name="scikit-learn digits",
        description=(
            "1,797 handwritten digits that come with scikit-learn, 8x8 enlarged to 32x32; "
            f"stratified split, seed {data.split_seed}"
        ),
        classes=digits.CLASSES,
        train=split("train"),
        val=split("val"),
        test=split("test"),
    )


def _connectors(data: ConnectorsData, transform: EvalTransform) -> Dataset:
    def split(name: str, count: int) -> Samples:
        first = _CONNECTOR_SEEDS[name]
        images, masks = connectors.render_many(range(first, first + count), data.size)
        return _transformed(images, masks, transform)

    return Dataset(
        name="rendered connectors",
        description=(
            f"USB connectors rendered at {data.size}x{data.size}; "
            f"test images from seeds {_CONNECTOR_SEEDS['test']} on"
        ),
        classes=connectors.CLASSES,
        train=split("train", data.train),
        val=split("val", data.val),
        test=split("test", data.test),
    )


def _transformed(images: Pixels, targets: Targets, transform: EvalTransform) -> ArraySamples:
    """Images uint8 [N, H, W, 3] in memory, as the server would see them; masks follow the size."""
    height, width = transform.size
    shown = np.stack([shown_to_network(image, transform) for image in images])
    if targets.ndim > 1:
        targets = np.stack([resize_mask(mask, height, width) for mask in targets.astype(np.uint8)])
    return ArraySamples(shown, targets.astype(np.int64 if targets.ndim == 1 else np.uint8))
