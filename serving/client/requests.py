"""The options of a call, and the messages that carry them.

A message raises TypeError for an option that its call does not have and for a name that is no text,
ValueError for a value that is none of an option's.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, TypeVar

from protos.gen import vision_pb2 as pb

AnyRequest = pb.ClassifyRequest | pb.SegmentRequest | pb.EmbedRequest
Answer = TypeVar("Answer", pb.ClassifyResponse, pb.SegmentResponse, pb.EmbedResponse)
Enumerated = TypeVar("Enumerated")

_MASK_FORMATS = {
    "png": pb.MASK_FORMAT_PALETTE_PNG,
    "rle": pb.MASK_FORMAT_RLE,
    "raw": pb.MASK_FORMAT_RAW,
}
_MASK_SIZES = {"image": pb.MASK_SIZE_IMAGE, "model": pb.MASK_SIZE_MODEL}


class EmbedOptions(TypedDict, total=False):
    """Options of every call.

    version: empty for the newest.
    priority: 1 is the most urgent, 0 the model's default.
    id: comes back in the answer's served.id, and stands in the server's log.
    """

    version: str
    priority: int
    id: str


class ClassifyOptions(EmbedOptions, total=False):
    """Options of classify.

    top_k: labels an image; 0 for the server's default.
    threshold: the lowest score to list.
    """

    top_k: int
    threshold: float


class SegmentOptions(EmbedOptions, total=False):
    """Options of segment.

    mask_format: a palette PNG, run lengths, or raw class indices.
    mask_size: that of the image or of the model.
    overlay: whether to add a PNG of the mask over the image.
    """

    mask_format: Literal["png", "rle", "raw"]
    mask_size: Literal["image", "model"]
    overlay: bool


def classify_request(
    model: str, images: Sequence[pb.Image], options: ClassifyOptions
) -> pb.ClassifyRequest:
    """The message of a classify call; an absent option takes the server's default."""
    _check(model, options, ClassifyOptions)
    return pb.ClassifyRequest(
        model=model,
        version=options.get("version", ""),
        images=images,
        options=_call_options(options),
        top_k=options.get("top_k", 0),
        threshold=options.get("threshold", 0.0),
    )


def segment_request(
    model: str, images: Sequence[pb.Image], options: SegmentOptions
) -> pb.SegmentRequest:
    """The message of a segment call; an absent option takes the server's default."""
    _check(model, options, SegmentOptions)
    return pb.SegmentRequest(
        model=model,
        version=options.get("version", ""),
        images=images,
        options=_call_options(options),
        mask_format=_one_of(_MASK_FORMATS, "mask_format", options.get("mask_format", "png")),
        mask_size=_one_of(_MASK_SIZES, "mask_size", options.get("mask_size", "image")),
        overlay=options.get("overlay", False),
    )


def embed_request(model: str, images: Sequence[pb.Image], options: EmbedOptions) -> pb.EmbedRequest:
    """The message of an embed call; an absent option takes the server's default."""
    _check(model, options, EmbedOptions)
    return pb.EmbedRequest(
        model=model,
        version=options.get("version", ""),
        images=images,
        options=_call_options(options),
    )


def _check(model: str, options: EmbedOptions, known: type[EmbedOptions]) -> None:
    for name in options:
        if name not in known.__annotations__:
            expected = ", ".join(known.__annotations__)
            raise TypeError(f"{name}: no option of this call; expected {expected}")
    for name, value in (("model", model), *options.items()):
        if name in ("model", "version", "id") and not isinstance(value, str):
            raise TypeError(f"{name}: expected a text, got {type(value).__name__} {value!r:.40}")


def _one_of(values: Mapping[str, Enumerated], name: str, given: str) -> Enumerated:
    if given not in values:
        raise ValueError(f"{name}: expected one of {', '.join(values)}, got {given!r:.40}")
    return values[given]


def _call_options(options: EmbedOptions) -> pb.CallOptions:
    return pb.CallOptions(id=options.get("id", ""), priority=options.get("priority", 0))
