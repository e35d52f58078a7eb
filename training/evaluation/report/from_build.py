"""From the findings of a build's stages to its report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.base.task import Measure
from training.evaluation.report.document import (
    ClassCount,
    Data,
    Environment,
    Published,
    Report,
    Sensitivity,
    Stage,
    State,
    Training,
)
from training.evaluation.report.from_verify import (
    Arrays,
    curve,
    known,
    previous_part,
    verified_part,
)
from training.evaluation.report.measured import (
    MOST_CLASSES,
    MOST_EPOCHS,
    MOST_LAYERS,
    MOST_PAIRS,
    MOST_TRIED,
    as_name,
    as_text,
)
from training.evaluation.searched import Searched, Tried
from training.evaluation.verification import Verification
from training.recipes import Recipe


def report_of(
    *,
    recipe: Recipe,
    recipe_sha256: str,
    created: str,
    state: State,
    environment: Mapping[str, Any],
    findings: Mapping[str, Any],
    sheet: Arrays,
    results: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    verification: Verification | None,
    pictures: Arrays,
    repository: Path,
    version: int | None,
    searched: Searched | None,
) -> Report:
    """The report of a build. Names are cut and lists shortened to the length of a page.

    created: when something last changed, ISO 8601 in UTC.
    findings, sheet: of the data stage.
    results: of all stages that are done, by name.
    pictures: of the verify stage; empty where it has not run.
    version: the one that was published, now or by a former build with the same results.
    """
    evaluated = results.get("verify", {})
    verified = None
    if verification is not None:
        verified = verified_part(recipe, verification, evaluated, pictures)
    return Report(
        created=created,
        name=as_name(recipe.name),
        state=state,
        task=recipe.task,
        measure=recipe.measure,
        architecture=as_name(recipe.model.architecture),
        input_size=recipe.transform.size,
        channels=recipe.transform.channels,
        seed=recipe.seed,
        recipe_sha256=recipe_sha256,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        published=Published(repository=as_text(str(repository)), version=version)
        if version is not None
        else None,
        previous=previous_part(
            repository / recipe.name, version, recipe.measure, verified, findings
        ),
        data=_data(findings, sheet),
        verified=verified,
        training=tuple(
            _training(stage, found["history"], recipe.measure)
            for stage, found in results.items()
            if found.get("history")
        ),
        sensitivities=tuple(
            _sensitivity(stage, one)
            for stage, found in results.items()
            for one in found.get("sensitivity") or ()
        ),
        notes=tuple(
            as_text(f"{stage}, {what}: {said}")
            for stage, found in results.items()
            for what, said in (found.get("notes") or {}).items()
        )[:200],
        searched=searched
        and searched.model_copy(update={"tried": tuple(_kept_points(searched))[:MOST_TRIED]}),
        stages=tuple(Stage(name=as_name(stage), seconds=taken) for stage, taken in seconds.items()),
        environment=Environment.model_validate(
            {
                key: {n: as_name(str(v)) for n, v in value.items()}
                if isinstance(value, Mapping)
                else as_text(str(value))
                for key, value in environment.items()
            }
        ),
    )


def _kept_points(searched: Searched) -> Iterable[Tried]:
    """The chosen point and the front first, so that they stay where many were tried."""
    kept = [one for one in searched.tried if one.point == searched.chosen]
    return dict.fromkeys([*kept, *searched.front(), *searched.tried])


def _training(stage: str, history: Sequence[Mapping[str, float]], measure: Measure) -> Training:
    score = f"val_{measure}"
    step = -(-len(history) // MOST_EPOCHS)
    kept = history[::step]

    def column(key: str) -> tuple[float | None, ...]:
        return curve(row[key] for row in kept) if key in history[0] else ()

    return Training(
        stage=stage,
        epochs=column("epoch"),
        loss=column("loss"),
        val_loss=column("val_loss"),
        score=column(score),
        measure=measure,
        count=len(history),
        last=known(history[-1][score]),
        best=known(max(row[score] for row in history)),
        seconds=sum(row["seconds"] for row in history),
    )


def _sensitivity(stage: str, found: Mapping[str, Any]) -> Sensitivity:
    changed = sorted(
        ((as_name(layer), 1 - share) for layer, share in found["agreement"].items()),
        key=lambda one: -one[1],
    )
    return Sensitivity(
        stage=stage,
        title=as_text(found["title"]),
        images=found["images"],
        layers=tuple(changed[:MOST_LAYERS]),
        count=len(changed),
        left_alone=tuple(map(as_name, found["left_alone"]))[:MOST_LAYERS],
    )


def _data(findings: Mapping[str, Any], sheet: Arrays) -> Data:
    rows = [
        ClassCount.model_validate({"name": as_name(label), **counts})
        for label, counts in findings["classes"].items()
    ]
    if len(rows) > MOST_CLASSES:
        ordered = sorted(rows, key=lambda row: -row.train)
        shown = [*ordered[: MOST_CLASSES // 2], *ordered[-MOST_CLASSES // 2 :]]
    else:
        shown = rows
    if "masks" in sheet:
        examples = [("", len(sheet["images"]))]
    else:
        examples = [
            (as_name(str(label)), int(count))
            for label, count in zip(sheet["classes"], sheet["counts"], strict=True)
        ]
    return Data(
        description=as_text(findings["description"]),
        sha256=findings.get("sha256", ""),
        images=findings["images"],
        unit=findings["unit"],
        classes=tuple(shown),
        class_count=len(rows),
        median=findings["sizes"]["median"],
        seen=findings["sizes"]["shown"],
        examples=tuple(examples),
        warnings=tuple(map(as_text, findings["warnings"]))[:64],
        duplicates={
            kind: tuple((as_name(one), as_name(other)) for one, other in
                        findings["duplicates"][kind]["first"][:MOST_PAIRS])
            for kind in ("exact", "near")
        },
    )  # fmt: skip
