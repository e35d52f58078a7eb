"""Fixtures of the deployment tests."""

import pytest

from tests.helm.containers import Containers


@pytest.fixture(scope="session")
def containers() -> Containers:
    """Real images and containers on this machine."""
    return Containers()
