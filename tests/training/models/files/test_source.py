"""ONNX files of unknown authors: what is refused, in one line, and what is brought into form."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.compress.fp16 import to_half
from training.compress.quantize import Quantizer
from training.errors import BuildError, ExportError
from training.models.files.source import (
    LEAST_OPSET,
    MAX_BYTES,
    check_file,
    file_fingerprint,
    opset_of,
    prepared,
    read_source,
)


@dataclass(frozen=True)
class GivenRuns:
    """Inputs of each run, as a file takes them."""

    runs: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.runs)

    def feeds(self, size: int) -> Iterator[dict[str, Any]]:
        return iter(self.runs)


def small(opset: int = 17, *, extra: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    """Two float inputs, `x` [1, 3, 8, 8] and `more` [1, 2], two outputs; nodes without names."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)), "b": rng.normal(size=4), "scale": rng.uniform(1, 2, 4),
        "shift": rng.normal(size=4), "mean": rng.normal(size=4), "var": rng.uniform(1, 2, 4),
        "f": rng.normal(size=(6, 5)), "g": rng.normal(size=5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["pooled"], axis=1),
        helper.make_node("Concat", ["pooled", "more"], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "f", "g"], ["y"]),
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8]),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 2]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5]),
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [1, 4]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def runs(count: int = 6) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        {
            "x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32),
            "more": rng.normal(size=(1, 2)).astype(np.float32),
        }
        for _ in range(count)
    ]


def answered(path: Path, run: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return list(onnxruntime.InferenceSession(path, options).run(None, run))


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_any_interface_is_quantised_and_halved(opset: int, tmp_path: Path) -> None:
    file = saved(small(opset), tmp_path / "net.onnx")
    model = prepared(file, read_source(file))
    assert opset_of(model) == max(opset, LEAST_OPSET)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    form = saved(model, tmp_path / "form.onnx")
    quantizer = Quantizer(form, "minmax", GivenRuns(runs()))
    assert len(quantizer.layers) == 2
    quantizer.write(tmp_path / "s8.onnx", "s8")
    quantizer.write(tmp_path / "u8.onnx", "u8")
    to_half(form, tmp_path / "fp16.onnx")
    wanted = answered(file, runs()[0])
    for name, bound in (("form", 1e-5), ("fp16", 5e-3), ("s8", 0.05), ("u8", 0.05)):
        found = answered(tmp_path / f"{name}.onnx", runs()[0])
        for left, right in zip(wanted, found, strict=True):
            np.testing.assert_allclose(left, right, atol=bound * float(np.abs(left).max()))


def test_weights_beside_the_file_are_read_and_count_in_its_fingerprint(tmp_path: Path) -> None:
    model = small()
    onnx.save(
        model, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    file = tmp_path / "net.onnx"
    assert len(read_source(file).graph.initializer) == 8
    before = file_fingerprint(file)
    weights = bytearray((tmp_path / "w.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "w.bin").write_bytes(weights)
    assert file_fingerprint(file) != before
    (tmp_path / "w.bin").write_bytes(weights[:100])
    with pytest.raises(ExportError, match=r"cut off: w\.bin has 100 bytes of"):
        read_source(file)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ExportError, match=r"w\.bin: No such file"):
        read_source(file)


def outside(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        part = model.graph.initializer[0]
        part.ClearField("raw_data")
        part.data_location = TensorProto.EXTERNAL
        part.external_data.add(key="location", value=name)

    return change


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd", "sub/w.bin"])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, place: str) -> None:
    model = small()
    outside(place)(model)
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="expected its plain name"):
        read_source(tmp_path / "models/net.onnx")


def test_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    model = small()
    outside("w.bin")(model)
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/w.bin").symlink_to(tmp_path / "secret.bin")
    (tmp_path / "models/net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="leads out of its folder"):
        read_source(tmp_path / "models/net.onnx")


def test_cut_off_and_other_files_are_refused(tmp_path: Path) -> None:
    content = small().SerializeToString()
    file = tmp_path / "net.onnx"
    for part in (content[:-40], content[: len(content) // 2], b"", b"\x89PNG" * 50):
        file.write_bytes(part)
        with pytest.raises(ExportError, match="ONNX file"):
            read_source(file)


def test_three_gigabytes_are_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    with file.open("wb") as stream:
        os.truncate(stream.fileno(), 3 << 30)
    for refused in (check_file, file_fingerprint, read_source):
        with pytest.raises(BuildError, match=r"has 3\.2 GB with its weights; at most 2\.1 GB"):
            refused(file)
    assert MAX_BYTES < 1 << 31


def test_weights_of_three_gigabytes_are_refused_unread(tmp_path: Path) -> None:
    model = small()
    outside("w.bin")(model)
    with (tmp_path / "w.bin").open("wb") as stream:
        os.truncate(stream.fileno(), 3 << 30)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"has 3\.2 GB"):
        file_fingerprint(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Fancy", ["y"], ["z"], domain="com.example"), r"com\.example\.Fancy"),
        (helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"), "from before that"),
        (helper.make_node("DynamicQuantizeLinear", ["y"], ["z", "s", "p"]), "quantised already"),
        (helper.make_node("Fancy", ["y"], ["z"]), "no sound ONNX file"),
        (helper.make_node("Relu", ["nowhere"], ["z"]), "no sound ONNX file"),
    ],
)
def test_operators_that_cannot_be_handled_are_named(
    tmp_path: Path, node: onnx.NodeProto, said: str
) -> None:
    model = small(extra=(node,))
    if node.domain == "com.microsoft":
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    file = tmp_path / "net.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=said) as caught:
        read_source(file)
    assert "\n" not in str(caught.value)


def test_weights_listed_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = small(9)
    for part in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(part.name, TensorProto.FLOAT, part.dims)
        )
    read = read_source(saved(model, tmp_path / "net.onnx"))
    assert [value.name for value in read.graph.input] == ["x", "more"]
