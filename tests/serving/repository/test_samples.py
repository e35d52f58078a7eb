"""Published samples: what their headers say is checked before memory is taken for it."""

import io
import os
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from serving.base.errors import SelfCheckFailed
from serving.repository.samples import read_samples


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def archive(tmp_path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(tmp_path / "samples.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return tmp_path


IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
ANSWERS = npy(np.zeros((2, 3), np.float32))


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    images = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.savez(tmp_path / "samples.npz", image=images, logits=np.eye(2, dtype=np.float32))
    found = read_samples(tmp_path, ["image"], ["logits"])
    assert found is not None
    assert np.array_equal(found.inputs["image"], images)
    assert np.array_equal(found.answers["logits"], np.eye(2))


def test_no_samples_are_none(tmp_path: Path) -> None:
    assert read_samples(tmp_path, ["image"], ["logits"]) is None


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    padded = text.ljust(118) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


@pytest.mark.parametrize(
    "image",
    [
        header("(100000, 100000, 100000, 3)"),
        header("(2, 4, 4, 3)") + bytes(10),
        header("(1 << 60,)"),
        header("(-1, 4, 4, 3)"),
        header("(2, 4, 4, 3)", "'|O'") + bytes(96),
        header("(0, 4, 4, 3)"),
        header("(" * 90),
        b"\x93NUMPY\x03\x00\xff\xff\xff\x7f",
        b"",
        npy(np.array([{"a": 1}], dtype=object)),
        npy(np.zeros((3, 4, 4, 3), np.uint8)),
        npy(np.zeros((), np.uint8)),
    ],
)
def test_images_that_are_none_are_refused(image: bytes, tmp_path: Path) -> None:
    with pytest.raises(SelfCheckFailed, match=r"samples\.npz: "):
        read_samples(archive(tmp_path, image=image, logits=ANSWERS), ["image"], ["logits"])


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "samples.npz", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("image.npy", "w", force_zip64=True) as stream:
            stream.write(header("(700, 1000, 1000, 1)"))
            for _ in range(700):
                stream.write(bytes(1_000_000))
        file.writestr("logits.npy", ANSWERS)
    assert (tmp_path / "samples.npz").stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SelfCheckFailed, match="of 256 MiB at most"):
        read_samples(tmp_path, ["image"], ["logits"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_file_of_many_members_is_refused_before_they_are_listed(tmp_path: Path) -> None:
    archive(tmp_path, **{f"m{number}": b"" for number in range(2000)})
    with pytest.raises(SelfCheckFailed, match="a few arrays"):
        read_samples(tmp_path, ["image"], ["logits"])


@pytest.mark.parametrize("content", [b"", b"PK\5\6", os.urandom(1000), b"PK\5\6" + bytes(18)])
def test_a_file_that_is_no_archive_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(SelfCheckFailed, match=r"samples\.npz: cannot be read"):
        read_samples(tmp_path, ["image"], ["logits"])
