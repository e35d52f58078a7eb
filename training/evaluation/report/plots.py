"""The plots of a page, each drawn from a part of report.json."""

from collections.abc import Sequence

import numpy as np

from training.evaluation.report.axes import linear, logarithmic
from training.evaluation.report.document import Report, Training
from training.evaluation.report.measured import Pairs, Ranked, Reliability
from training.evaluation.report.summary import Row, batch_sizes, milliseconds
from training.evaluation.report.svg import Band, Bars, Dot, Key, Line, Plot, Shape
from training.evaluation.searched import Searched, Tried
from training.recipes.tasks import MEASURE_TITLES

BLUE, ORANGE, GREY = 0, 1, 5
_KINDS: dict[str, Shape] = {"build": "circle", "unpruned": "square", "previous": "diamond"}


def tradeoff(report: Report, rows: Sequence[Row]) -> Plot | None:
    """Accuracy against latency, of calls of the smallest batch: all variants in all engines, the
    network before pruning, the last published version on the same machines, and the search."""
    sizes = batch_sizes(row for row in rows if row.kind == "build")
    if not sizes:
        return None
    batch = sizes[0]
    machines = {row.machine for row in rows if row.kind == "build"}
    shown = [row for row in rows if row.milliseconds.get(batch) and row.machine in machines]
    engines = list(dict.fromkeys(row.engine for row in shown))
    dots = [
        Dot(
            x=row.milliseconds[batch],
            y=100 * row.accuracy.value,
            low=100 * row.accuracy.low,
            high=100 * row.accuracy.high,
            colour=engines.index(row.engine) % 8,
            shape=_KINDS[row.kind],
            hollow=row.passed is False,
            label=str(row.number),
            title=f"{row.number}: {row.title} in {row.engine}, "
            f"{100 * row.accuracy.value:.2f} %, {milliseconds(row.milliseconds[batch])} ms",
        )
        for row in shown
    ]
    legend: list[Key] = [(engine, index % 8, "line", False) for index, engine in enumerate(engines)]
    words = {"build": "this build", "unpruned": "FP32 before compression"}
    if report.previous is not None:
        words["previous"] = f"version {report.previous.version}"
    kinds = dict.fromkeys(row.kind for row in shown)
    legend += [(words[kind], GREY, _KINDS[kind], False) for kind in kinds]
    if any(row.passed is False for row in shown):
        legend.append(("refused by the gate", GREY, "circle", True))
    height, width = report.input_size
    caption = (
        f"Accuracy on the test images, with 95 % intervals, against the time of a call of {batch} "
        f"{'image' if batch == 1 else 'images'} of {width}x{height}. Numbers are those of the table"
    )
    layers: list[Line] = []
    searched = report.searched
    if searched is not None and searched.reference is not None:
        dots = [*_tried(searched), *dots]
        layers = [_front(searched)]
        legend.append(("tried by the search", GREY, "cross", False))
        caption += (
            f". Crosses and the dashed front are of the search: accuracy on validation images, "
            f"{searched.measured}"
        )
    return Plot(
        caption=caption + ".",
        x=logarithmic("milliseconds (logarithmic)", [dot.x for dot in dots]),
        y=linear(
            f"{MEASURE_TITLES[report.measure]}, %",
            [v for dot in dots for v in (dot.y, dot.low or dot.y, dot.high or dot.y)],
        ),
        dots=dots,
        layers=layers,
        legend=legend,
        height=300,
    )


def _tried(searched: Searched) -> list[Dot]:
    return [
        Dot(
            x=one.milliseconds,
            y=100 * _accuracy(searched, one),
            colour=GREY,
            shape="cross",
            title=f"search: {one.point}, {100 * _accuracy(searched, one):.2f} % on validation "
            f"images, {milliseconds(one.milliseconds)} ms",
        )
        for one in searched.tried
    ]


def _front(searched: Searched) -> Line:
    points = [(one.milliseconds, 100 * _accuracy(searched, one)) for one in searched.front()]
    return Line(points, GREY, dashed=True, step=True)


def _accuracy(searched: Searched, one: Tried) -> float:
    assert searched.reference is not None
    return searched.reference - one.drop


def training(found: Training) -> list[Plot]:
    """Loss and score by epoch."""
    epochs = [epoch for epoch in found.epochs if epoch is not None]
    x = linear("epoch", epochs, whole=True)
    title = MEASURE_TITLES[found.measure]
    losses = [
        Line(list(zip(found.epochs, values, strict=True)), colour, name)
        for values, colour, name in (
            (found.loss, BLUE, "training"),
            (found.val_loss, ORANGE, "validation"),
        )
        if values
    ]
    plots = []
    if losses:
        values = [y for line in losses for _, y in line.points if y is not None]
        plots.append(Plot(f"{found.stage}: loss", x, linear("loss", values, low=0.0), losses))
    scores = [(x, None if y is None else 100 * y) for x, y in
              zip(found.epochs, found.score, strict=True)]  # fmt: skip
    unit = "epoch" if found.count == 1 else "epochs"
    said = f"{found.stage}: validation {title} over {found.count} {unit}, {found.seconds:.0f} s"
    if found.last is not None and found.best is not None:
        said += f"; {100 * found.last:.2f} % at the end, {100 * found.best:.2f} % at best"
    plots.append(
        Plot(
            said,
            x,
            linear(f"validation {title}, %", [y for _, y in scores if y is not None]),
            [Line(scores, ORANGE)],
        )
    )
    return plots


