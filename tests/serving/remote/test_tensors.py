"""Tensors in memory that two processes see: they come out as they went in, or are refused."""

import json
import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from serving.base.tensor import NUMPY_TYPES, TensorSpec
from serving.remote.records import BadRecord
from serving.remote.tensors import described_layout, fixed_layout, layout_of, read, write

TYPES = [dtype for dtype in NUMPY_TYPES.values() if not dtype.hasobject]
ARRAYS = st.one_of(
    of_numpy.arrays(st.sampled_from(TYPES), of_numpy.array_shapes(min_dims=0, min_side=0)),
    of_numpy.arrays(
        np.object_, of_numpy.array_shapes(max_dims=2), elements=st.binary(max_size=9) | st.text()
    ),
)


def shared(content: bytes) -> mmap.mmap:
    """Memory as processes share it, with these bytes at its beginning."""
    memory = mmap.mmap(-1, len(content) or 1)
    memory[: len(content)] = content
    return memory


@given(st.dictionaries(st.text(max_size=9), ARRAYS, max_size=4), st.integers(0, 200))
def test_described_arrays_come_out_as_they_went_in(
    arrays: dict[str, np.ndarray[Any, Any]], base: int
) -> None:
    layout = layout_of([arrays])
    memory = shared(bytes(base * 64 + layout.size))
    write(memory, base * 64, layout, [arrays])
    found = read(memory, base * 64, described_layout(memory, base * 64, layout.size))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes() or array.dtype.hasobject
        assert not array.dtype.hasobject or found[name].tolist() == array.tolist()


@pytest.mark.parametrize("side", [3, 300])
def test_arrays_that_lie_otherwise_in_memory_come_out_as_they_went_in(side: int) -> None:
    plain = np.arange(side * side, dtype=np.float32).reshape(side, side)
    backwards = plain.astype(">f4").view(">f4")
    arrays = {"columns": plain.T, "every other": plain[:, ::2], "turned": plain[::-1]}
    layout = layout_of([arrays])
    memory = shared(bytes(layout.size))
    write(memory, 0, layout, [arrays])
    found = read(memory, 0, described_layout(memory, 0, layout.size))
    assert all((found[name] == array).all() for name, array in arrays.items())
    # The layout has the last word on the type.
    spec = TensorSpec("x", "FP32", (-1, side))
    fixed = fixed_layout([spec], side, batches=True)
    assert fixed is not None
    write(memory, 0, fixed, [{"x": backwards}])
    assert (read(memory, 0, fixed)["x"] == plain).all()


@given(st.binary(max_size=200), st.integers(0, 200))
def test_bytes_that_describe_nothing_are_refused_or_stay_within_their_memory(
    data: bytes, size: int
) -> None:
    memory = shared(data.ljust(256, b"\0"))
    try:
        found = read(memory, 0, described_layout(memory, 0, size))
    except BadRecord:
        return
    assert sum(array.nbytes for array in found.values()) <= size


@pytest.mark.parametrize(
    "entries",
    [
        [["x", "<f4", [2], 9]],
        [["x", "<f4", [-2], 8]],
        [["x", "<f4", [1 << 40, 1 << 40], 8]],
        [["x", "<f4", [True], 4]],
        [["x", "<f4", [1] * 33, 4]],
        [["x", "|O", [100], 8]],
        [["x", "|V4", [1], 4]],
        [["x", "<f4", [1], 4], ["x", "<f4", [1], 4]],
        [["x", "<f4", [1 << 20], 4 << 20]],
        [["x", "<f4", [1]]],
        [1],
        7,
    ],
)
def test_a_description_that_does_not_fit_is_refused(entries: object) -> None:
    text = json.dumps(entries).encode()
    memory = shared((len(text).to_bytes(4, "little") + text).ljust(4096, b"\0"))
    with pytest.raises(BadRecord):
        described_layout(memory, 0, len(memory))


def test_texts_that_are_cut_short_are_refused() -> None:
    arrays = {"x": np.array([b"long enough", b"two"], np.object_)}
    layout = layout_of([arrays])
    memory = shared(bytes(layout.size))
    write(memory, 0, layout, [arrays])
    memory[layout.places[0].offset] = 200
    with pytest.raises(BadRecord):
        read(memory, 0, described_layout(memory, 0, layout.size))


def test_rows_in_parts_lie_one_after_another() -> None:
    specs = [TensorSpec("x", "FP32", (-1, 3)), TensorSpec("n", "INT64", (-1, 1))]
    parts = [
        {"x": np.full((rows, 3), rows, np.float32), "n": np.full((rows, 1), rows)}
        for rows in (1, 3, 2)
    ]
    layout = fixed_layout(specs, 6, batches=True)
    assert layout is not None
    memory = shared(bytes(layout.size))
    write(memory, 0, layout, parts)
    found = read(memory, 0, layout)
    assert found["x"][:, 0].tolist() == found["n"][:, 0].tolist() == [1, 3, 3, 3, 2, 2]
    assert all(place.offset % 64 == 0 for place in layout.places)


@pytest.mark.parametrize("shape", [(-1, -1), (-1, 3, -1)])
def test_shapes_that_a_call_chooses_have_no_fixed_place(shape: tuple[int, ...]) -> None:
    assert fixed_layout([TensorSpec("x", "FP32", shape)], 2, batches=True) is None
    assert fixed_layout([TensorSpec("x", "BYTES", (-1, 1))], 2, batches=True) is None
