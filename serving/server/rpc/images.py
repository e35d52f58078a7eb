"""Takes the images out of a request of the vision service without copying them. Python's protobuf
copies them twice, and makes a message of each, also where there are millions of empty ones."""

import itertools
from collections.abc import Sequence
from typing import TypeVar

from protos.gen import vision_pb2 as pb
from serving.base.errors import InvalidInput
from serving.models.servable import EncodedImage, ImageSource, RawPixels
from serving.repository.manifest import Channels
from serving.server.endpoints.guard import parsed
from serving.server.rpc.fields import LENGTH_DELIMITED, Field, field_at, fields

MAX_IMAGES_PER_CALL = 256

Request = TypeVar("Request", pb.ClassifyRequest, pb.SegmentRequest, pb.EmbedRequest)

# Bytes of a request, and of an image in it, that protobuf may read in whole: it takes 0.1 ms at
# most. Smaller ones gain nothing by being taken apart, which takes 4 us an image.
_SMALL = 4 << 10
# Fields of a request, and its bytes beside the images. Calls have one for each image and some ten
# others, of some hundred bytes. More let one take longer on the event loop.
_MOST_FIELDS = 1024
# Fields of a RawImage: it has four. A call has up to 256 of them, which are all looked at.
_MOST_RAW_FIELDS = 16
_MOST_BYTES = 64 << 10
_MESSAGE = "request of images"
_IMAGES = pb.ClassifyRequest.DESCRIPTOR.fields_by_name["images"].number << 3 | LENGTH_DELIMITED
_ENCODED = pb.Image.DESCRIPTOR.fields_by_name["encoded"].number << 3 | LENGTH_DELIMITED
_RAW = pb.Image.DESCRIPTOR.fields_by_name["raw"].number << 3 | LENGTH_DELIMITED
_RAW_FIELDS = pb.RawImage.DESCRIPTOR.fields_by_name
_RGB = _RAW_FIELDS["rgb"].number << 3 | LENGTH_DELIMITED
_GREY = _RAW_FIELDS["grey"].number << 3 | LENGTH_DELIMITED


def read_request(
    kind: type[Request], data: bytes
) -> tuple[Request, Sequence[pb.Image | memoryview]]:
    """The message and its images, which are views of `data` where that is large; the message is
    without them then. Raises InvalidInput."""
    if len(data) <= _SMALL:
        request = parsed(kind.FromString, data)
        return request, request.images
    view = memoryview(data)
    head, images = parsed(_without, view, _MOST_FIELDS, _IMAGES)
    if len(images) > MAX_IMAGES_PER_CALL:
        raise wrong_number(len(images))
    return parsed(kind.FromString, head), [view[field.begin : field.end] for field in images]


def read_names(kind: type[Request], data: bytes) -> Request:
    """The message without its images, as far as it can be read in little time: model and id of
    a request that is refused. Raises InvalidInput."""
    view, kept, size = memoryview(data), list[memoryview](), 0
    for field in itertools.islice(fields(view, _MESSAGE, _MOST_FIELDS + 1), _MOST_FIELDS):
        if field.tag != _IMAGES and size + field.end - field.at <= _MOST_BYTES:
            kept.append(view[field.at : field.end])
            size += field.end - field.at
    return parsed(kind.FromString, b"".join(kept))


def source_of(image: pb.Image | memoryview, index: int) -> ImageSource:
    """The image at a place of a request. Raises InvalidInput where it is none."""
    if not isinstance(image, memoryview):
        return _small_source(image, index)
    if len(image) <= _SMALL:
        return _small_source(pb.Image.FromString(bytes(image)), index)
    field = field_at(image, 0, "Image")
    if field.end == len(image) and field.tag == _ENCODED:
        return EncodedImage(image[field.begin :])
    if field.end == len(image) and field.tag == _RAW:
        view = image[field.begin :]
        size, pixels = _without(view, _MOST_RAW_FIELDS, _RGB, _GREY)
        raw = pb.RawImage.FromString(size)
        if not pixels:
            return RawPixels(b"", raw.height, raw.width)
        # Both kinds are one oneof, whose last field counts.
        last = pixels[-1]
        channels: Channels = 3 if last.tag == _RGB else 1
        return RawPixels(view[last.begin : last.end], raw.height, raw.width, channels)
    raise InvalidInput(
        f"images[{index}]: expected encoded or raw and no other field, got several in "
        f"{len(image)} bytes"
    )


def _small_source(image: pb.Image, index: int) -> ImageSource:
    match image.WhichOneof("source"):
        case "encoded":
            return EncodedImage(image.encoded)
        case "raw":
            raw = image.raw
            if raw.HasField("grey"):
                return RawPixels(raw.grey, raw.height, raw.width, channels=1)
            return RawPixels(raw.rgb, raw.height, raw.width)
        case _:
            raise InvalidInput(f"images[{index}]: expected encoded or raw, got neither")


def wrong_number(images: int) -> InvalidInput:
    """The error of a call that has too few or too many images."""
    return InvalidInput(f"images: expected 1 to {MAX_IMAGES_PER_CALL} in a call, got {images}")


def _without(data: memoryview, most: int, *tags: int) -> tuple[bytes, list[Field]]:
    """A message without its fields of some tags, and these fields, at most MAX_IMAGES_PER_CALL + 1.

    Raises InvalidInput for more than `most` fields, where the rest is larger than that of any call,
    and where a field does not end.
    """
    kept: list[memoryview] = []
    found: list[Field] = []
    begin = end = 0
    for field in fields(data, _MESSAGE, most):
        if len(found) > MAX_IMAGES_PER_CALL:
            break
        if field.tag in tags:
            kept.append(data[begin : field.at])
            found.append(field)
            begin = field.end
        end = field.end
    kept.append(data[begin:end])
    size = sum(len(part) for part in kept)
    if size > _MOST_BYTES:
        raise InvalidInput(
            f"the request has {size} bytes beside its images, the limit is {_MOST_BYTES}"
        )
    return b"".join(kept), found
