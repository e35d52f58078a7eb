"""The whole of an adoption: what it writes, when it writes nothing, and what it leaves alone."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from serving.repository.manifest import read_manifest
from serving.repository.signing.statement import read_signature
from tests.support.foreign import (
    NETWORKS,
    classifier,
    uneven,
    write_foreign,
    write_items,
    write_pictures,
)
from tests.support.signed import Signer
from training.cli.adopt import app
from training.pipeline.adopt import adopt as work
from training.pipeline.adopt import judging, plan, publishing, variants


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_LATENCY_SECONDS", 0.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_foreign(tmp_path / "repository", "opset11")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "items", NETWORKS["opset11"])


def adopt(model: Path, data: Path, *flags: str) -> Result:
    return CliRunner().invoke(app, ["adopt", str(model), "--data", str(data), *flags])


def refused(result: Result, status: int = 1) -> str:
    assert result.exit_code == status
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("convserve adopt: ")
    return line


def listing(model: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(model)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(model.rglob("*"))
        if file.is_file()
    }


def test_a_dry_run_writes_nothing_and_says_what_would_be_done(model: Path, items: Path) -> None:
    before = listing(model)
    result = adopt(model, items, "--dry-run")
    assert result.exit_code == 0
    assert "opset 11" in result.stdout
    assert "ranges on 12 items, judged on 12" in result.stdout
    assert listing(model) == before


def test_files_appear_beside_what_is_there_and_a_second_time_nothing_does(
    model: Path, items: Path
) -> None:
    before = listing(model)
    result = adopt(model, items, "--variants", "int8-u8", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["published"]
    assert {row["variant"] for row in document["variants"]} == {"fp32", "int8-u8"}
    after = listing(model)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {
        "1/manifest.json", "1/model.int8-u8.onnx", "1/samples.npz"
    }  # fmt: skip
    again = adopt(model, items, "--variants", "int8-u8")
    assert "Nothing has changed" in again.stdout
    assert listing(model) == after


def test_another_request_replaces_what_the_first_wrote(model: Path, items: Path) -> None:
    adopt(model, items, "--variants", "int8-u8,fp16")
    assert adopt(model, items, "--variants", "int8-s8").exit_code == 0
    files = {path.name for path in (model / "1").iterdir()}
    assert files == {"manifest.json", "model.int8-s8.onnx", "model.onnx", "samples.npz"}


def test_a_damaged_variant_is_made_again(model: Path, items: Path) -> None:
    adopt(model, items, "--variants", "int8-u8")
    (model / "1" / "model.int8-u8.onnx").write_bytes(b"damaged")
    assert "Published" in adopt(model, items, "--variants", "int8-u8").stdout
    onnx.checker.check_model(onnx.load(model / "1" / "model.int8-u8.onnx"))


def test_a_file_of_somebody_else_is_left_alone(model: Path, items: Path) -> None:
    (model / "1" / "model.int8-u8.onnx").write_bytes(b"theirs")
    before = listing(model)
    line = refused(adopt(model, items, "--variants", "int8-u8"))
    assert "model.int8-u8.onnx: is there already, and no adoption wrote it" in line
    assert listing(model) == before


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_adoption_is_taken_up_by_the_next(
    after: int, model: Path, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(model)
    replace, moved = os.replace, 0

    def replacing(*paths: Any) -> None:
        nonlocal moved
        if moved == after:
            raise KeyboardInterrupt
        moved += 1
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "replace", replacing)
        assert "interrupted" in refused(adopt(model, items, "--variants", "int8-u8"), 130)
    assert before.items() <= listing(model).items()
    assert not (model / "1" / "manifest.json").exists()
    assert adopt(model, items, "--variants", "int8-u8").exit_code == 0
    assert read_manifest(model / "1") is not None
    assert {path.name for path in model.iterdir()} == {"1", "config.pbtxt", "names.txt"}


def test_link_in_the_place_of_its_own_folder_or_lock_is_not_followed(
    model: Path, items: Path, tmp_path: Path
) -> None:
    """Whoever writes the repository would have files deleted that only its adopter may."""
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (home / "letter").write_text("dear")
    (model / ".adopt").symlink_to(home)
    line = refused(adopt(model, items, "--variants", "fp16"))
    assert ".adopt: expected a folder, which adopt makes itself, got a link" in line
    (model / ".adopt").unlink()
    (model / ".adopt").mkdir()
    (model / ".adopt" / "lock").symlink_to(home / "letter")
    refused(adopt(model, items, "--variants", "fp16"))
    (model / ".adopt" / "lock").unlink()
    (model / ".adopt" / "left").symlink_to(home)
    assert adopt(model, items, "--variants", "fp16").exit_code == 0
    assert (home / "letter").read_text() == "dear"
    assert (home / "photos").is_dir()


def test_one_adoption_at_a_time(model: Path, items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second: list[Result] = []
    make = work.make_variants

    def making(*given: Any) -> Any:
        second.append(adopt(model, items))
        return make(*given)

    monkeypatch.setattr(work, "make_variants", making)
    assert adopt(model, items, "--variants", "fp16").exit_code == 0
    assert "is being adopted by another process" in refused(second[0])


def test_a_variant_that_fails_its_gate_is_left_out_with_its_reason(
    model: Path, items: Path
) -> None:
    result = adopt(model, items, "--variants", "fp16,int8-s8", "--max-distance", "0.003")
    assert result.exit_code == 0, result.output
    assert "int8-s8 is not served: onnxruntime: 12 answers, of which" in result.stdout
    manifest = read_manifest(model / "1")
    assert manifest is not None
    assert [variant.id for variant in manifest.variants] == ["fp32", "fp16"]
    assert not (model / "1" / "model.int8-s8.onnx").exists()


def test_control_flow_stays_in_fp32_with_the_reason(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    branches = [
        helper.make_graph(
            [helper.make_node("Mul" if name == "then" else "Add", ["x", "x"], [name])],
            name,
            [],
            [info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branches[0], else_branch=branches[1]
        ),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    tensors = ([info("x", TensorProto.FLOAT, [4])], [info("y", TensorProto.FLOAT, [4])])
    body = helper.make_graph(nodes, "flow", *tensors, [zero])
    opset = [helper.make_opsetid("", 17)]
    (tmp_path / "flow" / "1").mkdir(parents=True)
    onnx.save(
        helper.make_model(body, opset_imports=opset, ir_version=8),
        tmp_path / "flow" / "1" / "model.onnx",
    )
    (tmp_path / "items").mkdir()
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.save(tmp_path / "items" / "x.npy", rows)
    result = adopt(tmp_path / "flow", tmp_path / "items")
    assert result.exit_code == 0, result.output
    assert "int8-u8 is not served: its control flow (If)" in result.stdout


def random_answers() -> onnx.ModelProto:
    """`pixels` to `scores` plus noise: no two calls get the same answer."""
    model = onnx.ModelProto()
    model.CopyFrom(classifier(17, "n"))
    model.graph.node[-1].output[0] = "right"
    model.graph.node.append(helper.make_node("RandomNormalLike", ["right"], ["noise"], scale=9.0))
    model.graph.node.append(helper.make_node("Add", ["right", "noise"], ["scores"]))
    return model


def test_a_network_whose_answers_differ_from_call_to_call_is_not_published(
    model: Path, items: Path
) -> None:
    onnx.save(random_answers(), model / "1" / "model.onnx")
    before = listing(model)
    assert "nothing is published: fp32: " in refused(adopt(model, items))
    assert listing(model) == before


PIXELS = "input: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}\n"


def labelled(tmp_path: Path) -> tuple[Path, list[str]]:
    (tmp_path / "pixels.yaml").write_text(PIXELS)
    flags = ["--preprocess", str(tmp_path / "pixels.yaml"), "--task", "classification"]
    return write_pictures(tmp_path / "pictures") / "classification", flags


def test_labels_judge_where_the_data_has_some(model: Path, tmp_path: Path) -> None:
    pictures, flags = labelled(tmp_path)
    assert adopt(model, pictures, *flags, "--variants", "int8-u8").exit_code == 0
    manifest = read_manifest(model / "1")
    assert manifest is not None
    assert (manifest.measure, manifest.classes[0]) == ("top1", "red")
    found = manifest.variants[0].evidence["onnxruntime"]
    assert (found.accuracy.value, found.accuracy.n) == (1.0, 12)


def test_wrong_pixels_are_found_out_by_the_labels(model: Path, tmp_path: Path) -> None:
    pictures, flags = labelled(tmp_path)
    (tmp_path / "pixels.yaml").write_text("input: {range: [0, -1]}\n")
    line = refused(adopt(model, pictures, *flags))
    assert "is not above chance" in line
    assert "--min-accuracy 0 lets it pass" in line


def test_folders_that_are_no_classes_are_named(model: Path, tmp_path: Path) -> None:
    pictures, flags = labelled(tmp_path)
    (pictures / "red").rename(pictures / "reed")
    line = refused(adopt(model, pictures, *flags))
    assert "'reed' (did you mean 'red'?)" in line
    assert "--unlabelled compares with FP32 instead" in line
    result = adopt(model, pictures, *flags, "--unlabelled", "--variants", "fp16")
    assert result.exit_code == 0, result.output
    assert "agreement with FP32" in result.stdout


def test_as_many_folders_as_outputs_are_the_classes_where_nothing_names_them(
    model: Path, tmp_path: Path
) -> None:
    pictures, flags = labelled(tmp_path)
    config = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(config.replace('label_filename: "names.txt"', ""))
    line = refused(adopt(model, pictures, *flags))
    assert "the data has 3 classes, output 'scores' 4" in line
    names = ["--classes", str(model / "names.txt")]
    assert adopt(model, pictures, *flags, *names, "--variants", "fp16").exit_code == 0


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--task", "classification"], "--task: a task is done on images"),
        (["--output", "scores"], "give --task"),
        (["--variants", "int4"], "--variants: expected some of fp32"),
        (["--version", "7"], "no version 7"),
        (["--preprocess", "imagenet"], "no images below it"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    flags: list[str], reason: str, model: Path, items: Path
) -> None:
    assert reason in refused(adopt(model, items, *flags))


@pytest.mark.parametrize(
    "flags", [["--task", "detection"], ["--holds", "boxes"], ["--calibrate", "entropy"]]
)
def test_unknown_words_are_wrong_usage(flags: list[str], model: Path, items: Path) -> None:
    assert adopt(model, items, *flags).exit_code == 2


@pytest.fixture(scope="module")
def uneven_adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("uneven")
    network = uneven()
    return write_foreign(root / "repository", "uneven", network), write_items(
        root / "items", network, 60
    )


def test_refusals_are_told_again_where_nothing_has_changed(
    uneven_adopted: tuple[Path, Path],
) -> None:
    flags = ("--variants", "int8-u8", "--max-distance", "0.2", "--max-float", "0")
    first = adopt(*uneven_adopted, *flags)
    assert first.exit_code == 0, first.output
    line = next(line for line in first.stdout.splitlines() if line.startswith("int8-u8 is not"))
    again = adopt(*uneven_adopted, *flags)
    assert "Nothing has changed" in again.stdout
    assert line in again.stdout
    document = json.loads(adopt(*uneven_adopted, *flags, "--json").stdout)
    assert f"int8-u8 is not served: {document['refused']['int8-u8']}" == line


def test_a_layer_that_8_bits_cannot_hold_stays_in_floating_point(
    uneven_adopted: tuple[Path, Path],
) -> None:
    result = adopt(*uneven_adopted, "--variants", "int8-u8", "--max-distance", "0.2")
    assert result.exit_code == 0, result.output
    assert "int8-u8: 1 of 6 layers in FP32 (w2): on the items of the calibration" in result.stdout
    manifest = read_manifest(uneven_adopted[0] / "1")
    assert manifest is not None
    assert [variant.id for variant in manifest.variants] == ["fp32", "int8-u8"]
    assert manifest.refused == {}


def test_a_network_that_changes_meanwhile_is_not_published(
    model: Path, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = work.make_variants

    def making(*given: Any) -> Any:
        network = onnx.load(model / "1" / "model.onnx")
        network.doc_string = "another"
        onnx.save(network, model / "1" / "model.onnx")
        return make(*given)

    monkeypatch.setattr(work, "make_variants", making)
    assert "changed while it was adopted" in refused(adopt(model, items, "--variants", "fp16"))
    assert {path.name for path in (model / "1").iterdir()} == {"model.onnx"}


def test_an_adoption_that_ended_meanwhile_is_replaced(model: Path, items: Path) -> None:
    given = plan.Request(model, items, variants=("fp32", "fp16"))
    planned = plan.plan(given)
    assert adopt(model, items, "--variants", "fp16,int8-s8").exit_code == 0
    assert work.adopt(given, planned).published
    names = {path.name for path in (model / "1").iterdir()}
    assert names == {"model.onnx", "model.fp16.onnx", "samples.npz", "manifest.json"}


def test_version_is_signed_when_asked_for_even_where_nothing_else_is_new(
    model: Path, items: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer = Signer()
    key, _ = signer.write(tmp_path, "key")
    assert adopt(model, items, "--variants", "fp16", "--sign-key", str(key)).exit_code == 0
    statement, signers = read_signature(model / "1", signer.trusted)
    assert signers == (signer.id,)
    names = {"model.onnx", "model.fp16.onnx", "samples.npz", "manifest.json"}
    assert set(statement.files) == names
    other = Signer()
    key, _ = other.write(tmp_path, "other")
    again = adopt(model, items, "--variants", "fp16", "--sign-key", str(key))
    assert "Nothing has changed" in again.stdout
    assert len(read_signature(model / "1", signer.trusted | other.trusted)[1]) == 2
    adopt(model, items, "--variants", "fp32")
    assert "signature.json does not fit any more" in caplog.text
    assert "--sign-key: " in refused(adopt(model, items, "--sign-key", str(tmp_path / "none")))


def test_a_manifest_that_names_others_files_deletes_none(model: Path, items: Path) -> None:
    adopt(model, items, "--variants", "fp16")
    (model / "1" / "weights.bin").write_bytes(b"theirs")
    document = json.loads((model / "1" / "manifest.json").read_text())
    document["variants"][1]["file"] = "weights.bin"
    (model / "1" / "model.fp16.onnx").unlink()
    (model / "1" / "model.onnx").rename(model / "1" / "net.onnx")
    config = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(config + 'default_model_filename: "net.onnx"\n')
    (model / "1" / "manifest.json").write_text(json.dumps(document))
    (model / "1" / "model.onnx").write_bytes(b"theirs too")
    assert adopt(model, items, "--variants", "fp16").exit_code == 0
    assert (model / "1" / "weights.bin").read_bytes() == b"theirs"
    assert (model / "1" / "model.onnx").read_bytes() == b"theirs too"


def test_files_of_a_killed_adoption_go_with_the_next(model: Path, items: Path) -> None:
    (model / ".adopt").mkdir()
    (model / ".adopt" / "moved").write_text("model.int8-s8.onnx\n../../x\nmodel.onnx\n")
    (model / "1" / "model.int8-s8.onnx").write_bytes(b"cut off")
    assert adopt(model, items, "--variants", "fp16").exit_code == 0
    names = {path.name for path in (model / "1").iterdir()}
    assert names == {"model.onnx", "model.fp16.onnx", "samples.npz", "manifest.json"}
    (model / ".adopt").mkdir()
    assert "Nothing has changed" in adopt(model, items, "--variants", "fp16").stdout
    assert not (model / ".adopt").exists()


@pytest.mark.parametrize("file", ["model.fp16.onnx", "samples.npz", "manifest.json"])
def test_a_full_disk_is_told_and_changes_nothing(
    file: str, model: Path, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    places = {
        "model.fp16.onnx": (variants, "to_half"),
        "samples.npz": (publishing, "write_samples"),
        "manifest.json": (publishing, "write_manifest"),
    }
    monkeypatch.setattr(*places[file], full)
    before = listing(model)
    assert "No space left on device" in refused(adopt(model, items, "--variants", "fp16"))
    assert listing(model) == before
