"""From a version folder to a model that may serve, and every way in which it may not."""

import asyncio
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from serving.base.counting.totals import Totals
from serving.base.errors import (
    EngineUnavailable,
    InvalidManifest,
    InvalidModelConfig,
    ModelLoadError,
)
from serving.base.metrics import EngineMetrics
from serving.batching.core_turns import CoreTurns
from serving.engines import Engine, EngineOptions
from serving.engines import load_engine as load_real_engine
from serving.models.loading import candidates
from serving.models.loading import version as loading
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.loaded import LoadedVersion
from serving.models.loading.version import load_model
from serving.repository.manifest import Gate
from serving.repository.model_config import read_model_config
from tests.serving.batching.fake_engine import answered
from tests.support.published import CPU_ENGINES, graph, publish


def load(model: Path, **settings: Any) -> LoadedVersion:
    config = read_model_config(model)
    return load_model(model, config, 1, LoadSettings(**settings), EngineMetrics(), CoreTurns(2))


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Changes fields of the first variant."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["variants"][0] |= changes
    path.write_text(json.dumps(document))


def wrong_for(network: onnx.ModelProto, *, alone: bool) -> onnx.ModelProto:
    """The network with logits that are doubled for one row alone, or for more of them."""
    network.graph.node[-1].output[0] = "right"
    for name, value in (("one", np.int64(1)), ("same", np.float32(1)), ("double", np.float32(2))):
        network.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    scales = ["double", "same"] if alone else ["same", "double"]
    network.graph.node.extend(
        [
            helper.make_node("Shape", ["image"], ["rows"], start=0, end=1),
            helper.make_node("Equal", ["rows", "one"], ["alone"]),
            helper.make_node("Where", ["alone", *scales], ["scale"]),
            helper.make_node("Mul", ["right", "scale"], ["logits"]),
        ]
    )
    return network


