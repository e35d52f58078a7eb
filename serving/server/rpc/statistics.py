"""The protocol's view of the counters, which /metrics shows too."""

from protos.gen import grpc_service_pb2 as pb
from serving.base.metrics import Duration, ModelCounters
from serving.models.registry import Registry


def read(registry: Registry, name: str, version: str) -> pb.ModelStatisticsResponse:
    """Counters of the models that serve; empty name or version means every one."""
    response = pb.ModelStatisticsResponse()
    for line in registry.index():
        if line.model is None or (name and line.name != name):
            continue
        if version and line.version != version:
            continue
        response.model_stats.append(_statistics(line.name, line.version, line.model.counters))
    return response


def _statistics(name: str, version: str, counters: ModelCounters) -> pb.ModelStatistics:
    statistics = pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=counters.last_inference_ms,
        inference_count=counters.inference_count,
        execution_count=counters.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counters.success),
            fail=_duration(counters.fail),
            queue=_duration(counters.queue),
            compute_input=_duration(counters.compute_input),
            compute_infer=_duration(counters.compute_infer),
            compute_output=_duration(counters.compute_output),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
    )
    for size, batch in sorted(counters.batches.items()):
        statistics.batch_stats.add(
            batch_size=size,
            compute_input=_duration(batch.compute_input),
            compute_infer=_duration(batch.compute_infer),
            compute_output=_duration(batch.compute_output),
        )
    return statistics


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
