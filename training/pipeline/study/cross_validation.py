"""k-fold cross-validation: every training and validation image validates once."""

import logging

import numpy as np

from training.errors import RecipeError
from training.pipeline.study.definition import CrossValidation, Overrides
from training.pipeline.study.outcome import Outcome
from training.pipeline.study.trials import Trials

log = logging.getLogger(__name__)


def cross_validation(config: CrossValidation, trials: Trials, where: str) -> Outcome:
    """Trains one network a fold, as far as that is not done yet.

    Raises RecipeError, beginning with `where`, where the recipe names a fold already.
    """
    if trials.base.fold is not None:
        raise RecipeError(f"{where}: cross_validation: the recipe is for one fold already")
    trained = []
    for index in range(config.folds):
        log.info("fold %d of %d", index + 1, config.folds)
        recipe = trials.recipe(_fold(config, index), f"{where}: cross_validation")
        trained.append(trials.train(recipe, f"fold-{index}"))
        log.info("fold %d of %d: %.2f %%", index + 1, config.folds, 100 * trained[-1].score)
    scores = [one.score for one in trained]
    mean, deviation = float(np.mean(scores)), float(np.std(scores, ddof=1))
    rows = [
        {
            "fold": str(index),
            "trained on": str(one.images[0]),
            "validated on": str(one.images[1]),
            "score %": f"{100 * one.score:.2f}",
            "epochs": str(one.epochs),
            "seconds": f"{one.seconds:.0f}",
        }
        for index, one in enumerate(trained)
    ]
    rows.append(
        {
            "fold": "mean ± std",
            "trained on": "",
            "validated on": str(sum(one.images[1] for one in trained)),
            "score %": f"{100 * mean:.2f} ± {100 * deviation:.2f}",
            "epochs": "",
            "seconds": f"{sum(one.seconds for one in trained):.0f}",
        }
    )
    return Outcome(
        title=f"{config.folds}-fold cross-validation",
        answer=f"{100 * mean:.2f} ± {100 * deviation:.2f} % validation {trials.measure} over "
        f"{config.folds} folds",
        rows=rows,
        note=(
            f"Score is the {trials.measure} on the fold's validation images; the standard "
            "deviation is that of the folds. It is no interval of the mean: folds share training "
            "images, so their scores are not independent (Bengio and Grandvalet, JMLR 2004). The "
            "test split took no part."
        ),
        document={
            "measure": trials.measure,
            "folds": [
                {
                    "fold": index,
                    "overrides": _fold(config, index),
                    "score": one.score,
                    "images": one.images,
                    "epochs": one.epochs,
                    "seconds": one.seconds,
                }
                for index, one in enumerate(trained)
            ],
            "mean": mean,
            "std": deviation,
        },
        scores={"folds": scores},
    )


def _fold(config: CrossValidation, index: int) -> Overrides:
    return {"fold": {"index": index, "count": config.folds, "seed": config.seed}}
