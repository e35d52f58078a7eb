"""The guard between a wire's bytes and the handlers: what cannot be parsed is bad input."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

from serving.base.errors import InvalidInput, RequestTooLarge, ServingError, quoted

# The most bytes of a call that carries neither tensors nor files. Protobuf and JSON take 40 ms for
# so many in the worst case, and 20 times the memory.
CONTROL_BYTES = 1 << 20
# The most bytes of a question of health or reflection: a name.
PROBE_BYTES = 64 << 10

Given = TypeVarTuple("Given")
Parsed = TypeVar("Parsed")


def parsed(parse: Callable[[*Given], Parsed], *given: *Given) -> Parsed:
    """`parse(*given)`, for whatever turns a caller's bytes into values.

    Raises InvalidInput for every exception that `parse` did not foresee: parsers of JSON, numbers,
    text and messages raise far more than they document, and each of it is the caller's mistake.
    """
    try:
        return parse(*given)
    except ServingError:
        raise
    except Exception as error:
        raise unreadable(error) from error


def bounded(data: bytes, most: float) -> bytes:
    """The message itself. Raises RequestTooLarge for one of more than `most` bytes."""
    if len(data) > most:
        raise RequestTooLarge(f"message: expected at most {most} bytes, got {len(data)}")
    return data


async def parsed_in_turns(parsing: Awaitable[Parsed]) -> Parsed:
    """`parsed` for what gives way to other work on the event loop."""
    try:
        return await parsing
    except ServingError:
        raise
    except Exception as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> InvalidInput:
    """The bad input behind an exception of a parser."""
    return InvalidInput(f"the request cannot be read: {type(error).__name__}: {quoted(str(error))}")


def plain_text(what: str, text: str) -> str:
    """Text that may name a file. Raises InvalidInput where no file can have that name: for NUL
    bytes, lone surrogates, and more than 255 bytes between slashes."""
    encoded = text.encode(errors="replace")
    if "\0" in text or encoded.decode() != text or max(map(len, encoded.split(b"/"))) > 255:
        raise InvalidInput(f"{what}: expected the name of a file, got {quoted(text)}")
    return text
