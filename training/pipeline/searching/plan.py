"""The first points of a search: every network as it is, then pruned as far as measurements before
any fine-tuning, and the trials so far, say that it should be.

For a bound on latency that is as little as will do: more pruning only costs accuracy. For a bound
on the drop the ratio is bisected: for the recipe's own network from its own target, for others from
where pruning begins to hurt.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from training.evaluation.searched import Point
from training.models.export.variants import SCHEMES
from training.pipeline.searching.chances import Chances
from training.pipeline.searching.laboratory import Measured
from training.pipeline.searching.screening import Screening
from training.pipeline.searching.space import Space

# Share of the reference's accuracy that the first pruned network of a bound on the drop keeps
# before fine-tuning, which wins back most of the rest.
_KEPT = 0.7
# Share of a network's forms that are less pruned than the first one: bisection from an end takes
# more trials.
_SPARED = 0.25


class Plan:
    """A network's points follow each other, so that an hour is enough for a pruned one.

    known: the measurements of points, as they come in.
    train: trains a point's network, unpruned; False where its training was given up.
    """

    def __init__(
        self,
        space: Space,
        screening: Screening,
        chances: Chances,
        known: Mapping[Point, Measured],
        train: Callable[[Point], bool],
    ) -> None:
        self._space = space
        self._screening = screening
        self._chances = chances
        self._known = known
        self._train = train

    def points(self) -> Iterator[Point]:
        """Each is tried, or passed over, before the next one is asked for."""
        space = self._space
        # The last and the simplest variant of each network.
        ends = dict.fromkeys((space.variants[-1], space.variants[0]))
        for size, network in itertools.product(space.sizes.values(), space.networks):
            whole = [
                Point(network=network, size=size, ratio=0.0, variant=variant)
                for variant in space.variants
            ]
            corners = [point for point in whole if point.variant in ends]
            fastest = min(whole, key=self._screening.milliseconds)
            unpruned = dict.fromkeys((*corners[::-1], fastest))
            yield from unpruned
            for point in unpruned:
                yield from self._mixed(point)
            # Before its training the forms of a network whose weights decide are not known.
            if len(space.ratios) > 1 and (not space.weights_decide or self._train(fastest)):
                if self._chances.bound.what == "latency":
                    yield from self._least_pruned(fastest)
                else:
                    yield from self._most_pruned(fastest)

    def _least_pruned(self, whole: Point) -> Iterator[Point]:
        """The network pruned as little as the bound on latency allows."""
        most = self._chances.bound.most
        fast = [] if self._screening.milliseconds(whole) <= most else self._as_fast(whole, most)
        if not fast or not self._train(whole):
            return
        best = self._most_accurate(fast)
        for point in self._forms(whole, best.tilt):
            if point.ratio < best.ratio:
                continue
            yield point
            measured = self._known.get(point)
            if measured is None or measured.milliseconds <= most:
                # Else its file is a little slower than it was before fine-tuning.
                return

    def _most_pruned(self, whole: Point) -> Iterator[Point]:
        """The network pruned as far as the bound on the drop allows, by bisection."""
        plain = self._forms(whole, 0.0)
        if not plain or not self._can_be_fast(plain[-1]) or not self._train(whole):
            return
        start = self._asked(whole) or self._hurt(whole, plain)
        if not math.isfinite(self._screening.milliseconds(start)):
            return
        forms = self._forms(whole, start.tilt)
        low, index, high = -1, forms.index(start), len(forms)
        while low < index < high:
            tried = index
            yield from self._in_mixtures(forms[tried])
            if index + 1 < high and self._misses_by_chance(forms[index]):
                # The next one is another training: two misses decide.
                tried = index + 1
                yield from self._in_mixtures(forms[tried])
            low, high = (tried, high) if self._bears_more(forms[tried]) else (low, index)
            index = (low + high) // 2

    def _asked(self, whole: Point) -> Point | None:
        """The least pruned form that reaches the target of the recipe's prune section, or the last
        one; None for another network or size than the recipe's."""
        prune = self._space.recipe.prune
        if prune is None or whole.trained != self._space.own.trained:
            return None
        screening = self._screening
        macs = screening.structure(whole)[0] * (prune.macs or 1.0)
        if prune.ratio is not None:
            # Several ratios may leave the same.
            target = {"ratio": prune.ratio, "tilt": prune.tilt}
            macs = screening.structure(whole.model_copy(update=target))[0]

        def reaches(form: Point) -> bool:
            if prune.latency is None:
                return screening.structure(form)[0] <= macs
            faster = prune.latency.speedup * screening.milliseconds(form)
            return faster <= screening.milliseconds(whole)

        forms = self._forms(whole, prune.tilt)
        return forms[min(_first(forms, reaches), len(forms) - 1)] if forms else None

    def _hurt(self, whole: Point, plain: Sequence[Point]) -> Point:
        """The form before the one that pruning hurts, in the tilt that is most accurate."""
        goal = _KEPT * self._chances.reference
        hurt = _first(plain, lambda point: self._screening.accuracy(point) < goal)
        start = plain[max(hurt - 1, int(_SPARED * len(plain)))]
        milliseconds = self._screening.milliseconds(start)
        if not math.isfinite(milliseconds):
            return start
        # By noise the most pruned ones may seem slower.
        return self._most_accurate(self._as_fast(whole, milliseconds) or [start])

    def _bears_more(self, point: Point) -> bool:
        """Whether it is accurate enough, in some mixture of precisions, or only too slow to win."""
        found = self._measured(point)
        if not found:
            return not self._can_be_fast(point)
        return any(self._chances.bound.keeps_drop(one.drop) for one in found)

    def _misses_by_chance(self, point: Point) -> bool:
        """Whether it misses a bound on the drop, in its best mixture by less than the standard
        error."""
        bound, found = self._chances.bound, self._measured(point)
        return not self._bears_more(point) and any(
            bound.keeps_drop(one.drop - one.error) for one in found
        )

    def _measured(self, point: Point) -> list[Measured]:
        """All its mixtures of precisions that are known."""
        shares = [point.model_copy(update={"float_share": s}) for s in self._space.float_shares]
        return [self._known[one] for one in shares if one in self._known]

    def _in_mixtures(self, point: Point) -> Iterator[Point]:
        yield point
        yield from self._mixed(point)

    def _mixed(self, point: Point) -> Iterator[Point]:
        """The point with more and more layers in FP32, as long as rounding makes it miss a bound on
        the drop."""
        for share in self._space.float_shares[1:]:
            if not self._is_lost_by_rounding(point):
                return
            point = point.model_copy(update={"float_share": share})
            yield point

    def _is_lost_by_rounding(self, point: Point) -> bool:
        bound, told = self._chances.bound, self._chances.told
        measured = self._known.get(point)
        if bound.what == "latency" or point.variant not in SCHEMES or measured is None:
            return False
        exact = self._known.get(point.model_copy(update={"variant": "fp32", "float_share": 0.0}))
        drops = [exact.drop] if exact is not None else []
        drops += [told - measured.in_fp32] if measured.in_fp32 is not None else []
        return not bound.keeps_drop(measured.drop) and any(map(bound.keeps_drop, drops))

    def _can_be_fast(self, point: Point) -> bool:
        return self._chances.is_fast_enough(self._screening.milliseconds(point))

    def _as_fast(self, whole: Point, milliseconds: float) -> list[Point]:
        """The least pruned networks that take no longer, one for each tilt."""
        found = []
        for tilt in self._space.tilts:
            forms = self._forms(whole, tilt)
            least = _first(forms, lambda one: self._screening.milliseconds(one) <= milliseconds)
            found += forms[least : least + 1]
        return found

    def _most_accurate(self, points: Sequence[Point]) -> Point:
        """The one that is most accurate before fine-tuning."""
        return points[0] if len(points) == 1 else max(points, key=self._screening.accuracy)

    def _forms(self, whole: Point, tilt: float) -> list[Point]:
        """The network pruned more and more; of ratios that leave the same, the smallest."""
        forms = {self._screening.structure(whole): whole}
        for ratio in self._space.ratios[1:]:
            form = whole.model_copy(update={"ratio": ratio, "tilt": tilt})
            forms.setdefault(self._screening.structure(form), form)
        return list(forms.values())[1:]


def _first(points: Sequence[Point], test: Callable[[Point], bool]) -> int:
    """The index of the first point that passes, by bisection: the ones after it do too. Their
    number where none does."""
    if not points or not test(points[-1]):
        return len(points)
    low, high = 0, len(points) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if test(points[middle]) else (middle + 1, high)
    return low