def reliability(found: Reliability, error: float, unit: str) -> list[Plot]:
    """The share of right answers by their confidence, and how many answers have it."""
    total = sum(count or 0 for count in found.count) or 1
    x = linear("confidence, %", [], low=0.0, high=100.0)
    return [
        Plot(
            f"Reliability: expected calibration error {100 * error:.2f} %. Bars under the line: "
            "answers are surer than they should be.",
            x,
            linear(f"right, % of {unit}", [], low=0.0, high=100.0),
            [
                Bars([None if share is None else 100 * share for share in found.accuracy], BLUE),
                Line([(0.0, 0.0), (100.0, 100.0)], GREY, dashed=True),
            ],
        ),
        Plot(
            f"How sure answers are: share of the {unit} by confidence.",
            x,
            linear("share, %", [100 * (n or 0) / total for n in found.count], low=0.0),
            [Bars([100 * (n or 0) / total for n in found.count], GREY)],
        ),
    ]


def ranked(found: Sequence[Ranked], count: int) -> list[Plot]:
    """Precision over recall, and the ROC."""
    if not found:
        return []
    named = [one for one in found if one.name != "mean of all"]
    of = (
        named[0].name if len(named) == 1 else f"the {len(named)} of {count} classes that rank worst"
    )
    if len(named) == count:
        of = "each class"
    grid = np.linspace(0, 1, len(found[0].precision)).tolist()
    plots = []
    for key, x, y, title in (
        ("precision", "recall", "precision", "Precision over recall"),
        ("recall", "false positive rate", "recall (true positive rate)", "ROC"),
    ):
        lines = [
            Line(
                list(zip(grid, getattr(one, key), strict=True)),
                GREY if one.name == "mean of all" else (index if index < GREY else index + 1) % 8,
                one.name,
                dashed=one.name == "mean of all",
            )
            for index, one in enumerate(found)
        ]
        plots.append(
            Plot(
                f"{title}, {of} against the rest.",
                linear(x, [], low=0.0, high=1.0),
                linear(y, [], low=0.0, high=1.0),
                lines,
            )
        )
    return plots


def pairs(found: Pairs) -> list[Plot]:
    """Cosines of pairs, the ROC of accepting them, and the cumulative match characteristic."""
    cosine = linear("cosine of the two embeddings", [], low=-1.0, high=1.0)
    shares = [
        [None if share is None else 100 * share for share in one]
        for one in (found.same, found.other)
    ]
    rates = [
        (x, y) for x, y in zip(found.false_accept_rates, found.true_accept_rates, strict=True)
        if x is not None and y is not None and x > 0
    ]  # fmt: skip
    ranks = range(1, len(found.match_rates) + 1)
    matches = [
        (float(rank), 100 * rate.value) for rank, rate in zip(ranks, found.match_rates, strict=True)
    ]
    return [
        Plot(
            "Cosine of all pairs of test images: the less the two overlap, the better.",
            cosine,
            linear("% of the pairs", [x or 0.0 for one in shares for x in one], low=0.0),
            [
                Bars(shares[0], BLUE, "same identity", pale=True),
                Bars(shares[1], ORANGE, "two identities", pale=True),
            ],
        ),
        Plot(
            f"ROC of accepting pairs, area {found.auc:.4f}; dashed: chance.",
            logarithmic("false accept rate (logarithmic)", [x for x, _ in rates]),
            linear("true accept rate", [], low=0.0, high=1.0),
            [Line(rates, BLUE), Line([(x, x) for x, _ in rates], GREY, dashed=True)],
        ),
        Plot(
            f"Cumulative match: the right identity among the nearest, of {found.match_rates[0].n} "
            "probes, with 95 % intervals."
            if found.match_rates
            else "No probes.",
            linear("rank", [float(rank) for rank in ranks], whole=True),
            linear("%", [v for r in found.match_rates for v in (100 * r.low, 100 * r.high)]),
            [
                Band(
                    [
                        (float(rank), 100 * rate.low, 100 * rate.high)
                        for rank, rate in zip(ranks, found.match_rates, strict=True)
                    ],
                    BLUE,
                ),
                Line(matches, BLUE),
            ],
        ),
    ]
