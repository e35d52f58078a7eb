"""From a folder to a recipe on disk: look, ask, plan, write, try."""

import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.base.task import TASKS, Task
from serving.base.text import counted
from training.data import load_source
from training.data.layout.opened import unlabelled
from training.data.layout.walk import walk
from training.errors import BrokenFiles, DataError, RecipeError
from training.pipeline.initial.answers import Answers
from training.pipeline.initial.ask import Dialogue, on_terminal
from training.pipeline.initial.document import as_yaml
from training.pipeline.initial.found.facts import Found, Labelled, Look
from training.pipeline.initial.found.find import find
from training.pipeline.initial.found.first_weights import (
    FirstWeights,
    downloadable_weights,
    local_weights,
)
from training.pipeline.initial.found.labelled import find_labelled
from training.pipeline.initial.found.look import look
from training.pipeline.initial.found.network_file import ENDINGS, network_file
from training.pipeline.initial.plan import Plan, plan, plan_file, usable_name
from training.pipeline.pipeline import check_recipe
from training.recipes import load_recipe
from training.recipes.tasks import TRAINED_TASKS

# Classes that are named, and characters of a name.
_CLASSES, _NAME = 6, 24
# Broken files that are named.
_NAMED = 10
# Seconds that reading every image may take: for longer ones it is left to the build.
_READING = 10.0


