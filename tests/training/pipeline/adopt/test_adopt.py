"""The whole of an adoption: what it writes, when it writes nothing, and what it leaves alone."""

import json
from pathlib import Path

import onnx
import pytest

from serving.repository.signing.statement import read_signature
from tests.support.signed import Signer
from tests.training.pipeline.adopt.conftest import adopt, listing, refused


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
    assert all(row["latency_ms"]["1"] > 0 for row in document["variants"])
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


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--task", "classification"], "--task: a task is done on images"),
        (["--output", "scores"], "give --task"),
        (["--version", "7"], "no version 7"),
        (["--preprocess", "imagenet"], "no images below it"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    flags: list[str], reason: str, model: Path, items: Path
) -> None:
    assert reason in refused(adopt(model, items, *flags))


@pytest.mark.parametrize(
    "flags",
    [
        ["--task", "detection"],
        ["--holds", "boxes"],
        ["--calibrate", "entropy"],
        ["--variants", "fp32,int4"],
    ],
)
def test_unknown_words_are_wrong_usage(flags: list[str], model: Path, items: Path) -> None:
    assert adopt(model, items, *flags).exit_code == 2


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
