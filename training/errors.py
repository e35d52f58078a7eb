"""Every error that a build raises on purpose; the text is fit to be shown to the person who built.

BuildError
├── RecipeError           unknown key, wrong value, a combination that cannot be
├── DataError             a data source that lacks something, or does not fit together
│   └── BrokenFiles       images that cannot be decoded, or whose masks do not fit
├── ExportError           the exported file does not do what the network does
│   ├── NamesMismatch
│   ├── ShapesMismatch
│   └── ValuesMismatch
├── DoesNotFit            too little memory or disk for what a recipe asks for
├── Diverged              the loss, a score or a weight is no finite number any more
├── TargetNotReached      no network within a bound of size or latency
└── VerificationError     the gate: the artefact is not accurate enough
"""

import copyreg
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from serving.base.errors import InvalidInput
from serving.base.text import one_line

_NAMED_FILES = 10
# Where remarks say what many files share, each file repeats it.
_NAMED_BESIDE_REMARKS = 3
# Characters of a file's name and reason.
_NAMED_LENGTH = 500


class BuildError(Exception):
    """Base of all."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled and copied without __init__, which may take other arguments than it passes on.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class RecipeError(BuildError):
    """A recipe, or an override of it, that cannot be built; names the key's path and the value."""


class DataError(BuildError):
    """A data source that cannot be used; names the files."""


class BrokenFiles(DataError):
    """`files` holds the reason of each; the text names the first of them, after `remarks`, which
    say what many of them share."""

    def __init__(
        self, source: str, total: int, files: Mapping[str, str], remarks: Sequence[str] = ()
    ) -> None:
        self.source = source
        self.total = total
        self.files = dict(files)
        shared = "".join(f"{remark}; " for remark in remarks[:_NAMED_FILES])
        first = list(files.items())[: _NAMED_BESIDE_REMARKS if remarks else _NAMED_FILES]
        named = [one_line(f"{name}: {reason}", _NAMED_LENGTH) for name, reason in first]
        rest = len(files) - len(named)
        more = f"; and {rest} more" if rest else ""
        super().__init__(
            f"{source}: {shared}{len(files)} of {total} files cannot be used: "
            f"{'; '.join(named)}{more}"
        )

    def told(self, remarks: Sequence[str]) -> "BrokenFiles":
        """The same with remarks."""
        return BrokenFiles(self.source, self.total, self.files, remarks)


@contextmanager
def data_errors() -> Iterator[None]:
    """Raises what serving finds wrong with a user's files as DataError."""
    try:
        yield
    except InvalidInput as error:
        raise DataError(str(error)) from error


class ExportError(BuildError):
    """An exported file that differs from the network it came from."""


class NamesMismatch(ExportError):
    """Inputs or outputs are called differently than promised."""


class ShapesMismatch(ExportError):
    """An input or output has another shape or element type than promised."""


class ValuesMismatch(ExportError):
    """The answers differ by more than the stated tolerance."""


class DoesNotFit(BuildError):
    """A build that memory or disk is too small for; the text names a batch size that fits."""


class Diverged(BuildError):
    """A training whose numbers are not finite; the text holds the epoch and the learning rate."""


class TargetNotReached(BuildError):
    """A bound that no network tried keeps; the text holds the best value."""


class VerificationError(BuildError):
    """The gate did not pass; the text holds the numbers."""
