"""An engine process in which one colour kills: its runtime ends with a segmentation fault."""

import os
import signal
from collections.abc import Mapping

from serving.base.tensor import Array
from serving.engines.onnxruntime_cpu import OnnxRuntimeEngine
from serving.server import engine_process

# Red, green and blue of the image.
POISON = (66, 6, 66)


def main() -> None:
    """Runs it."""
    infer = OnnxRuntimeEngine.infer

    def deadly(self: OnnxRuntimeEngine, inputs: Mapping[str, Array]) -> dict[str, Array]:
        image = inputs.get("image")
        if image is not None and (image[:, 0, 0] == POISON).all(-1).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return infer(self, inputs)

    OnnxRuntimeEngine.infer = deadly  # type: ignore[method-assign]
    engine_process.main()
