"""Regions of shared memory, whatever callers do to the objects behind them."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from serving.base.errors import InvalidInput, QueueFull
from serving.base.turns import Turns
from serving.server.endpoints.shared_memory import MOST_REGIONS, Place, Region, SharedMemory

SIZE = 8192
LONG = 1 << 20
ZEROS = bytes(LONG)
ME = "socket"


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
    memory = SharedMemory("convserve-test")
    memory.register(ME, "r", f"/{file.name}", 0, SIZE)
    yield memory
    memory.unregister(ME, "")


def read(
    memory: SharedMemory,
    place: Place,
    take: Callable[[int], None] = lambda _: None,
    owner: str = ME,
) -> memoryview:
    return asyncio.run(memory.read(owner, place, take, Turns()))


def write(memory: SharedMemory, place: Place, data: bytes, owner: str = ME) -> None:
    asyncio.run(memory.write(owner, place, data, Turns()))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_tensor_is_read_and_written_at_its_place(memory: SharedMemory, file: Path) -> None:
    assert read(memory, Place("r", 4097, 3)) == b"\x01\x02\x03"
    write(memory, Place("r", 4096, 8), b"abc")
    assert read(memory, Place("r", 4096, 4)) == b"abc\x03"
    assert file.read_bytes()[4096:4100] == b"abc\x03"


def test_region_begins_at_its_offset(memory: SharedMemory, file: Path) -> None:
    memory.register(ME, "behind", file.name, 4096, 4096)
    write(memory, Place("behind", 1, 1), b"x")
    assert file.read_bytes()[4097:4098] == b"x"
    assert memory.regions(ME, "behind") == [Region("behind", file.name, 4096, 4096)]


@pytest.mark.parametrize("left", [0, 100, 4096, SIZE - 1])
def test_object_that_was_cut_short_is_bad_input(
    left: int, memory: SharedMemory, file: Path
) -> None:
    os.truncate(file, left)
    with pytest.raises(InvalidInput, match=f"which was cut to {left}"):
        read(memory, Place("r", 4096, 4096))
    with pytest.raises(InvalidInput, match=f"which was cut to {left}"):
        write(memory, Place("r", 4096, 4096), bytes(4096))
    assert file.stat().st_size == left


def test_object_that_is_cut_short_while_it_is_written_harms_nobody(
    memory: SharedMemory, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def cut_first(descriptor: int, data: memoryview, begin: int) -> int:
        os.truncate(file, 100)
        return pwrite(descriptor, data[:1000], begin)

    monkeypatch.setattr("os.pwrite", cut_first)
    with pytest.raises(InvalidInput, match="which was cut to 5096"):
        write(memory, Place("r", 4096, 4096), bytes(4096))


@pytest.fixture
def long_region(memory: SharedMemory, file: Path) -> Place:
    """A megabyte as the region "long"."""
    file.write_bytes(os.urandom(LONG))
    memory.register(ME, "long", file.name, 0, LONG)
    return Place("long", 0, LONG)


def test_others_have_their_turns_while_a_long_tensor_is_read_and_written(
    memory: SharedMemory, file: Path, long_region: Place
) -> None:
    async def work() -> None:
        turns = Turns()
        for begun in (
            memory.read(ME, long_region, lambda _: None, turns),
            memory.write(ME, long_region, ZEROS, turns),
        ):
            rounds = 0
            task = asyncio.create_task(begun)
            while not task.done():
                await asyncio.sleep(0)
                rounds += 1
            assert rounds >= LONG >> 18
            results.append(task.result())

    results: list[memoryview | None] = []
    before = file.read_bytes()
    asyncio.run(work())
    assert results == [before, None]
    assert file.read_bytes() == ZEROS


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another"])
def test_region_that_is_unregistered_while_it_is_in_use_fails_the_call_alone(
    memory: SharedMemory, file: Path, long_region: Place, again: bool
) -> None:
    async def work(begun: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(begun)
        await asyncio.sleep(0)
        memory.unregister(ME, "long")
        # The descriptor's number is used again.
        memory.register(ME, "long" if again else "other", file.name, 0, LONG)
        with pytest.raises(InvalidInput, match="region 'long' was unregistered"):
            await task

    turns = Turns()
    asyncio.run(work(memory.read(ME, long_region, lambda _: None, turns)))
    memory.unregister(ME, "")
    memory.register(ME, "long", file.name, 0, LONG)
    asyncio.run(work(memory.write(ME, long_region, ZEROS, turns)))
    assert file.read_bytes() != ZEROS


def test_full_memory_is_bad_input(memory: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(InvalidInput, match="region 'r' cannot be written: No space left"):
        write(memory, Place("r", 0, 4), bytes(4))


def test_region_outlives_the_name_of_its_object(memory: SharedMemory, file: Path) -> None:
    file.unlink()
    file.write_bytes(b"another")
    assert read(memory, Place("r", 1, 2)) == b"\x01\x02"
    write(memory, Place("r", 0, 1), b"x")
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
        memory.register(ME, "new", file.name, offset, size)
    assert len(str(refusal.value)) < 300
    assert [region.name for region in memory.regions(ME)] == ["r"]
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("offset", "size"), [(-1, 4), (-(10**30), 4), (0, -1), (0, SIZE + 1), (10**30, 1), (0, 10**30)]
)
def test_place_outside_its_region_is_refused(offset: int, size: int, memory: SharedMemory) -> None:
    with pytest.raises(InvalidInput, match=r"asked for, shared memory region 'r' has 8192"):
        read(memory, Place("r", offset, size))
    if size >= 0:
        with pytest.raises(InvalidInput, match=r"asked for, shared memory region 'r' has 8192"):
            write(memory, Place("r", offset, size), b"")


@pytest.mark.parametrize(
    "key",
    ["", "/", ".", "..", "/..", "a/b", "//a", "/dev/zero", "../etc/passwd", "a\0b", "x" * 10_000],
)
def test_key_that_is_no_name_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected the name|cannot be opened") as refusal:
        SharedMemory("convserve-test").register(ME, "r", key, 0, 1)
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
            SharedMemory("convserve-test").register(ME, "r", f"/{path.name}", 0, 1)
        assert open_descriptors() == before
    finally:
        if kind == "folder":
            path.rmdir()
        elif kind != "surrogate":
            path.unlink(missing_ok=True)


def test_unregistering_closes_the_objects(file: Path) -> None:
    memory = SharedMemory("convserve-test")
    before = open_descriptors()
    for name in ("a", "b", "c"):
        memory.register(ME, name, file.name, 0, SIZE)
    memory.unregister(ME, "a")
    memory.unregister(ME, "a")
    assert [region.name for region in memory.regions(ME)] == ["b", "c"]
    memory.unregister(ME, "")
    assert memory.regions(ME) == []
    assert open_descriptors() == before


def test_region_without_a_name_is_refused(memory: SharedMemory, file: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a name"):
        memory.register(ME, "", file.name, 0, SIZE)
    assert [region.name for region in memory.regions(ME)] == ["r"]


def test_region_is_there_for_its_owner_alone(memory: SharedMemory, file: Path) -> None:
    place = Place("r", 0, 1)
    assert memory.regions("token") == []
    with pytest.raises(InvalidInput, match="no shared memory region 'r' is registered"):
        memory.regions("token", "r")
    with pytest.raises(InvalidInput, match="no shared memory region 'r' is registered"):
        read(memory, place, owner="token")
    with pytest.raises(InvalidInput, match="no shared memory region 'r' is registered"):
        write(memory, place, b"x", owner="token")
    memory.register("token", "r", file.name, 1, 1)
    memory.unregister("token", "")
    memory.unregister("token", "r")
    assert read(memory, place) == b"\0"


def test_regions_and_their_names_are_bounded(file: Path) -> None:
    memory = SharedMemory("convserve-test")
    before = open_descriptors()
    with pytest.raises(InvalidInput, match="up to 255 characters"):
        memory.register(ME, "x" * 256, file.name, 0, 1)
    for number in range(MOST_REGIONS):
        memory.register(ME, str(number), file.name, 0, 1)
    for number in range(3):
        with pytest.raises(InvalidInput, match="256 regions are registered"):
            memory.register("token", str(number), file.name, 0, 1)
    assert open_descriptors() == before + MOST_REGIONS
    memory.unregister(ME, "")
    assert open_descriptors() == before


def test_bytes_are_taken_before_they_are_read_and_after_their_place_is_checked(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(size: int) -> None:
        taken.append(size)
        raise QueueFull("full", 1.0)

    taken: list[int] = []
    with pytest.raises(InvalidInput, match="asked for"):
        read(memory, Place("r", 0, 10**30), refuse)
    assert not taken
    monkeypatch.setattr("os.preadv", lambda *_: pytest.fail("was read"))
    with pytest.raises(QueueFull):
        read(memory, Place("r", 0, 100), refuse)
    assert taken == [100]


@pytest.mark.parametrize("key", ["another", "/another", "convserve-tes", "Xconvserve-test"])
def test_key_without_the_prefix_is_refused_before_it_is_opened(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.open", lambda *_: pytest.fail("was opened"))
    with pytest.raises(InvalidInput, match="from 'convserve-test' on"):
        SharedMemory("/convserve-test").register(ME, "r", key, 0, 1)


def test_object_with_a_second_name_is_refused(file: Path) -> None:
    other = file.with_name(f"{file.name}-other")
    other.hardlink_to(file)
    try:
        with pytest.raises(InvalidInput, match="expected the name of an object"):
            SharedMemory("convserve-test").register(ME, "r", file.name, 0, 1)
    finally:
        other.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give an object away")
def test_object_of_another_user_is_refused_although_it_could_be_opened(file: Path) -> None:
    os.chown(file, 10001, 10001)
    before = open_descriptors()
    with pytest.raises(InvalidInput, match="the object is of user 10001, the server runs as 0"):
        SharedMemory("convserve-test").register(ME, "r", file.name, 0, 1)
    assert open_descriptors() == before
