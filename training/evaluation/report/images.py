"""The pixels of a page: answers, which open large, and examples of the data; all bounded."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.base.task import Task
from serving.images.postprocess import overlay_png, palette
from training.evaluation.report.document import Report
from training.evaluation.report.measured import Answer, as_name

Arrays = Mapping[str, NDArray[Any]]
Pixels = NDArray[np.uint8]

# Bytes of a small picture, a large one, and a row of examples, before base64 adds a third. Larger
# are sharper; with all of them full, a page has 6 MB.
_SMALL, _LARGE, _ROW = 16 << 10, 64 << 10, 32 << 10
# Pixels of the longer side.
_SMALL_SIDE, _LARGE_SIDE = 200, 640
# Sides up to which pixels are kept as they are, and shown as squares.
_SHARP = 128


@dataclass(frozen=True)
class Pane:
    """One picture.

    source: a data URI, for an <img>.
    sharp: whether its pixels are so few that they are shown as squares.
    """

    source: str
    caption: str
    width: int
    height: int
    sharp: bool


@dataclass(frozen=True)
class Pictured:
    """An answer with its pictures: one for the gallery, and those that open."""

    answer: Answer
    right: bool | None
    small: Pane
    large: tuple[Pane, ...]
    colours: tuple[tuple[str, str], ...] = ()


def as_rgb(images: Pixels) -> Pixels:
    """uint8 [..., H, W, C] as RGB: pictures show grey as grey."""
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:-1], 3)))


def pane(pixels: Pixels, caption: str, most: int, side: int) -> Pane:
    """uint8 [H, W, 3] of at most `most` bytes, no side longer than `side`."""
    image = Image.fromarray(pixels)
    sharp = max(image.size) <= _SHARP
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    content, kind = _file(image, sharp), "png" if sharp else "jpeg"
    while len(content) > most:
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))
        content = _file(image, sharp)
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Pane(source, caption, *image.size, sharp)


def _file(image: Image.Image, sharp: bool) -> bytes:
    buffer = io.BytesIO()
    if sharp:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


@dataclass(frozen=True)
class Masks:
    """The masks of an answer, uint8 or uint16 [H, W]; `ignored` is the value of pixels that do not
    count, `names` those of all classes."""

    target: NDArray[Any]
    predicted: NDArray[Any]
    ignored: int | None
    names: Sequence[str]


def answers(
    report: Report, arrays: Arrays, names: Sequence[str], ignored: int | None
) -> list[Pictured]:
    """The pictures of the answers that the report lists, in its order."""
    found = report.verified
    if found is None or not len(arrays.get("images", ())):
        return []
    names = [as_name(one) for one in names]
    return [
        PICTURES[report.task](answer, image, Masks(target, predicted, ignored, names))
        for answer, image, target, predicted in zip(
            found.answers,
            as_rgb(arrays["images"]),
            arrays["targets"],
            arrays["predictions"],
            strict=True,
        )
    ]


def _classified(answer: Answer, image: Pixels, masks: Masks) -> Pictured:
    return Pictured(
        answer,
        answer.score == 1,
        pane(image, "the image", _SMALL, _SMALL_SIDE),
        (pane(image, "the image", _LARGE, _LARGE_SIDE),),
    )


def _matched(answer: Answer, image: Pixels, masks: Masks) -> Pictured:
    caption = "the probe, and the nearest of the gallery"
    return Pictured(
        answer,
        answer.score == 1,
        pane(image, caption, _SMALL, 2 * _SMALL_SIDE),
        (pane(image, caption, _LARGE, _LARGE_SIDE),),
    )


def _segmented(answer: Answer, image: Pixels, masks: Masks) -> Pictured:
    """The image, the true mask, the answer, and in red the pixels where they differ."""
    target, predicted, names = masks.target, masks.predicted, masks.names
    counted = np.ones(target.shape, np.bool_)
    if masks.ignored is not None:
        counted = target != masks.ignored
    true = np.where(counted, target, 0)
    wrong = counted & (target != predicted)
    faint = (image.mean(axis=2, keepdims=True) * 0.5 + 90).astype(np.uint8)
    differing = np.where(wrong[..., None], np.array([214, 39, 40], np.uint8), faint)
    shown = _overlaid(image, true), _overlaid(image, predicted)
    panes = [
        pane(pixels, caption, _LARGE, _LARGE_SIDE)
        for pixels, caption in (
            (image, "the image"),
            (shown[0], "the truth"),
            (shown[1], "the answer"),
            (as_rgb(differing), f"red: wrong, {100 * wrong.sum() / max(1, counted.sum()):.1f} %"),
        )
    ]
    gap = np.full((image.shape[0], max(1, image.shape[1] // 40), 3), 255, np.uint8)
    strip = np.concatenate([image, gap, shown[0], gap, shown[1]], axis=1)
    present = [n for n in np.union1d(np.unique(true), np.unique(predicted)) if 0 < n < len(names)]
    colours = palette(max(256, len(names)))
    return Pictured(
        answer,
        None,
        pane(strip, "image, truth, answer", _SMALL * 2, 3 * _SMALL_SIDE),
        tuple(panes),
        tuple((names[n], "#" + "".join(f"{c:02x}" for c in colours[n])) for n in present[:24]),
    )


PICTURES: dict[Task, Callable[[Answer, Pixels, Masks], Pictured]] = {
    "classification": _classified,
    "segmentation": _segmented,
    "embedding": _matched,
}


def _overlaid(image: Pixels, mask: NDArray[Any]) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(overlay_png(image, mask))).convert("RGB"))


def examples(report: Report, sheet: Arrays) -> list[tuple[str, int, Pane]]:
    """Rows of training images, with their number: of each class, or images and under them their
    masks."""
    images = as_rgb(sheet["images"])
    if "masks" in sheet:
        masks = [_overlaid(image, mask) for image, mask in zip(images, sheet["masks"], strict=True)]
        return [
            ("images", len(images), _row(images, "training images")),
            ("masks", len(images), _row(masks, "the same images under their masks")),
        ]
    return [
        (label, count, _row(row[:count], f"training images of {label}"))
        for (label, count), row in zip(report.data.examples, images, strict=True)
    ]


def _row(images: Iterable[Pixels], caption: str) -> Pane:
    parts = [_small(image) for image in images]
    gap = np.full((parts[0].shape[0], 3, 3), 255, np.uint8)
    strip = np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)
    shown = pane(strip, caption, _ROW, 1200)
    return replace(shown, sharp=parts[0].shape[0] <= _SHARP // 2)


def _small(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    if max(image.size) > _SMALL_SIDE:
        image.thumbnail((_SMALL_SIDE, _SMALL_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)
