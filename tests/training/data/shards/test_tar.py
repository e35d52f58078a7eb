"""Tar files of others, which may be hostile."""

import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.shards.tables import Layout, as_bytes, parsed, scan
from training.data.shards.tar import BLOCK, members
from training.data.storage.store import Store
from training.errors import DataError


def info(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def archive(*files: tuple[str, bytes] | tarfile.TarInfo, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:  # type: ignore[call-overload]
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file)
            else:
                tar.addfile(info(file[0], len(file[1])), io.BytesIO(file[1]))
    return buffer.getvalue()


def read(data: bytes) -> list[tuple[str, bytes]]:
    found = members(lambda start, end: data[start:end], len(data), "x.tar")
    return [(member.name, data[member.offset : member.offset + member.size]) for member in found]


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(tmp_path: Path, data: bytes, *, masks: bool = False, skip: bool = False):  # type: ignore[no-untyped-def]
    file = tmp_path / "x.tar"
    file.write_bytes(data)
    return scan(Store(), str(file), len(data), Layout(masks=masks, skip=skip))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_wrote(kind: int) -> None:
    files = [
        ("a/b.jpg", b"one"),
        ("long/" * 25 + "c.jpg", bytes(700)),
        ("d.cls", b""),
    ]
    if kind != tarfile.USTAR_FORMAT:
        files.append(("ü" * 120 + ".jpg", b"four"))
    assert read(archive(*files, format=kind)) == files


def test_member_with_a_pax_header_for_its_time_is_read() -> None:
    stamped = info("a.jpg", mtime=1.5, pax_headers={"comment": "x"})
    assert read(archive(stamped, ("b.jpg", b"2"))) == [("a.jpg", b""), ("b.jpg", b"2")]


def test_archive_without_end_blocks_is_read() -> None:
    data = archive(("a.jpg", b"1"))
    assert read(data[: 2 * BLOCK]) == [("a.jpg", b"1")]
    assert read(data[: BLOCK + 1]) == [("a.jpg", b"1")]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (info("a.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a.jpg is a symbolic link"),
        (info("a.jpg", type=tarfile.LNKTYPE, linkname="b.jpg"), "a.jpg is a hard link"),
        (info("a.jpg", type=tarfile.BLKTYPE), "a.jpg is a device"),
        (info("a.jpg", type=tarfile.FIFOTYPE), "a.jpg is a pipe"),
        (info("a.jpg", type=tarfile.GNUTYPE_SPARSE), "a.jpg is a sparse file"),
        (info("a.jpg", pax_headers={"GNU.sparse.realsize": "9" * 15}), "a.jpg is a sparse file"),
        (info("a.jpg", type=b"q"), "a.jpg is of the unknown kind b'q'"),
        (info("a.jpg", pax_headers={"comment": "x" * 70_000}), "extended headers of 70,0.. bytes"),
        (info("a.jpg", pax_headers={"size": "9" * 18}), "is cut off: a.jpg ends at byte 1,000,000"),
    ],
)
def test_hostile_member_is_named(member: tarfile.TarInfo, reason: str) -> None:
    if member.pax_headers.get("size"):
        # tarfile writes a size of its own; a record of the same length takes its place.
        data = archive(info("a.jpg", pax_headers={"sizf": "9" * 18})).replace(b"sizf", b"size")
    else:
        data = archive(member)
    with pytest.raises(
        DataError, match=r"^x\.tar: .*" + reason.replace(".", r"\.").replace(r"\.\.", "..")
    ):
        read(data)


def changed(at: int, text: bytes) -> Callable[[bytes], bytes]:
    """An archive with other bytes in its first header, and the checksum that belongs to them."""

    def change(data: bytes) -> bytes:
        block = bytearray(data[:BLOCK])
        block[at : at + len(text)] = text
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + data[BLOCK:]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"\x1f\x8b" + data[2:], "is compressed"),
        (lambda data: b"\x00" * 7 + data[7:], "no tar header"),
        (lambda data: data[:1000], "is cut off: a.jpg ends at byte 1,512, the file at byte 1,000"),
        (lambda data: data[:100], "is cut off at byte 100, or no tar file"),
        (lambda data: b"", "is cut off at byte 0, or no tar file"),
        (changed(124, b"\x80" + b"\x00" * 3 + b"\xff" * 8), "is cut off: a.jpg ends at byte 18,4"),
        (changed(124, b"-1"), "a member without a size"),
        (changed(124, b"\xff" * 12), "a member without a size"),
        (changed(156, b"x"), "a pax header that cannot be read"),
    ],
)
def test_damaged_archive_is_told(change: Callable[[bytes], bytes], reason: str) -> None:
    data = archive(("a.jpg", b"1" * 1000))
    with pytest.raises(DataError, match=reason):
        read(change(data))


def test_run_of_long_names_ends() -> None:
    one = changed(156, b"L")(archive(("a.jpg", b""))[:BLOCK])
    with pytest.raises(DataError, match="more than 4 in a row"):
        read(one * 9)


