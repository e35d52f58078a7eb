"""Regions of shared memory, whatever callers do to the objects behind them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.base.errors import InvalidInput
from serving.server.endpoints.shared_memory import Place, Region, SharedMemory

SIZE = 8192


@pytest.fixture
def file() -> Iterator[Path]:
    """A shared memory object of SIZE bytes; its name is its key."""
    path = Path(f"/dev/shm/convserve-test-{os.getpid()}")
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def memory(file: Path) -> Iterator[SharedMemory]:
    """The object as the region "r"."""
    memory = SharedMemory()
    memory.register("r", f"/{file.name}", 0, SIZE)
    yield memory
    memory.unregister("")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_tensor_is_read_and_written_at_its_place(memory: SharedMemory, file: Path) -> None:
    assert memory.read(Place("r", 4097, 3)) == b"\x01\x02\x03"
    memory.write(Place("r", 4096, 8), b"abc")
    assert memory.read(Place("r", 4096, 4)) == b"abc\x03"
    assert file.read_bytes()[4096:4100] == b"abc\x03"


def test_region_begins_at_its_offset(memory: SharedMemory, file: Path) -> None:
    memory.register("behind", file.name, 4096, 4096)
    memory.write(Place("behind", 1, 1), b"x")
    assert file.read_bytes()[4097:4098] == b"x"
    assert memory.regions("behind") == [Region("behind", file.name, 4096, 4096)]


@pytest.mark.parametrize("left", [0, 100, 4096, SIZE - 1])
def test_object_that_was_cut_short_is_bad_input(
    left: int, memory: SharedMemory, file: Path
) -> None:
    os.truncate(file, left)
    with pytest.raises(InvalidInput, match=f"which was cut to {left}"):
        memory.read(Place("r", 4096, 4096))
    with pytest.raises(InvalidInput, match=f"which was cut to {left}"):
        memory.write(Place("r", 4096, 4096), bytes(4096))
    assert file.stat().st_size == left


def test_object_that_is_cut_short_while_it_is_written_harms_nobody(
    memory: SharedMemory, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def cut_first(descriptor: int, data: memoryview, begin: int) -> int:
        os.truncate(file, 100)
        return write(descriptor, data[:1000], begin)

    monkeypatch.setattr("os.pwrite", cut_first)
    memory.write(Place("r", 4096, 4096), bytes(4096))


def test_full_memory_is_bad_input(memory: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(InvalidInput, match="region 'r' cannot be written: No space left"):
        memory.write(Place("r", 0, 4), bytes(4))


def test_region_outlives_the_name_of_its_object(memory: SharedMemory, file: Path) -> None:
    file.unlink()
    file.write_bytes(b"another")
    assert memory.read(Place("r", 1, 2)) == b"\x01\x02"
    memory.write(Place("r", 0, 1), b"x")
    assert file.read_bytes() == b"another"


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (-4096, SIZE),
        (-1, 1),
        (-(10**30), 1),
        (10**30, 1),
        (2**63, 2**63),
        (0, 0),
        (0, -1),
        (0, -(10**30)),
        (0, 10**30),
        (SIZE, 1),
        (1, SIZE),
    ],
)
def test_region_outside_its_object_is_refused(
    offset: int, size: int, memory: SharedMemory, file: Path
) -> None:
    before = open_descriptors()
    with pytest.raises(InvalidInput, match="shared memory region 'new'") as refusal:
        memory.register("new", file.name, offset, size)
    assert len(str(refusal.value)) < 300
    assert [region.name for region in memory.regions()] == ["r"]
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("offset", "size"), [(-1, 4), (-(10**30), 4), (0, -1), (0, SIZE + 1), (10**30, 1), (0, 10**30)]
)
def test_place_outside_its_region_is_refused(offset: int, size: int, memory: SharedMemory) -> None:
    with pytest.raises(InvalidInput, match=r"asked for, shared memory region 'r' has 8192"):
        memory.read(Place("r", offset, size))
    if size >= 0:
        with pytest.raises(InvalidInput, match=r"asked for, shared memory region 'r' has 8192"):
            memory.write(Place("r", offset, size), b"")


@pytest.mark.parametrize(
    "key",
    ["", "/", ".", "..", "/..", "a/b", "//a", "/dev/zero", "../etc/passwd", "a\0b", "x" * 10_000],
)
def test_key_that_is_no_name_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected the name|cannot be opened") as refusal:
        SharedMemory().register("r", key, 0, 1)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("kind", ["nothing", "folder", "fifo", "link", "socket", "surrogate"])
def test_only_a_shared_memory_object_can_be_a_region(kind: str, file: Path) -> None:
    path = file.with_name(f"{file.name}-{kind}")
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/dev/zero")
        case "socket":
            os.mknod(path, 0o140600)
        case "surrogate":
            path = path.with_name("\ud800")
    before = open_descriptors()
    try:
        with pytest.raises(InvalidInput, match=r"expected the name|cannot be opened"):
            SharedMemory().register("r", f"/{path.name}", 0, 1)
        assert open_descriptors() == before
    finally:
        if kind == "folder":
            path.rmdir()
        elif kind != "surrogate":
            path.unlink(missing_ok=True)


def test_unregistering_closes_the_objects(file: Path) -> None:
    memory = SharedMemory()
    before = open_descriptors()
    for name in ("a", "b", "c"):
        memory.register(name, file.name, 0, SIZE)
    memory.unregister("a")
    memory.unregister("a")
    assert [region.name for region in memory.regions()] == ["b", "c"]
    memory.unregister("")
    assert memory.regions() == []
    assert open_descriptors() == before


def test_region_without_a_name_is_refused(memory: SharedMemory, file: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a name"):
        memory.register("", file.name, 0, SIZE)
    assert [region.name for region in memory.regions()] == ["r"]
