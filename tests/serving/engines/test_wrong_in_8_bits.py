"""Rounded networks that a runtime would compute wrongly are refused, others are right."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from serving.base.errors import EngineUnavailable
from serving.engines import EngineOptions, load_engine
from serving.engines.engine import Engine
from tests.support.published import CPU_ENGINES as ALL


def loaded(name: str, file: Path, options: EngineOptions) -> Engine | str:
    """The engine, or why it refuses the file."""
    try:
        return load_engine(name, file, options)
    except EngineUnavailable as error:
        return str(error)


def rounded_reduction(
    operation: str,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    kind: type[np.generic],
    *,
    before: bool,
    behind: bool,
) -> bytes:
    """A reduction of the negative of values, which are rounded to steps of 1/16 before it, or its
    results to steps of 1/4 behind it, or both."""
    zero = np.array(0 if kind is np.int8 else 128, kind)
    fixed = {"fine": np.float32(1 / 16), "coarse": np.float32(1 / 4), "axes": np.array(axes)}
    nodes = [helper.make_node("Neg", ["values"], ["negative"])]
    taken, answer = "negative", "reduced" if behind else "answer"
    if before:
        nodes += [
            helper.make_node("QuantizeLinear", [taken, "fine", "zero"], ["levels"]),
            helper.make_node("DequantizeLinear", ["levels", "fine", "zero"], ["rounded"]),
        ]
        taken = "rounded"
    if operation == "Einsum":
        letters = "nijk"[: len(shape)]
        kept = "".join(letter for axis, letter in enumerate(letters) if axis not in axes)
        equation = f"{letters}->{kept}"
        nodes.append(helper.make_node("Einsum", [taken], [answer], equation=equation))
    else:
        nodes.append(helper.make_node(operation, [taken, "axes"], [answer], keepdims=0))
    if behind:
        nodes += [
            helper.make_node("QuantizeLinear", ["reduced", "coarse", "zero"], ["answer-levels"]),
            helper.make_node("DequantizeLinear", ["answer-levels", "coarse", "zero"], ["answer"]),
        ]
    constants = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in {**fixed, "zero": zero}.items()
    ]
    dims = ["n", *(shape[axis] for axis in range(1, len(shape)) if axis not in axes)]
    values = helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, ["n", *shape[1:]])
    reduced = helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, dims)
    made = helper.make_graph(nodes, "reduction", [values], [reduced], constants)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(made, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize(
    "operation", ["ReduceMean", "ReduceSum", "Einsum", "ReduceMax", "ReduceMin"]
)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((6, 64), (1,)),
        ((6, 64, 16), (1,)),
        ((6, 64, 16), (1, 2)),
        ((6, 16, 64), (2,)),
        ((6, 4, 64), (2,)),
        ((6, 16, 4, 4), (2, 3)),
    ],
)
@pytest.mark.parametrize(("before", "behind"), [(True, False), (False, True), (True, True)])
def test_reductions_of_rounded_values_are_right_or_refused(
    name: str,
    kind: type[np.generic],
    operation: str,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    before: bool,
    behind: bool,
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(rounded_reduction(operation, shape, axes, kind, before=before, behind=behind))
    values = (np.random.default_rng(0).integers(-16, 17, shape) / 16).astype(np.float32)
    name_in_numpy = operation.replace("Einsum", "sum").removeprefix("Reduce").lower()
    wanted = getattr(np, name_in_numpy)(-values, axis=axes)
    for _ in range(2):  # compiled, then read from the cache
        engine = loaded(name, file, EngineOptions(max_batch_size=6, cache_dir=tmp_path / "cache"))
        if isinstance(engine, str):
            assert name == "openvino"
            assert "would compute it wrongly" in engine
            continue
        answer = engine.infer({"values": values})["answer"].copy()
        engine.close()
        if behind:
            assert np.abs(answer - wanted.clip(-32, 31.75)).max() <= 1 / 4
        else:
            assert np.abs(answer - wanted).max() < 1e-3


def patches_behind_a_token(kind: type[np.generic]) -> bytes:
    """Patches of a convolution with a bias, rounded to steps of 1/16, behind a token of zeros for
    each image: `answer` is [n, 5, 8]."""
    random = np.random.default_rng(0)
    constants = {
        "step": np.float32(1 / 16),
        "zero": np.array(0 if kind is np.int8 else 128, kind),
        "small": np.float32(1 / 64),
        "middle": np.int8(0),
        "weights": random.integers(-64, 65, (8, 3, 4, 4)).astype(np.int8),
        "bias": random.normal(size=8).astype(np.float32),
        "token": np.zeros((1, 1, 8), np.float32),
        "one": np.array([1, 8]),
        "grid": np.array([0, 8, -1]),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["values", "step", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "step", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["weights", "small", "middle"], ["filters"]),
        helper.make_node("Conv", ["rounded", "filters", "bias"], ["maps"], strides=[4, 4]),
        helper.make_node("QuantizeLinear", ["maps", "step", "zero"], ["map-levels"]),
        helper.make_node("DequantizeLinear", ["map-levels", "step", "zero"], ["rounded-maps"]),
        helper.make_node("Reshape", ["rounded-maps", "grid"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["values"], ["size"], start=0, end=1),
        helper.make_node("Concat", ["size", "one"], ["tokens-shape"], axis=0),
        helper.make_node("Expand", ["token", "tokens-shape"], ["tokens"]),
        helper.make_node("Concat", ["tokens", "patches"], ["answer"], axis=1),
    ]
    values = helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    answer = helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, ["n", 5, 8])
    fixed = [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    made = helper.make_graph(nodes, "patches", [values], [answer], fixed)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(made, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_rounded_patches_behind_a_token_keep_their_biases_or_are_refused(
    name: str, kind: type[np.generic], tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(patches_behind_a_token(kind))
    values = (np.random.default_rng(1).integers(-8, 9, (3, 3, 8, 8)) / 16).astype(np.float32)
    constants = {
        part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(file).graph.initializer
    }
    cut = values.reshape(3, 3, 2, 4, 2, 4)
    maps = np.einsum("nciajb,kcab->nijk", cut, constants["weights"] / np.float32(64))
    wanted = (maps + constants["bias"]).reshape(3, 4, 8).clip(-8, 127 / 16)
    engine = loaded(name, file, EngineOptions())
    if isinstance(engine, str):
        assert name == "openvino"
        assert "the first one's bias" in engine
        return
    answer = engine.infer({"values": values})["answer"].copy()
    engine.close()
    assert not answer[:, 0].any()
    assert np.abs(answer[:, 1:] - wanted).max() <= 1 / 16
