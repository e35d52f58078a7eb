"""The tensors that a config.pbtxt declares, completed from the model file where it leaves them
out."""

from dataclasses import dataclass

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig
from serving.base.tensor import TensorSpec
from serving.repository.config_fields import data_type, wire_name

# Rows of a batch where neither config nor file sets a maximum: Triton's default-max-batch-size.
DEFAULT_MAX_BATCH_SIZE = 4


@dataclass(frozen=True)
class FileFacts:
    """The tensors of a model file.

    inputs, outputs: with every dimension; -1 for one that each call may choose.
    max_batch_size: the most rows that the file was built for; 0 where it sets no bound.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0

    @property
    def batches(self) -> bool:
        """Whether the first dimension of every tensor may be a batch."""
        return all(spec.shape[:1] == (-1,) for spec in (*self.inputs, *self.outputs))


def declared(where: str, tensor: pb.ModelInput | pb.ModelOutput, *, batches: bool) -> TensorSpec:
    """One input or output as the config declares it. Raises InvalidModelConfig; `where` is the file
    and the field, for the message."""
    if not tensor.name:
        raise InvalidModelConfig(f"{where}.name: missing")
    if tensor.data_type == pb.TYPE_INVALID:
        raise InvalidModelConfig(f"{where}.data_type: missing, for {tensor.name!r}")
    if tensor.data_type not in pb.DataType.values():
        raise InvalidModelConfig(f"{where}.data_type: unknown number {tensor.data_type}")
    if any(dim < -1 or dim == 0 for dim in tensor.dims):
        raise InvalidModelConfig(
            f"{where}.dims: expected positive numbers or -1, got {list(tensor.dims)}"
        )
    shape = ((-1,) if batches else ()) + tuple(tensor.dims)
    return TensorSpec(tensor.name, wire_name(tensor.data_type), shape)


def complete(proto: pb.ModelConfig, facts: FileFacts) -> tuple[str, ...]:
    """Fills in the fields that a config leaves out. Returns their names.

    max_batch_size is taken from the file where the config has none and its dims, if it has any,
    leave the batch dimension out.
    """
    completed = []
    if proto.max_batch_size == 0 and facts.batches and _leaves_batch_out(proto, facts):
        proto.max_batch_size = facts.max_batch_size or DEFAULT_MAX_BATCH_SIZE
        completed.append("max_batch_size")
    skipped = 1 if proto.max_batch_size else 0
    if not proto.input:
        for spec in facts.inputs:
            element = data_type(spec.datatype)
            proto.input.add(name=spec.name, data_type=element, dims=spec.shape[skipped:])
        completed.append("input")
    if not proto.output:
        for spec in facts.outputs:
            element = data_type(spec.datatype)
            proto.output.add(name=spec.name, data_type=element, dims=spec.shape[skipped:])
        completed.append("output")
    return tuple(completed)


def _leaves_batch_out(proto: pb.ModelConfig, facts: FileFacts) -> bool:
    real = {spec.name: len(spec.shape) for spec in (*facts.inputs, *facts.outputs)}
    dims = [(t.name, len(t.dims)) for t in proto.input]
    dims += [(t.name, len(t.dims)) for t in proto.output]
    return all(rank == real.get(name, 0) - 1 for name, rank in dims)
