"""Opens pages of the console, gives them pictures, and lets the server answer as a test says."""

import io
import json
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import FilePayload, Page

from tests.support.process import ServerProcess

TIMES = "\N{MULTIPLICATION SIGN}"
MODELS = "**/vision/v1/models"
HOSTILE = "<img src=x onerror=document.title='broken'>"


def picture(height: int = 60, width: int = 90) -> bytes:
    """Red, green and blue, from left to right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for channel in range(3):
        pixels[:, channel * width // 3 : (channel + 1) * width // 3, channel] = 220 - 40 * channel
    return as_png(Image.fromarray(pixels))


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def file(data: bytes | None = None, name: str = "three.png") -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": picture() if data is None else data}


def visit(page: Page, server: ServerProcess, place: str) -> None:
    page.goto(f"{server.http}/#/{place}")


def show(page: Page, server: ServerProcess, place: str, data: bytes | None = None) -> None:
    """Opens a page and gives it a picture."""
    visit(page, server, place)
    page.set_input_files("#picture", file(data))


def answers(page: Page, where: str, body: Any, status: int = 200, **headers: str) -> None:
    """Lets the server answer so."""
    text = body if isinstance(body, str) else json.dumps(body)
    page.route(where, lambda route: route.fulfill(status=status, body=text, headers=headers))


def model(name: str, **changes: Any) -> dict[str, Any]:
    """A version as the server describes it."""
    interval = {"value": 0.941, "low": 0.923, "high": 0.956, "n": 400}
    variant = {
        "variant": "int8-s8", "precision": "int8", "engine": "openvino", "serves": True,
        "bytes": 3_100_000, "accuracy": interval, "drop": interval | {"value": 0.004},
        "agreement": 0.98, "latency_ms": {"1": 3.1, "8": 14.2}, "machine": "a machine",
        "gate": {"passed": True, "reason": "within bounds"},
    }  # fmt: skip
    slow = {**variant, "variant": "fp32", "precision": "fp32", "serves": False, "bytes": 11_000_000}
    return {
        "name": name, "version": "1", "state": "READY", "reason": "", "task": "classification",
        "variant": "int8-s8", "engine": "openvino", "classes": 102, "max_batch_size": 8,
        "latency_ms": {"1": 2.9, "2": 4.8, "4": 8.1, "8": 14.0}, "device_bytes": 0, "signed_by": [],
        "rejected": ["fp32 in openvino: slower here"], "architecture": "mobilenet_v3_small",
        "parameters": 1_620_000, "gmacs": 0.06, "pruning_ratio": 0.3, "image": [224, 224, 3],
        "measure": "top1", "dataset": "flowers", "split": "test", "created": "2026-01-01",
        "variants": [variant, slow], **changes,
    }  # fmt: skip
