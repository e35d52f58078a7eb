"""Folders of images with one mask each."""

from collections import Counter
from pathlib import Path

from serving.base.folders import why_no_folder
from serving.images.masks.folders import (
    MaskedImage,
    MaskNames,
    list_masked_images,
    mask_sibling,
)
from serving.images.masks.settings import mask_rule
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks.dataset import masked_dataset, settings_of
from training.data.sources.split_folders import beside_splits, split_folders
from training.errors import DataError, data_errors
from training.recipes.masks import MaskFolderData

# How images and masks lie where nothing needs to be said.
_USUAL = "images/NAME.*, masks/NAME.*"


@data_errors()
def mask_folder(data: MaskFolderData, transform: EvalTransform) -> Dataset:
    """ROOT/images/NAME.jpg with ROOT/masks/NAME.png, or the same below ROOT/train, val and test as
    far as they exist; missing splits are cut from the training images at random.

    Folders and files may be called otherwise; see list_masked_images. What the pixels of a mask
    stand for is said by the recipe or by a file in the root; see mask_rule. Masks are resized by
    nearest neighbour. Raises DataError naming the folder or files that are missing or broken.
    """
    root = data.root
    if not root.is_dir():
        raise DataError(f"data.root: {root}: {why_no_folder(root)}")
    given, left_out, how = _listed(data)
    masks = [pair.mask for pairs in given.values() for pair in pairs]
    rule = mask_rule(settings_of(data), [root], masks)
    described = f"mask folder {root.name}" + (f" ({how})" if how != _USUAL else "")
    return masked_dataset(given, rule, data, transform, described, left_out)


def _listed(data: MaskFolderData) -> tuple[dict[str, list[MaskedImage]], Counter[str], str]:
    """The images of each split with their masks, the number of files that are left out, and the
    places of images and masks in words."""
    root, said = data.root, MaskNames(data.images, data.masks, data.mask_suffix, data.image_suffix)
    folders = split_folders(root, lambda folder: True)
    found = {split: list_masked_images(folder, said) for split, folder in folders.items()}
    left_out = sum((x.left_out for x in found.values()), Counter(_beside(root, folders)))
    given = {split: listing.pairs for split, listing in found.items()}
    how = found["train"].how
    images = found["train"].images
    if folders != {"train": root} or images == root:
        return given, left_out, how
    if all(pair.path.parent != images for pair in given["train"]):
        # They may lie in images/train, images/val and images/test.
        inner = split_folders(images, lambda folder: True)
        left_out += Counter(beside_splits(images, inner))
        given = {
            split: [pair for pair in given["train"] if pair.path.is_relative_to(folder)]
            for split, folder in inner.items()
        }
    return given, left_out, how


def _beside(root: Path, folders: dict[str, Path]) -> dict[str, int]:
    """As beside_splits, without folders of masks: train_labels beside train."""
    masks = {f"in {path.name}/" for folder in folders.values() if (path := mask_sibling(folder))}
    return {place: n for place, n in beside_splits(root, folders).items() if place not in masks}
