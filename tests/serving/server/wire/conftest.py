"""A wire as the settings have it."""

from collections.abc import Iterator

import pytest

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.config_sources import load_config
from serving.server.wire.interface import Limits, Wire
from serving.server.wires import wire_for
from tests.support.wired import Wired, wired


def make(_: Limits, budget: MemoryBudget, copies: Copies, metrics: FrontMetrics) -> Wire:
    return wire_for(load_config({"model_repository": "."}), budget, copies, metrics)


@pytest.fixture(scope="module")
def server(wire: str) -> Iterator[Wired]:
    with wired(make) as running:
        assert running.wire.name == wire
        yield running
