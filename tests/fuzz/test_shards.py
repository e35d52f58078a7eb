"""Whatever bytes come as a shard or its table are samples within it, or refused."""

import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings

from tests.fuzz.changed import changed, check_text
from tests.support.mutation import changed_bytes
from training.data.shards.tables import Layout, as_bytes, parsed, scan
from training.data.storage.store import Store
from training.errors import DataError


def _shard(kind: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, content in (
            ("a/b.jpg", b"one"), ("a/b.cls", b"3"), ("c" * 120 + ".png", b"two"),
            ("c" * 120 + ".json", b'{"label": "x"}'), ("d.jpg", b"4"), ("d.seg.png", b"5"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5  # type: ignore[assignment]
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()[:8192]


SHARDS = [_shard(kind) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


@settings(settings.get_profile("fuzz"))
@given(changed(SHARDS, changed_bytes))
def test_shard_is_samples_within_it_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "x.tar"
        file.write_bytes(data)
        for masks in (False, True):
            try:
                table = scan(Store(), str(file), len(data), Layout(masks, skip=True))
            except DataError as error:
                check_text(error)
                continue
            rows = table.rows
            assert (rows["image"] + rows["image_size"].astype(int) <= len(data)).all()
            assert (parsed(as_bytes(table), len(data), "x.idx").rows == rows).all()
        assert [path.name for path in Path(place).iterdir()] == ["x.tar"]


def _table() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "x.tar"
        file.write_bytes(SHARDS[0])
        return as_bytes(scan(Store(), str(file), len(SHARDS[0]), Layout(masks=False, skip=True)))


@settings(settings.get_profile("fuzz"))
@given(changed([_table()], changed_bytes))
def test_table_lies_within_its_shard_or_is_refused(data: bytes) -> None:
    try:
        table = parsed(data, 8192, "x.idx")
    except DataError as error:
        check_text(error)
        return
    rows = table.rows
    assert (rows["image"] >= 512).all()
    assert (rows["image"] + rows["image_size"].astype(int) <= 8192).all()
    assert len(table.keys) == len(rows)
