"""A study file is refused with the path, the value and the way out."""

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.pipeline.study.definition import FloatRange, IntRange, load_study


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "exactly one of search, ablation, cross_validation; got none"),
        (
            "{cross_validation: {folds: 2}, ablation: {seeds: [0, 1], rows: {a: {}}}}",
            "got ablation and cross_validation",
        ),
        ("serach: {}", "serach: unknown key; did you mean 'search'?"),
        ("search: {trials: 1, spce: {}}", "search.spce: unknown key; did you mean 'space'?"),
        ("search: {space: {seed: [1]}}", "search: trials: missing; tpe needs to know how many"),
        ("search: {trials: 1, space: {seed: []}}", "search.space.seed: tuple should have at least"),
        (
            "search: {trials: 1, space: {seed: [1, 1]}}",
            "search.space.seed: a value is listed twice",
        ),
        (
            "search: {trials: 1, space: {train.epochs: {type: itn}}}",
            "search.space.train.epochs.type: expected one of choices, int, float; got 'itn'; "
            "did you mean 'int'?",
        ),
        (
            "search: {trials: 1, space: {seed: {type: int, low: 1, hihg: 2}}}",
            "search.space.seed.hihg: unknown key; did you mean 'high'?",
        ),
        (
            "search: {trials: 1, space: {seed: {type: int, low: 2, high: 1}}}",
            "search.space.seed: low must be under high, got 2 and 1",
        ),
        (
            "search: {trials: 1, space: {a.b: {type: float, low: 0.5, high: 0.5}}}",
            "search.space.a.b: low must be under high, got 0.5 and 0.5",
        ),
        (
            "search: {trials: 1, space: {seed: {type: int, low: 0, high: 1, log: true}}}",
            "search.space.seed: log: true needs a low above 0, got 0",
        ),
        (
            "search: {sampler: grid, space: {a.b: {type: float, low: 0, high: 1}}}",
            "search: space.a.b: a grid needs a list of values, or a range with a step",
        ),
        ("search: {trials: 1, space: {seed: [1]}, pruner: {name: mdian}}", "mean 'median'?"),
        (
            "search: {trials: 1, space: {a.b: [1]}, until: prune, pruner: {name: median}}",
            "search: pruner: ends trials in the train stage, and until is prune",
        ),
        ("ablation: {seeds: [1], rows: {a: {}}}", "ablation.seeds: tuple should have at least 2"),
        ("ablation: {seeds: [1, 1], rows: {a: {}}}", "ablation: seeds holds one twice: 1, 1"),
        ("ablation: {seeds: [1, 2], rows: {a b: {}}}", "ablation.rows.a b: string should match"),
        (
            "ablation: {seeds: [1, 2], rows: {a: {seed: 3}}}",
            "rows.a.seed: every row has the same seeds",
        ),
        ("cross_validation: {folds: 1}", "cross_validation.folds: input should be greater than"),
    ],
)
def test_wrong_study_is_refused_with_its_path(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_study(path)
    assert expected in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_grid_of_a_range_holds_both_ends() -> None:
    assert IntRange(type="int", low=2, high=8, step=3).grid() == [2, 5, 8]
    tenths = FloatRange(type="float", low=0.0, high=0.3, step=0.1).grid()
    assert tenths == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert FloatRange(type="float", low=0.0, high=1.0).grid() is None
