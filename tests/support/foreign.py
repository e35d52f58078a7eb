"""Networks as others make and serve them with Triton: of several opsets, inputs and batches."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
CLASSES = 4
LABELS = ("red", "green", "blue", "grey")
_FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Foreign:
    """A network with its config.pbtxt and inputs for it.

    one: the inputs of one item; a whole call where it has no batch dimension.
    """

    model: onnx.ModelProto
    config: str
    one: Callable[[np.random.Generator], dict[str, np.ndarray]]

    @property
    def batches(self) -> bool:
        return "max_batch_size: 0" not in self.config

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.model.graph.output]


def _weights(seed: int, *shape: int, scale: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: dict[str, np.ndarray],
    opset: int,
) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        list(nodes),
        "foreign",
        [info(*spec) for spec in inputs],
        [info(*spec) for spec in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    versions = {11: 6, 13: 7, 17: 8, 21: 10}
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(body, opset_imports=opsets, ir_version=versions[opset])


def classifier(
    opset: int, batch: int | str, *, scores: str = "logits", layout: str = "NCHW"
) -> onnx.ModelProto:
    """`pixels` FP32 [batch, 3, 16, 16], normalised outside, to `scores` FP32 [batch, 4]: the means
    of the channels after a convolution that passes each of them through."""
    node = helper.make_node
    kernel = np.zeros((CLASSES, 3, 3, 3), np.float32)
    for channel in range(3):
        kernel[channel, channel, 1, 1] = 4.0
    kernel += _weights(1, CLASSES, 3, 3, 3, scale=0.02)
    nodes = [
        node("Conv", ["x", "kernel", "bias"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("Gemm", ["d", "dense"], ["logits"]),
    ]
    if layout == "NHWC":
        nodes.insert(0, node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]))
        shape: list[int | str] = [batch, SIDE, SIDE, 3]
    else:
        nodes[0].input[0] = "pixels"
        shape = [batch, 3, SIDE, SIDE]
    if scores == "probabilities":
        nodes.append(node("Softmax", ["logits"], ["scores"], axis=1))
    else:
        nodes[-1].output[0] = "scores"
    constants = {
        "kernel": kernel,
        "bias": np.array([0, 0, 0, 0.5], np.float32),
        "dense": np.eye(CLASSES, dtype=np.float32) * 3,
    }
    outputs = [("scores", _FLOAT, [batch, CLASSES])]
    return _model(nodes, [("pixels", _FLOAT, shape)], outputs, constants, opset)


def _masks() -> onnx.ModelProto:
    """`pixels` FP32 [n, 3, 16, 16] to `scores` FP32 [n, 4, 16, 16]: logits, the strongest channel
    wins."""
    kernel = np.zeros((CLASSES, 3, 1, 1), np.float32)
    for channel in range(3):
        kernel[channel, channel] = 4.0
    nodes = [helper.make_node("Conv", ["pixels", "kernel", "bias"], ["scores"])]
    inputs = [("pixels", _FLOAT, ["n", 3, SIDE, SIDE])]
    outputs = [("scores", _FLOAT, ["n", CLASSES, SIDE, SIDE])]
    constants = {"kernel": kernel, "bias": np.array([0, 0, 0, -9], np.float32)}
    return _model(nodes, inputs, outputs, constants, 17)


def _two_inputs() -> onnx.ModelProto:
    """`left` FP32 [b, 8] and `right` FP32 [b, 3, 8, 8] to `both` FP32 [b, 6] and `sign` INT64
    [b, 1]."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["left", "first"], ["a"]),
        node("Conv", ["right", "kernel"], ["c"], strides=[2, 2]),
        node("Relu", ["c"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Add", ["a", "f"], ["g"]),
        node("Relu", ["g"], ["h"]),
        node("MatMul", ["h", "last"], ["both"]),
        node("ArgMax", ["both"], ["sign"], axis=1, keepdims=1),
    ]
    inputs = [("left", _FLOAT, ["b", 8]), ("right", _FLOAT, ["b", 3, 8, 8])]
    outputs = [("both", _FLOAT, ["b", 6]), ("sign", TensorProto.INT64, ["b", 1])]
    constants = {
        "first": _weights(2, 8, 10),
        "kernel": _weights(3, 10, 3, 3, 3),
        "last": _weights(4, 10, 6),
    }
    return _model(nodes, inputs, outputs, constants, 17)


def _no_batch() -> onnx.ModelProto:
    """`signal` FP32 [n, 12] of any length, and `gain` FP32 [1], to `curve` FP32 [n, 5]."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["signal", "first"], ["a"]),
        node("Tanh", ["a"], ["b"]),
        node("MatMul", ["b", "last"], ["c"]),
        node("Mul", ["c", "gain"], ["curve"]),
    ]
    inputs = [("signal", _FLOAT, ["n", 12]), ("gain", _FLOAT, [1])]
    constants = {"first": _weights(5, 12, 16), "last": _weights(6, 16, 5)}
    return _model(nodes, inputs, [("curve", _FLOAT, ["n", 5])], constants, 21)


def uneven() -> Foreign:
    """`x` FP32 [n, 8] to `y` FP32 [n, 6] through six layers. What the third reads is 8,000 times
    larger in one channel than in the others, which 8 bits cannot hold."""
    node = helper.make_node
    sizes = (8, 16, 16, 16, 16, 16, 6)
    nodes, constants = [], {}
    read = "x"
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights = _weights(10 + layer, rows, columns, scale=1 / np.sqrt(rows))
        weights[:, 0] *= 8000 if layer == 1 else 1
        weights[0] /= 8000 if layer == 2 else 1
        constants[f"w{layer}"] = weights
        made = "y" if layer == len(sizes) - 2 else f"h{layer}"
        nodes.append(node("MatMul", [read, f"w{layer}"], [made], name=f"layer{layer}"))
        read = made
        if made != "y":
            nodes.append(node("Relu", [made], [f"r{layer}"]))
            read = f"r{layer}"
    tensors = ([("x", _FLOAT, ["n", 8])], [("y", _FLOAT, ["n", 6])])
    return Foreign(
        _model(nodes, *tensors, constants, 17),
        _config(
            8,
            'input { name: "x" data_type: TYPE_FP32 dims: [8] }\n'
            'output { name: "y" data_type: TYPE_FP32 dims: [6] }',
        ),
        lambda rng: {"x": rng.normal(size=8).astype(np.float32)},
    )


def _pixels(rng: np.random.Generator) -> dict[str, np.ndarray]:
    image = rng.uniform(-0.5, 0.5, (3, SIDE, SIDE)).astype(np.float32)
    image[rng.integers(3)] += 1
    return {"pixels": image}


def _config(batch: int, tensors: str) -> str:
    return f'platform: "onnxruntime_onnx"\nmax_batch_size: {batch}\n{tensors}\n'


def _image_tensors(dims: str, out: str) -> str:
    return (
        f'input {{ name: "pixels" data_type: TYPE_FP32 dims: {dims} }}\n'
        f'output {{ name: "scores" data_type: TYPE_FP32 dims: {out} '
        'label_filename: "names.txt" }'
    )


NETWORKS: dict[str, Foreign] = {
    "opset11": Foreign(
        classifier(11, "n"), _config(8, _image_tensors("[3, 16, 16]", "[4]")), _pixels
    ),
    "opset13": Foreign(
        classifier(13, "n", scores="probabilities", layout="NHWC"),
        _config(4, _image_tensors("[16, 16, 3]", "[4]")),
        lambda rng: {"pixels": np.ascontiguousarray(_pixels(rng)["pixels"].transpose(1, 2, 0))},
    ),
    "two_inputs": Foreign(
        _two_inputs(),
        _config(
            8,
            'input [ { name: "right" data_type: TYPE_FP32 dims: [3, 8, 8] },\n'
            '{ name: "left" data_type: TYPE_FP32 dims: [8] } ]\n'
            'output [ { name: "sign" data_type: TYPE_INT64 dims: [1] },\n'
            '{ name: "both" data_type: TYPE_FP32 dims: [6] } ]',
        ),
        lambda rng: {
            "left": rng.normal(size=8).astype(np.float32),
            "right": rng.normal(size=(3, 8, 8)).astype(np.float32),
        },
    ),
    "no_batch": Foreign(
        _no_batch(),
        _config(
            0,
            'input [ { name: "signal" data_type: TYPE_FP32 dims: [-1, 12] },\n'
            '{ name: "gain" data_type: TYPE_FP32 dims: [1] } ]\n'
            'output { name: "curve" data_type: TYPE_FP32 dims: [-1, 5] }',
        ),
        lambda rng: {
            "signal": rng.normal(size=(int(rng.integers(3, 6)), 12)).astype(np.float32),
            "gain": rng.uniform(1, 2, 1).astype(np.float32),
        },
    ),
    "masks": Foreign(
        _masks(), _config(8, _image_tensors("[3, 16, 16]", "[4, 16, 16]")), _pixels
    ),
    "fixed_batch": Foreign(
        classifier(17, 2), _config(0, _image_tensors("[2, 3, 16, 16]", "[2, 4]")),
        lambda rng: {"pixels": np.stack([_pixels(rng)["pixels"] for _ in range(2)])},
    ),
    "one_image": Foreign(
        classifier(21, 1), _config(0, _image_tensors("[1, 3, 16, 16]", "[1, 4]")),
        lambda rng: {"pixels": _pixels(rng)["pixels"][np.newaxis]},
    ),
}  # fmt: skip


def write_foreign(repository: Path, name: str, network: Foreign | None = None) -> Path:
    """The model's folder, with one version."""
    found = network or NETWORKS[name]
    (repository / name / "1").mkdir(parents=True)
    onnx.save(found.model, repository / name / "1" / "model.onnx")
    (repository / name / "config.pbtxt").write_text(found.config)
    (repository / name / "names.txt").write_text("\n".join(LABELS) + "\n")
    return repository / name


def write_items(folder: Path, network: Foreign, count: int = 24, seed: int = 7) -> Path:
    """A folder of .npz files, one an item."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        np.savez(folder / f"{index:03d}.npz", **network.one(rng))
    return folder


def coloured(channel: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [16, 16, 3] RGB in which one channel is the strongest."""
    image = rng.integers(0, 60, (SIDE, SIDE, 3), np.uint8)
    image[..., channel] += np.uint8(rng.integers(120, 190))
    return image


def write_pictures(root: Path, count: int = 8) -> Path:
    """ROOT/classification with a folder for each of three colours, and ROOT/segmentation with
    images whose halves are of two colours, and their masks."""
    rng = np.random.default_rng(0)

    def write(file: Path, image: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(file), image[..., ::-1] if image.ndim == 3 else image)

    for index in range(count):
        for channel in range(3):
            image = coloured(channel, rng)
            write(root / "classification" / LABELS[channel] / f"{index}.png", image)
        left, right = rng.choice(3, 2, replace=False).tolist()
        image, mask = coloured(left, rng), np.full((SIDE, SIDE), left, np.uint8)
        image[:, SIDE // 2 :] = coloured(right, rng)[:, SIDE // 2 :]
        mask[:, SIDE // 2 :] = right
        write(root / "segmentation" / "images" / f"{index}.png", image)
        write(root / "segmentation" / "masks" / f"{index}.png", mask)
    (root / "segmentation" / "classes.txt").write_text("\n".join(LABELS) + "\n")
    return root
