"""The bounds of a config.pbtxt: checked before its values cost memory or time."""

from collections.abc import Iterator, Sized
from pathlib import Path

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig, quoted
from serving.base.files import is_plain_name

# Bytes of a config.pbtxt. Its parser takes a second for so many.
CONFIG_BYTES = 1 << 20
# Rows of a batch. The latency table has an entry for each, and each power of two is timed at load:
# with so many, 1 ms a row makes a minute and a half. Memory bounds it further, at load.
MAX_BATCH_SIZE = 16_384
# Instances of a model. Each holds buffers and a thread; far more than there are cores or GPUs only
# take memory.
_MAX_INSTANCES = 256
_MAX_PRIORITY_LEVELS = 256
# Calls that may wait. The memory budget refuses them earlier; this keeps the queue's own lists
# small.
_MAX_QUEUE_SIZE = 1_000_000
# Entries of one list of a config.
_MAX_ENTRIES = 1024
# Batch sizes that are preferred, or kept as a CUDA graph, which takes memory on the GPU.
_MAX_SIZES = 64


def check_bounds(proto: pb.ModelConfig, path: Path) -> None:
    """Raises InvalidModelConfig, naming the field, where a config asks for more than one model may
    have, or names a file that is none of the model's. `path` is for the message."""
    _check_numbers(proto, path)
    for field, items, most in _lists(proto):
        if len(items) > most:
            raise InvalidModelConfig(
                f"{path}: {field}: expected at most {most} entries, got {len(items)}"
            )
    for field, name in _names(proto):
        if name and not is_plain_name(name):
            raise InvalidModelConfig(
                f"{path}: {field}: expected the plain name of a file, without a path, "
                f"got {quoted(name)}"
            )


def instances_of(proto: pb.ModelConfig) -> int:
    """Instances of all groups; on GPUs, on each that a group names."""
    return sum((g.count or 1) * max(1, len(g.gpus)) for g in proto.instance_group) or 1


def _check_numbers(proto: pb.ModelConfig, path: Path) -> None:
    if not 0 <= proto.max_batch_size <= MAX_BATCH_SIZE:
        raise InvalidModelConfig(
            f"{path}: max_batch_size: expected 0 to {MAX_BATCH_SIZE}, got {proto.max_batch_size}"
        )
    for index, group in enumerate(proto.instance_group):
        if group.count < 0:
            raise InvalidModelConfig(
                f"{path}: instance_group[{index}].count: expected 1 or more, got {group.count}"
            )
    if instances_of(proto) > _MAX_INSTANCES:
        raise InvalidModelConfig(
            f"{path}: instance_group: expected at most {_MAX_INSTANCES} instances, "
            f"got {instances_of(proto)}"
        )
    dynamic = proto.dynamic_batching
    if dynamic.priority_levels > _MAX_PRIORITY_LEVELS:
        raise InvalidModelConfig(
            f"{path}: dynamic_batching.priority_levels: expected at most {_MAX_PRIORITY_LEVELS}, "
            f"got {dynamic.priority_levels}"
        )
    for policy in (dynamic.default_queue_policy, *dynamic.priority_queue_policy.values()):
        if policy.max_queue_size > _MAX_QUEUE_SIZE:
            raise InvalidModelConfig(
                f"{path}: dynamic_batching: max_queue_size: expected at most {_MAX_QUEUE_SIZE}, "
                f"got {policy.max_queue_size}"
            )


def _lists(proto: pb.ModelConfig) -> Iterator[tuple[str, Sized, int]]:
    yield "input", proto.input, _MAX_ENTRIES
    yield "output", proto.output, _MAX_ENTRIES
    yield "instance_group", proto.instance_group, _MAX_ENTRIES
    for index, group in enumerate(proto.instance_group):
        yield f"instance_group[{index}].gpus", group.gpus, _MAX_ENTRIES
    yield from ((f"input[{i}].dims", t.dims, _MAX_SIZES) for i, t in enumerate(proto.input))
    yield from ((f"output[{i}].dims", t.dims, _MAX_SIZES) for i, t in enumerate(proto.output))
    yield "version_policy.specific.versions", proto.version_policy.specific.versions, _MAX_ENTRIES
    yield "model_warmup", proto.model_warmup, _MAX_ENTRIES
    dynamic = proto.dynamic_batching
    yield "dynamic_batching.preferred_batch_size", dynamic.preferred_batch_size, _MAX_SIZES
    yield "optimization.cuda.graph_spec", proto.optimization.cuda.graph_spec, _MAX_SIZES


def _names(proto: pb.ModelConfig) -> Iterator[tuple[str, str]]:
    """The files that a config names, by field."""
    yield "default_model_filename", proto.default_model_filename
    for index, output in enumerate(proto.output):
        yield f"output[{index}].label_filename", output.label_filename
    for index, warmup in enumerate(proto.model_warmup):
        for name, given in warmup.inputs.items():
            field = f"model_warmup[{index}].inputs[{quoted(name)}].input_data_file"
            yield field, given.input_data_file
