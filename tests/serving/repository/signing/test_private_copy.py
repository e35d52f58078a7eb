"""Private copies: what is loaded is what was signed."""

import os
import shutil
from pathlib import Path

import pytest

from serving.base.errors import ModelLoadError, NotTrusted, SelfCheckFailed
from serving.repository.model_config import ModelConfig, read_model_config
from serving.repository.signing.private_copy import PrivateCopy, SignedVersions
from serving.repository.signing.statement import sign_version
from tests.support.published import publish
from tests.support.signed import Signer

ONE = Signer()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    version = publish(tmp_path / "models")
    sign_version(version, ONE.private)
    return version.parent


@pytest.fixture
def signed(tmp_path: Path) -> SignedVersions:
    (tmp_path / "cache").mkdir()
    return SignedVersions(lambda: ONE.trusted, tmp_path / "cache")


def opened(signed: SignedVersions, model: Path, config: ModelConfig | None = None) -> PrivateCopy:
    with signed.opened(model, 1, config) as copy:
        return copy


def test_files_that_are_changed_later_are_not_those_that_are_opened(
    signed: SignedVersions, model: Path
) -> None:
    content = (model / "1" / "model.onnx").read_bytes()
    with signed.opened(model, 1, read_model_config(model)) as copy:
        (model / "1" / "model.onnx").write_bytes(b"another network")
        assert (copy.path / "1" / "model.onnx").read_bytes() == content
        assert copy.signers == (ONE.id,)
        assert copy.path.name == "colours"
        assert copy.path.stat().st_mode & 0o022 == 0
    assert not copy.path.exists()


def test_place_and_times_are_the_same_each_time_unless_another_load_has_them(
    signed: SignedVersions, model: Path
) -> None:
    """OpenVINO finds what it has compiled by path, size and time."""
    with signed.opened(model, 1) as first:
        assert (first.path / "1" / "model.onnx").stat().st_mtime == 0
        beside = opened(signed, model)
        assert beside.path != first.path
        assert beside.path.parents[1] == first.path.parents[1]
        assert (first.path / "1" / "model.onnx").exists()
    assert not list(first.path.parents[1].iterdir())
    assert opened(signed, model).path == first.path


def test_leavings_of_killed_processes_are_removed(
    signed: SignedVersions, model: Path, tmp_path: Path
) -> None:
    left = tmp_path / "cache" / "signed" / "left"
    (left / "colours" / "1").mkdir(parents=True)
    own = opened(signed, model).path.parent
    (own / "colours" / "1").mkdir(parents=True)
    (own / "colours" / "1" / "model.onnx").touch()
    opened(signed, model)
    assert not left.exists()


@pytest.mark.parametrize("change", ["content", "size", "huge", "gone", "linked", "pipe"])
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "samples.npz"])
def test_file_that_is_not_the_signed_one_is_refused_by_name(
    change: str, name: str, signed: SignedVersions, model: Path
) -> None:
    file = model / "1" / name
    content = file.read_bytes()
    file.unlink()
    if change == "content":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "size":
        file.write_bytes(content[:-1])
    elif change == "huge":
        file.write_bytes(content)
        os.truncate(file, 1 << 40)
    elif change == "linked":
        (model.parent / "elsewhere").write_bytes(content)
        file.symlink_to(model.parent / "elsewhere")
    elif change == "pipe":
        os.mkfifo(file)
    reasons = {
        "content": f"is not the file that key {ONE.id} signed: it has another content",
        "size": rf"is not the file that key {ONE.id} signed: it has [\d,]+ bytes",
        "huge": "it has 1,099,511,627,776 bytes",
        "gone": f"key {ONE.id} signed it, and it is not there",
        "linked": "leads out of its folder",
        "pipe": "is no regular file",
    }
    with pytest.raises(NotTrusted, match=f"colours/1/{name}: .*{reasons[change]}"):
        opened(signed, model)


def test_file_that_nobody_has_signed_is_not_in_the_copy(
    signed: SignedVersions, model: Path
) -> None:
    (model / "1" / "model.int8.onnx").touch()
    (model / "1" / "circle").symlink_to("circle")
    with signed.opened(model, 1) as copy:
        assert copy.passed_over == ("circle", "model.int8.onnx")
        assert {path.name for path in (copy.path / "1").iterdir()} == {
            "manifest.json", "model.onnx", "samples.npz",
        }  # fmt: skip


def test_class_names_are_those_that_were_signed(signed: SignedVersions, model: Path) -> None:
    (model / "1" / "manifest.json").unlink()
    sign_version(model / "1", ONE.private)
    with signed.opened(model, 1) as copy:
        assert (copy.path / "labels.txt").read_text() == "red\ngreen\nblue\n"
    (model / "labels.txt").write_text("blue\ngreen\nred\n")
    with pytest.raises(NotTrusted, match=r"colours/labels.txt: is not the file"):
        opened(signed, model)


def test_weights_beside_an_onnx_file_are_covered(signed: SignedVersions, model: Path) -> None:
    (model / "1" / "weights.bin").write_bytes(b"1234")
    sign_version(model / "1", ONE.private)
    with signed.opened(model, 1) as copy:
        assert (copy.path / "1" / "weights.bin").read_bytes() == b"1234"
    (model / "1" / "weights.bin").write_bytes(b"1235")
    with pytest.raises(NotTrusted, match=r"weights.bin"):
        opened(signed, model)


def test_config_with_other_tensors_than_the_signed_one_is_refused(
    signed: SignedVersions, model: Path
) -> None:
    path = model / "config.pbtxt"
    path.write_text(path.read_text().replace("labels.txt", "other.txt"))
    with pytest.raises(NotTrusted, match=r"colours/1: output in config.pbtxt"):
        opened(signed, model, read_model_config(model))


def test_errors_of_a_load_name_the_files_in_the_repository(
    signed: SignedVersions, model: Path
) -> None:
    with pytest.raises(SelfCheckFailed) as caught, signed.opened(model, 1) as copy:
        raise SelfCheckFailed(f"{copy.path}/1/model.onnx: answers wrongly")
    assert str(caught.value) == caught.value.detail == f"{model}/1/model.onnx: answers wrongly"


def test_copy_that_does_not_fit_on_the_disk_is_a_failed_load(
    signed: SignedVersions, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(ModelLoadError, match="cannot be copied: No space left on device"):
        opened(signed, model)


def test_without_a_cache_the_copy_lies_among_temporary_files(model: Path, tmp_path: Path) -> None:
    with SignedVersions(lambda: ONE.trusted, None).opened(model, 1) as copy:
        assert (copy.path / "1" / "model.onnx").exists()
    assert not copy.path.exists()
    shutil.rmtree(model / "1")
    with pytest.raises(NotTrusted, match="nobody has signed it"):
        opened(SignedVersions(lambda: ONE.trusted, None), model)
