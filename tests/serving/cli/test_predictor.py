"""A command waits for a model that its server is about to load, and for nothing else."""

import asyncio
import socket
from typing import Any

import pytest

from serving.cli import predictor
from serving.client import CallFailed
from serving.models.catalogue import WAITING


class Starting:
    """A server that fails with each of some messages before it answers."""

    def __init__(self, *messages: str, code: str = "UNAVAILABLE") -> None:
        self.messages = list(messages)
        self.code = code

    async def model_info(self, model: str) -> str:
        if self.messages:
            raise CallFailed(self.code, self.messages.pop(0))
        return model


def info(client: Any) -> object:
    return asyncio.run(predictor.model_info(client, "flowers", "localhost:1"))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "_AGAIN", 0.0)


def test_a_model_is_waited_for_until_it_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    ready = "model 'flowers' is not ready: "
    client = Starting("Connection refused", ready + WAITING, ready + "version 1: LOADING")
    assert info(client) == "flowers"
    assert capsys.readouterr().err == "convserve: waiting for flowers on localhost:1\n"


def test_a_model_that_does_not_load_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    client = Starting("model 'flowers' is not ready: version 1: its file was changed", "again")
    with pytest.raises(CallFailed, match="its file was changed"):
        info(client)
    assert client.messages == ["again"]
    assert not capsys.readouterr().err


def test_a_server_that_never_listens_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "_LISTENING", -1.0)
    with pytest.raises(CallFailed, match="Connection refused"):
        info(Starting("Connection refused", "again"))


def test_a_caller_who_has_to_wait_waits(capsys: pytest.CaptureFixture[str]) -> None:
    assert info(Starting("1 call a second", code="RESOURCE_EXHAUSTED")) == "flowers"
    assert capsys.readouterr().err == "convserve: waiting for flowers on localhost:1\n"


def test_nobody_at_an_address_is_told_after_one_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictor, "_LISTENING", -1.0)
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{closed.getsockname()[1]}"

        async def look() -> None:
            async with asyncio.timeout(20), predictor.open_predictor("flowers", url, None):
                pass  # tries of its own would take a minute

        said = f"UNAVAILABLE: no server at {url}; expected HOST:PORT of its gRPC port: "
        with pytest.raises(CallFailed, match=said):
            asyncio.run(look())
