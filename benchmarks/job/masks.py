"""Compares masks with the truth while a load runs: the load tester compares labels only."""

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtest.payloads.content import Payload, TensorInput
from loadtest.wire.messages import INFER, ModelFacts, Request, infer_request, vision_request
from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision
from serving.base.evaluation import Estimate, confusion_matrix, mean_iou, overlaps

_VISION, _OIP = "convserve.vision.v1.VisionService", "inference.GRPCInferenceService"
_MAX_MESSAGE_BYTES = 64 << 20
# Seconds for an answer: all callers of the load may wait before it.
_PATIENCE = 300.0


class MaskCheck:
    """One more caller beside a load, as a context. It asks for the masks of images in turn and
    counts their pixels. When the load is over it asks for the images that are left, so that slow
    and fast servers are measured on the same ones.

    images: number of its answers beside the load.
    seconds: that it has asked for them.
    """

    def __init__(
        self, url: str, facts: ModelFacts, images: Path, masks: Path, classes: int, ignore: int
    ) -> None:
        self.images = 0
        self.seconds = 0.0
        self._url = url
        self._pairs = [(path, masks / f"{path.stem}.png") for path in sorted(images.iterdir())]
        self._facts = facts
        self._classes, self._ignore = classes, ignore
        self._found: dict[Path, NDArray[np.int64]] = {}
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MaskCheck":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise RuntimeError(f"{self._url}: a mask: {self._failure}") from self._failure

    def accuracy(self) -> Estimate:
        """Mean IoU over the images that were answered, each counted once."""
        found = list(self._found.values())
        return mean_iou(np.stack(found) if found else np.zeros((0, 3, self._classes), np.int64))

    def _run(self) -> None:
        began = time.monotonic()
        size = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
        try:
            with grpc.insecure_channel(self._url, options=size) as channel:
                while not self._over.is_set():
                    self._compare(channel, *self._pairs[self.images % len(self._pairs)])
                    self.images += 1
                self.seconds = time.monotonic() - began
                for path, mask in self._pairs[self.images :]:
                    self._compare(channel, path, mask)
        # It fails in the thread that waits for it.
        except Exception as error:
            self._failure = error

    def _compare(self, channel: grpc.Channel, path: Path, mask: Path) -> None:
        self._found[path] = self._compared(self._asked(channel, path), mask)

    def _asked(self, channel: grpc.Channel, path: Path) -> NDArray[np.uint8]:
        payload = Payload(images=(path.read_bytes(),))
        vision_task = bool(self._facts.task)
        request: Request = (vision_request if vision_task else infer_request)(
            0, self._facts, payload
        )
        service = _VISION if vision_task else _OIP
        call: Any = channel.unary_unary(f"/{service}/{request.method}", None, None)
        content = call(request.body, timeout=_PATIENCE)
        return np.asarray(Image.open(io.BytesIO(png_of(request.method, content))))

    def _compared(self, mask: NDArray[np.uint8], file: Path) -> NDArray[np.int64]:
        with Image.open(file) as opened:
            truth = np.asarray(opened)
        if mask.shape != truth.shape:
            raise ValueError(f"a mask of {mask.shape}, expected {truth.shape}")
        found = confusion_matrix(truth, mask, self._classes, ignore_index=self._ignore)
        return overlaps(found)


def png_of(method: str, content: bytes) -> bytes:
    """The PNG in an answer. Raises ValueError where there is none."""
    if method == INFER:
        [raw] = oip.ModelInferResponse.FromString(content).raw_output_contents
        # BYTES: a length of four bytes before each element.
        return raw[4:]
    [result] = vision.SegmentResponse.FromString(content).results
    if result.status.code:
        raise ValueError(result.status.message)
    return result.palette_png


def facts_of(model: str, vision_task: bool) -> ModelFacts:
    """How a model is asked for masks: by VisionService, or in Triton as PeerModel has it."""
    encoded: Sequence[TensorInput] = (TensorInput("encoded", "BYTES", (-1, 1)),)
    if vision_task:
        return ModelFacts(model, task="segmentation")
    return ModelFacts(model, inputs=tuple(encoded), output="mask", encoded_input="encoded")
