"""Studies that never ran: what their pages draw."""

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from training.pipeline.study.outcome import Outcome
from training.pipeline.study.plots import importances, search_plots

LONG = "a_long_name_without_any_blank_that_goes_on_and_on"
SPACE = {
    "train.optimizer.lr": FloatDistribution(1e-4, 1.0, log=True),
    f"train.{LONG}": CategoricalDistribution([f"{LONG}_{n}" for n in range(9)]),
}


def searched() -> Outcome:
    """A search of two values, one of them with many long choices; a trial was pruned."""
    study = optuna.create_study(direction="maximize")
    for n in range(30):
        is_pruned = n % 7 == 6
        score = 0.6 + (n * 37 % 30) / 100
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if is_pruned else TrialState.COMPLETE,
                value=score,
                params={"train.optimizer.lr": 0.9 ** (n + 1), f"train.{LONG}": f"{LONG}_{n % 9}"},
                distributions=SPACE,
                intermediate_values={0: score / 3, 1: score},
            )
        )
    shares = importances(study)
    rows = [
        {"trial": str(one.number), "score %": f"{100 * (one.value or 0):.2f}", **one.params}
        for one in study.trials
    ]
    return Outcome(
        title="random search, 30 trials",
        answer="Best: trial 27 with 89.00 % validation top-1 accuracy",
        detail=f"train.{LONG} {LONG}_0",
        rows=[{key: str(value) for key, value in row.items()} for row in rows],
        note="The best of many trials is flattered by chance.",
        document={},
        plots=search_plots(study, "top-1 accuracy", shares),
        importances=shares,
        best={"name": "flowers"},
    )


def ablated() -> Outcome:
    """An ablation of rows with long names."""
    scores = {f"{LONG}_{n}": [0.7 + (n + seed) / 50 for seed in range(5)] for n in range(8)}
    return Outcome(
        title="ablation, 8 rows, 5 seeds",
        answer="No row differs from the first beyond chance",
        rows=[{"row": name, "mean %": "71.00"} for name in scores],
        note="Five seeds.",
        document={},
        scores=scores,
    )
