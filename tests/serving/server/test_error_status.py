"""Every error of ours has a gRPC status, and those that know it say when to try again."""

from collections.abc import Iterator

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from serving.base import errors
from serving.base.errors import ServingError
from serving.server.error_status import STATUSES, message_of, status_of
from serving.server.wire.errors import code_of, end_of, retry_delay


def subclasses(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


# The design's table: gRPC and REST.
EXPECTED = {
    "InvalidInput": (grpc.StatusCode.INVALID_ARGUMENT, 400),
    "RequestTooLarge": (grpc.StatusCode.INVALID_ARGUMENT, 413),
    "RequestTooSlow": (grpc.StatusCode.INVALID_ARGUMENT, 408),
    "ModelNotFound": (grpc.StatusCode.NOT_FOUND, 404),
    "ModelNotReady": (grpc.StatusCode.UNAVAILABLE, 503),
    "WrongTask": (grpc.StatusCode.FAILED_PRECONDITION, 400),
    "NotOffered": (grpc.StatusCode.UNIMPLEMENTED, 501),
    "NotAllowed": (grpc.StatusCode.PERMISSION_DENIED, 403),
    "QueueFull": (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    "Shed": (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    "DeadlineExpired": (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    "EngineError": (grpc.StatusCode.INTERNAL, 500),
}


def made(kind: type[ServingError]) -> ServingError:
    error = kind.__new__(kind)
    error.args = ("said",)
    return error


@pytest.mark.parametrize("kind", list(subclasses(ServingError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_its_own_or_of_its_kind(kind: type[ServingError]) -> None:
    ancestors = [k for k in kind.__mro__ if issubclass(k, ServingError) and k is not ServingError]
    assert any(ancestor in STATUSES for ancestor in ancestors), f"{kind.__name__} has no code"
    assert isinstance(code_of(made(kind)), grpc.StatusCode)


def test_every_error_of_the_module_is_walked() -> None:
    named = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ServingError)
    }
    assert named == {ServingError, *subclasses(ServingError)} & named
    assert len(named) > len(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_code_is_that_of_the_design(name: str) -> None:
    error = made(getattr(errors, name))
    assert (code_of(error), status_of(error).http) == EXPECTED[name]


def test_error_takes_the_code_of_the_nearest_kind_above_it() -> None:
    class TooManyRows(errors.InvalidInput):
        pass

    assert code_of(TooManyRows("x")) is grpc.StatusCode.INVALID_ARGUMENT
    assert code_of(errors.SelfCheckFailed("x")) is code_of(errors.ModelLoadError("x"))


def test_error_without_a_kind_is_internal() -> None:
    assert code_of(ServingError("x")) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", [errors.QueueFull, errors.Shed])
def test_refusal_says_when_to_try_again(kind: type[errors.QueueFull | errors.Shed]) -> None:
    delay = retry_delay(kind("full", retry_after=1.25))
    assert delay is not None
    assert (delay.seconds, delay.nanos) == (1, 250_000_000)


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - {"QueueFull", "Shed"}))
def test_other_errors_name_no_time(name: str) -> None:
    assert retry_delay(made(getattr(errors, name))) is None


def test_call_ends_with_code_and_message() -> None:
    end = end_of(errors.ModelNotFound("no model 'x'"))
    assert (end.code, end.message, end.details) == (
        grpc.StatusCode.NOT_FOUND, "no model 'x'", b""
    )  # fmt: skip


def test_refused_call_ends_with_retry_info() -> None:
    end = end_of(errors.Shed("cannot be met", retry_after=0.04))
    assert (end.code, end.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "cannot be met")
    status = Status.FromString(end.details)
    assert (status.code, status.message) == (end.code.value[0], end.message)
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.ToTimedelta().total_seconds() == pytest.approx(0.04)


@pytest.mark.parametrize("length", [199, 200])
def test_short_values_are_repeated_whole(length: int) -> None:
    text = f"no model {'x' * length!r}; this server has ['a']"
    assert message_of(errors.ModelNotFound(text)) == text


def test_long_values_and_texts_are_cut() -> None:
    said = message_of(errors.ModelNotFound(f"no model {'x' * 9000!r}; it has {'y' * 9000!r}, 'z'"))
    assert said == f"no model '{'x' * 200}...'; it has '{'y' * 200}...', 'z'"
    assert len(message_of(errors.ModelNotFound("word " * 9000))) == 2000


@pytest.mark.parametrize(
    "value", ["x" * 9000, list(range(9000)), {str(i): "x" * 900 for i in range(900)}, 10**4000]
)
def test_quoted_values_are_cut(value: object) -> None:
    assert len(errors.quoted(value)) <= 200


def test_quoted_values_are_one_printable_line() -> None:
    assert errors.quoted("a\0b\n\ud800") == r"'a\x00b\n\ud800'"
