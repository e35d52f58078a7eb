"""A measured fraction and its interval: the result of every measure."""

from pydantic import BaseModel, ConfigDict

# Draws of a bootstrap: more make the ends of an interval steadier and take longer. The fixed seed
# makes an interval the same each time.
RESAMPLES = 1000
SEED = 0


class Estimate(BaseModel):
    """A measured fraction with its 95 % interval over n images."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] (n={self.n})"
