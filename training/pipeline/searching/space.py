"""The networks among which a search chooses, and the recipe of each."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from serving.engines import ENGINES, unavailable_reason
from training.compress.prune import check_prune
from training.errors import RecipeError
from training.evaluation.searched import Point
from training.models.checkpoint import RUN_FORMAT
from training.models.export.variants import SCHEMES, precision_of
from training.models.networks import check_network
from training.pipeline.environment import measuring_facts
from training.pipeline.pipeline import keys_until
from training.recipes import Recipe, document_of, parse_recipe
from training.recipes.compress import Search
from training.recipes.data import Transform
from training.recipes.model import ModelChoice

_RATIO_STEP = 0.05
_TILTS = (0.0, -0.5, 0.5)
_FLOAT_SHARES = (0.0, 0.1, 0.2)


class Space:
    """All points of a search.

    networks: by the names that points give them, the recipe's own first.
    sizes: of images, by their names, the recipe's own first.
    variants: those that the search's engine runs.
    ratios, tilts, float_shares: in the order in which they grow, for tilts 0 first.

    Raises RecipeError where a network cannot do what the recipe asks for.
    """

    def __init__(self, recipe: Recipe, settings: Search) -> None:
        self.recipe = recipe
        self.settings = settings
        self.networks = _networks(recipe, settings)
        sides = [(size, size) if isinstance(size, int) else size for size in settings.sizes]
        self.sizes = {
            f"{height}x{width}": (height, width)
            for height, width in (recipe.transform.size, *sides)
        }
        precisions = ENGINES[settings.engine].precisions
        self.variants = tuple(
            variant for variant in recipe.export.variants if precision_of(variant) in precisions
        )
        if reason := unavailable_reason(settings.engine):
            raise RecipeError(f"search.engine: {settings.engine}: {reason}")
        if not self.variants:
            raise RecipeError(f"search.engine: {settings.engine} runs no variant of the recipe")
        steps = int(settings.max_ratio / _RATIO_STEP + 1e-9)
        self.ratios = tuple(round(n * _RATIO_STEP, 2) for n in range(steps + 1))
        prune, quantize = recipe.prune, recipe.quantize
        shares_out = prune is not None and prune.scope == "uniform"
        own = (prune.tilt,) if prune is not None else ()
        self.tilts = tuple(dict.fromkeys((*_TILTS, *own))) if shares_out else (0.0,)
        most = quantize.mixed_precision.max_float if quantize is not None else 0.0
        self.float_shares = tuple(share for share in _FLOAT_SHARES if share <= most)
        for network, size in itertools.product(self.networks, self.sizes.values()):
            most_pruned = self.recipe_of(
                Point(network=network, size=size, ratio=self.ratios[-1], variant="fp32")
            )
            # Sections that know the size of images, such as `augment`, have their say.
            where = f"search: {network} at {size[0]}x{size[1]}"
            parse_recipe(document_of(most_pruned), where)
            check_network(most_pruned)
            check_prune(most_pruned)

    @property
    def weights_decide(self) -> bool:
        """Whether pruning leaves each layer as many channels as its weights ask for."""
        return self.recipe.prune is not None and self.recipe.prune.scope == "global"

    @property
    def own(self) -> Point:
        """The recipe's own network, in FP32."""
        network, size = next(iter(self.networks)), self.recipe.transform.size
        return Point(network=network, size=size, ratio=0.0, variant="fp32")

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The dimensions, for Optuna."""
        found: dict[str, BaseDistribution] = {
            "network": CategoricalDistribution(tuple(self.networks)),
            "size": CategoricalDistribution(tuple(self.sizes)),
            "variant": CategoricalDistribution(self.variants),
        }
        if len(self.ratios) > 1:
            found["ratio"] = FloatDistribution(0.0, self.ratios[-1], step=_RATIO_STEP)
            found["tilt"] = CategoricalDistribution(self.tilts)
        if any(variant in SCHEMES for variant in self.variants):
            found["float_share"] = CategoricalDistribution(self.float_shares)
        return found

    def point(self, values: Mapping[str, Any]) -> Point:
        """The point of a trial's values. A tilt of nothing is none."""
        ratio = round(float(values.get("ratio", 0.0)), 2)
        in_int8 = values["variant"] in SCHEMES
        return Point(
            network=values["network"],
            size=self.sizes[values["size"]],
            ratio=ratio,
            tilt=values.get("tilt", 0.0) if ratio > 0 else 0.0,
            variant=values["variant"],
            float_share=values.get("float_share", 0.0) if in_int8 else 0.0,
        )

    def values(self, point: Point) -> dict[str, Any]:
        """The values of a trial of that point."""
        height, width = point.size
        found = {**point.model_dump(), "size": f"{height}x{width}"}
        return {name: found[name] for name in self.distributions}

    def study_name(self) -> str:
        """The name of its trials. Those of another recipe, machine, runtime or version of run
        folders do not count, nor do those of other images or weights, for which the keys of the
        training stages stand."""
        wholes = (
            Point(network=network, size=size, ratio=0.0, variant="fp32")
            for network, size in itertools.product(self.networks, self.sizes.values())
        )
        content = [
            RUN_FORMAT,
            self.recipe.model_dump(mode="json", exclude={"publish", "search"}),
            self.settings.model_dump(mode="json", exclude={"trials"}),
            measuring_facts(),
            [keys_until(self.recipe_of(whole), "distill") for whole in wholes],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def recipe_of(self, point: Point) -> Recipe:
        """The recipe of one point."""
        return self.recipe.model_copy(
            update={
                "model": self.networks[point.network],
                "transform": transform_of(self.recipe.transform, point.size),
                "prune": self._prune(point),
                "quantize": self._quantize(point),
                # A plan takes minutes: only the chosen network's is made.
                "export": self.recipe.export.model_copy(
                    update={
                        "variants": tuple(dict.fromkeys(("fp32", point.variant))),
                        "tensorrt": None,
                    }
                ),
                "search": None,
            }
        )

    def _prune(self, point: Point) -> Any:
        prune = self.recipe.prune
        if point.ratio == 0 or prune is None:
            return None
        target = {"ratio": point.ratio, "tilt": point.tilt, "macs": None, "latency": None}
        return prune.model_copy(update=target)

    def _quantize(self, point: Point) -> Any:
        quantize = self.recipe.quantize
        if point.variant not in SCHEMES or quantize is None:
            return None
        mixed = quantize.mixed_precision.model_copy(update={"min_float": point.float_share})
        return quantize.model_copy(update={"mixed_precision": mixed})


def _networks(recipe: Recipe, settings: Search) -> dict[str, ModelChoice]:
    """Weights to begin with fit the network that they are named for only."""
    own = recipe.model
    found = {_named(own): own}
    for given in settings.networks:
        if isinstance(given, str):
            other = ModelChoice(name=given, options=own.options, init=own.init)
            found.setdefault(_named(other), other)
        elif found.setdefault(_named(given), given) != given:
            raise RecipeError(f"search.networks: {_named(given)} is there twice, with other keys")
    return found


def _named(choice: ModelChoice) -> str:
    return " ".join([choice.architecture, *(f"{key}={v}" for key, v in choice.options.items())])


def transform_of(transform: Transform, size: tuple[int, int]) -> Transform:
    """The transform with images of another size: what a crop leaves out keeps its share."""
    if size == transform.size:
        return transform
    if transform.crop is None:
        return transform.model_copy(update={"resize": size})
    factors = [new / old for new, old in zip(size, transform.size, strict=True)]
    if isinstance(transform.resize, int):
        resize: int | tuple[int, int] = round(transform.resize * max(factors))
    else:
        height, width = transform.resize
        resize = round(height * factors[0]), round(width * factors[1])
    return transform.model_copy(update={"resize": resize, "crop": size})
