"""From a recipe's data section to training, validation and test images with their answers."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from serving.base.folders import visible_files
from serving.images.masks.tables import SHIPPED
from serving.images.postprocess import resize_mask
from serving.images.preprocess import transform as shown_to_network
from serving.repository.manifest import EvalTransform
from training.data.binary import as_binary
from training.data.fold import folded
from training.data.readers import Pixels, Targets
from training.data.samples import ArraySamples, Dataset, Samples, files_alone
from training.data.shards.source import shard_set, shards_fingerprint
from training.data.sources import connectors, digits
from training.data.sources.identity_folder import identity_folder
from training.data.sources.image_folder import image_folder, shown_name
from training.data.sources.listings.table import listed_images, table_dataset, table_files
from training.data.sources.masks.coco import coco_dataset
from training.data.sources.masks.labelme import labelme_folder
from training.data.sources.masks.mask_folder import mask_folder
from training.data.sources.masks.voc import voc_folder
from training.data.sources.remote_folder import remote_fingerprint, remote_folder
from training.data.sources.torchvision_sets import torchvision_dataset
from training.errors import data_errors
from training.recipes import Recipe, SegmentationRecipe
from training.recipes.data import (
    ConnectorsData,
    DigitsData,
    IdentityFolderData,
    ImageFolderData,
    TableData,
    TorchvisionLabels,
    TorchvisionMasks,
)
from training.recipes.masks import CocoData, LabelmeData, MaskFolderData, MaskRules, VocData
from training.recipes.remote.sources import RemoteFolderData, ShardsData

__all__ = ["Dataset", "Samples", "fingerprint", "load_dataset", "load_originals", "load_source"]

# First seed of each rendered split; their distance is more than any number of images in a recipe.
_CONNECTOR_SEEDS = {"train": 0, "val": 1_000_000_000, "test": 2_000_000_000}


def load_source(recipe: Recipe) -> Dataset:
    """The splits of a recipe's source, through its evaluation transform; they depend on the
    sections `data` and `transform` and on `binary` alone. Raises DataError."""
    data = _load(recipe)
    return as_binary(data) if isinstance(recipe, SegmentationRecipe) and recipe.binary else data


def load_originals(recipe: Recipe) -> Dataset:
    """As load_source, for all who want the source's own images: none is read, and those that are
    computed keep their size. Raises DataError."""
    match recipe.data:
        case DigitsData():
            side = digits.IMAGE_SIZE
        case ConnectorsData():
            side = recipe.data.size
        case _:
            with files_alone():
                return load_source(recipe)
    whole = EvalTransform(resize=(side, side), channels=recipe.transform.channels)
    return load_source(recipe.model_copy(update={"transform": whole}))


def _load(recipe: Recipe) -> Dataset:
    data, transform = recipe.data, recipe.transform
    match data:
        case DigitsData():
            return _digits(data, transform)
        case ConnectorsData():
            return _connectors(data, transform)
        case ImageFolderData():
            return image_folder(data, transform)
        case TableData():
            return table_dataset(data, transform)
        case IdentityFolderData():
            return identity_folder(data, transform)
        case MaskFolderData():
            return mask_folder(data, transform)
        case VocData():
            return voc_folder(data, transform)
        case CocoData():
            return coco_dataset(data, transform)
        case LabelmeData():
            return labelme_folder(data, transform)
        case ShardsData():
            return shard_set(data, transform, masks=recipe.task == "segmentation")
        case RemoteFolderData():
            return remote_folder(data, transform, masks=recipe.task == "segmentation")
        case TorchvisionLabels() | TorchvisionMasks():
            return torchvision_dataset(
                data.name,
                data.root,
                transform,
                masks=isinstance(data, TorchvisionMasks),
                download=data.download,
                val_fraction=data.val_fraction,
                test_fraction=data.test_fraction,
                split_seed=data.split_seed,
            )


def load_dataset(recipe: Recipe, source: Callable[[Recipe], Dataset] = load_source) -> Dataset:
    """The splits that a build works with: those of the recipe's source, or a fold of them.

    `source` replaces load_source where many builds share one source. Raises DataError.
    """
    dataset = source(recipe)
    if recipe.fold is None:
        return dataset
    return folded(dataset, recipe.fold, stratified=recipe.task == "classification")


@data_errors()
def fingerprint(recipe: Recipe) -> str:
    """Changes when the files of a source do: sha256 over their names, sizes and times of change,
    without the entries that sources pass over. Empty for sources that are computed and for public
    sets, which their name identifies. Raises DataError where a folder or listing cannot be read."""
    match recipe.data:
        case ImageFolderData():
            root = recipe.data.root
            return _folders_sha256((root,) if isinstance(root, Path) else root)
        case MaskFolderData() | VocData():
            return _folders_sha256((recipe.data.root,), _table(recipe.data))
        case IdentityFolderData() | CocoData() | LabelmeData():
            return _folders_sha256((recipe.data.root,))
        case TableData():
            files = table_files(recipe.data)
            named = (recipe.data.classes,) if isinstance(recipe.data.classes, Path) else ()
            listed = listed_images(recipe.data)
            return _listing_sha256(files[0].parent, chain(files, named, listed))
        case ShardsData():
            return shards_fingerprint(recipe.data)
        case RemoteFolderData():
            return remote_fingerprint(recipe.data)
        case _:
            return ""


def _table(data: MaskRules) -> tuple[Path, ...]:
    """The user's table of colours where it is not in the folder of the data."""
    return () if data.colours is None or data.colours in SHIPPED else (Path(data.colours),)


def _folders_sha256(roots: Sequence[Path], others: Sequence[Path] = ()) -> str:
    """The fingerprint of all that lies below some folders, and of other files."""
    files = chain.from_iterable(visible_files(root) for root in roots if root.is_dir())
    return _listing_sha256(roots[0], chain(files, others))


def _listing_sha256(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            status = file.stat()
            line = f"{shown_name(file, root)}\t{status.st_size}\t{status.st_mtime_ns}\n"
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
    """Images uint8 [N, H, W, C] through the evaluation transform, which the server applies too;
    masks are resized to the same size."""
    height, width = transform.size
    shown = np.stack([shown_to_network(image, transform) for image in images])
    if targets.ndim > 1:
        targets = np.stack([resize_mask(mask, height, width) for mask in targets.astype(np.uint8)])
    return ArraySamples(shown, targets.astype(np.int64 if targets.ndim == 1 else np.uint8))
