"""Whatever a caller says of shared memory, it reads and writes bytes of its own region or is
refused."""

import asyncio
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.base.errors import InvalidInput
from serving.base.turns import Turns
from serving.server.endpoints.shared_memory import Place, SharedMemory
from tests.fuzz.changed import check_text
from tests.support.mutation import EXTREMES

SIZE = 64
PREFIX = "convserve-fuzz"
OWNER = "somebody"
_ROOT = Path("/dev/shm")
NUMBERS = st.one_of(st.integers(-2, SIZE + 2), st.sampled_from(EXTREMES))


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    """The name of an object of SIZE bytes."""
    name = f"{PREFIX}-{uuid.uuid4().hex[:8]}"
    (_ROOT / name).write_bytes(bytes(SIZE))
    yield name
    (_ROOT / name).unlink()


@settings(settings.get_profile("fuzz"))
@given(
    start=NUMBERS,
    size=NUMBERS,
    offset=NUMBERS,
    count=NUMBERS,
    left=st.integers(0, SIZE),
    data=st.binary(max_size=SIZE),
)
@example(start=0, size=SIZE, offset=0, count=SIZE, left=0, data=b"x")
@example(start=0, size=SIZE, offset=-4, count=4, left=SIZE, data=b"x")
@example(start=8, size=8, offset=-4, count=4, left=SIZE, data=b"x")
@example(start=0, size=1 << 70, offset=0, count=4, left=SIZE, data=b"")
@example(start=4, size=8, offset=4, count=8, left=SIZE, data=b"12345678")
def test_a_tensor_lies_in_its_region_or_is_refused(
    key: str, start: int, size: int, offset: int, count: int, left: int, data: bytes
) -> None:
    whole = bytes(range(SIZE))
    (_ROOT / key).write_bytes(whole)
    memory = SharedMemory(PREFIX)
    taken: list[int] = []
    try:
        memory.register(OWNER, "r", key, start, size)
        os.truncate(_ROOT / key, left)
        expected = bytearray(whole[:left])
        begin = start + offset
        place = Place("r", offset, count)
        try:
            assert (
                asyncio.run(memory.read(OWNER, place, taken.append, Turns()))
                == expected[begin : begin + count]
            )
            assert 0 <= offset <= offset + count <= size
            assert taken == [count]
            assert count == 0 or begin + count <= left
        except InvalidInput:
            pass
        try:
            asyncio.run(memory.write(OWNER, place, data, Turns()))
            assert len(data) <= count
            expected[begin : begin + len(data)] = data
        except InvalidInput:
            pass
        with pytest.raises(InvalidInput):
            asyncio.run(memory.read("somebody else", place, taken.append, Turns()))
        assert (_ROOT / key).read_bytes() == expected
    except InvalidInput as error:
        check_text(error)
    finally:
        memory.unregister(OWNER, "")


@settings(settings.get_profile("fuzz"))
@given(name=st.text(max_size=300), key=st.text(max_size=300))
@example(name="a", key="../etc/passwd")
@example(name="a", key="/proc/self/mem")
@example(name="a", key="a\0b")
@example(name="\ud800", key="\ud800")
@example(name="a" * 300, key="a" * 5000)
@example(name="", key=".")
@example(name="a", key=f"{PREFIX}/../a")
def test_a_key_that_names_no_object_is_refused(name: str, key: str) -> None:
    memory = SharedMemory(PREFIX)
    before = _descriptors()
    try:
        with pytest.raises(InvalidInput) as refused:
            memory.register(OWNER, name, key, 0, 1)
        assert len(str(refused.value)) < 2000
    finally:
        memory.unregister(OWNER, "")
    assert _descriptors() == before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
