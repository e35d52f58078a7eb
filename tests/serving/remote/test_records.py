"""Records between front and engine process: what is sent arrives, nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.base.errors import EngineError, EngineRestarts, QueueFull, ServingError
from serving.remote import records
from serving.remote.records import BadRecord, Record, error_of, failed, unpack


def test_a_record_has_the_size_of_a_cache_line() -> None:
    assert len(Record(records.SUBMIT).packed()) == records.SIZE == 64


@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=20))
def test_records_and_errors_of_a_packet_come_out_in_order(calls: list[int]) -> None:
    packet = b""
    for call in calls:
        packet += Record(records.ANSWER, call=call, size=7).packed()
        packet += failed(call, QueueFull(f"of {call}", 0.5))
    found = unpack(packet)
    assert [record.call for record, _ in found] == [call for call in calls for _ in range(2)]
    errors = [error_of(text) for record, text in found if record.kind == records.FAILED]
    assert [str(error) for error in errors] == [f"of {call}" for call in calls]


@pytest.mark.parametrize(
    "error",
    [
        EngineRestarts("again", 1.5),
        EngineError("x" * 5000 + "\n" + "é" * 5000),
        ServingError("ü" * 100_000),
        ValueError("not ours"),
    ],
)
def test_an_error_arrives_as_its_own_kind_in_bounded_bytes(error: Exception) -> None:
    packet = failed(3, error)
    assert len(packet) <= 4096
    [(record, text)] = unpack(packet)
    arrived = error_of(text)
    assert record.call == 3
    expected = type(error) if isinstance(error, ServingError) else EngineError
    assert type(arrived) is expected
    assert getattr(arrived, "retry_after", None) == getattr(error, "retry_after", None)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_read_within_their_bounds(data: bytes) -> None:
    try:
        found = unpack(data)
    except BadRecord:
        return
    for record, text in found:
        assert record.kind != records.FAILED or len(text) == record.size
        if record.kind == records.FAILED:
            try:
                error_of(text)
            except BadRecord:
                continue


@pytest.mark.parametrize("size", [0, 1, 63, 65, 257 * 64])
def test_a_packet_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(BadRecord):
        unpack(bytes(size))
