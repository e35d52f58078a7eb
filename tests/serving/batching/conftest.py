"""What the tests of the batcher share."""

from collections.abc import Callable, Iterator

import pytest

from tests.serving.batching.house import House


@pytest.fixture
def house() -> Iterator[Callable[[], House]]:
    """Builds houses, and closes them behind the test."""
    built: list[House] = []

    def build() -> House:
        built.append(House())
        return built[-1]

    yield build
    for one in built:
        one.close()
