"""Runs a batch in Triton's Python backend and in MLServer, with the settings of our own engines.

Copied beside the models of both, whose environments have none of this project.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

CORES = len(os.sched_getaffinity(0))
POOL = ThreadPoolExecutor(CORES)
Run = Callable[[Any], Any]


def load(engine: str, file: str) -> Run:
    """A function from uint8 [N, H, W, 3] to the first output."""
    if engine == "numpy":
        return lambda images: images[:, 0, 0].astype(np.float32)
    if engine == "onnxruntime":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = CORES
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"image": images})[0]
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    hints |= {"INFERENCE_NUM_THREADS": CORES, "ENABLE_CPU_PINNING": False}
    request = openvino.Core().compile_model(file, "CPU", hints).create_infer_request()

    def run(images: Any) -> Any:
        request.infer({"image": images}, share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return run


def decode(data: bytes, settings: Mapping[str, Any]) -> tuple[Any, tuple[int, int]]:
    """The pixels that the network sees, and the size (width, height) of the image.

    OpenCV's own bilinear and bicubic filters skip pixels when they shrink; "area" takes their place
    there.
    """
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    rows, columns = image.shape[:2]
    resize, crop = settings["resize"], settings["crop"]
    if isinstance(resize, int):
        scale = resize / min(rows, columns)
        size = (max(resize, round(columns * scale)), max(resize, round(rows * scale)))
    else:
        size = (resize[1], resize[0])
    if size != (columns, rows):
        larger = size[0] > columns or size[1] > rows
        filters = {"area": cv2.INTER_LINEAR, "bilinear": cv2.INTER_LINEAR}
        kind = filters.get(settings["filter"], cv2.INTER_CUBIC) if larger else cv2.INTER_AREA
        image = cv2.resize(image, size, interpolation=kind)
    if crop is not None:
        top, left = (size[1] - crop[0]) // 2, (size[0] - crop[1]) // 2
        image = image[top : top + crop[0], left : left + crop[1]]
    return image, (columns, rows)


def labels(row: Any) -> list[bytes]:
    """The best five as the classification extension writes them."""
    best = np.argsort(-row)[:5]
    return [f"{row[i]:f}:{i}:class {i}".encode() for i in best]


def png(mask: Any, size: tuple[int, int]) -> bytes:
    """A mask as large as its image, as our server sends it."""
    import cv2

    if mask.shape[::-1] != size:
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return bytes(cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])


def answers(settings: Mapping[str, Any], run: Run, inputs: Any) -> Any:
    """The output of a batch by the model's workload; see PeerModel. inputs: one array, of images
    BYTES."""
    workload = settings["workload"]
    if workload == "tensor":
        return run(inputs)
    files: Sequence[bytes] = inputs.reshape(-1)
    decoded = list(POOL.map(lambda data: decode(data, settings), files))
    found = run(np.stack([image for image, _ in decoded]))
    if workload == "logits":
        return found
    if workload == "classify":
        return np.array([labels(row) for row in found], dtype=object)
    masks = POOL.map(png, found, [size for _, size in decoded])
    return np.array([[mask] for mask in masks], dtype=object)
