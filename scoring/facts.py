"""What makes two jobs the same: the source as it was listed, the model, and the questions."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from scoring.errors import ScoringError
from serving.base.task import Task
from serving.base.text import first_problem


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Frozen):
    """The model that answers.

    engine: empty for a server, which does not tell.
    sha256: of its file and of what makes pixels and names of it; empty for a server.
    length: values of an embedding; 0 for other tasks.
    classes: the number of its classes; 0 where nobody names them.
    """

    model: str
    version: str
    variant: str
    engine: str
    sha256: str
    task: Task
    length: int
    classes: int

    def __str__(self) -> str:
        engine = f" in {self.engine}" if self.engine else ""
        return f"{self.model} version {self.version}, {self.variant}{engine}"


class Facts(_Frozen):
    """A job, as `_job.json` and the finished table tell of it.

    listing: sha256 of the names, sizes and marks of change of all images.
    top_k: labels an image.
    masks: the folder in which they are saved; empty for none.
    """

    format: Literal[1] = 1
    source: str
    images: int
    listing: str
    identity: Identity
    top_k: int
    masks: str

    @classmethod
    def read(cls, text: bytes, where: str) -> "Facts":
        """Raises ScoringError for a text that is no such document."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            place, wrong = first_problem(error)
            raise ScoringError(f"{where}: {place or 'document'}: {wrong}") from error

    def refuse(self, now: "Facts", where: str) -> None:
        """Raises ScoringError where a job that began with these facts would go on with others."""
        for name, before, after in (
            ("the source", self.source, now.source),
            ("the model", self.identity, now.identity),
            ("--top-k", self.top_k, now.top_k),
            ("--masks", self.masks or "not given", now.masks or "not given"),
        ):
            if before != after:
                told = _difference(self.identity, now.identity) if name == "the model" else ""
                raise ScoringError(
                    f"{where}: began with other facts: {name} was {before}, now it is {after}"
                    f"{told}; give another --out, or remove it to begin anew"
                )


def _difference(before: Identity, after: Identity) -> str:
    """The fields that differ where the two look alike."""
    if str(before) != str(after):
        return ""
    names = [
        name for name in Identity.model_fields if getattr(before, name) != getattr(after, name)
    ]
    return f" with another {', '.join(names)}"
