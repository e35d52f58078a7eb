"""The order in which a search tries networks, by measurements that are made up."""

from collections.abc import Callable
from typing import Any

import pytest

from training.evaluation.searched import Point, Tried
from training.pipeline.bound import Bound
from training.pipeline.searching.chances import Chances
from training.pipeline.searching.laboratory import Measured
from training.pipeline.searching.plan import Plan
from training.pipeline.searching.space import Space
from training.recipes import Recipe
from training.recipes.compress import Search

MakeRecipe = Callable[..., Recipe]


class MadeUp:
    """Steps of a tenth are felt; 10 ms in FP32 and 5 ms in INT8, less what is pruned; pruning the
    later layers costs least before fine-tuning."""

    def structure(self, point: Point) -> tuple[int, int]:
        left = 10 - int(10 * point.ratio + 1e-9)
        return left, left if point.ratio == 0 else round(100 * left + 10 * point.tilt)

    def milliseconds(self, point: Point) -> float:
        return self.structure(point)[0] * (1.0 if point.variant == "fp32" else 0.5)

    def accuracy(self, point: Point) -> float:
        return 0.9 - point.ratio * (1 - 0.2 * point.tilt)


class Fragile(MadeUp):
    """Any pruning takes most of the accuracy before fine-tuning."""

    def accuracy(self, point: Point) -> float:
        return 0.9 if point.ratio == 0 else 0.2


def planned(
    recipe: Recipe,
    bound: Bound,
    drop_of: Callable[[Point], float],
    screening: Any = None,
    error: float = 0.0,
    **settings: Any,
) -> list[Point]:
    """The points that a plan tries, where each has the drop that `drop_of` gives it, with such
    a standard error, and loses nothing by rounding where it is pruned."""
    space = Space(recipe, Search(engine="onnxruntime", **settings))
    known: dict[Point, Measured] = {}
    chances = Chances(bound, reference=0.9, told=0.9)
    screening = screening or MadeUp()
    plan = Plan(space, screening, chances, known, lambda point: True)
    tried = []
    for point in plan.points():
        milliseconds = screening.milliseconds(point)
        if not chances.is_fast_enough(milliseconds):
            continue
        tried.append(point)
        drop = drop_of(point)
        # In the middle of its fine-tuning a pruned one was better than in the end.
        curve = (0.9, 0.9 - drop) if point.ratio > 0 else ()
        in_fp32 = curve[-1] if curve else None
        known[point] = Measured(drop, milliseconds, curve, error, in_fp32)
        chances.tried.append(Tried(point=point, drop=drop, milliseconds=milliseconds))
    return tried


def recipe_in(make: MakeRecipe, *variants: str, **changes: Any) -> Recipe:
    quantize = {} if any(one.startswith("int8") for one in variants) else {"quantize": None}
    return make({"export.variants": list(variants), **quantize, **changes})


def test_a_bound_on_latency_is_met_with_as_little_pruning_as_will_do(
    digits_recipe: MakeRecipe,
) -> None:
    recipe = recipe_in(digits_recipe, "fp32", "int8-u8")
    tried = planned(recipe, Bound("latency", 4.0), lambda point: 0.0)
    [found] = tried
    assert (found.variant, found.ratio, found.tilt) == ("int8-u8", 0.2, 0.5)


def test_a_network_that_is_fast_enough_is_not_pruned(digits_recipe: MakeRecipe) -> None:
    recipe = recipe_in(digits_recipe, "fp32")
    tried = planned(recipe, Bound("latency", 10.0), lambda point: 0.0)
    assert [point.ratio for point in tried] == [0.0]


def test_a_network_that_no_pruning_makes_fast_enough_is_not_trained(
    digits_recipe: MakeRecipe,
) -> None:
    assert planned(recipe_in(digits_recipe, "fp32"), Bound("latency", 0.5), lambda point: 0) == []


@pytest.mark.parametrize("most", [0.1, 0.3, 0.5, 0.7])
def test_a_bound_on_the_drop_is_met_by_bisection(digits_recipe: MakeRecipe, most: float) -> None:
    recipe = recipe_in(digits_recipe, "fp32")
    tried = planned(recipe, Bound("drop", 1.0), lambda one: 0.0 if one.ratio <= most else 0.02)
    kept = max(point.ratio for point in tried if point.ratio <= most)
    assert kept == most
    # Of seven ratios that leave something else, with the unpruned network.
    assert len(tried) <= 5


