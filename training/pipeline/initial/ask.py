"""The questions that no file answers: at most four, on a terminal. Elsewhere a default is taken and
said."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import typer

from serving.base.task import Task
from serving.base.text import escaped
from training.errors import RecipeError
from training.pipeline.initial.drafts import looks_mirrored
from training.pipeline.initial.found.facts import Labelled
from training.pipeline.initial.found.first_weights import FirstWeights

MINUTES = 10.0
_MOST_MINUTES = 10_000.0
Answer = TypeVar("Answer")


@dataclass
class Dialogue:
    """The person at the terminal, if there is one.

    asks: questions are put; else defaults are taken.
    assumed: one line for each default that was taken without a question.
    """

    asks: bool
    assumed: list[str] = field(default_factory=list)

    def task(self, labelled: Labelled, given: Task | None) -> Task:
        """Raises RecipeError where only a person can tell and none is asked."""
        if given is not None:
            if given not in labelled.tasks:
                raise RecipeError(
                    f"--task: {given} cannot be learnt from {labelled.how}; expected "
                    f"{' or '.join(labelled.tasks)}"
                )
            return given
        likely = labelled.tasks[0]
        if labelled.sure:
            return likely
        count = len(labelled.classes)
        said = f"{count} folders of few images each, such as {escaped(labelled.classes[0])}"
        if not self.asks:
            raise RecipeError(
                f"{said}: classes, or people (parts, pets) of whom others shall be told apart "
                "later? Give --task classification or --task embedding"
            )
        return self._ask(
            f"{said}. Are they classes, or people (parts, pets) of whom others, never seen in "
            "training, shall be told apart? classification or embedding",
            likely,
            lambda text: _one_of(text, labelled.tasks),
        )

    def mirrors(self, labelled: Labelled, given: bool | None) -> bool:
        """Whether a mirrored image is still what its label says."""
        if given is not None:
            return given
        likely = looks_mirrored(labelled.classes)
        return self._yes_or_no(
            "Is a mirrored image still what its label says? Not so for text, digits, left, right",
            likely,
            "a mirrored image is still what its label says: --mirrors no if not"
            if likely
            else "a mirrored image is something else, by the classes: --mirrors yes if not",
        )

    def minutes(self, given: float | None) -> float:
        """For the whole build."""
        if given is not None:
            return given
        if not self.asks:
            self.assumed.append(f"{MINUTES:g} minutes for the build: --minutes for more or fewer")
            return MINUTES
        return self._ask(
            "How many minutes may the build take here? More make it more accurate",
            MINUTES,
            _minutes,
        )

    def download(self, offered: FirstWeights) -> bool:
        """Whether weights may be downloaded when the build begins."""
        return self._yes_or_no(
            f"Begin with {offered.network}'s weights, trained on ImageNet ({offered.how})? They "
            "make most photographs far easier to learn",
            True,
            f"{offered.network}'s weights are downloaded by the build ({offered.how}): "
            "--no-download if not",
        )

    def _yes_or_no(self, question: str, default: bool, otherwise: str) -> bool:
        if not self.asks:
            self.assumed.append(otherwise)
            return default
        return self._ask(f"{question}. yes or no", "yes" if default else "no", _yes)

    def _ask(self, question: str, default: object, read: Callable[[str], Answer]) -> Answer:
        while True:
            try:
                text = typer.prompt(escaped(question), default=str(_shown(default)), err=True)
            except typer.Abort:  # Ctrl-C or Ctrl-D; the cursor is behind the question still
                typer.echo(err=True)
                raise KeyboardInterrupt from None
            try:
                return read(text.strip())
            except RecipeError as error:
                typer.echo(escaped(str(error)), err=True)


def on_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _shown(default: object) -> object:
    return f"{default:g}" if isinstance(default, float) else default


def _one_of(text: str, tasks: tuple[Task, ...]) -> Task:
    fitting = [task for task in tasks if text and task.startswith(text.lower())]
    if len(fitting) != 1:
        raise RecipeError(f"expected {' or '.join(tasks)}, got {text[:40]!r}")
    return fitting[0]


def _yes(text: str) -> bool:
    if text.lower() in ("y", "yes"):
        return True
    if text.lower() in ("n", "no"):
        return False
    raise RecipeError(f"expected yes or no, got {text[:40]!r}")


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 < minutes <= _MOST_MINUTES:
        raise RecipeError(
            f"minutes: expected a number above 0, {_MOST_MINUTES:g} at most; got {text[:40]!r}"
        )
    return minutes
