"""`convserve build`: parses arguments, runs the pipeline, prints the outcome."""

import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from serving.base.command import AsJson, application, one_of
from serving.base.errors import EngineUnavailable
from serving.base.machine.terminal import next_step
from serving.base.storage.address import is_url
from serving.base.text import escaped
from training.cli.terminal import fail, interrupted, print_json, set_up_logging
from training.errors import BuildError, RecipeError
from training.pipeline.bound import Bound, parse_bound
from training.pipeline.library_logs import quiet_libraries

log = logging.getLogger(__name__)

# Told here as well, since the help must not import the pipeline, and torch with it.
STAGES = ("data", "train", "distill", "prune", "quantize", "export", "verify", "publish")


def _folder(text: str | Path) -> Path:  # the default comes as it is
    if is_url(str(text)):
        raise typer.BadParameter(
            "a model is published into a folder; copy it to its store from there, the manifest last"
        )
    return Path(text)


def build(
    recipe: Annotated[
        Path | None, typer.Argument(help="The YAML file; see training/recipes/ for examples.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.KEY=VALUE", help="Override a value of the recipe."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help=f"Last stage to run: {', '.join(STAGES)}.",
            show_default=STAGES[-1],
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Train the recipe many times instead: a search, an ablation or folds, as a YAML "
            "file says; see docs/studies.md.",
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="BOUND",
            help="Build the best network within latency<=MILLISECONDS or drop<=POINTS, over the "
            "recipe's `search` section.",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Try no more networks after so many hours of --search.",
            show_default="all of search.trials",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where run folders go.")] = Path("runs"),
    model_repository: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the model is published.", parser=_folder)
    ] = Path("model_repo"),
    list_networks: Annotated[
        bool,
        typer.Option(
            "--list-networks", help="Show the networks that a recipe can name.", show_default="off"
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train, prune, quantise, export, verify and publish a network, as a recipe says."""
    set_up_logging()
    if list_networks:
        _list_networks(as_json)
        return
    if recipe is None:
        raise typer.BadParameter("give a recipe, or --list-networks", param_hint="RECIPE")
    one_of(until, STAGES, "--until")
    if until is not None and study is not None:
        raise typer.BadParameter("a study trains, and ends there", param_hint="--until")
    if until is not None and search is not None:
        raise typer.BadParameter("a search goes through all stages", param_hint="--until")
    if study is not None and search is not None:
        raise typer.BadParameter("give either a study or a search", param_hint="--study")
    if hours is not None and search is None:
        raise typer.BadParameter("bounds a search; give --search too", param_hint="--hours")
    bound = None if search is None else _bound(search)
    try:
        if study is not None:
            _study(recipe, overrides or [], study, out, as_json)
        else:
            _build(recipe, overrides or [], until, bound, hours, out, model_repository, as_json)
    except (BuildError, EngineUnavailable) as error:
        fail("build", str(error))
    except OSError as error:
        fail("build", str(error))
    except KeyboardInterrupt:
        interrupted("build", "the same command goes on from where this one stopped")


def _stdout_kept() -> contextlib.AbstractContextManager[object]:
    """Sends to stderr what the network of a recipe prints: stdout belongs to the command."""
    return contextlib.redirect_stdout(sys.stderr)


def _bound(text: str) -> Bound:
    try:
        return parse_bound(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--search") from error


def _build(
    path: Path,
    overrides: list[str],
    until: str | None,
    bound: Bound | None,
    hours: float | None,
    out: Path,
    repository: Path,
    as_json: bool,
) -> None:
    # Imported here, as below: a wrong recipe is told at once, and torch takes seconds to import.
    from training.fitting import distributed
    from training.recipes import load_recipe

    recipe = load_recipe(path, overrides)
    if until == "data" or bound is not None:
        _require_one_process()
    log.info("%s: %s of %s; loading torch", recipe.name, recipe.task, path)

    from training.evaluation.report.tables import (
        measure_rows,
        print_table,
        variant_documents,
        variant_rows,
    )
    from training.pipeline import pipeline

    with quiet_libraries(), _stdout_kept():
        if distributed.rank() > 0:
            pipeline.join_training(recipe, out, repository)
            return
        if bound is None:
            built = pipeline.build(recipe, out, repository, until, tell=True)
        else:
            from training.pipeline.searching.search import search as run_search

            built = run_search(recipe, bound, out, repository, hours=hours)
    found = built.verification
    if as_json:
        document = {
            "name": recipe.name,
            "run": str(built.folder),
            "report": str(built.report),
            "ran": built.ran,
            "kept": built.kept,
            "published_version": built.version,
            "measure": None if found is None else found.measure,
            "variants": [] if found is None else variant_documents(found),
        }
        print_json(document)
        return
    if found is not None:
        print_table(recipe.name, variant_rows(found))
        if more := measure_rows(found):
            print_table(f"{recipe.name}: more measures", more)
    typer.echo(f"Report: {built.report}")
    if built.version is not None:
        typer.echo(f"Published: {repository / recipe.name / str(built.version)}")
    elif "publish" in built.kept:
        typer.echo("Nothing has changed, so nothing was published.")
    if "publish" in (*built.ran, *built.kept):
        next_step("serve", "--model-repository", repository)
    else:
        next_step("build", path)


def _study(path: Path, overrides: list[str], study: Path, out: Path, as_json: bool) -> None:
    from training.pipeline.study.definition import load_study
    from training.recipes import parse_recipe, read_document

    document = read_document(path, overrides)
    parse_recipe(document, str(path))
    definition = load_study(study)
    _require_one_process()
    log.info("%s: study of %s; loading torch", study, path)

    from training.evaluation.report.tables import print_table
    from training.pipeline.study.run import run_study

    with quiet_libraries(), _stdout_kept():
        studied = run_study(document, definition, study, out)
    if as_json:
        print_json(studied.outcome.document)
        return
    print_table(studied.outcome.title, studied.outcome.rows)
    typer.echo(escaped(studied.outcome.note))
    typer.echo(f"Report: {studied.report}")
    if studied.best is not None:
        typer.echo(f"Best recipe: {studied.best}")
        next_step("build", studied.best)


def _require_one_process() -> None:
    from training.fitting import distributed

    if distributed.processes() > 1:
        raise RecipeError(
            "torchrun shares one training; start a study, a search or --until data without it"
        )


def _list_networks(as_json: bool) -> None:
    from training.evaluation.report.tables import print_table
    from training.models.networks import networks

    rows = networks()
    if as_json:
        print_json(rows)
        return
    shown = [
        {
            **row,
            "input_size": "x".join(str(side) for side in row["input_size"]),
            "parameters": f"{row['parameters']:,}",
            "options": ", ".join(row["options"]),
            "tests": _summary(row["tests"]),
        }
        for row in rows
    ]
    counted = "parameters and GMACs with 1,000 classes, segmentation with 21"
    print_table(f"Networks ({counted})", shown)
    next_step("init", "FOLDER", "--network", "NAME")


def _summary(tests: dict[str, str]) -> str:
    """Steps of one outcome together: "prune: refused: ...; int8, onnxruntime: tested"."""
    steps: dict[str, list[str]] = {}
    for step, outcome in tests.items():
        steps.setdefault(outcome, []).append(step)
    if len(steps) == 1:
        return next(iter(steps))
    return "; ".join(f"{', '.join(names)}: {outcome}" for outcome, names in steps.items())


app = application(build)
