"""signature.json: what it covers, and of which version it is."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from serving.base.errors import ModelLoadError, NotTrusted
from serving.repository.model_config import read_model_config
from serving.repository.signing import statement
from serving.repository.signing.envelope import seal, unseal
from serving.repository.signing.statement import (
    SIGNATURE_FILE,
    check_config,
    read_signature,
    sign_version,
    signed_fields,
)
from tests.support.published import publish
from tests.support.signed import Signer

ONE = Signer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    version = publish(tmp_path)
    sign_version(version, ONE.private)
    return version


def document(folder: Path) -> dict[str, Any]:
    payload, _ = unseal((folder / SIGNATURE_FILE).read_bytes(), ONE.trusted)
    found: dict[str, Any] = json.loads(payload)
    return found


def test_every_file_of_the_version_is_covered_with_its_size(folder: Path) -> None:
    said, signers = read_signature(folder, ONE.trusted)
    assert signers == (ONE.id,)
    assert (said.model, said.version) == ("colours", 1)
    assert set(said.files) == {"manifest.json", "model.onnx", "samples.npz"}
    assert said.files["model.onnx"].size == (folder / "model.onnx").stat().st_size
    assert not said.labels  # the classes of the manifest take their place


def test_class_names_are_covered_where_they_are_read_from_a_file(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    sign_version(folder, ONE.private)
    said, _ = read_signature(folder, ONE.trusted)
    assert set(said.labels) == {"labels.txt"}
    (folder.parent / "labels.txt").unlink()
    with pytest.raises(ModelLoadError, match=r"labels.txt: cannot be signed: No such file"):
        sign_version(folder, ONE.private)


def test_signing_again_changes_nothing_and_a_second_key_adds_its_own(folder: Path) -> None:
    before = (folder / SIGNATURE_FILE).stat()
    assert sign_version(folder, ONE.private) == ONE.id
    after = (folder / SIGNATURE_FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    two = Signer()
    sign_version(folder, two.private)
    assert read_signature(folder, ONE.trusted | two.trusted)[1] == (ONE.id, two.id)
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "model.onnx", "samples.npz", SIGNATURE_FILE,
    }  # fmt: skip


def test_link_in_the_way_of_a_new_signature_is_not_followed(folder: Path) -> None:
    """Whoever may write the folder may not write where its signer may."""
    theirs = folder.parents[1] / "theirs"
    theirs.write_text("dear")
    (folder / f".{SIGNATURE_FILE}.{os.getpid()}").symlink_to(theirs)
    (folder / SIGNATURE_FILE).unlink()
    (folder / SIGNATURE_FILE).symlink_to(theirs)
    sign_version(folder, ONE.private)
    assert theirs.read_text() == "dear"
    assert not (folder / SIGNATURE_FILE).is_symlink()
    assert read_signature(folder, ONE.trusted)[1] == (ONE.id,)


def test_all_that_is_signed_can_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of class names count too."""
    (folder / "manifest.json").unlink()
    for most, refused in ((2, True), (3, False)):
        monkeypatch.setattr(statement, "_MAX_FILES", most)
        if refused:
            with pytest.raises(ModelLoadError, match="expected 1 to 2 files"):
                sign_version(folder, ONE.private)
        else:
            sign_version(folder, ONE.private)
    assert len(document(folder)["subject"]) == 3


def test_signature_is_of_one_name_and_one_number(folder: Path) -> None:
    for copy in (folder.parent / "2", folder.parents[1] / "other" / "1"):
        shutil.copytree(folder, copy)
        with pytest.raises(NotTrusted, match="signed it as version 1 of 'colours'; where it was"):
            read_signature(copy, ONE.trusted)


@pytest.mark.parametrize("change", ["absent", "large", "linked", "folder", "pipe"])
def test_file_that_is_no_signature_is_refused(change: str, folder: Path) -> None:
    file = folder / SIGNATURE_FILE
    content = file.read_bytes()
    file.unlink()
    if change == "large":
        file.write_bytes(b" " * (5 << 20))
    elif change == "linked":
        (folder.parents[1] / "elsewhere").write_bytes(content)
        file.symlink_to(folder.parents[1] / "elsewhere")
    elif change == "folder":
        file.mkdir()
    elif change == "pipe":
        os.mkfifo(file)
    reasons = {
        "absent": "nobody has signed it",
        "large": "has more than 4,194,304 bytes",
        "linked": "leads out of its folder",
        "folder": "Is a directory",
        "pipe": "is no regular file",
    }
    with pytest.raises(NotTrusted, match=reasons[change]):
        read_signature(folder, ONE.trusted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_type": "https://in-toto.io/Statement/v2"}, "_type: "),
        ({"predicateType": "urn:convserve:signed-model:v2"}, "predicateType: "),
        ({"subject": []}, "subject: "),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"predicate": {"model": "colours", "version": 1}}, "predicate.config: Field required"),
    ],
)
def test_statement_of_another_form_is_refused(
    change: dict[str, Any], reason: str, folder: Path
) -> None:
    payload = json.dumps(document(folder) | change).encode()
    (folder / SIGNATURE_FILE).write_bytes(seal(payload, ONE.private))
    with pytest.raises(NotTrusted, match=f"{SIGNATURE_FILE}: the statement: {reason}"):
        read_signature(folder, ONE.trusted)


@pytest.mark.parametrize("name", ["model.onnx", "other/1/x", "colours/1/../x", "colours/2/x", ""])
def test_statement_names_files_of_its_own_version_alone(name: str, folder: Path) -> None:
    found = document(folder)
    found["subject"][0]["name"] = name
    (folder / SIGNATURE_FILE).write_bytes(seal(json.dumps(found).encode(), ONE.private))
    with pytest.raises(NotTrusted, match="subject: unexpected name"):
        read_signature(folder, ONE.trusted)


def test_operator_may_tune_a_config_and_not_change_the_tensors(folder: Path) -> None:
    said, _ = read_signature(folder, ONE.trusted)
    path = folder.parent / "config.pbtxt"

    def check() -> None:
        config = read_model_config(folder.parent)
        check_config(folder, said, signed_fields(config.proto, config.completed), ONE.id)

    text = path.read_text()
    tuned = text.replace("max_batch_size: 8", "max_batch_size: 4").replace(
        "dynamic_batching { }", "dynamic_batching { max_queue_delay_microseconds: 100 }"
    )
    path.write_text(
        f'{tuned}\ninstance_group {{ count: 2 }} parameters {{ key: "slo_ms" value '
        '{ string_value: "5" } } version_policy { all { } }'
    )
    check()
    path.write_text(text.replace("labels.txt", "others.txt"))
    with pytest.raises(NotTrusted, match=f"output in config.pbtxt is not as key {ONE.id} signed"):
        check()
    path.write_text(text + 'default_model_filename: "other.onnx"\n')
    with pytest.raises(NotTrusted, match=r"default_model_filename in config.pbtxt"):
        check()


def test_what_is_no_version_cannot_be_signed(tmp_path: Path) -> None:
    for name in ("colours", "colours/01", "colours/1"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ModelLoadError, match="expected the folder of a version"):
        sign_version(tmp_path / "colours" / "01", ONE.private)
    with pytest.raises(ModelLoadError, match="expected 1 to 4,096 files"):
        sign_version(tmp_path / "colours" / "1", ONE.private)
    with pytest.raises(ModelLoadError, match="cannot be signed: No such file"):
        sign_version(tmp_path / "colours" / "2", ONE.private)
