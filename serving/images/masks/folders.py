"""Folders of images with one mask each: images/NAME.jpg with masks/NAME.png, and the like."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol, TypeVar

from serving.base.errors import InvalidInput
from serving.base.folders import is_image, is_passed_over, list_images, visible_files
from serving.base.text import NotText, decode_utf8, lines_of
from serving.images.masks.files import MASK_SUFFIXES

CLASSES_FILE = "classes.txt"


class _File(Protocol):
    @property
    def name(self) -> str: ...


Image = TypeVar("Image", bound=_File)
Mask = TypeVar("Mask")

# Names of folders, in lower case, by preference.
IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos", "inputs", "input",
    "rgb", "originals",
)  # fmt: skip
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass",
    "segmentationclassraw", "segmentationclasspng", "gtfine", "gt", "gts", "groundtruth",
    "ground_truth", "segmentations", "segmentation", "segs", "seg", "mattes", "matte", "alpha",
    "targets", "target",
)  # fmt: skip
# Ends of the name of a folder of masks beside one of images: train_labels, trainannot.
SIBLINGS = ("_labels", "_masks", "_mask", "_label", "_annotations", "_gt", "annot")
# Ends of names before the dot, by preference: where masks lie there as values and as colours, the
# values are read.
MASK_ENDS = (
    "", "_mask", "_masks", "_gtFine_labelIds", "_gtFine_labelTrainIds", "_labelIds",
    "_labelTrainIds", "_L", "_label", "_labels", "_gt", "_GT", "_seg", "_segmentation", "_matte",
    "_annotation", "_anno", "-mask", "_Mask", "_gtFine_color", "_color",
)  # fmt: skip
IMAGE_ENDS = ("", "_leftImg8bit", "_image", "_img", "_sat", "_rgb", "-image")
# Names by which the ends are chosen, spread over a folder. More cost time in large folders, fewer
# may miss that only some images have masks of one kind.
_TRIED = 200


@dataclass(frozen=True)
class MaskedImage:
    """An image file and the file of its mask."""

    path: Path
    mask: Path


class MaskedListing(NamedTuple):
    """A folder of images with masks.

    pairs: images with their masks, sorted by the image's path.
    left_out: number of other files beside the images, by their ending.
    images: the folder of the images.
    how: the places of images and masks in words: "images/NAME.*, masks/NAME.*".
    """

    pairs: list[MaskedImage]
    left_out: Counter[str]
    images: Path
    how: str


@dataclass(frozen=True)
class MaskNames:
    """What is said about the names of folders and files; None is found out."""

    images: str | None = None
    masks: str | None = None
    mask_suffix: str | None = None
    image_suffix: str | None = None


def list_masked_images(folder: Path, said: MaskNames) -> MaskedListing:
    """Every image below the folder of images with its mask, a file at the same place below the
    folder of masks whose name differs in its end alone.

    Raises InvalidInput where one of the two folders or a mask is missing, and where several folders
    may be meant.
    """
    images, masks = _folders(folder, said)
    found = list_images(images)
    held = files_by_stem(masks)
    inner = masks != images and masks.is_relative_to(images)
    stems = {
        _stem(file, images): file
        for file in found.images
        if not (inner and file.is_relative_to(masks))
    }
    ends = _ends(list(stems), held, said, together=images == masks)
    if images == masks and ends.mask:
        stems = {stem: file for stem, file in stems.items() if not stem.endswith(ends.mask)}
    pairs = [
        MaskedImage(file, mask)
        for file, mask in _paired(stems, held, ends, str(masks), images.name)
    ]
    how = f"{images.name}/NAME{ends.image}.*, {masks.name}/NAME{ends.mask}.*"
    return MaskedListing(pairs, found.left_out, images, how)


class _Ends(NamedTuple):
    image: str
    mask: str


def pair_masks(
    images: Mapping[str, Image], masks: Mapping[str, Mask], masks_at: str, images_at: str
) -> list[tuple[Image, Mask]]:
    """As list_masked_images pairs files of two folders, for files that lie elsewhere: both by their
    place below their folder, without the ending. Raises InvalidInput."""
    ends = _ends(list(images), masks, MaskNames(), together=False)
    return _paired(images, masks, ends, masks_at, images_at)


def _paired(
    images: Mapping[str, Image],
    masks: Mapping[str, Mask],
    ends: _Ends,
    masks_at: str,
    images_at: str,
) -> list[tuple[Image, Mask]]:
    pairs, missing = [], []
    for stem, image in images.items():
        mask = masks.get(stem.removesuffix(ends.image) + ends.mask)
        if mask is None:
            missing.append(stem + PurePath(image.name).suffix)
        else:
            pairs.append((image, mask))
    if missing:
        raise InvalidInput(
            f"{masks_at}: no mask for {', '.join(missing[:10])} ({len(missing)} in all); expected "
            f"NAME{ends.mask}.png at the place of {images_at}/NAME{ends.image}.*"
        )
    return pairs


def _folders(folder: Path, said: MaskNames) -> tuple[Path, Path]:
    """The folders of images and of masks."""
    images = _named(folder, said.images) or _usual(folder, IMAGE_FOLDERS, "images")
    masks = _named(folder, said.masks) or _usual(folder, MASK_FOLDERS, "masks")
    if images is not None and masks is not None:
        return images, masks
    if images is None and masks is None:
        beside = mask_sibling(folder)
        direct = folder.is_dir() and any(is_image(path) for path in folder.iterdir())
        if direct and beside:
            return folder, beside
        if direct and _share_a_folder(folder, said):
            return folder, folder
    raise InvalidInput(
        f"{folder / (said.images or 'images') if images is None else folder / 'masks'}: no such "
        f"folder; expected images/ and masks/ in {folder}, or the keys images and masks with "
        "their names"
    )


def mask_sibling(folder: Path) -> Path | None:
    """The folder of masks beside one of images: train_labels, train_masks."""
    siblings = (folder.with_name(folder.name + end) for end in SIBLINGS)
    return next((path for path in siblings if path.is_dir()), None)


def _named(folder: Path, name: str | None) -> Path | None:
    if name is None:
        return None
    path = folder if name in (".", "") else folder / name
    if not path.is_dir():
        raise InvalidInput(f"{path}: no such folder")
    return path


def _usual(folder: Path, names: Sequence[str], key: str) -> Path | None:
    """The folder of a usual name that holds such files; None where there is none."""
    if (folder / key).is_dir():
        return folder / key
    if not folder.is_dir():
        return None
    there = [path for path in folder.iterdir() if path.name.lower() in names and path.is_dir()]
    name = usual_name([path.name for path in there if _holds_masks(path)], names, key, str(folder))
    return folder / name if name else None


def usual_name(there: Sequence[str], usual: Sequence[str], key: str, where: str) -> str | None:
    """The folder that holds the images, or the masks, of those that are `there`; None where none
    has a usual name. Raises InvalidInput where several have one."""
    if key in there:
        return key
    found = sorted(name for name in there if name.lower() in usual)
    if len(found) > 1:
        raise InvalidInput(
            f"{where}: {', '.join(f'{name}/' for name in found)} may hold the {key}; the key {key} "
            "says which"
        )
    return found[0] if found else None


def _holds_masks(folder: Path) -> bool:
    return any(
        name.lower().endswith(MASK_SUFFIXES) and not is_passed_over(name)
        for _, _, files in os.walk(folder)
        for name in files
    )


def _share_a_folder(folder: Path, said: MaskNames) -> bool:
    """Whether masks lie beside their images under names with another end."""
    held = files_by_stem(folder)
    return any(
        stem.endswith(end) and stem.removesuffix(end) + begin in held
        for stem in held
        for end in _mask_ends(said)
        if end
        for begin in _image_ends(said)
    )


def files_by_stem(folder: Path, endings: Sequence[str] = MASK_SUFFIXES) -> dict[str, Path]:
    """The files below a folder by their path without the ending; of two that differ in it alone,
    the one whose ending comes first. Raises InvalidInput where a folder cannot be read."""
    held: dict[str, Path] = {}
    for file in visible_files(folder):
        ending = file.suffix.lower()
        if ending not in endings:
            continue
        stem = _stem(file, folder)
        other = held.setdefault(stem, file)
        if endings.index(ending) < endings.index(other.suffix.lower()):
            held[stem] = file
    return held


def _stem(file: Path, folder: Path) -> str:
    return os.path.splitext(file.relative_to(folder).as_posix())[0]  # noqa: PTH122 - a text


def _mask_ends(said: MaskNames) -> Sequence[str]:
    return MASK_ENDS if said.mask_suffix is None else (said.mask_suffix,)


def _image_ends(said: MaskNames) -> Sequence[str]:
    return IMAGE_ENDS if said.image_suffix is None else (said.image_suffix,)


def _ends(
    stems: Sequence[str], held: Mapping[str, Mask], said: MaskNames, *, together: bool
) -> _Ends:
    """The ends of names that give most images their masks, by preference."""
    tried = stems[:: max(1, len(stems) // _TRIED)]
    best, most = _Ends(said.image_suffix or "", said.mask_suffix or ""), 0
    for ends in _pairs_of_ends(said):
        if together and not ends.mask:
            continue
        count = sum(
            stem.endswith(ends.image) and stem.removesuffix(ends.image) + ends.mask in held
            for stem in tried
            if not together or not stem.endswith(ends.mask)
        )
        if count > most:
            best, most = ends, count
    return best


def _pairs_of_ends(said: MaskNames) -> Iterator[_Ends]:
    for image in _image_ends(said):
        for mask in _mask_ends(said):
            yield _Ends(image, mask)


def read_classes(file: Path) -> list[str]:
    """The classes that a file names, one a line, without the white space around them. A mask's
    value is the number of a line, from 0. Empty lines at the end do not count.

    Raises InvalidInput naming the file, and the line that is empty, that repeats a name or that is
    not UTF-8.
    """
    try:
        return classes_in(file, file.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}; expected one class a line") from error


def classes_in(file: Path | str, content: bytes) -> list[str]:
    """As `read_classes`, for content that was read already."""
    try:
        names = [line.strip() for line in lines_of(decode_utf8(file, content).rstrip())]
    except NotText as error:
        raise InvalidInput(str(error)) from error
    if not names:
        raise InvalidInput(f"{file}: empty; expected one class a line")
    first_lines: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise InvalidInput(
                f"{file}: line {number}: empty; expected a class, since the masks' values are "
                "line numbers"
            )
        if name in first_lines:
            raise InvalidInput(f"{file}: line {number}: {name!r} is line {first_lines[name]} too")
        first_lines[name] = number
    return names
