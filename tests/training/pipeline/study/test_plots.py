"""The plots of a search, drawn of trials that never ran."""

from collections.abc import Iterable, Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from training.evaluation.report.svg import Line, Plot
from training.pipeline.study.plots import importances, search_plots

LR = FloatDistribution(1e-4, 1.0, log=True)
LOSS = CategoricalDistribution(["<b>plain</b>", "focal"])
SPACE: dict[str, BaseDistribution] = {"lr": LR, "depth": IntDistribution(2, 9), "loss": LOSS}


def trial(score: float, *, pruned: bool = False, **params: Any) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=score,
        params=params,
        distributions={path: SPACE[path] for path in params},
        intermediate_values={0: score / 2, 1: score},
    )


def studied(trials: Iterable[optuna.trial.FrozenTrial]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    losses = ("<b>plain</b>", "focal")
    tried = [
        trial(0.9 - abs(n - 6) / 50, lr=10 ** (-n / 4), depth=2 + n % 8, loss=losses[n % 2])
        for n in range(12)
    ]
    return studied([*tried, trial(0.3, pruned=True, lr=0.5, depth=3, loss="focal")])


def plots_of(study: optuna.Study, shares: Mapping[str, float] | None = None) -> list[Plot]:
    return search_plots(study, "top-1 accuracy", shares or {})


def test_best_trial_is_told_from_the_others_in_each_plot(study: optuna.Study) -> None:
    history, learned, *values = plots_of(study)
    assert [dot.y for dot in history.dots if dot.label] == [pytest.approx(90)]
    assert "trial 6 is the best" in history.caption
    assert history.x.title == "trial"
    assert [line.name for line in learned.layers if isinstance(line, Line) and line.name] == [
        "other trials",
        "trial 6, the best",
    ]
    # Drawn last, over others.
    assert all(plot.dots[-1].label == "6" for plot in values)


def test_values_have_axes_of_their_kind_those_that_matter_first(study: optuna.Study) -> None:
    shares = importances(study)
    assert sum(shares.values()) == pytest.approx(1)
    values = plots_of(study, shares)[2:]
    order = [plot.caption.removeprefix("Score by ").rstrip(".") for plot in values]
    assert order == sorted(SPACE, key=lambda path: -shares[path])
    axes = dict(zip(order, (plot.x for plot in values), strict=True))
    assert axes["lr"].log
    assert not axes["depth"].log
    assert [label for _, label in axes["loss"].ticks] == ["<b>plain</b>", "focal"]


def test_names_of_values_stay_texts(study: optuna.Study) -> None:
    page = "".join(str(plot.__html__()) for plot in plots_of(study))
    assert "<b>" not in page
    assert "&lt;b&gt;plain" in page


def test_pruned_trial_is_hollow_and_has_its_line(study: optuna.Study) -> None:
    history, learned, *_ = plots_of(study)
    assert [dot.y for dot in history.dots if dot.hollow] == [pytest.approx(30)]
    assert ("ended by the pruner", 0, "circle", True) in history.legend
    assert len(learned.layers) == 13


def test_lines_of_many_trials_are_bounded() -> None:
    learned = plots_of(studied(trial(0.5 + n / 1000, lr=0.1 + n / 500) for n in range(300)))[1]
    assert len(learned.layers) == 40
    assert "the 40 best of 300 trials" in learned.caption


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_explained_where_nothing_varies(count: int) -> None:
    study = studied(trial(0.5, lr=0.1, depth=3) for _ in range(count))
    assert importances(study) == {}
    assert len(plots_of(study)) == 4
