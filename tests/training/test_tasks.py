"""Every table that is keyed by the task, or by its measure, has a row for each."""

from collections.abc import Collection
from typing import get_args

import pytest

from serving.base.task import TASKS, Measure, Task, measure_of
from training.evaluation.accuracy import _FIGURES
from training.evaluation.network_answers import COLLECTORS
from training.evaluation.report.from_verify import TOLD
from training.evaluation.report.images import PICTURES
from training.fitting.epoch_metrics import METRICS
from training.models.export.deployed import LAST_STEPS, output_specs
from training.recipes.recipe import Recipe
from training.recipes.tasks import MEASURE_TITLES, TRAINED_TASKS


@pytest.mark.parametrize("table", [TASKS, TRAINED_TASKS, COLLECTORS, METRICS, LAST_STEPS, PICTURES])
def test_table_has_every_task(table: Collection[Task]) -> None:
    assert set(table) == set(get_args(Task))


# Networks that others made are also judged by their agreement with themselves in FP32.
@pytest.mark.parametrize(
    ("table", "more"),
    [(_FIGURES, set()), (TOLD, set()), (MEASURE_TITLES, {"agreement"})],
)
def test_table_has_every_measure(table: Collection[str], more: set[str]) -> None:
    assert set(table) == {*get_args(Measure), *more}


def test_every_task_has_a_recipe() -> None:
    named = [get_args(recipe.model_fields["task"].annotation)[0] for recipe in get_args(Recipe)]
    assert set(named) == set(get_args(Task))


@pytest.mark.parametrize("task", get_args(Task))
@pytest.mark.parametrize("channels", [1, 5])
def test_first_output_is_the_answer(task: Task, channels: int) -> None:
    spec = TASKS[task]
    binary = channels == 1 and spec.binary_output is not None
    first = output_specs(task, channels, (8, 8))[0].name
    assert first == (spec.binary_output if binary else spec.output)
    assert measure_of(task, binary=binary) in get_args(Measure)
