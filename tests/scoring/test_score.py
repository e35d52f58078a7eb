"""Rows of every task are the server's own answers; images that fail are rows too."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from scoring.errors import ScoringError
from scoring.sources.opened import open_source
from serving.client import VisionClient, mask_of
from tests.scoring.conftest import COUNT, Score, facts_of, rows_of, table_of_folder
from tests.support.process import ServerProcess


def close(value: float) -> object:
    """Equal but for the batch that it was in."""
    return pytest.approx(value, rel=1e-4)


def test_labels_are_those_of_the_server(
    images: Path, score: Score, server: ServerProcess, tmp_path: Path
) -> None:
    score(images, tmp_path / "out.parquet", top_k=2)
    rows = rows_of(tmp_path / "out.parquet")
    with VisionClient(server.url) as client:
        for row in rows[:-2]:
            if row["error"] is not None:
                continue
            answer = client.classify("colours", images / row["image"], top_k=2).results[0]
            expected = [(x.index, x.name, close(x.score)) for x in answer.labels]
            assert [(x["index"], x["name"], x["score"]) for x in row["labels"]] == expected
            assert (row["label"], row["score"]) == expected[0][1:]


def test_every_image_has_one_row_in_the_order_of_its_bytes(
    images: Path, score: Score, tmp_path: Path
) -> None:
    outcome = score(images, tmp_path / "out.parquet")
    rows = rows_of(tmp_path / "out.parquet")
    names = [row["image_bytes"] or row["image"].encode() for row in rows]
    found = [
        os.path.relpath(os.path.join(place, name), os.fsencode(images))  # noqa: PTH118
        for place, _, files in os.walk(os.fsencode(images))
        for name in files
        if name.endswith(b".jpg") and not name.startswith(b".")
    ]
    assert names == sorted(found)
    assert len(rows) == COUNT + 3 == outcome.images
    assert "two\nlines.jpg" in (row["image"] for row in rows)
    assert [(r["image"], r["image_bytes"]) for r in rows if r["image_bytes"]] == [
        ("\\xff\\xfe.jpg", b"\xff\xfe.jpg")
    ]


def test_an_image_that_cannot_be_read_is_a_row_with_its_error(
    images: Path, score: Score, tmp_path: Path
) -> None:
    outcome = score(images, tmp_path / "out.parquet")
    failed = [row for row in rows_of(tmp_path / "out.parquet") if row["error"]]
    assert [row["image"] for row in failed] == ["broken.jpg"]
    assert failed[0]["label"] is failed[0]["labels"] is failed[0]["score"] is None
    assert outcome.failed == 1


def test_links_that_lead_nowhere_and_pipes_are_rows_with_an_error(
    score: Score, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "gone.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(root / "pipe.jpg")
    (root / "good.jpg").symlink_to(images / "f0" / "000.jpg")
    (root / "loop").symlink_to(root)
    score(root, tmp_path / "out.parquet", most_failed=1.0)
    errors = {row["image"]: row["error"] for row in rows_of(tmp_path / "out.parquet")}
    assert errors == {
        "gone.jpg": "cannot be read: No such file or directory",
        "good.jpg": None,
        "pipe.jpg": "cannot be read: is no regular file",
    }


def test_a_file_of_more_bytes_than_a_message_is_not_read(
    score: Score, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jpg").write_bytes((images / "f0" / "000.jpg").read_bytes())
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)
    score(root, tmp_path / "out.parquet", most_failed=0.5)
    [_, huge] = rows_of(tmp_path / "out.parquet")
    assert huge["error"] == "1,099,511,627,776 bytes, expected at most 33,554,432"


def test_a_job_ends_when_more_images_fail_than_may_and_goes_on_when_more_may(
    score: Score, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for index in range(6):
        (root / f"{index}.jpg").write_bytes(b"no image")
    (root / "good.jpg").write_bytes((images / "f0" / "000.jpg").read_bytes())
    with pytest.raises(
        ScoringError, match=r"6 of 7 images failed, more than 0\.5 of all .*such as 0\.jpg"
    ):
        score(root, tmp_path / "out.parquet", most_failed=0.5)
    assert not (tmp_path / "out.parquet").exists()
    with pytest.raises(ScoringError, match="6 of 7 images failed"):
        score(root, tmp_path / "out.parquet", most_failed=0.5)
    assert score(root, tmp_path / "out.parquet", most_failed=0.9).failed == 6


def test_areas_and_masks_are_those_of_the_server(
    images: Path, score: Score, server: ServerProcess, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    score(images, tmp_path / "out.parquet", model="regions", masks=masks)
    rows = [row for row in rows_of(tmp_path / "out.parquet") if not row["error"]]
    with VisionClient(server.url) as client:
        for row in rows[:5]:
            answer = client.segment("regions", images / row["image"]).results[0]
            assert (row["height"], row["width"]) == (answer.height, answer.width) == (20, 24)
            expected = [(x.name, close(x.fraction)) for x in answer.areas]
            assert [(x["name"], x["fraction"]) for x in row["areas"]] == expected
            with Image.open(masks / row["mask"]) as mask:
                assert np.array_equal(np.asarray(mask), mask_of(answer))
    assert len({row["mask"] for row in rows}) == len(rows)


def test_embeddings_are_lists_of_one_length(images: Path, score: Score, tmp_path: Path) -> None:
    score(images, tmp_path / "out", model="points")
    table = table_of_folder(tmp_path / "out")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    points = [x for x in table["embedding"].to_pylist() if x is not None]
    assert np.allclose(np.linalg.norm(points, axis=1), 1)
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert len(table) == COUNT + 3 == len(points) + 1


def test_the_table_says_what_it_comes_from(images: Path, score: Score, tmp_path: Path) -> None:
    score(images, tmp_path / "out.parquet")
    facts = facts_of(tmp_path / "out.parquet")
    assert (facts["source"], facts["images"]) == (str(images), COUNT + 3)
    assert (
        facts["identity"].items() >= {"model": "colours", "version": "1", "variant": "fp32"}.items()
    )
    assert len(facts["identity"]["sha256"]) == len(facts["listing"]) == 64


def test_images_in_tar_files_are_scored_as_those_beside_each_other(
    images: Path, score: Score, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for file in sorted((images / f"f{number}").iterdir()):
                tar.add(file, arcname=file.name)
                label = tarfile.TarInfo(f"{file.stem}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(b"0"))
            tar.addfile(tarfile.TarInfo("scan.tif"))
    source = open_source(str(shards), shards=True)
    score(source, tmp_path / "out.parquet")
    assert source.left_out.counts == {".tif": 3}  # and no label
    score(images, tmp_path / "folder.parquet")
    inside = {
        row["image"].replace(".tar", ""): row["score"] for row in rows_of(tmp_path / "out.parquet")
    }
    beside = {row["image"]: row["score"] for row in rows_of(tmp_path / "folder.parquet")}
    assert len(inside) == COUNT
    assert all(beside[f"f{name}"] == score for name, score in inside.items())


def test_masks_among_the_images_are_refused(images: Path, score: Score, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="lies in the folder of the images"):
        score(images, tmp_path / "o.parquet", model="regions", masks=images / "masks")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "mine.png").touch()
    with pytest.raises(ScoringError, match="expected an empty folder"):
        score(images, tmp_path / "o.parquet", model="regions", masks=tmp_path / "masks")
    with pytest.raises(ScoringError, match="colours is for classification"):
        score(images, tmp_path / "o.parquet", masks=tmp_path / "others")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["masks"]
