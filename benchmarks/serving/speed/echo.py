"""The floor of a grpc.aio front: answers ModelInfer and ModelStreamInfer at once with fixed bytes,
neither parsed nor built.

    python -m benchmarks.serving.speed.echo SIDE

Prints its port, serves until its stdin closes.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import uvloop

from protos.gen import grpc_service_pb2 as pb

_SERVICE = "inference.GRPCInferenceService"
CLASSES = 3


def _answer() -> pb.ModelInferResponse:
    answer = pb.ModelInferResponse(model_name="echo", model_version="1")
    answer.outputs.add(name="logits", datatype="FP32", shape=[1, CLASSES])
    answer.raw_output_contents.append(np.zeros(CLASSES, np.float32).tobytes())
    return answer


_UNARY = _answer().SerializeToString()
_STREAMED = pb.ModelStreamInferResponse(infer_response=_answer()).SerializeToString()


def _metadata(side: int) -> bytes:
    answer = pb.ModelMetadataResponse(name="echo", versions=["1"])
    answer.inputs.add(name="image", datatype="UINT8", shape=[-1, side, side, 3])
    answer.outputs.add(name="logits", datatype="FP32", shape=[-1, CLASSES])
    return answer.SerializeToString()


def _fixed(answer: bytes) -> Any:
    async def handler(request: bytes, context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(handler)


async def _stream_infer(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for _ in requests:
        yield _STREAMED


@contextlib.contextmanager
def running_echo(side: int) -> Iterator[tuple[str, int]]:
    """Its address, and its process."""
    command = [sys.executable, "-m", "benchmarks.serving.speed.echo", str(side)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}", process.pid
        finally:
            process.kill()


async def _serve(side: int) -> None:
    server = grpc.aio.server()
    handlers = {
        # What a load generator asks before it begins.
        "ServerLive": _fixed(pb.ServerLiveResponse(live=True).SerializeToString()),
        "ModelMetadata": _fixed(_metadata(side)),
        "ModelInfer": _fixed(_UNARY),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(_stream_infer),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
