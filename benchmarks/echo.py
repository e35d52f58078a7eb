"""A server that answers at once with fixed bytes: the floor of a grpc.aio server, and a cheap peer
for the load generator.

    python -m benchmarks.echo [SIDE]

Handlers are generic: they parse no request and build no answer. It answers Classify,
ClassifyStream, ModelInfer and ModelStreamInfer, prints its port, and serves until its stdin closes.
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

from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision

# Height and width of its image input in its metadata, by default.
SIDE = 32
_CLASSES = 3


@contextlib.contextmanager
def echo_server(side: int = SIDE) -> Iterator[str]:
    """Runs it in a process of its own; yields its URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.echo", str(side)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.stdin.close()
        server.wait()


def _unary(answer: bytes) -> Any:
    async def handler(request: bytes, context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(handler)


def _stream(answer: bytes) -> Any:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield answer

    return grpc.stream_stream_rpc_method_handler(handler)


def _vision_handlers() -> dict[str, Any]:
    answer = vision.ClassifyResponse(
        served=vision.Served(model="echo", version="1", variant="fp32"),
        results=[
            vision.Classification(
                timing=vision.Timing(
                    decode_us=900, queue_us=400, infer_us=2500, postprocess_us=30, batch_size=8
                ),
                labels=[vision.Label(index=i, name=f"class {i}", score=0.2) for i in range(5)],
            )
        ],
    ).SerializeToString()
    return {"Classify": _unary(answer), "ClassifyStream": _stream(answer)}


def _inference_handlers(side: int) -> dict[str, Any]:
    answer = oip.ModelInferResponse(model_name="echo", model_version="1")
    answer.outputs.add(name="logits", datatype="FP32", shape=[1, _CLASSES])
    answer.raw_output_contents.append(np.zeros(_CLASSES, np.float32).tobytes())
    metadata = oip.ModelMetadataResponse(name="echo", versions=["1"])
    metadata.inputs.add(name="image", datatype="UINT8", shape=[-1, side, side, 3])
    metadata.outputs.add(name="logits", datatype="FP32", shape=[-1, _CLASSES])
    config = oip.ModelConfigResponse()
    config.config.parameters["task"].string_value = "classification"
    return {
        # A load generator asks for these before it begins.
        "ServerLive": _unary(oip.ServerLiveResponse(live=True).SerializeToString()),
        "ModelMetadata": _unary(metadata.SerializeToString()),
        "ModelConfig": _unary(config.SerializeToString()),
        "ModelInfer": _unary(answer.SerializeToString()),
        "ModelStreamInfer": _stream(
            oip.ModelStreamInferResponse(infer_response=answer).SerializeToString()
        ),
    }


async def _serve(side: int) -> None:
    server = grpc.aio.server()
    services = {
        "convserve.vision.v1.VisionService": _vision_handlers(),
        "inference.GRPCInferenceService": _inference_handlers(side),
    }
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(*service) for service in services.items())
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]) if len(sys.argv) > 1 else SIDE))
