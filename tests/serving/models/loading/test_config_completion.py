"""A config that is missing or incomplete is completed from the file, unless that is refused."""

import codecs
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from serving.base.errors import ModelLoadError
from serving.models.loading.config_completion import read_config
from serving.repository.layout import scan_model
from serving.repository.model_config import ModelConfig
from tests.support import fake_gpu
from tests.support.identity import publish_identity
from tests.support.published import graph

WHOLE = ("platform", "max_batch_size", "input", "output")
INPUT = 'input { name: "image" data_type: TYPE_UINT8 dims: [ 8, 8, 3 ] }\n'
OUTPUT = 'output { name: "logits" data_type: TYPE_FP32 dims: [ 3 ] }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m" / "1").mkdir(parents=True)
    onnx.save(graph("classification"), tmp_path / "m" / "1" / "model.onnx")
    return tmp_path / "m"


def read(folder: Path, text: str | None = None, *, strict: bool = False) -> ModelConfig:
    if text is not None:
        (folder / "config.pbtxt").write_text(text)
    return read_config(scan_model(folder), strict=strict)


def shown(config: ModelConfig) -> tuple[int, list[str], list[str]]:
    return config.max_batch_size, [str(s) for s in config.inputs], [str(s) for s in config.outputs]


def test_a_missing_config_is_made_from_the_file(folder: Path) -> None:
    config = read(folder)
    assert shown(config) == (4, ["image UINT8[-1, 8, 8, 3]"], ["logits FP32[-1, 3]"])
    assert config.platform == "onnxruntime_onnx"
    assert config.completed == WHOLE
    # What callers are shown is the completed config.
    assert [list(tensor.dims) for tensor in config.proto.input] == [[8, 8, 3]]


@pytest.mark.parametrize(
    ("text", "completed", "rows"),
    [
        ("max_batch_size: 16\n", ("input", "output"), 16),
        ("max_batch_size: 16\n" + INPUT, ("output",), 16),
        ("max_batch_size: 16\n" + OUTPUT, ("input",), 16),
        (INPUT + OUTPUT, ("max_batch_size",), 4),
        (INPUT, ("max_batch_size", "output"), 4),
        ("dynamic_batching { preferred_batch_size: [ 4 ] }\n", WHOLE[1:], 4),
        ('platform: "onnxruntime_onnx"\n', WHOLE[1:], 4),
        ('backend: "onnxruntime"\n', WHOLE[1:], 4),
        ("max_batch_size: 2\n" + INPUT + OUTPUT, (), 2),
    ],
)
def test_what_a_config_leaves_out_is_taken_from_the_file(
    text: str, completed: tuple[str, ...], rows: int, folder: Path
) -> None:
    config = read(folder, text)
    assert config.completed == completed
    assert shown(config) == (rows, ["image UINT8[-1, 8, 8, 3]"], ["logits FP32[-1, 3]"])


def test_a_config_whose_dims_hold_the_batch_stays_without_one(tmp_path: Path) -> None:
    publish_identity(tmp_path, "m", ["FP32"])
    config = read(tmp_path / "m")
    assert (config.max_batch_size, config.completed) == (0, ())


def test_a_file_of_a_fixed_size_gets_no_batches(folder: Path) -> None:
    model = graph("classification")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, folder / "1" / "model.onnx")
    assert shown(read(folder)) == (0, ["image UINT8[1, 8, 8, 3]"], ["logits FP32[-1, 3]"])


def test_an_output_without_a_shape_is_asked_of_an_engine(folder: Path) -> None:
    model = graph("classification")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, folder / "1" / "model.onnx")
    assert shown(read(folder))[2] == ["logits FP32[-1, 3]"]


def test_the_newest_selected_version_and_the_named_file_count(folder: Path) -> None:
    (folder / "2").mkdir()
    onnx.save(graph("embedding"), folder / "2" / "net.onnx")
    config = read(folder, 'default_model_filename: "net.onnx"\n')
    assert [spec.name for spec in config.outputs] == ["embedding"]
    pinned = read(folder, "version_policy { specific { versions: [ 1 ] } }\n")
    assert [spec.name for spec in pinned.outputs] == ["logits"]


def test_strict_completes_nothing(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.pbtxt: not found"):
        read(folder, strict=True)
    with pytest.raises(ModelLoadError, match=r"output: missing, which --strict-config refuses"):
        read(folder, "max_batch_size: 2\n" + INPUT, strict=True)
    assert read(folder, "max_batch_size: 2\n" + INPUT + OUTPUT, strict=True).completed == ()


def test_nothing_to_complete_from_is_said(folder: Path) -> None:
    shutil.move(folder / "1" / "model.onnx", folder / "1" / "net.onnx")
    with pytest.raises(ModelLoadError, match=r"config\.pbtxt: not found, and no model\.onnx"):
        read(folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "1" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelLoadError, match=r"model\.onnx: is no ONNX file"):
        read(folder)
    # Where there is a config, the engines say what is wrong with the file.
    assert read(folder, "max_batch_size: 2\n").completed == ()


def test_a_byte_order_mark_is_passed_over(folder: Path) -> None:
    text = "max_batch_size: 2\n" + INPUT + OUTPUT
    (folder / "config.pbtxt").write_bytes(codecs.BOM_UTF8 + text.encode())
    assert read(folder).max_batch_size == 2


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named_by_line(encoding: str, folder: Path) -> None:
    (folder / "config.pbtxt").write_bytes("# ok\n# für\n".encode(encoding))
    with pytest.raises(ModelLoadError, match=r"config\.pbtxt: cannot be read: line [12]: "):
        read(folder)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with fake_gpu.in_this_process(monkeypatch):
        yield


@pytest.mark.usefixtures("gpus")
def test_a_plan_gives_its_largest_batch_too(folder: Path) -> None:
    from serving.engines import PlanProfile, build_plan

    build_plan(folder / "1" / "model.onnx", folder / "1" / "model.plan", PlanProfile(1, 6, 6))
    (folder / "1" / "model.onnx").unlink()
    config = read(folder)
    assert shown(config) == (6, ["image UINT8[-1, 8, 8, 3]"], ["logits FP32[-1, 3]"])
    assert (config.platform, config.model_file) == ("tensorrt_plan", "model.plan")
