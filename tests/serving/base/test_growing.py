"""Bytes that come in parts."""

import random
import resource

import pytest

from serving.base.growing import Growing

MIB = 1 << 20


@pytest.mark.parametrize("announced", [0, 1000, 8 * MIB])
@pytest.mark.parametrize("size", [0, 1000, 3 * MIB, 8 * MIB])
def test_all_that_was_written_is_taken(announced: int, size: int) -> None:
    dice = random.Random(size)
    data = dice.randbytes(size)
    whole, at = Growing(announced), 0
    while at < size:
        count = min(size - at, dice.randrange(1, 300_000))
        assert whole.write(memoryview(data)[at : at + count]) == count
        at += count
    assert whole.take() == data


def test_one_that_is_announced_grows_where_addresses_are_few() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, hard))
    try:
        whole = Growing(1 << 42)
        for _ in range(3):
            whole.write(bytes(100_000))
        assert whole.take() == bytes(300_000)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
