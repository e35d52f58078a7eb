"""Tries and failures of a call."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status

from protos.gen import vision_pb2 as pb
from serving.client import AsyncVisionClient, CallFailed, VisionClient
from serving.client.calls import Tries, failed, retry_after


def error_with(details: bytes) -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", details))
    return grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailers)


@pytest.mark.parametrize("code", [-1, 17, 99, 2**31 - 1])
def test_unknown_status_number_is_unknown(code: int) -> None:
    assert failed(pb.Status(code=code, message="odd")).code == "UNKNOWN"


def test_details_that_cannot_be_read_name_no_delay() -> None:
    broken = Status()
    broken.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")
    assert retry_after(error_with(b"\xff\xff")) is None
    assert retry_after(error_with(broken.SerializeToString())) is None


async def refused(left: float) -> None:
    raise CallFailed("UNAVAILABLE", "later", retry_after=0.01)


def test_no_try_begins_once_the_client_is_closed() -> None:
    async def body() -> None:
        tries = Tries(10.0, retries=1000)
        call = asyncio.create_task(tries.run(refused))
        await asyncio.sleep(0)
        tries.close()
        with pytest.raises(CallFailed, match="CANCELLED: the client was closed"):
            await call

    asyncio.run(body())


def test_caller_who_is_cancelled_is_cancelled_though_the_client_is_closed() -> None:
    async def body() -> None:
        tries = Tries(10.0, retries=0)
        forever: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call = asyncio.create_task(tries.run(lambda left: forever))
        await asyncio.sleep(0)
        tries.close()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(body())


class Nonsense(grpc.GenericRpcHandler):
    """Answers every unary method with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def service(self, handler_call_details: Any) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            return self.answer

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\xff\xff", "cannot be read"),
        (b"", "expected 1 results of the server, got 0"),
        (pb.ClassifyResponse(results=[pb.Classification()] * 2).SerializeToString(), "got 2"),
    ],
)
def test_answer_that_is_none_fails_as_internal(answer: bytes, said: str) -> None:
    async def body() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Nonsense(answer),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with AsyncVisionClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(CallFailed, match=said) as failure:
                await client.classify("m", b"x")
            assert failure.value.code == "INTERNAL"
            if said == "cannot be read":
                for call in (client.models(), client.model_info("m")):
                    with pytest.raises(CallFailed, match=said):
                        await call
        await server.stop(0)

    asyncio.run(body())


def test_call_of_a_closed_client_says_so() -> None:
    async def body() -> None:
        client = AsyncVisionClient("127.0.0.1:1")
        await client.close()
        for call in (client.classify("m", b"x"), client.models()):
            with pytest.raises(CallFailed, match="the client was closed"):
                await call
        [(_, answer)] = [pair async for pair in client.classify_many("m", [b"x"])]
        assert isinstance(answer, CallFailed)
        assert answer.code == "CANCELLED"

    asyncio.run(body())


def test_message_over_the_limit_is_refused_before_it_is_sent() -> None:
    with (
        VisionClient("127.0.0.1:1", max_message_mib=1) as client,
        pytest.raises(CallFailed, match=r"a message of \d+ bytes: .* allows 1048576") as failure,
    ):
        client.classify("m", bytes(1 << 20))
    assert failure.value.code == "INVALID_ARGUMENT"