@pytest.mark.parametrize(
    ("prune", "first"),
    [
        # It leaves as much as 0.4 does.
        ({"ratio": 0.45, "tilt": -0.5}, (0.4, -0.5)),
        ({"ratio": 0.9}, (0.7, 0.0)),
        ({"ratio": None, "macs": 0.65}, (0.4, 0.0)),
        ({"ratio": None, "latency": {"speedup": 1.2}}, (0.2, 0.0)),
    ],
)
def test_bisection_begins_at_the_recipe_s_own_target(
    digits_recipe: MakeRecipe, prune: dict[str, Any], first: tuple[float, float]
) -> None:
    changes = {f"prune.{key}": value for key, value in prune.items()}
    recipe = recipe_in(digits_recipe, "fp32", **changes)
    tried = planned(recipe, Bound("drop", 1.0), lambda one: 0.0)
    assert [(point.ratio, point.tilt) for point in tried][:2] == [(0.0, 0.0), first]


def test_bisection_of_other_networks_begins_where_pruning_begins_to_hurt(
    digits_recipe: MakeRecipe,
) -> None:
    recipe = recipe_in(digits_recipe, "fp32")
    other = "resnet32_cifar"

    def pruned(screening: MadeUp) -> Point:
        # The recipe's own cannot be pruned, so that it is not faster than the other one.
        tried = planned(
            recipe,
            Bound("drop", 1.0),
            lambda one: 0.02 if one.ratio > 0 and one.network != other else 0.0,
            screening,
            networks=[other],
        )
        return next(point for point in tried if point.network == other and point.ratio > 0)

    assert pruned(Fragile()).ratio == 0.2
    # Later layers first: that costs least before fine-tuning.
    assert (pruned(MadeUp()).ratio, pruned(MadeUp()).tilt) == (0.2, 0.5)


def test_a_miss_that_chance_explains_is_no_end_of_the_bisection(
    digits_recipe: MakeRecipe,
) -> None:
    recipe = recipe_in(digits_recipe, "fp32")

    def drop_of(point: Point) -> float:
        return 0.012 if round(point.ratio, 2) == 0.5 else 0.005

    def most(error: float) -> float:
        tried = planned(recipe, Bound("drop", 1.0), drop_of, Fragile(), error)
        return max(point.ratio for point in tried if drop_of(point) <= 0.01)

    assert most(error=0.001) == 0.4
    assert most(error=0.005) == 0.7


def test_int8_that_misses_the_bound_by_rounding_gets_layers_in_fp32(
    digits_recipe: MakeRecipe,
) -> None:
    recipe = recipe_in(digits_recipe, "fp32", "int8-u8")

    def drop_of(point: Point) -> float:
        return 0.02 - 0.08 * point.float_share if point.variant == "int8-u8" else 0.0

    tried = planned(recipe, Bound("drop", 1.0), drop_of, max_ratio=0)
    shares = [point.float_share for point in tried if point.variant == "int8-u8"]
    assert shares == [0.0, 0.1, 0.2]
    tried = planned(recipe, Bound("drop", 1.5), drop_of, max_ratio=0)
    shares = [point.float_share for point in tried if point.variant == "int8-u8"]
    assert shares == [0.0, 0.1]


def test_layers_in_fp32_do_not_help_a_network_that_misses_the_bound_in_fp32(
    digits_recipe: MakeRecipe,
) -> None:
    recipe = recipe_in(digits_recipe, "fp32", "int8-u8")
    tried = planned(recipe, Bound("drop", 1.0), lambda point: 0.02, max_ratio=0)
    assert [point.float_share for point in tried] == [0.0, 0.0]
    tried = planned(recipe, Bound("drop", 1.0), lambda one: 0.02 if one.ratio > 0 else 0.0)
    assert {point.float_share for point in tried if point.ratio > 0} == {0.0}


def test_one_network_comes_after_the_other(digits_recipe: MakeRecipe) -> None:
    recipe = recipe_in(digits_recipe, "fp32")
    tried = planned(
        recipe,
        Bound("drop", 1.0),
        lambda point: 0.0 if point.ratio <= 0.1 else 0.02,
        networks=["resnet32_cifar"],
        sizes=[12],
    )
    names = [point.trained for point in tried]
    assert names == sorted(names, key=names.index)
    assert names[0] == "resnet20_cifar-16x16"
