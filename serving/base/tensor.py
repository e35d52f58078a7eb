"""Names, element types and shapes of tensors, and the table between wire names and numpy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Open Inference Protocol name -> numpy. BF16 has no numpy type: its bits travel as uint16.
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

_WIRE_NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items() if name != "BF16"}


def datatype_of(array: Array) -> str:
    """The Open Inference Protocol name of an array's element type ("FP32", "UINT8", ...)."""
    return _WIRE_NAMES[array.dtype]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    datatype: its element type by the Open Inference Protocol's name.
    shape: -1 is a dimension that each call may choose. The first dimension of a model that batches
        is the batch, and -1.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type in numpy."""
        return NUMPY_TYPES[self.datatype]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape may be passed for the tensor."""
        if len(shape) != len(self.shape):
            return False
        if shape[1:] == self.shape[1:]:
            # The usual case needs no loop.
            return not shape or self.shape[0] in (-1, shape[0])
        return all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}{list(self.shape)}"
