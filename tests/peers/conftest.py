"""Fixtures and the marker of the tests against other servers."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """`peer` needs another server's binary."""
    config.addinivalue_line("markers", "peer: needs NVIDIA Triton (tests/peers/triton.py)")
