"""Pictures of how well embeddings tell people apart."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.evaluation.report.figures import Arrays, Picture, plain_axes, rendered
from training.evaluation.verification import Identification

_BLUE, _GREY, _RED = "#1f77b4", "#8a8f98", "#c62828"


def embedding_pictures(arrays: Arrays, found: Identification) -> list[Picture]:
    """The cosines of pairs of one person and of two, the ROC of accepting pairs, and the cumulative
    match characteristic."""
    return [_pairs(arrays), _accepted(found), _matched(found)]


def _pairs(arrays: Arrays) -> Picture:
    genuine, impostor = arrays["genuine"], arrays["impostor"]
    edges = np.linspace(-1, 1, len(genuine) + 1)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for shares, colour, label in ((genuine, _BLUE, "same person"), (impostor, _RED, "two people")):
        axes.stairs(100 * shares, edges, fill=True, alpha=0.5, color=colour, label=label)
    axes.set(xlabel="cosine of the two embeddings", ylabel="% of the pairs")
    axes.legend(frameon=False)
    plain_axes(axes)
    return Picture(rendered(figure), "Cosine of all pairs of test images")


def _accepted(found: Identification) -> Picture:
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    rates = np.array(found.false_accept_rates)
    axes.plot(rates, np.array(found.true_accept_rates), color=_BLUE)
    axes.plot(rates, rates, color=_GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="false accept rate", ylabel="true accept rate", xscale="log",
             xlim=(rates[0], rates[-1]), ylim=(0, 1.02))  # fmt: skip
    plain_axes(axes)
    return Picture(rendered(figure), f"ROC of all pairs, AUC {found.auc:.4f}; dashed: chance")


def _matched(found: Identification) -> Picture:
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    ranks = np.arange(1, len(found.match_rates) + 1)
    low, middle, high = (
        100 * np.array([getattr(rate, name) for rate in found.match_rates])
        for name in ("low", "value", "high")
    )
    axes.fill_between(ranks, low, high, color=_BLUE, alpha=0.2, linewidth=0)
    axes.plot(ranks, middle, color=_BLUE, marker="o", markersize=3)
    axes.set(xlabel="rank", ylabel="right person among the nearest, %", ylim=(None, 101))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes)
    return Picture(
        rendered(figure),
        f"Cumulative match characteristic of {found.match_rates[0].n} probes, with 95 % intervals",
    )
