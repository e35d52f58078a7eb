"""Folders of images with one mask each."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from serving.images.metadata import without_texts
from serving.images.postprocess import resize_mask
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset, Loaded, read_splits
from training.data.split import complete
from training.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CLASSES_FILE = "classes.txt"


def mask_folder(
    root: Path,
    eval_transform: EvalTransform,
    *,
    ignore_index: int,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    test: str = "test",
) -> Dataset:
    """ROOT/images/NAME.jpg with ROOT/masks/NAME.png, or the same below ROOT/train, val and test as
    far as they exist; what is missing is cut from the training images at random.

    A mask is an 8-bit greyscale or palette PNG of the image's size; its values are line numbers of
    ROOT/classes.txt, from 0, or `ignore_index`; a last line at `ignore_index` names what is ignored
    and is no class. Masks are resized by nearest neighbour. `test` names the folder that is
    evaluated on. Raises DataError naming what is missing or broken.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder")
    classes = _read_classes(root / CLASSES_FILE, ignore_index)
    first = root / "train" if (root / "train").is_dir() else root
    given = {"train": _image_files(first)}
    if first != root:
        for name in ("val", "test"):
            if (root / name).is_dir():
                given[name] = _image_files(root / name)
    try:
        parts, words = complete(
            given,
            lambda file: 0,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            test=test,
        )
    except DataError as error:
        raise DataError(f"{root}: {error}") from error
    height, width = eval_transform.size

    def load(file: Path) -> Loaded:
        image = load_image(file.read_bytes(), eval_transform)
        images = next(folder for folder in file.parents if folder.name == "images")
        mask = read_mask(_mask_of(file, images), len(classes), ignore_index)
        if mask.shape != image.size:
            raise DataError(
                f"the image is {image.size[1]}x{image.size[0]}, "
                f"its mask {mask.shape[1]}x{mask.shape[0]}"
            )
        resized = np.asarray(resize_mask(mask, height, width), dtype=np.uint8)
        return Loaded(image.pixels, resized, image.size)

    # The image's three bytes a pixel and the mask's one.
    samples = read_splits(
        str(root), parts, lambda file: file.relative_to(root).as_posix(), load, height * width * 4
    )
    return Dataset(
        name=root.name,
        description=f"mask folder {root.name}; {words}",
        classes=classes,
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        ignore_index=ignore_index,
    )


def _read_classes(path: Path, ignore_index: int) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected one class a line") from error
    classes = tuple(line.strip() for line in lines if line.strip())
    if len(classes) == ignore_index + 1:
        classes = classes[:-1]
    elif ignore_index < len(classes):
        raise DataError(
            f"{path}: data.ignore_index {ignore_index} is also the class "
            f"{classes[ignore_index]!r}; expected an index past the classes, or that of the last "
            "line, which then names what is ignored"
        )
    if not 2 <= len(classes) <= 256:
        raise DataError(f"{path}: expected 2 to 256 classes, one a line, got {len(classes)}")
    return classes


def _image_files(folder: Path) -> list[Path]:
    images, masks = folder / "images", folder / "masks"
    for path in (images, masks):
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; expected images/ and masks/ in {folder}")
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in SUFFIXES)
    missing = [file.name for file in files if not _mask_of(file, images).is_file()]
    if missing:
        raise DataError(f"{masks}: no mask for {', '.join(missing[:10])} ({len(missing)} in all)")
    return files


def _mask_of(file: Path, images: Path) -> Path:
    return (images.parent / "masks" / file.relative_to(images)).with_suffix(".png")


def read_mask(path: Path, classes: int, ignore_index: int) -> NDArray[np.uint8]:
    """A mask file as class indices uint8 [H, W].

    Raises DataError where it is no 8-bit greyscale or palette image, or holds other values than
    0 to classes - 1 and `ignore_index`.
    """
    try:
        with Image.open(io.BytesIO(without_texts(path.read_bytes()))) as image:
            if image.mode not in ("L", "P"):
                raise DataError(
                    f"mask {path.name}: expected 8-bit greyscale or palette, got {image.mode}"
                )
            mask = np.array(image, dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"mask {path.name}: cannot be decoded: {error}") from error
    values = np.unique(mask)
    strange = values[(values >= classes) & (values != ignore_index)]
    if strange.size:
        raise DataError(
            f"mask {path.name}: expected classes 0 to {classes - 1} or {ignore_index} (ignored), "
            f"got {strange[:5].tolist()}"
        )
    return mask
