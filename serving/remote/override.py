"""The parameters of a load call, as a question carries them: texts and whole files."""

from collections.abc import Mapping

from serving.remote.control import Question
from serving.remote.records import BadRecord


def packed(override: Mapping[str, str | bytes]) -> tuple[list[tuple[str, str, int]], bytes]:
    """Their names, kinds and sizes, and their bytes."""
    entries, parts = [], []
    for key, value in override.items():
        is_text = isinstance(value, str)
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        entries.append((key, "text" if is_text else "bytes", len(data)))
        parts.append(data)
    return entries, b"".join(parts)


def override_of(question: Question) -> dict[str, str | bytes]:
    """The parameters that a load question carries. Raises BadRecord."""
    found: dict[str, str | bytes] = {}
    position = 0
    try:
        for key, kind, size in question.fields["override"]:
            data = question.data[position : position + size]
            position += size
            found[key] = data.decode("utf-8", "surrogateescape") if kind == "text" else data
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecord(f"load parameters that cannot be read: {error}") from error
    return found
