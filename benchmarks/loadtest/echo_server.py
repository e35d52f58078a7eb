"""A grpc.aio server that answers Classify and ClassifyStream at once with one fixed answer.

Prints its port, serves until its stdin closes.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from protos.gen import vision_pb2 as pb

SERVICE = "convserve.vision.v1.VisionService"
ANSWER = pb.ClassifyResponse(
    served=pb.Served(model="echo", version="1", variant="fp32"),
    results=[
        pb.Classification(
            timing=pb.Timing(
                decode_us=900, queue_us=400, infer_us=2500, postprocess_us=30, batch_size=8
            ),
            labels=[pb.Label(index=i, name=f"class {i}", score=0.2) for i in range(5)],
        )
    ],
).SerializeToString()


async def _classify(request: bytes, context: Any) -> bytes:
    return ANSWER


async def _classify_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for _ in requests:
        yield ANSWER


async def main() -> None:
    """Serves."""
    server = grpc.aio.server()
    handlers = {
        "Classify": grpc.unary_unary_rpc_method_handler(_classify),
        "ClassifyStream": grpc.stream_stream_rpc_method_handler(_classify_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
