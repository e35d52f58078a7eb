"""A measured fraction and its interval: the result of every measure."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

# Draws of a bootstrap: more make the ends of an interval steadier and take longer. The fixed seed
# makes an interval the same each time.
_RESAMPLES = 1000
_SEED = 0
# Weights, float64, that are held at a time; more take more memory and save nothing.
_WEIGHTS = 1 << 21


class Estimate(BaseModel):
    """A measured fraction with its 95 % interval over n images."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] (n={self.n})"


def resampled(
    n: int, measure: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """A measure of n things as they are, in the first row, and of 1,000 draws of n of them.

    measure: gives the values [R, ...] for weights float64 [R, n], the number of times that each
        thing counts. It is called with some of the draws at a time, so that memory grows with n
        alone.
    """
    rng = np.random.default_rng(_SEED)
    step = max(1, _WEIGHTS // max(1, n))
    values = [measure(np.ones((1, n)))]
    for start in range(0, _RESAMPLES, step):
        size = min(step, _RESAMPLES - start)
        draws = rng.multinomial(n, np.full(n, 1 / n), size=size)
        values.append(measure(draws.astype(np.float64)))
    return np.concatenate(values)
