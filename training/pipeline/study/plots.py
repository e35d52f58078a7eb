"""A study's plots: the trials of a search, drawn as the pages of builds are."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from serving.base.text import printable
from training.evaluation.report.axes import Axis, linear, logarithmic
from training.evaluation.report.svg import Dot, Key, Line, Plot

_BLUE, _ORANGE, _GREY = 0, 1, 5
# Trials with a line of their own, the best ones; more are a grey area on a phone.
_LINES = 40
# Values of a space with a plot of their own, those that matter most.
_VALUES = 12
# Labelled choices of an axis, and characters that all of them have together on a phone.
_CHOICES, _CHARACTERS = 6, 36


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of the scores' variance that each varied value explains (fANOVA), largest first; empty
    where fewer than two values, or no scores, vary."""
    scores = {trial.value for trial in _complete(study)}
    if len(scores) < 2 or len(_varied(study)) < 2:
        return {}
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def search_plots(study: optuna.Study, measure: str, shares: Mapping[str, float]) -> list[Plot]:
    """How the score rose over the trials, how each trial learned, and which values met which score,
    those with the largest of `shares` first."""
    score = f"validation {measure}, %"
    plots = [_history(study, score)]
    learned = _learned(study, score)
    if learned is not None:
        plots.append(learned)
    varied = sorted(_varied(study), key=lambda path: -shares.get(path, 0.0))
    return [*plots, *(_scattered(study, path, score) for path in varied[:_VALUES])]


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _varied(study: optuna.Study) -> list[str]:
    return [path for path, one in study.best_trial.distributions.items() if not one.single()]


def _percents(trials: Sequence[FrozenTrial]) -> list[float]:
    return [100 * trial.value for trial in trials if trial.value is not None]


def _dot(trial: FrozenTrial, x: float, best: int) -> Dot:
    assert trial.value is not None
    values = ", ".join(f"{path}={value}" for path, value in trial.params.items())
    return Dot(
        x=x,
        y=100 * trial.value,
        colour=_ORANGE if trial.number == best else _BLUE,
        hollow=trial.state == TrialState.PRUNED,
        label=str(trial.number) if trial.number == best else "",
        title=printable(f"trial {trial.number}: {100 * trial.value:.2f} %, {values}", 300),
    )


def _history(study: optuna.Study, score: str) -> Plot:
    scored = [
        trial
        for trial in study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )
        if trial.value is not None
    ]
    best = study.best_trial.number
    reached: list[tuple[float | None, float | None]] = []
    highest = -1.0
    for trial in _complete(study):
        highest = max(highest, trial.value or 0.0)
        reached.append((float(trial.number), 100 * highest))
    legend: list[Key] = [("trial", _BLUE, "circle", False)]
    if any(trial.state == TrialState.PRUNED for trial in scored):
        legend.append(("ended by the pruner", _BLUE, "circle", True))
    return Plot(
        f"Score of each trial, and the best so far; trial {best} is the best.",
        linear("trial", [float(trial.number) for trial in scored], whole=True),
        linear(score, _percents(scored)),
        [Line(reached, _GREY, "best so far", dashed=True, step=True)],
        [_dot(trial, float(trial.number), best) for trial in scored],
        legend=legend,
    )


def _learned(study: optuna.Study, score: str) -> Plot | None:
    """The score after each epoch; None where no trial has two."""
    trials = [
        trial
        for trial in study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )
        if len(trial.intermediate_values) > 1
    ]
    if not trials:
        return None
    best = study.best_trial.number
    trials.sort(key=lambda trial: (trial.number != best, -(trial.value or 0.0)))
    count = len(trials)
    lines = [
        Line(
            [
                (step + 1.0, 100 * value)
                for step, value in sorted(trial.intermediate_values.items())
            ],
            _ORANGE if trial.number == best else _GREY,
            f"trial {best}, the best" if trial.number == best else "",
        )
        for trial in trials[:_LINES]
    ]
    # The best is drawn last, over the others; one of the others names them all.
    lines.reverse()
    if lines[0].colour == _GREY:
        lines[0] = Line(lines[0].points, _GREY, "other trials")
    points = [point for line in lines for point in line.points]
    what = "each trial" if count <= _LINES else f"the {_LINES} best of {count} trials"
    return Plot(
        f"Score after each epoch, of {what}.",
        linear("epoch", [x for x, _ in points if x is not None], whole=True),
        linear(score, [y for _, y in points if y is not None]),
        lines,
    )


def _scattered(study: optuna.Study, path: str, score: str) -> Plot:
    """The scores that the values of one path met."""
    trials = [trial for trial in _complete(study) if path in trial.params]
    distribution = study.best_trial.distributions[path]
    name = printable(path, 100)
    # Its end tells more of a path than its beginning.
    title = name if len(name) <= _CHARACTERS else f"…{name[-_CHARACTERS:]}"
    if isinstance(distribution, CategoricalDistribution):
        places = {choice: float(n) for n, choice in enumerate(distribution.choices)}
        axis = _choices(title, [str(choice) for choice in distribution.choices])
    else:
        values = [float(trial.params[path]) for trial in trials]
        places = dict(zip((trial.params[path] for trial in trials), values, strict=True))
        whole = isinstance(distribution, IntDistribution)
        is_log = getattr(distribution, "log", False)
        axis = (
            logarithmic(f"{title} (logarithmic)", values)
            if is_log
            else linear(title, values, whole=whole)
        )
    best = study.best_trial.number
    # The best one lies over others of its score.
    trials.sort(key=lambda trial: trial.number == best)
    return Plot(
        f"Score by {name}.",
        axis,
        linear(score, _percents(trials)),
        dots=[_dot(trial, places[trial.params[path]], best) for trial in trials],
    )


def _choices(title: str, names: Sequence[str]) -> Axis:
    """An axis with a place for each choice; of many, some are labelled."""
    step = -(-len(names) // _CHOICES)
    shown = range(0, len(names), step)
    length = max(4, _CHARACTERS // len(shown))
    ticks = tuple((float(n), printable(names[n], length)) for n in shown)
    return Axis(title, -0.5, len(names) - 0.5, ticks)
