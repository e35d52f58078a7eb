"""A plain detector as people export it: no manifest, images of any size that 32 divides."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDE = 32


def write_detector(file: Path) -> None:
    """images FP32 [batch, 3, height, width] to boxes FP32 [batch, 6, height, width]: the images
    beside their means over squares of STRIDE pixels, which only multiples of it can hold."""
    nodes = [
        helper.make_node(
            "AveragePool", ["images"], ["small"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2
        ),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Concat", ["large", "images"], ["boxes"], axis=1),
    ]
    body = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["b", 6, "h", "w"])],
        [numpy_helper.from_array(np.array([1, 1, STRIDE, STRIDE], np.float32), "scales")],
    )
    opset = [helper.make_opsetid("", 17)]
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(body, opset_imports=opset, ir_version=8), file)
