"""The trials of a search: which point is next, whether it is worth its training, and the record of
all of them, by which an interrupted search goes on."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from serving.base.errors import EngineUnavailable
from training.errors import BuildError, Diverged, ExportError, TargetNotReached
from training.evaluation.searched import Point, Tried
from training.pipeline.bound import Bound
from training.pipeline.searching.chances import Chances, Part
from training.pipeline.searching.laboratory import Laboratory, Measured, kept_of
from training.pipeline.searching.plan import Plan
from training.pipeline.searching.screening import Screening
from training.pipeline.searching.space import Space

log = logging.getLogger(__name__)

STUDY_FILE = "study.db"

# Attributes of a trial: the bound that it counts for, the accuracy after each epoch of its
# trainings, the error of its drop, its accuracy before rounding, why it was given up, whether with
# all other points of its network, and whether it cannot be exported or run.
_BOUND, _CURVES, _ERROR, _IN_FP32 = "bound", "curves", "error", "in_fp32"
_REASON, _WHOLE, _REFUSED = "reason", "whole", "refused"
# The attribute of a study that holds the accuracy of the recipe's own network.
_REFERENCE = "reference"
# Proposals in a row that are known or cannot win, after which nothing new is expected.
_MOST_IDLE = 30


class _GivenUp(Exception):
    """A training that cannot win any more."""


class Trials:
    """The trials of one recipe for one bound. Those for other bounds are known, but do not count.

    too_slow: points that were passed over, and their milliseconds.
    stopped: points whose training was stopped.
    refused: points that cannot be exported, or that the engine does not run, with the reason.
    """

    def __init__(self, space: Space, laboratory: Laboratory, bound: Bound, folder: Path) -> None:
        self.too_slow: dict[Point, float] = {}
        self.stopped: set[Point] = set()
        self.refused: dict[Point, str] = {}
        self._space = space
        self._laboratory = laboratory
        self._bound = bound
        self._screening = Screening(space, laboratory)
        self._chances = Chances(bound)
        self._known: dict[Point, Measured] = {}
        # Points, and names of trainings, with the reason.
        self._given_up: dict[Point | str, str] = {}
        self._trained: dict[str, tuple[float, ...]] = {}
        self._count = 0
        self._end = math.inf
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder / STUDY_FILE}",
            study_name=space.study_name(),
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        # An interrupted search would draw again what it drew before.
        seed = space.recipe.seed + len(self._study.trials)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        self._recall()

    @property
    def reference(self) -> float | None:
        """Accuracy of the recipe's own network, from which drops count, once it is measured."""
        found: float | None = self._study.user_attrs.get(_REFERENCE)
        return found

    def run(self, hours: float | None = None) -> list[Tried]:
        """Makes the trials that are left, as long as there is time; one that has begun is finished,
        and one begins in any case where nothing is known. Gives all points that are measured in the
        end.

        Raises TargetNotReached where all networks that the engine runs are too slow, BuildError
        where it runs none or none was trained to its end, and as build does for the recipe's own
        network.
        """
        self._end = math.inf if hours is None else time.monotonic() + 3600 * hours
        plan = Plan(self._space, self._screening, self._chances, self._known, self._is_trained)
        for point in plan.points():
            if self._is_over():
                break
            self._try(point)
        # Where all the plan's points were too slow or refused there is no better one.
        idle = 0 if self._known or self._given_up else _MOST_IDLE
        while idle < _MOST_IDLE and not self._is_over():
            before = self._count
            trial = self._study.ask(self._space.distributions)
            self._try(self._space.point(trial.params), trial)
            idle = 0 if self._count > before else idle + 1
        left = self._space.settings.trials - self._count
        if left > 0 and self._is_over():
            log.info("search: %g hours have passed; %d trials were not made", hours, left)
        return self._outcome()

    def _outcome(self) -> list[Tried]:
        if self._chances.tried:
            return self._chances.tried
        if self._given_up:
            reason = next(iter(self._given_up.values()))
            raise BuildError(f"--search: no network was built and measured: {reason}")
        if not self.too_slow:
            engine, reason = self._space.settings.engine, next(iter(self.refused.values()))
            raise BuildError(f"--search: {engine} runs none of the networks: {reason}")
        fastest = min(self.too_slow, key=lambda point: self.too_slow[point])
        raise TargetNotReached(
            f"--search {self._bound}: none of {len(self.too_slow)} networks is as fast, so that "
            f"none was trained; the nearest is {fastest} with {self.too_slow[fastest]:.3f} ms"
        )

    def _is_over(self) -> bool:
        """Whether no further trial begins. Nothing can be chosen of no trial."""
        late = time.monotonic() >= self._end and bool(self._known or self._given_up)
        return late or self._count >= self._space.settings.trials

    def _try(self, point: Point, trial: Trial | None = None) -> None:
        """Measures a point, unless its measurements are known or it cannot win."""
        if point.trained in self._given_up:
            if trial is not None:
                self._study.tell(trial, state=TrialState.PRUNED)
            return
        whole = point.model_copy(update={"ratio": 0.0, "tilt": 0.0})
        if self._screening.structure(point) == self._screening.structure(whole):
            # Rounding leaves all its channels; a build would refuse to prune it.
            point = whole
        twin = self._twin(point)
        if twin is not None:
            known = self._known[point] = self._known[twin]
            if trial is not None:
                self._study.tell(trial, (known.drop, known.milliseconds))
            return
        if self._may_win(point):
            # No drop can be measured without it, so that its errors end the search.
            self._refer()
            self._measure(point, trial)
        elif trial is not None:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _may_win(self, point: Point) -> bool:
        """Whether a point is worth its training: not given up, run by the engine, fast enough."""
        if point in self._given_up:
            return False
        if refusal := self._screening.refusal(point):
            self.refused[point] = refusal
            return False
        before = self._screening.milliseconds(point)
        if not self._chances.is_fast_enough(before):
            before = self._screening.milliseconds_again(point)
        if self._chances.is_fast_enough(before):
            return True
        if point not in self.too_slow:
            most = self._chances.most_milliseconds()
            log.info("search: %s: %.3f ms are too slow to win (%.3f ms)", point, before, most)
        self.too_slow[point] = before
        return False

    def _twin(self, point: Point) -> Point | None:
        """The point itself where it is known, or one that leaves the same of the same network."""
        if point in self._known:
            return point
        for other in self._known:
            alike = other.model_copy(update={"ratio": point.ratio, "tilt": point.tilt}) == point
            if alike and self._screening.structure(other) == self._screening.structure(point):
                return other
        return None

    def _measure(self, point: Point, trial: Trial | None) -> None:
        before: tuple[float, ...] = ()
        try:
            self._train(point)
            if point.ratio > 0:
                before = (self._screening.accuracy(point),)
                self._judge("prune", 0, before[0])
            found = self._laboratory.measure(point, partial(self._judge, "prune"))
        except (_GivenUp, Diverged, TargetNotReached, EngineUnavailable, ExportError) as error:
            self._give_up(point, trial, error)
            return
        found = replace(found, curve=(*before, *found.curve))
        shown = point, found.milliseconds, 100 * found.drop
        log.info("search: %s: %.3f ms, drop %.2f points", *shown)
        curves = {"train": self._trained[point.trained], "prune": found.curve}
        self._learn(point, found, curves["train"])
        values = (found.drop, found.milliseconds)
        kept = {_CURVES: curves, _ERROR: found.error, _IN_FP32: found.in_fp32}
        self._record(point, trial, TrialState.COMPLETE, values, kept)

    def _is_trained(self, point: Point) -> bool:
        """Trains a point's network, unpruned, while there is time; whether it is trained then."""
        if self._is_over() or point.trained in self._given_up:
            return False
        self._refer()
        try:
            self._train(point)
        except (_GivenUp, Diverged) as error:
            self._give_up(point, None, error)
            return False
        return True

    def _train(self, point: Point) -> None:
        """Trains a point's network, unpruned. Raises _GivenUp and as build does."""
        name = point.trained
        if name in self._trained:
            return
        # Drops count from the recipe's own.
        own = name == self._space.own.trained
        try:
            curve = self._laboratory.train(point, None if own else partial(self._judge, "train"))
        except (_GivenUp, Diverged) as error:
            self._given_up[name] = str(error)
            raise
        # Before its first epoch a network knows nothing.
        self._trained[name] = (0.0, *curve)

    def _judge(self, part: Part, epoch: int, accuracy: float) -> None:
        """Raises _GivenUp where a training cannot win any more."""
        if not self._chances.is_within_reach(part, epoch, accuracy):
            raise _GivenUp(
                f"{100 * accuracy:.2f} % after epoch {epoch} cannot become "
                f"{100 * self._chances.least_accuracy():.2f} % any more"
            )

    def _refer(self) -> None:
        """Measures the recipe's own network, from which drops count. Raises as build does."""
        own = self._space.own
        self._train(own)
        if self.reference is None:
            reference = self._laboratory.reference
            if doubt := self._laboratory.doubt:
                log.warning("search: %s", doubt)
            self._study.set_user_attr(_REFERENCE, reference)
        self._chances.reference = self.reference or 0.0
        curve = self._trained[own.trained]
        recipe = self._space.recipe
        train = recipe.distill.train if recipe.distill is not None else recipe.train
        is_told = len(curve) > 1
        self._chances.told = kept_of(curve, train) if is_told else self._chances.reference

    def _give_up(self, point: Point, trial: Trial | None, error: Exception) -> None:
        is_stopped = isinstance(error, _GivenUp)
        is_refused = isinstance(error, EngineUnavailable | ExportError)
        log.warning("search: %s: %s: %s", point, "stopped" if is_stopped else "failed", error)
        self._given_up[point] = str(error)
        if is_stopped:
            self.stopped.add(point)
        if is_refused:
            self.refused[point] = str(error)
        state = TrialState.PRUNED if is_stopped else TrialState.FAIL
        whole = point.trained in self._given_up
        why = {_REASON: str(error), _WHOLE: whole, _REFUSED: is_refused}
        self._record(point, trial, state, None, why)

    def _learn(self, point: Point, found: Measured, trained: Sequence[float]) -> None:
        self._known[point] = found
        self._chances.tried.append(
            Tried(point=point, drop=found.drop, milliseconds=found.milliseconds)
        )
        curves = self._chances.curves
        if len(trained) > 1 and trained not in curves["train"]:
            curves["train"].append(trained)
        if len(found.curve) > 1:
            curves["prune"].append(found.curve)

    def _record(
        self,
        point: Point,
        trial: Trial | None,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: dict[str, Any],
    ) -> None:
        """Puts a trial that counts on record."""
        self._count += 1
        attributes = {**attributes, _BOUND: str(self._bound)}
        if trial is None:
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=values,
                    params=self._space.values(point),
                    distributions=self._space.distributions,
                    user_attrs=attributes,
                )
            )
            return
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, values, state)

    def _recall(self) -> None:
        """Takes in the trials that are on record."""
        self._chances.reference = self.reference or 0.0
        for trial in self._study.trials:
            told = trial.user_attrs
            if not trial.state.is_finished():
                # The process was killed, perhaps while it wrote the attributes.
                continue
            counts = told.get(_BOUND) == str(self._bound)
            self._count += counts
            if _CURVES in told:
                curves = {part: tuple(curve) for part, curve in told[_CURVES].items()}
                found = Measured(
                    drop=trial.values[0],
                    milliseconds=trial.values[1],
                    curve=curves["prune"],
                    error=told[_ERROR],
                    in_fp32=told[_IN_FP32],
                )
                self._learn(self._space.point(trial.params), found, curves["train"])
            elif _REASON in told and (counts or trial.state == TrialState.FAIL):
                point = self._space.point(trial.params)
                self._given_up |= {point: told[_REASON]}
                if told[_REFUSED]:
                    self.refused[point] = told[_REASON]
                if told[_WHOLE]:
                    self._given_up[point.trained] = told[_REASON]
                if trial.state == TrialState.PRUNED:
                    self.stopped.add(point)