@dataclass(frozen=True)
class Given:
    """The options of the command; None is found out."""

    folder: Path
    out: Path | None = None
    name: str | None = None
    task: Task | None = None
    size: tuple[int, int] | None = None
    network: str | None = None
    minutes: float | None = None
    mirrors: bool | None = None
    download: bool = True
    quiet: bool = False
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was found, chosen and written, ready for JSON.

    recipe: the file; empty where no recipe is needed.
    found: a line on the data or the network.
    chosen: a line on each choice, by its subject.
    seconds: that the build will take here, by part.
    assumed: answers that were taken without a question.
    warnings: what is wrong with the data, and what could not be looked at.
    commands: what to do next.
    """

    recipe: str
    found: str
    chosen: Mapping[str, str]
    seconds: Mapping[str, float]
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]
    commands: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield self.found
        for subject, words in self.chosen.items():
            yield f"  {subject + ':':<12} {words}"
        for line in self.assumed:
            yield f"assumed: {line}"
        for line in self.warnings:
            yield f"warning: {line}"
        if self.recipe:
            yield f"Recipe: {self.recipe}"
        yield "Next:"
        for command in self.commands:
            yield f"  {command}"


def first_recipe(given: Given) -> Outcome:
    """Writes a recipe for what a folder holds.

    Raises RecipeError and DataError where nothing can be built from it, where a person has to tell,
    or where the file exists.
    """
    tree = walk(given.folder)
    found = find(tree, given.task)
    labelled = found.labelled
    if labelled is None:
        tasks = (given.task,) if given.task else tuple(TASKS)
        return _without_labels(given, found, unlabelled(tree, tasks))
    name = given.name or usable_name(given.folder)
    out = given.out or Path(f"{name}.yaml")
    _require_free(out, force=given.force)
    dialogue = Dialogue(asks=on_terminal() and not given.quiet)
    file = _file(given, found, dialogue)
    task = dialogue.task(labelled, given.task)
    if task != labelled.tasks[0] and given.task is None:
        # Another source reads them.
        labelled = find_labelled(tree, task) or labelled
    seen = look(labelled.samples, given.folder)
    if file is not None:
        answers = Answers(task, 0.0, mirrors=False, side=given.size)
        planned = plan_file(name, labelled, seen, answers, network_file(file))
    else:
        answers = _answered(given, dialogue, found, labelled, task)
        planned = plan(name, labelled, seen, answers)
    _write(out, _heading(given, planned), planned, force=given.force)
    recipe = load_recipe(out)
    check_recipe(recipe, None)
    broken = seen.broken
    if planned.seconds["data"] < _READING:
        try:
            load_source(recipe)
        except BrokenFiles as error:
            broken = error.files
    return Outcome(
        str(out),
        _found_line(given.folder, labelled, seen),
        {**planned.chosen, "build": f"about {_words(sum(planned.seconds.values()))} here"},
        {part: round(value, 1) for part, value in planned.seconds.items()},
        tuple(dialogue.assumed),
        (*found.notes, *labelled.notes, *_broken(broken)),
        (
            f"convserve build {shlex.quote(str(out))}",
            "convserve serve --model-repository model_repo &",
            *_asking(name, str(out), labelled.example),
            *_adopting(found, given.folder),
        ),
    )


def _without_labels(given: Given, found: Found, nothing: DataError) -> Outcome:
    """For a Triton repository the command that adopts its models. Raises DataError for all else:
    what is built has to be verified on labelled images."""
    if found.triton:
        return Outcome(
            "",
            f"{given.folder}: a Triton repository, {counted(len(found.triton), 'model')} in ONNX",
            {},
            {},
            (),
            found.notes,
            _adopting(found, Path("FOLDER")),
        )
    files = (*found.onnx, *found.exported)
    if files:
        raise DataError(
            f"{given.folder}: {files[0].name} is a network, and nothing here shows how good it is; "
            f"expected labelled images, too: convserve init IMAGES --network {files[0]}"
        )
    raise nothing


def _asking(name: str, recipe: str, example: str) -> Iterator[str]:
    """Commands that ask the served model. Images that lie in a table are taken out of it first."""
    files = shlex.quote(example)
    if not example:
        folder = f"{name}-test"
        yield f"convserve extract {shlex.quote(recipe)} {folder}"
        files = f"$(find {folder} -type f | head -1)"
    yield f"convserve predict {files} --model {name} --url localhost:8001"


def _adopting(found: Found, data: Path) -> tuple[str, ...]:
    return tuple(
        f"convserve adopt {shlex.quote(str(model))} --data {shlex.quote(str(data))}"
        for model in found.triton
    )


def _file(given: Given, found: Found, dialogue: Dialogue) -> Path | None:
    """The file of a trained network that shall be compressed; None where one is to be trained."""
    if given.network is not None:
        file = Path(given.network)
        return file if file.suffix.lower() in ENDINGS else None
    # Reading a program of torch.export may run code of its author: only where a person names it.
    dialogue.assumed += [
        f"{file} is left alone, as reading it may run code of its author: --network {file} to "
        "compress it"
        for file in found.exported
    ]
    files = found.onnx
    if not files:
        return None
    if len(files) > 1:
        raise RecipeError(
            f"{given.folder}: {counted(len(files), 'file')} of networks; --network {files[0]} says "
            "which, or --network NAME which to train"
        )
    dialogue.assumed.append(
        f"{files[0]} is the network: --network NAME to train one on the images instead"
    )
    return files[0]


def _answered(
    given: Given, dialogue: Dialogue, found: Found, labelled: Labelled, task: Task
) -> Answers:
    mirrors = dialogue.mirrors(labelled, given.mirrors)
    minutes = dialogue.minutes(given.minutes)
    weights = () if task == "embedding" else _first_weights(given, dialogue, found, task)
    return Answers(task, minutes, mirrors, given.size, given.network, tuple(weights))


def _first_weights(
    given: Given, dialogue: Dialogue, found: Found, task: Task
) -> list[FirstWeights]:
    networks = TRAINED_TASKS[task].networks
    if here := local_weights(found.weights, networks):
        return here
    offered = downloadable_weights(networks) if given.download else []
    return offered if offered and dialogue.download(offered[0]) else []


def _require_free(out: Path, *, force: bool) -> None:
    if out.exists() and not force:
        raise RecipeError(f"{out} exists already; --force writes over it, --out names another file")


def _write(out: Path, heading: str, planned: Plan, *, force: bool) -> None:
    """Whole or not at all, and over no file that came meanwhile."""
    text = as_yaml(heading, planned.document)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=out.parent, prefix=f".{out.name}.", delete=False
    ) as file:
        written = Path(file.name)
        file.write(text)
    try:
        written.chmod(0o644)
        if force:
            written.replace(out)
        else:
            os.link(written, out)
    except FileExistsError:
        _require_free(out, force=False)
        raise
    finally:
        written.unlink(missing_ok=True)


def _heading(given: Given, planned: Plan) -> str:
    total = sum(planned.seconds.values())
    return (
        f"Written by `convserve init` for {given.folder}. `convserve build` takes about "
        f"{_words(total)} with it on the machine on which it was written: {planned.measured}."
    )


def _found_line(folder: Path, labelled: Labelled, seen: Look) -> str:
    size = f"{seen.width}x{seen.height}" if seen.one_size else f"about {seen.width}x{seen.height}"
    classes = _classes(labelled.classes) if labelled.classes else ""
    colour = "grey" if seen.grey else "colour"
    return f"{folder}: {labelled.images.all:,} images{classes}, {size}, {colour}: {labelled.how}"


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(name[:_NAME] for name in names[:_CLASSES])
    more = ", ..." if len(names) > _CLASSES else ""
    return f" in {len(names)} classes ({shown}{more})"


def _broken(files: Mapping[str, str]) -> list[str]:
    named = [f"{file}: {reason}; the build refuses it" for file, reason in files.items()]
    rest = len(named) - _NAMED
    more = [f"and {counted(rest, 'more file')} that cannot be used"] if rest > 0 else []
    return named[:_NAMED] + more


def _words(taken: float) -> str:
    if taken < 90:
        return f"{max(1, round(taken / 10)) * 10} s"
    if taken < 90 * 60:
        return f"{round(taken / 60)} min"
    return f"{taken / 3600:.1f} h"
