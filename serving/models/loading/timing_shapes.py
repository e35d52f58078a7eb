"""The shapes with which a model's batches are timed at load.

They are those of the file where every dimension is fixed. Where a call may choose a dimension,
config.pbtxt may set it for timing, in model_warmup or in the parameter `timing_shapes`. Otherwise a
few usual sizes are tried; where none of them runs, the model is served untimed.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from serving.base.errors import EngineError, InvalidModelConfig
from serving.base.tensor import TensorSpec
from serving.repository.model_config import ModelConfig

# "images:3x640x640,scale:2": sizes without the batch, by input.
TIMING_PARAMETER = "timing_shapes"
# Pixels a side, in the order in which they are tried: the size of most classifiers, then of most
# detectors, then small ones. All but the last are multiples of 32.
_IMAGE_SIDES = (224, 640, 320, 64, 32, 1)
# Elements along a free dimension of other tensors (tokens, steps of a sequence), in order.
_LENGTHS = (1, 16, 128)
_IMAGE_RANK = 4

Specs = tuple[TensorSpec, ...]


def given_shapes(config: ModelConfig, inputs: Specs) -> Specs | None:
    """The inputs with the sizes that config.pbtxt sets for timing; None where it sets none.

    Raises InvalidModelConfig where the parameter does not fit the inputs.
    """
    text = config.parameters.get(TIMING_PARAMETER)
    if text is not None:
        return _parsed(config, text, inputs)
    for warmup in config.proto.model_warmup:
        skipped = 1 if config.max_batch_size else 0
        return tuple(
            replace(spec, shape=spec.shape[:skipped] + tuple(warmup.inputs[spec.name].dims))
            for spec in inputs
            if spec.name in warmup.inputs
        )
    return None


def timing_key(config: ModelConfig) -> str:
    """A text that identifies the shapes that config.pbtxt sets for timing; empty where it sets
    none."""
    warmups = "".join(str(warmup) for warmup in config.proto.model_warmup)
    return config.parameters.get(TIMING_PARAMETER, "") + warmups


def guessed_shapes(inputs: Specs) -> Iterator[Specs]:
    """The inputs with usual sizes in place of the dimensions that each call may choose, in the
    order in which they are to be tried."""
    images = any(len(spec.shape) == _IMAGE_RANK and -1 in spec.shape[1:] for spec in inputs)
    for size in _IMAGE_SIDES if images else _LENGTHS:
        yield tuple(
            replace(
                spec,
                shape=(*spec.shape[:1], *(size if dim == -1 else dim for dim in spec.shape[1:])),
            )
            for spec in inputs
        )


def are_fixed(inputs: Specs) -> bool:
    """Whether only the batch may vary."""
    return all(-1 not in spec.shape[1:] for spec in inputs)


def check_memory(specs: Specs, rows: int, limit: int) -> None:
    """Raises EngineError where `rows` of these tensors, those of all batches at a time, take more
    than `limit` bytes. A dimension that calls may choose counts as 1."""
    row = sum(
        spec.dtype.itemsize * math.prod(max(1, size) for size in spec.shape[1:])
        for spec in specs
        if spec.datatype != "BYTES"
    )
    if row * rows > limit:
        raise EngineError(
            f"batches of {rows} rows in all instances take {row * rows:,} bytes, more than calls "
            f"may hold ({limit:,}); a smaller max_batch_size may fit"
        )


def _parsed(config: ModelConfig, text: str, inputs: Specs) -> Specs:
    where = f"config.pbtxt of {config.name!r}: parameters.{TIMING_PARAMETER}"
    wanted = {spec.name: spec for spec in inputs}
    given: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, _, sizes = part.strip().rpartition(":")
        try:
            given[name] = tuple(int(size) for size in sizes.split("x"))
        except ValueError:
            given = {}
            break
    if set(given) != set(wanted):
        raise InvalidModelConfig(
            f"{where}: expected a shape for each of {sorted(wanted)}, as in "
            f"'{inputs[0].name}:3x224x224', got {text[:200]!r}"
        )
    for name, shape in given.items():
        if min(shape) < 1 or not replace(wanted[name]).fits((1, *shape)):
            raise InvalidModelConfig(
                f"{where}: {name}: expected {list(wanted[name].shape[1:])}, got {list(shape)}"
            )
    return tuple(replace(spec, shape=(*spec.shape[:1], *given[spec.name])) for spec in inputs)
