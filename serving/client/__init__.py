"""A client for VisionService: `VisionClient` for scripts, `AsyncVisionClient` for asyncio.

Stands alone on the protos: it needs grpcio, protobuf, numpy and Pillow, nothing else of ours.
"""

from serving.client.asynchronous import (
    AsyncVisionClient,
    CallFailed,
    ClassifyOptions,
    EmbedOptions,
    ModelInfo,
    SegmentOptions,
)
from serving.client.images import ImageInput, mask_of
from serving.client.synchronous import VisionClient

__all__ = [
    "AsyncVisionClient",
    "CallFailed",
    "ClassifyOptions",
    "EmbedOptions",
    "ImageInput",
    "ModelInfo",
    "SegmentOptions",
    "VisionClient",
    "mask_of",
]
