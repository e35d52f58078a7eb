"""A client for VisionService: `VisionClient` for scripts, `AsyncVisionClient` for asyncio.

It needs the protos, grpcio, protobuf, numpy and Pillow, and no other package of ours.
"""

from serving.client.asynchronous import AsyncVisionClient, ModelInfo
from serving.client.calls import CallFailed
from serving.client.images import ImageInput, mask_of
from serving.client.requests import ClassifyOptions, EmbedOptions, SegmentOptions
from serving.client.synchronous import VisionClient
from serving.client.tls import BadTls, ClientTls

__all__ = [
    "AsyncVisionClient",
    "BadTls",
    "CallFailed",
    "ClassifyOptions",
    "ClientTls",
    "EmbedOptions",
    "ImageInput",
    "ModelInfo",
    "SegmentOptions",
    "VisionClient",
    "mask_of",
]