def test_headers_that_claim_much_take_no_memory() -> None:
    block = changed(124, b"%011o\0" % (7 << 30))(archive(info("a", type=b"x")))[:BLOCK]

    def large(start: int, end: int) -> bytes:
        assert end - start <= BLOCK
        return block if start == 0 else bytes(end - start)

    tracemalloc.start()
    with pytest.raises(DataError, match="extended headers of 7,516,192,768 bytes"):
        list(members(large, 8 << 30, "x.tar"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_names_lead_nowhere(tmp_path: Path) -> None:
    image = picture()
    data = archive(
        ("../../x.png", image), ("../../x.cls", b"3"), ("/y.png", image), ("/y.cls", b"1")
    )
    found = table(tmp_path, data)
    assert list(found.keys) == ["../../x", "/y"]
    assert list(found.labels) == ["#3", "#1"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["x.tar"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("k.png", b"1")], r"x\.tar: k: no label; expected \.cls, \.json, \.txt"),
        ([("k.cls", b"1")], r"x\.tar: k: no image"),
        ([("k.png", b"1"), ("k.jpg", b"1"), ("k.cls", b"1")], "k: 2 images"),
        ([("k.png", b"1"), ("k.cls", b"-1"), ("j.png", b"1")], "j: no label"),
        ([("k.png", b"1"), ("k.cls", b"\xff\xfe")], "k: a label that cannot be read"),
        ([("k.png", b"1"), ("k.cls", b"")], "k: a label that is empty"),
        ([("k.png", b"1"), ("k.cls", b"9" * 20)], "k: label 99999999999999999999: expected a num"),
        ([("k.png", b"1"), ("k.json", b"[" * 60_000)], "k: a label that cannot be read"),
        ([("k.png", b"1"), ("k.json", b'{"x": 1}')], "k: a .json without a class"),
        ([("k.png", b"1"), ("k.cls", bytes(70_000))], "k: a file of 70,000 bytes"),
        ([("k.png", b"1"), ("l.cls", b"1")], "k: no label"),
    ],
)
def test_sample_that_cannot_be_used_is_named(
    tmp_path: Path, files: list[tuple[str, bytes]], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        table(tmp_path, archive(*files))


def test_bad_samples_are_left_out_where_the_recipe_says_so(tmp_path: Path) -> None:
    files = [("a.png", b"1"), ("b.png", b"1"), ("b.cls", b"0"), ("c.cls", b"1")]
    found = table(tmp_path, archive(*files), skip=True)
    assert (list(found.keys), found.bad) == (["b"], 2)


def test_labels_come_from_cls_json_or_txt(tmp_path: Path) -> None:
    files = [
        ("a.png", b"1"), ("a.cls", b"7\n"), ("a.txt", b"a cat on a mat"),
        ("b.png", b"1"), ("b.json", b'{"label": "cat", "width": 3}'),
        ("c.png", b"1"), ("c.json", b'{"class": 2}'),
        ("d.jpg", b"1"), ("d.txt", b"dog\n"),
        ("__meta.json", b"{}"), ("README", b"x"),
    ]  # fmt: skip
    found = table(tmp_path, archive(*files, info("folder/", type=tarfile.DIRTYPE)))
    assert [found.labels[row["label"]] for row in found.rows] == ["#7", "=cat", "#2", "=dog"]


def test_masks_are_no_images(tmp_path: Path) -> None:
    files = [("a.seg.png", b"12"), ("a.png", b"3"), ("b.jpg", b"4"), ("b.mask.png", b"567")]
    found = table(tmp_path, archive(*files), masks=True)
    assert found.rows[["image_size", "mask_size"]].tolist() == [(1, 2), (1, 3)]


def test_table_is_kept_as_it_is_and_damage_is_noticed(tmp_path: Path) -> None:
    data = archive(("a.png", b"1"), ("a.cls", b"3"), ("b.png", b"1"), ("b.cls", b"4"))
    found = table(tmp_path, data)
    kept = as_bytes(found)
    again = parsed(kept, len(data), "x.idx")
    assert (again.rows == found.rows).all()
    assert list(again.keys) == ["a", "b"]
    head = kept.index(b"\n") + 1
    for wrong in (
        kept[:-3],
        kept[:10],
        kept.replace(b'"images": 2', b'"images": 9'),
        kept.replace(b'"images": 2', b'"images": -1'),
        kept[:head] + b"\xff" * 8 + kept[head + 8 :],
        kept[:head] + b"\x7f" * 12 + kept[head + 12 :],
        b"[" * 100_000,
    ):
        with pytest.raises(DataError, match=r"x\.idx: is damaged"):
            parsed(wrong, len(data), "x.idx")


def test_folder_with_a_size_hides_no_member() -> None:
    folder = info("a", size=1 << 20, type=tarfile.DIRTYPE)
    assert read(archive(folder, ("a/b.jpg", b"one"))) == [("a/b.jpg", b"one")]
