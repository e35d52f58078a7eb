"""The deployed form of a file answers as the file does, whatever its interface, in every engine."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.base.evaluation import output_distance
from serving.base.task import Task
from serving.engines import EngineOptions, load_engine, unavailable_reason
from serving.repository.interface import ImageInput, TaskOutput
from training.models.export.deployed import input_specs, output_specs
from training.models.export.to_onnx import check_interface
from training.models.files.answers import finished, meaning
from training.models.files.description import Description
from training.models.files.network import raw_answers
from training.models.files.source import prepared, read_source
from training.models.files.wrap import deployed_graph

SIZE = (8, 8)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)


def graph_of(nodes: list[tuple[Any, ...]], datatype: int, layout: str, opset: int) -> Any:
    """A convolution from `x` to `c` [N, 3, 4, 4], and `nodes`, the last of which gives `y`."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(3, 3, 3, 3)), "b": rng.normal(size=3)}
    shape = [3, *SIZE] if layout == "NCHW" else [*SIZE, 3]
    first = [] if datatype == TensorProto.FLOAT else [helper.make_node("Cast", ["x"], ["f"], to=1)]
    read = "f" if first else "x"
    if layout == "NHWC":
        first.append(helper.make_node("Transpose", [read], ["t"], perm=[0, 3, 1, 2]))
        read = "t"
    first.append(
        helper.make_node("Conv", [read, "w", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1])
    )
    rest = [helper.make_node(op, reads, [gives], **how) for op, reads, gives, how in nodes]
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    graph = helper.make_graph(
        [*first, *rest],
        "net",
        [helper.make_tensor_value_info("x", datatype, ["n", *shape])],
        [helper.make_empty_tensor_value_info("y")],
        constants,
    )
    del graph.output[:]
    kind = TensorProto.INT64 if rest[-1].op_type in ("ArgMax", "Unsqueeze") else TensorProto.FLOAT
    graph.output.append(helper.make_tensor_value_info("y", kind, None))
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


POOL = ("GlobalAveragePool", ["c"], "p", {})
FLAT = ("Flatten", ["p"], "l", {})
CASES: dict[str, tuple[Task, int, list[tuple[Any, ...]]]] = {
    "logits": ("classification", 3, [POOL, ("Flatten", ["p"], "y", {})]),
    "logits [N, C, 1, 1]": ("classification", 3, [("GlobalAveragePool", ["c"], "y", {})]),
    "probabilities": ("classification", 3, [POOL, FLAT, ("Softmax", ["l"], "y", {"axis": 1})]),
    "embedding": ("embedding", 3, [("GlobalAveragePool", ["c"], "y", {})]),
    "small map": ("segmentation", 3, [("Identity", ["c"], "y", {})]),
    "small map NHWC": (
        "segmentation", 3, [("Transpose", ["c"], "y", {"perm": [0, 2, 3, 1]})],
    ),
    "probability maps": ("segmentation", 3, [("Softmax", ["c"], "y", {"axis": 1})]),
    "mask": ("segmentation", 3, [("ArgMax", ["c"], "y", {"axis": 1, "keepdims": 0})]),
    "mask [N, 1, h, w]": ("segmentation", 3, [("ArgMax", ["c"], "y", {"axis": 1, "keepdims": 1})]),
    "mask [N, h, w, 1]": (
        "segmentation", 3,
        [("Transpose", ["c"], "u", {"perm": [0, 2, 3, 1]}), ("ArgMax", ["u"], "y", {"axis": 3})],
    ),
    "binary logit": (
        "segmentation", 1, [("Gather", ["c", "one"], "y", {"axis": 1})],
    ),
    "binary probability": (
        "segmentation", 1,
        [("Gather", ["c", "one"], "m", {"axis": 1}), ("Sigmoid", ["m"], "y", {})],
    ),
    "binary mask": ("segmentation", 1, [("ArgMax", ["c"], "y", {"axis": 1, "keepdims": 0})]),
}  # fmt: skip


def described(datatype: str, layout: Any, channels: Any) -> Description:
    plain = datatype == "UINT8"
    image = ImageInput(
        name="x", layout=layout, channels=channels, range=(0, 255) if plain else (0, 1),
        mean=(0.0,) * 3 if plain else (0.4, 0.5, 0.6), std=(1.0,) * 3 if plain else (0.2, 0.3, 0.4),
    )  # fmt: skip
    return Description(image=image, answer=TaskOutput(output="y"), datatype=datatype)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", CASES)
def test_every_answer_becomes_that_of_the_task(name: str, opset: int, tmp_path: Path) -> None:
    task, channels, nodes = CASES[name]
    kinds = [("FP32", "NCHW", "BGR"), ("UINT8", "NHWC", "RGB")]
    for datatype, layout, order in kinds:
        source = graph_of(nodes, {"FP32": 1, "UINT8": 2}[datatype], layout, opset)
        file = tmp_path / "net.onnx"
        onnx.save(source, file)
        original = load_engine("onnxruntime", file, EngineOptions(threads=1))
        description = described(datatype, layout, order)
        raw = raw_answers(original, description, IMAGES, len(IMAGES))["y"]
        holds, axes = meaning(raw, task, channels, "net")
        answer = TaskOutput(output="y", holds=holds, layout=axes)
        description = description.model_copy(update={"answer": answer})
        wanted = finished(raw, description, task, channels, SIZE)
        graph = prepared(file, read_source(file))
        wrapped = deployed_graph(graph, description, task, channels, SIZE, raw)
        path = tmp_path / "deployed.onnx"
        onnx.save(wrapped, path)
        check_interface(path, input_specs(SIZE), output_specs(task, channels, SIZE))
        for engine_name in ("onnxruntime", "openvino"):
            if reason := unavailable_reason(engine_name):
                pytest.skip(reason)
            engine = load_engine(engine_name, path, EngineOptions(threads=1, precision="fp32"))
            for part in (IMAGES, IMAGES[:1]):
                found = engine.infer({"image": np.ascontiguousarray(part)})
                for output, values in wanted.items():
                    if output == "confidence":
                        difference = np.abs(values[: len(part)].astype(int) - found[output])
                        assert difference.max() <= 1
                    else:
                        distance = output_distance(output, values[: len(part)], found[output])
                        assert distance < 2e-3, (engine_name, output, datatype)
            engine.close()
        original.close()
