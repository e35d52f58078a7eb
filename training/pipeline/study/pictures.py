"""A study's pictures: Optuna's own of a search, scores beside each other of the others."""

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

# Otherwise "$" in a value would begin a formula, or an error.
matplotlib.rcParams["text.parse_math"] = False

_BLUE, _ORANGE = "#1f77b4", "#e07a1f"


@dataclass(frozen=True)
class Picture:
    """A PNG as text that an <img> takes, and the words under it."""

    source: str
    caption: str


def _rendered(figure: Figure) -> str:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def search_pictures(study: optuna.Study, measure: str) -> list[Picture]:
    """How the score rose over the trials, how each trial learned, which values met which score,
    and which of them mattered."""
    pictures = [
        _drawn(lambda: plots.plot_optimization_history(study, target_name=measure), "History"),
        _drawn(lambda: plots.plot_intermediate_values(study), "Score after each epoch, by trial"),
        _drawn(
            lambda: plots.plot_parallel_coordinate(study, target_name=measure),
            "Each line is a trial: its values, and its score",
        ),
    ]
    scores = {trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    varied = [path for path, one in study.best_trial.distributions.items() if not one.single()]
    if len(scores) > 1 and len(varied) > 1:
        pictures.append(
            _drawn(
                lambda: plots.plot_param_importances(study, target_name=measure),
                "Share of the scores' variance that each value explains (fANOVA)",
            )
        )
    return pictures


def _drawn(plot: Callable[[], Axes | np.ndarray], caption: str) -> Picture:
    """One of Optuna's plots, which draw on pyplot's current figure and set a style for all."""
    pyplot.switch_backend("agg")
    with pyplot.rc_context(), warnings.catch_warnings():
        # They have been experimental since Optuna 2.2.
        warnings.simplefilter("ignore")
        plot()
        figure = pyplot.gcf()
        figure.set_size_inches(9, 4.5)
        figure.tight_layout()
        picture = Picture(_rendered(figure), caption)
        pyplot.close(figure)
    return picture


def score_picture(scores: Mapping[str, Sequence[float]], measure: str) -> Picture:
    """A row a name: its scores, in [0, 1], as dots, and their mean as a line."""
    figure = Figure(figsize=(9, 0.45 * len(scores) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(scores.values()):
        percents = 100 * np.asarray(values)
        axes.plot(percents, np.full(len(values), place), "o", color=_BLUE, alpha=0.6)
        axes.plot([percents.mean()] * 2, [place - 0.3, place + 0.3], color=_ORANGE, linewidth=2)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set(xlabel=f"validation {measure}, %", ylim=(len(scores) - 0.5, -0.5))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return Picture(_rendered(figure), "A dot is a training, a line the mean")
