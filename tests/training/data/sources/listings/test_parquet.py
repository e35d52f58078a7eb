"""Tables in Parquet, with the images in them or beside them."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.data.sources.listings.conftest import loaded, split_sizes
from training.data import samples
from training.data.sources.listings import parquet_rows
from training.errors import DataError


def hugging_face(folder: Path, name: str, rows_of: range, *, in_bytes: bool = True) -> Path:
    """Images as Hugging Face's datasets store them, in row groups of three."""
    images = [
        {"bytes": file.read_bytes() if in_bytes else None, "path": f"pictures/{file.name}"}
        for file in sorted((folder / "pictures").iterdir())
    ]
    features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"]}}
    table = pa.table({
        "image": [images[i] for i in rows_of],
        "label": [i % 2 for i in rows_of],
        "width": [12 for _ in rows_of],
    })  # fmt: skip
    schema = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(schema), folder / name, row_group_size=3)
    return folder / name


@pytest.mark.parametrize("in_bytes", [True, False])
def test_parquet_holds_images_and_the_names_of_labels(folder: Path, in_bytes: bool) -> None:
    data = loaded(hugging_face(folder, "t.parquet", range(20), in_bytes=in_bytes))
    assert data.classes == ("ant", "bee")
    assert split_sizes(data) == (12, 4, 4)
    images, labels = data.train.batch(range(12))
    for image, label in zip(images, labels, strict=True):
        assert label == image[0, 0, 0] // 10 % 2
    assert len(set(data.train.names)) == 12


def test_parquet_of_several_files_is_read_file_by_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MEMORY_LIMIT_BYTES", 100)
    hugging_face(folder, "train-00000-of-00001.parquet", range(16))
    hugging_face(folder, "test-00000-of-00001.parquet", range(16, 20))
    data = loaded(folder)
    assert split_sizes(data) == (12, 4, 4)
    images, labels = data.test.batch([3, 0])
    assert images[:, 0, 0, 0].tolist() == [190, 160]
    assert labels.tolist() == [1, 0]


def test_parquet_of_bytes_and_of_paths_with_texts_as_labels(folder: Path) -> None:
    files = sorted((folder / "pictures").iterdir())
    kinds = ["cat", "dog"] * 10
    columns = {
        "img": [file.read_bytes() for file in files],
        "path": [f"pictures/{file.name}" for file in files],
    }
    for column, values in columns.items():
        pq.write_table(pa.table({column: values, "kind": kinds}), folder / "t.parquet")
        data = loaded(folder / "t.parquet", label_column="kind")
        assert data.classes == ("cat", "dog")
        assert split_sizes(data) == (12, 4, 4)


def test_fault_of_a_parquet_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "t.parquet"
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read"):
        loaded(file)
    file.write_bytes(b"PAR1 no table")
    with pytest.raises(DataError, match=r"t\.parquet: not a Parquet file"):
        loaded(file)
    for table, said in (
        ({"image": [1], "label": [1]}, "column 'image': expected texts, bytes or"),
        (
            {"image": ["a"], "label": [1.5]},
            "column 'label': expected texts or whole numbers, got 'double'",
        ),
        ({"image": ["a", None], "label": [1, 2]}, "row 2: image: expected an image, got None"),
        ({"image": ["/etc/passwd"], "label": [1]}, "row 1: '/etc/passwd' leads out of"),
        ({"image": ["a"], "kind": [1]}, r"no column label, .*data\.label_column says which"),
    ):
        pq.write_table(pa.table(table), file)
        with pytest.raises(DataError, match=rf"t\.parquet: {said}"):
            loaded(file)
    hugging_face(folder, "t.parquet", range(20))
    damaged = bytearray(file.read_bytes())
    damaged[200:900] = bytes(700)
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"t\.parquet: row 1: cannot be read|files cannot be used"):
        loaded(file)
    hugging_face(folder, "t.parquet", range(20))
    monkeypatch.setattr(parquet_rows, "_GROUP_BYTES", 10)
    with pytest.raises(DataError, match="row group 0 has 0 MiB, at most 0 are read at a time"):
        loaded(file)


def test_images_that_the_disk_cannot_hold_are_refused_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(folder)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(DataError, match="which has 0 MiB left; TMPDIR names another folder"):
        loaded(hugging_face(folder, "t.parquet", range(20)))


def repeated(file: Path, values: list[bytes | str], count: int) -> Path:
    """A file of a few kilobytes whose rows repeat the values of a dictionary."""
    kind = pa.binary() if isinstance(values[0], bytes) else pa.string()
    indices = pa.array([index % len(values) for index in range(count)], pa.int32())
    images = pa.DictionaryArray.from_arrays(indices, pa.array(values, kind))
    table = pa.table({"image": images, "label": ["a", "b"] * (count // 2)})
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert file.stat().st_size < 20_000
    return file


def test_an_image_that_a_table_repeats_takes_memory_and_disk_once(folder: Path) -> None:
    picture = (folder / "pictures" / "03.png").read_bytes() + bytes(4 << 20)
    contents = parquet_rows.Contents()
    file = repeated(folder / "t.parquet", [picture], 2000)
    before = pa.total_allocated_bytes()
    spots = []
    for row in parquet_rows.parquet_rows(
        file, parquet_rows.Columns(("image",), ("label",)), contents
    ):
        assert pa.total_allocated_bytes() - before < 20 * len(picture)
        spots.append(row.spot)
    assert len(spots) == 2000
    assert len(set(spots)) == 1
    assert contents.read(spots[0]) == picture  # type: ignore[arg-type]


def test_images_that_take_more_than_a_table_declares_are_refused(folder: Path) -> None:
    contents = parquet_rows.Contents()
    contents.reserve(100, folder)
    contents.add(bytes(60))
    contents.add(bytes(60))
    with pytest.raises(DataError, match="take more than the file declares"):
        contents.add(bytes(61))


def test_rows_and_texts_of_a_parquet_file_are_bounded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = repeated(folder / "t.parquet", ["x" * 5_000_000], 10_000)
    with pytest.raises(DataError, match="row 1: image: a text of 5,000,000 characters, at most"):
        loaded(file)
    monkeypatch.setattr(parquet_rows, "free_memory", lambda: 1_000_000)
    with pytest.raises(DataError, match=r"10,000 rows take about 0\.0 GB of memory, .* are free"):
        loaded(file)
