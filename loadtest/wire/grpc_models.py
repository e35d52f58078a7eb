"""Questions about models over gRPC: what they take, and what the server has counted."""

import asyncio
from collections.abc import Mapping, Sequence

import grpc

from loadtest.errors import LoadTestError
from loadtest.payloads.content import TensorInput
from loadtest.wire.grpc_client import Metadata, metadata_of, open_channel
from loadtest.wire.messages import ModelFacts, encoded_input
from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc
from serving.client.tls import ClientTls, fault_of

# Seconds for an answer.
_TIMEOUT = 10.0


async def describe(
    url: str,
    names: Sequence[str],
    tls: ClientTls | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[ModelFacts]:
    """Asks the server about models (NAME, or NAME:VERSION).

    Raises LoadTestError where no server answers or a model is not there.
    """
    async with open_channel(url, tls) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            await stub.ServerLive(oip.ServerLiveRequest(), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise LoadTestError(
                    f"{url}: the server does not speak the Open Inference Protocol"
                ) from error
            fault = await asyncio.to_thread(fault_of, url, tls) or error.code().name
            raise LoadTestError(f"no server answers at {url} ({fault})") from error
        return [await _describe(url, stub, name, metadata_of(headers)) for name in names]


async def _describe(
    url: str,
    stub: grpc_service_pb2_grpc.GRPCInferenceServiceStub,
    model: str,
    metadata: Metadata,
) -> ModelFacts:
    name, _, version = model.partition(":")
    try:
        found = await stub.ModelMetadata(
            oip.ModelMetadataRequest(name=name, version=version),
            timeout=_TIMEOUT,
            metadata=metadata,
        )
    except grpc.aio.AioRpcError as error:
        raise LoadTestError(f"{url}: model {model!r}: {error.details()}") from error
    parameters = await _parameters(stub, name, version, metadata)
    inputs = tuple(TensorInput(i.name, i.datatype, tuple(i.shape)) for i in found.inputs)
    return ModelFacts(
        name,
        version,
        parameters.get("task", ""),
        inputs,
        found.outputs[0].name if found.outputs else "",
        encoded_input(parameters, inputs),
    )


async def _parameters(
    stub: grpc_service_pb2_grpc.GRPCInferenceServiceStub,
    name: str,
    version: str,
    metadata: Metadata,
) -> dict[str, str]:
    """The parameters of the model's config; empty where the server has no such call."""
    request = oip.ModelConfigRequest(name=name, version=version)
    try:
        response = await stub.ModelConfig(request, timeout=_TIMEOUT, metadata=metadata)
    except grpc.aio.AioRpcError:
        return {}
    return {key: value.string_value for key, value in response.config.parameters.items()}


async def statistics(
    url: str,
    names: Sequence[str],
    tls: ClientTls | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Sums of the counters and times (seconds) of the models, from ModelStatistics.

    Empty where the server does not offer them.
    """
    totals: dict[str, float] = {}
    async with open_channel(url, tls) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model in names:
            name, _, version = model.partition(":")
            request = oip.ModelStatisticsRequest(name=name, version=version)
            try:
                response = await stub.ModelStatistics(
                    request, timeout=_TIMEOUT, metadata=metadata_of(headers)
                )
            except grpc.aio.AioRpcError:
                return {}
            for found in response.model_stats:
                _add(totals, found)
    return totals


def _add(totals: dict[str, float], found: oip.ModelStatistics) -> None:
    times = found.inference_stats
    values = {
        "inferences": float(found.inference_count),
        "executions": float(found.execution_count),
        "requests": float(times.success.count),
        "queue": times.queue.ns / 1e9,
        "compute_input": times.compute_input.ns / 1e9,
        "compute_infer": times.compute_infer.ns / 1e9,
        "compute_output": times.compute_output.ns / 1e9,
    }
    for key, value in values.items():
        totals[key] = totals.get(key, 0.0) + value
