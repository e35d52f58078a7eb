"""The gate: whether a variant is accurate enough, and whether a build may publish."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from serving.base.evaluation import Estimate
from serving.base.task import Measure
from serving.repository.manifest import Gate
from training.errors import VerificationError
from training.evaluation.accuracy import (
    accuracy_of,
    agreement_of,
    chance_of,
    class_drops,
    drop_of,
    other_measures,
)
from training.evaluation.network_answers import Answers
from training.evaluation.verification import Verification
from training.recipes.deliver import Verify

# What a recipe says to have a network published that is no better than chance.
_SETTING = "verify.min_accuracy: 0"
# Shares of answers: one more right answer raises them by 1 / n.
_SHARES: tuple[Measure, ...] = ("top1", "rank1")
# Less than an answer of any test split; more than floats lose.
_ROUNDING = 1e-9


class Verdict(NamedTuple):
    """The figures and the gate of one variant in one engine, as Evidence has them."""

    accuracy: Estimate
    drop: Estimate
    agreement: float
    gate: Gate
    measures: Mapping[str, Estimate | float]
    class_drops: Mapping[str, float]


def require_pass(verification: Verification) -> None:
    """Raises VerificationError with the numbers unless FP32 passes in some engine and, where others
    were asked for and can run here, so does at least one of them.

    A variant that passes nowhere beside others that do is not published; one that passes in one
    engine is published with both verdicts, and the server heeds them.
    """
    others = [result for result in verification.variants[1:] if result.evidence]
    fp32 = verification.variants[0]
    if fp32.passed and (not others or any(result.passed for result in others)):
        return
    failed = [fp32] if not fp32.passed else others
    reasons = [
        f"{result.id} in {engine}: {evidence.gate.reason}"
        for result in failed
        for engine, evidence in result.evidence.items()
    ]
    raise VerificationError("nothing to publish: " + "; ".join(reasons or ["no engine ran it"]))


def verdict(
    config: Verify,
    measure: Measure,
    classes: Sequence[str],
    reference: Answers,
    found: Answers,
    setting: str = _SETTING,
) -> Verdict:
    """Judges answers to labelled images beside the reference's. setting: see judge."""
    accuracy, drop = accuracy_of(measure, found), drop_of(measure, reference, found)
    agreeing, chance = agreement_of(reference, found), chance_of(measure, reference)
    return Verdict(
        accuracy=accuracy,
        drop=drop,
        agreement=agreeing,
        gate=judge(config, measure, accuracy, drop, agreeing, chance, setting),
        measures=other_measures(reference, found),
        class_drops=class_drops(measure, reference, found, classes),
    )


def judge(
    config: Verify,
    measure: Measure,
    measured: Estimate,
    drop: Estimate,
    agreeing: float,
    chance: float,
    setting: str = _SETTING,
) -> Gate:
    """The verdict on one variant in one engine.

    The drop passes when it is at most max_drop. It also passes when it is larger but its interval
    holds 0, so that chance explains it, provided that there are enough images for that to mean
    anything: 3 / max_drop, below which not even n equal answers would prove the bound (the rule of
    three). With fewer the drop itself decides, and the reason says so. Where one answer more or
    less, or chance, may have decided, the reason says that too.

    The accuracy must lie above `chance`, that of the best constant answer, with its whole interval,
    unless the recipe gives min_accuracy as 0: a network that has learnt nothing loses nothing.

    setting: how the user would say so.
    """
    few = drop.n * config.max_drop < 3
    reasons = [f"drop {_points(drop)} points, allowed {100 * config.max_drop:.2f}, n={drop.n}"]
    passed = drop.value <= config.max_drop + _ROUNDING
    if not passed and drop.low <= 0 and not few:
        passed = True
        reasons.append("more than allowed, but the interval holds 0: not told from chance")
    if few:
        needed = f"{math.ceil(3 / config.max_drop)}" if config.max_drop else "any number"
        reasons.append(
            f"too few images to prove the bound ({needed} needed)"
            if config.max_drop
            else "a bound of 0 cannot be proved by any number of images"
        )
        if not passed and drop.low <= 0:
            reasons.append("the interval holds 0, so that it may have failed by chance")
    elif drop.value <= config.max_drop + _ROUNDING < drop.high:
        reasons.append(f"within the bound as measured; the interval reaches {100 * drop.high:.2f}")
    if agreeing < config.min_agreement:
        passed = False
        reasons.append(f"agreement {agreeing:.4f} is under {config.min_agreement}")
    if config.min_accuracy is not None and measured.value < config.min_accuracy:
        passed = False
        reasons.append(f"accuracy {measured.value:.4f} is under {config.min_accuracy}")
    if config.min_accuracy != 0 and not measured.low > chance:
        passed = False
        reasons.append(
            f"accuracy {_points(measured)} % is not above chance: one answer to all images gets "
            f"{100 * chance:.2f} % ({setting} lets it pass)"
        )
    if measure not in _SHARES:
        return Gate(passed=passed, reason="; ".join(reasons))
    one = 1 / max(1, drop.n)
    if passed and not _passes(config, measured, drop, agreeing, one):
        reasons.append(f"one more wrong answer of {drop.n} would fail it")
    if not passed and measured.low > chance and _passes(config, measured, drop, agreeing, -one):
        reasons.append(f"one more right answer of {drop.n} would pass it")
    return Gate(passed=passed, reason="; ".join(reasons))


def _passes(
    config: Verify, measured: Estimate, drop: Estimate, agreeing: float, worse: float
) -> bool:
    """Whether the bounds would be kept, were all figures `worse` by so much."""
    chance = drop.low + worse <= 0 and drop.n * config.max_drop >= 3
    return (
        (chance or drop.value + worse <= config.max_drop + _ROUNDING)
        and agreeing - worse >= config.min_agreement - _ROUNDING
        and measured.value - worse >= (config.min_accuracy or 0.0) - _ROUNDING
    )


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f} [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}]"
