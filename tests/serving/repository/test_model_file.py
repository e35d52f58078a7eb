"""A network's file and its weights: each is the version's own, and no larger than it says."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.base.errors import ModelLoadError
from serving.repository import onnx_file
from serving.repository.model_file import check_model_file
from tests.support.published import graph


def saved(tmp_path: Path, model: onnx.ModelProto) -> Path:
    file = tmp_path / "m" / "1" / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model.SerializeToString())
    return file


def outside(tensor: TensorProto, **entries: str) -> TensorProto:
    """The tensor with its values in another file."""
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_a_network_with_its_weights_inside_needs_nothing_else(tmp_path: Path) -> None:
    assert check_model_file(saved(tmp_path, graph("classification"))) == ()


def test_weights_are_found_wherever_a_network_may_keep_them(tmp_path: Path) -> None:
    def tensor(name: str) -> TensorProto:
        return outside(numpy_helper.from_array(np.zeros(2, np.float32), name), location=name)

    model = graph("classification")
    model.graph.initializer.append(tensor("initializer"))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("values"))
    sparse.indices.CopyFrom(tensor("indices"))
    constant = helper.make_node("Constant", [], ["c"], value=tensor("constant"))
    inner = helper.make_graph([constant], "inner", [], [], [tensor("branch")])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner))
    model.functions.append(helper.make_function("d", "f", [], ["c"], [constant], []))
    model.functions[0].node[0].attribute[0].t.CopyFrom(tensor("function"))
    file = saved(tmp_path, model)
    names = ["branch", "constant", "function", "indices", "initializer", "values"]
    with pytest.raises(ModelLoadError, match="branch: cannot be read: No such file"):
        check_model_file(file)
    for name in names:
        (file.parent / name).write_bytes(bytes(8))
    assert sorted(check_model_file(file)) == names


def test_a_graph_that_is_given_twice_is_read_twice(tmp_path: Path) -> None:
    # protobuf joins both, so a reader of the first alone would miss the second's weights.
    file = saved(tmp_path, graph("classification"))
    second = onnx.ModelProto()
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    second.graph.initializer.append(outside(tensor, location="w.bin"))
    with file.open("ab") as stream:
        stream.write(second.SerializeToString())
    assert onnx.load(file, load_external_data=False).graph.initializer[-1].name == "w"
    with pytest.raises(ModelLoadError, match=r"w\.bin: cannot be read: No such file"):
        check_model_file(file)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "..",
        "../2/w.bin",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "x" * 300,
        "\x1b",
        "model.onnx/.",
    ],
)
def test_weights_outside_of_the_version_are_refused(location: str, tmp_path: Path) -> None:
    model = graph("classification")
    outside(model.graph.initializer[0], location=location)
    with pytest.raises(ModelLoadError, match="expected its plain name"):
        check_model_file(saved(tmp_path, model))


def test_weights_behind_a_link_that_leads_out_are_refused(tmp_path: Path) -> None:
    model = graph("classification")
    outside(model.graph.initializer[0], location="w.bin")
    file = saved(tmp_path, model)
    (tmp_path / "secret").write_bytes(bytes(100))
    (file.parent / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelLoadError, match=r"w\.bin: cannot be read: is a link that leads out"):
        check_model_file(file)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "100"},
        {"length": "1000"},
        {"offset": "9" * 30},
        {"offset": "-1"},
        {"length": "x"},
    ],
)
def test_weights_that_are_too_short_are_refused(entries: dict[str, str], tmp_path: Path) -> None:
    model = graph("classification")
    outside(model.graph.initializer[0], location="w.bin", **entries)
    file = saved(tmp_path, model)
    (file.parent / "w.bin").write_bytes(bytes(100))
    with pytest.raises(ModelLoadError, match=r"needs|expected offset and length"):
        check_model_file(file)


@pytest.mark.parametrize(
    "dims", [[1 << 40], [100_000, 100_000], [1 << 62, 4], [-1], [2], [1] * 65, [7] * 64]
)
def test_a_tensor_larger_than_its_bytes_is_refused(dims: list[int], tmp_path: Path) -> None:
    model = graph("classification")
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    with pytest.raises(ModelLoadError, match="is no ONNX file: a tensor of"):
        check_model_file(saved(tmp_path, model))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.append(1.0)
    if dims != [2]:
        with pytest.raises(ModelLoadError, match="is no ONNX file: a tensor of"):
            check_model_file(saved(tmp_path, model))


def test_a_file_of_endless_fields_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_MAX_FIELDS", 1000)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x01" * 10_000)
    with pytest.raises(ModelLoadError, match="more than 1,000 fields"):
        check_model_file(tmp_path / "model.onnx")


def test_graphs_in_graphs_end(tmp_path: Path) -> None:
    content = b""
    for number in [6, 5, 1] * 60 + [7]:  # attribute, node, graph ... model
        length = len(content)
        size = bytearray()
        while length > 0x7F:
            size.append(length & 0x7F | 0x80)
            length >>= 7
        size.append(length)
        content = bytes([number << 3 | 2]) + bytes(size) + content
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelLoadError, match="messages lie in each other"):
        check_model_file(tmp_path / "model.onnx")


def test_a_file_larger_than_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.plan").touch()
    os.truncate(tmp_path / "model.plan", 1 << 42)
    with pytest.raises(ModelLoadError, match="more than the memory of this machine"):
        check_model_file(tmp_path / "model.plan")


def test_a_pipe_is_no_network(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ModelLoadError, match="is no regular file"):
        check_model_file(tmp_path / "model.onnx")