def test_the_tensorrt_provider_stands_back_where_plans_are_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "unavailable_reason", lambda engine: None)
    config = read_model_config(publish(tmp_path).parent)
    usable, unusable = candidates.usable_engines(config, LoadSettings(build_plans=True))
    assert "onnxruntime-tensorrt" not in usable
    assert unusable == ["onnxruntime-tensorrt: a plan takes its place"]
    for settings in (LoadSettings(), LoadSettings(build_plans=True, engine="onnxruntime-tensorrt")):
        assert "onnxruntime-tensorrt" in candidates.usable_engines(config, settings)[0]


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_a_good_version_loads_in_every_engine(engine: str, tmp_path: Path) -> None:
    model = load(publish(tmp_path).parent, engine=engine)
    assert (model.facts.engine_name, model.facts.variant, model.facts.task) == (
        engine,
        "fp32",
        "classification",
    )
    model.close()


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_changed_file_is_not_served(engine: str, tmp_path: Path) -> None:
    folder = publish(tmp_path)
    onnx.save(graph("classification", gain=9.0), folder / "model.onnx")
    with pytest.raises(EngineUnavailable, match="sha256"):
        load(folder.parent, engine=engine)


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_failed_gate_is_not_served_unless_allowed(engine: str, tmp_path: Path) -> None:
    folder = publish(tmp_path, gate=Gate(passed=False, reason="drops 3.1 points"))
    with pytest.raises(EngineUnavailable, match=r"drops 3\.1 points"):
        load(folder.parent, engine=engine)
    load(folder.parent, engine=engine, allow_ungated=True).close()


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_answers_that_differ_on_this_machine_are_not_served(engine: str, tmp_path: Path) -> None:
    folder = publish(tmp_path)
    with np.load(folder / "samples.npz") as samples:
        np.savez(folder / "samples.npz", image=samples["image"], logits=samples["logits"] * 1.2)
    with pytest.raises(EngineUnavailable, match="answers wrongly on this machine"):
        load(folder.parent, engine=engine)


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("alone", [True, False])
def test_samples_are_answered_alone_and_in_a_batch(
    engine: str, alone: bool, tmp_path: Path
) -> None:
    folder = publish(tmp_path)
    file = folder / "model.onnx"
    onnx.save(wrong_for(graph("classification"), alone=alone), file)
    edit_manifest(folder, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(EngineUnavailable, match="answers wrongly on this machine"):
        load(folder.parent, engine=engine)


def test_int8_variant_that_this_processor_computes_wrongly_gives_way_to_another(
    tmp_path: Path,
) -> None:
    folder = publish(tmp_path)
    # What an overflow of 16-bit sums looks like: the right file, and other answers.
    file = folder / "model.int8-u8.onnx"
    onnx.save(graph("classification", gain=2.0), file)
    document = json.loads((folder / "manifest.json").read_text())
    [fp32] = document["variants"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    document["variants"] = [
        fp32,
        fp32 | {"id": "int8-u8", "file": file.name, "precision": "int8", "sha256": digest},
    ]
    (folder / "manifest.json").write_text(json.dumps(document))
    model = load(folder.parent)
    assert model.facts.variant == "fp32"
    wrong = [line for line in model.facts.rejected if "answers wrongly on this machine" in line]
    assert len(wrong) == len(CPU_ENGINES)
    assert all("int8-u8" in line for line in wrong)
    model.close()
    with pytest.raises(EngineUnavailable, match="answers wrongly on this machine"):
        load(folder.parent, variant="int8-u8")


def test_the_next_engine_serves_where_one_was_not_verified(tmp_path: Path) -> None:
    model = load(publish(tmp_path, engines=["openvino"]).parent)
    assert model.facts.engine_name == "openvino"
    assert any("not verified in onnxruntime" in line for line in model.facts.rejected)
    model.close()


def test_missing_manifest_needs_allow_ungated(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(InvalidManifest, match="--allow-ungated"):
        load(folder.parent)
    model = load(folder.parent, allow_ungated=True)
    assert model.facts.task is None
    assert model.facts.labels == ("red", "green", "blue")
    model.close()


def test_config_that_promises_other_tensors_is_refused(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    config = folder.parent / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [3]", "dims: [4]"))
    with pytest.raises(EngineUnavailable, match=r"promises output logits FP32\[-1, 4\]"):
        load(folder.parent)


def test_unknown_variant_is_named_with_those_there_are(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    with pytest.raises(ModelLoadError, match=r"no variant 'int4'; it has \['fp32'\]"):
        load(folder.parent, variant="int4")


def test_unknown_engine_is_named_with_those_there_are(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    with pytest.raises(ModelLoadError, match="'tensorflow'"):
        load(folder.parent, engine="tensorflow")


def test_missing_file_of_a_variant_is_named(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    edit_manifest(folder, file="model.int8.onnx")
    with pytest.raises(EngineUnavailable, match=r"model\.int8\.onnx: cannot be read"):
        load(folder.parent)


def test_missing_config_is_named(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder.parent / "config.pbtxt").unlink()
    with pytest.raises(InvalidModelConfig, match=r"config\.pbtxt: not found"):
        read_model_config(folder.parent)


def test_latency_is_measured_once_and_then_read_from_the_cache(tmp_path: Path) -> None:
    folder = publish(tmp_path / "repository")
    cache = tmp_path / "cache"
    load(folder.parent, cache_dir=cache, threads=1).close()
    kept = list((cache / "latency").glob("*.json"))
    assert len(kept) == len(CPU_ENGINES)
    for file in kept:
        file.write_text('{"1": 5.0, "8": 40.0}')
    model = load(folder.parent, cache_dir=cache, threads=1)
    assert model.facts.latency[1] == pytest.approx(5.0)
    model.close()


def test_damaged_cache_is_measured_anew(tmp_path: Path) -> None:
    folder = publish(tmp_path / "repository")
    cache = tmp_path / "cache"
    load(folder.parent, cache_dir=cache).close()
    for file in (cache / "latency").glob("*.json"):
        file.write_text("{")
    model = load(folder.parent, cache_dir=cache)
    assert 0 < model.facts.latency[1] < 1
    model.close()
    shutil.rmtree(cache)


def test_refused_variant_is_counted(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / "model.onnx").write_bytes(b"changed")
    metrics = EngineMetrics()
    config = read_model_config(folder.parent)
    with pytest.raises(EngineUnavailable):
        load_model(folder.parent, config, 1, LoadSettings(), metrics, CoreTurns(2))
    labels = {"model": "colours", "version": "1", "variant": "fp32"}
    counted = Totals(metrics).registry.get_sample_value(
        "convserve_self_check_failures_total", labels
    )
    assert counted == len(CPU_ENGINES)


@pytest.mark.parametrize(("light", "threads"), [(1.0, 1), (0.0, 2)])
def test_tiny_network_is_given_one_thread(
    light: float,
    threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []

    def load_engine(name: str, file: Path, options: EngineOptions) -> Engine:
        given.append(options.threads)
        return load_real_engine(name, file, options)

    monkeypatch.setattr(loading, "load_engine", load_engine)
    monkeypatch.setattr(loading, "_LIGHT_SECONDS", light)
    model = load(publish(tmp_path).parent, threads=2, engine="onnxruntime")
    assert given == sorted({2, threads}, reverse=True)
    image = np.zeros((1, *model.facts.inputs[0].shape[1:]), np.uint8)
    answer = asyncio.run(answered(model.port, model.port.admit(1, 0, math.inf), [{"image": image}]))
    assert answer.outputs["logits"].shape == (1, len(model.facts.labels))
    model.close()


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"\xef\xbb\xbfred\ngreen\nblue\n", ("red", "green", "blue")),
        (b"red\r\ngr\xc3\xbcn\r\nblue", ("red", "grün", "blue")),
    ],
)
def test_labels_are_read_with_or_without_a_byte_order_mark(
    content: bytes, labels: tuple[str, ...], tmp_path: Path
) -> None:
    folder = publish(tmp_path)
    (folder / "manifest.json").unlink()
    (folder.parent / "labels.txt").write_bytes(content)
    model = load(folder.parent, allow_ungated=True, engine="onnxruntime")
    model.close()
    assert model.facts.labels == labels
    assert model.facts.labels_of("logits") == labels
    assert model.facts.labels_of("other") == ()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_labels_in_another_encoding_are_named_with_file_and_line(
    encoding: str, tmp_path: Path
) -> None:
    folder = publish(tmp_path)
    (folder / "manifest.json").unlink()
    (folder.parent / "labels.txt").write_bytes("red\ngrün\n".encode(encoding))
    with pytest.raises(ModelLoadError, match=r"labels\.txt: cannot be read: line [12]: "):
        load(folder.parent, allow_ungated=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_manifest_is_read_by_the_same_rule(encoding: str, tmp_path: Path) -> None:
    folder = publish(tmp_path)
    text = (folder / "manifest.json").read_text().replace("colours", "Farbtöne")
    (folder / "manifest.json").write_bytes(text.encode(encoding))
    if encoding == "utf-8-sig":
        load(folder.parent, engine="onnxruntime").close()
    else:
        with pytest.raises(InvalidManifest, match=r"manifest\.json: cannot be read: line \d+: "):
            load(folder.parent)


def two_outputs(repository: Path, *, colour: str = "colours.txt", shape: str = "") -> Path:
    """A model without a manifest whose outputs `colour` and `shape` [b, 3] both are its logits."""
    folder = repository / "both"
    (folder / "1").mkdir(parents=True)
    network = graph("classification")
    network.graph.node[-1].output[0] = "colour"
    network.graph.output[0].name = "colour"
    network.graph.node.append(helper.make_node("Identity", ["colour"], ["shape"]))
    network.graph.output.append(helper.make_tensor_value_info("shape", 1, ["b", 3]))
    onnx.save(network, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(
        'max_batch_size: 8 input { name: "image" data_type: TYPE_UINT8 dims: [8, 8, 3] }\n'
        f'output {{ name: "colour" data_type: TYPE_FP32 dims: [3] label_filename: "{colour}" }}\n'
        f'output {{ name: "shape" data_type: TYPE_FP32 dims: [3] label_filename: "{shape}" }}\n'
    )
    return folder


def test_labels_are_those_of_their_output(tmp_path: Path) -> None:
    folder = two_outputs(tmp_path, shape="shapes.txt")
    (folder / "colours.txt").write_text("red\ngreen\nblue\n")
    (folder / "shapes.txt").write_text("disc\nring\ncross\n")
    model = load(folder, allow_ungated=True)
    assert model.facts.labels_of("colour") == ("red", "green", "blue")
    assert model.facts.labels_of("shape") == ("disc", "ring", "cross")
    model.close()


def test_output_without_label_file_has_no_labels(tmp_path: Path) -> None:
    folder = two_outputs(tmp_path)
    (folder / "colours.txt").write_text("red\ngreen\nblue\n")
    model = load(folder, allow_ungated=True)
    assert model.facts.labels_of("shape") == ()
    model.close()
    segmenter = load(publish(tmp_path, "regions", "segmentation").parent)
    assert segmenter.facts.labels == ("red", "green", "blue")
    assert segmenter.facts.labels_of("confidence") == ()
    segmenter.close()


def test_every_label_file_must_be_there(tmp_path: Path) -> None:
    folder = two_outputs(tmp_path, shape="shapes.txt")
    (folder / "colours.txt").write_text("red\ngreen\nblue\n")
    with pytest.raises(ModelLoadError, match=r"shapes\.txt: cannot be read"):
        load(folder, allow_ungated=True)


def test_manifest_names_the_classes_of_its_answer_and_of_no_other_output(tmp_path: Path) -> None:
    folder = publish(tmp_path).parent
    config = (folder / "config.pbtxt").read_text()
    (folder / "shapes.txt").write_text("disc\nring\ncross\n")
    network = onnx.load(folder / "1" / "model.onnx")
    network.graph.node.append(helper.make_node("Identity", ["logits"], ["shape"]))
    network.graph.output.append(helper.make_tensor_value_info("shape", 1, ["b", 3]))
    model_file, manifest = folder / "1" / "model.onnx", folder / "1" / "manifest.json"
    before = hashlib.sha256(model_file.read_bytes()).hexdigest()
    onnx.save(network, model_file)
    after = hashlib.sha256(model_file.read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace(before, after))
    (folder / "config.pbtxt").write_text(
        config
        + 'output { name: "shape" data_type: TYPE_FP32 dims: [3] label_filename: "shapes.txt" }\n'
    )
    model = load(folder, allow_ungated=True)
    assert model.facts.labels_of("logits") == ("red", "green", "blue")
    assert model.facts.labels_of("shape") == ("disc", "ring", "cross")
    model.close()
