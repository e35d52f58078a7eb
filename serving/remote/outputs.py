"""The outputs of a call, as the engine process writes them and the front reads them."""

import mmap
import os
from collections.abc import Mapping

from serving.base.tensor import Array
from serving.remote.records import BadRecord
from serving.remote.slots import sealed_memory
from serving.remote.tensors import (
    Layout,
    Memory,
    described_layout,
    layout_of,
    read,
    write,
)


def outputs_in(memory: Memory, base: int, size: int) -> dict[str, Array]:
    """Copies of the outputs in memory, which a description in `size` bytes locates. Raises
    BadRecord."""
    return copied(read(memory, base, described_layout(memory, base, size)))


def copied(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs that belong to the caller."""
    return {name: array.copy() for name, array in outputs.items()}


def outputs_in_file(file: int, size: int) -> dict[str, Array]:
    """Copies of the outputs in a file of their own. Raises BadRecord."""
    if not 0 < size <= os.fstat(file).st_size:
        raise BadRecord(f"a file of outputs that has not {size} bytes")
    with mmap.mmap(file, size) as memory:
        return outputs_in(memory, 0, size)


def fits(layout: Layout, outputs: Mapping[str, Array]) -> bool:
    """Whether outputs are exactly those of a layout."""
    if len(outputs) != len(layout.places):
        return False
    for name, dtype, shape, _, _ in layout.places:
        array = outputs.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            return False
    return True


def file_of(outputs: Mapping[str, Array]) -> tuple[int, int]:
    """The descriptor and the bytes of a new file with outputs."""
    layout = layout_of([outputs])
    file = sealed_memory("convserve-answer", layout.size)
    try:
        with mmap.mmap(file, layout.size) as memory:
            write(memory, 0, layout, [outputs])
    except BaseException:
        os.close(file)
        raise
    return file, layout.size
