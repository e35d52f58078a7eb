"""The outcome of a search, for its report."""

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Point(_Frozen):
    """A network that a search tries.

    network: its name.
    size: height and width of its images, pixels.
    ratio: share of its channels that go.
    variant: of the exported file.
    """

    network: str
    size: tuple[int, int]
    ratio: float
    variant: str

    @property
    def trained(self) -> str:
        """The name of its training, which all ratios and variants share."""
        height, width = self.size
        return f"{self.network}-{height}x{width}"

    def __str__(self) -> str:
        height, width = self.size
        return (
            f"{self.network} at {height}x{width}, {100 * self.ratio:.0f} % pruned, {self.variant}"
        )


class Tried(_Frozen):
    """The measurements of a point.

    drop: accuracy below the recipe's own network in FP32 on validation images; 0.01 is one point.
    milliseconds: of a call.
    """

    point: Point
    drop: float
    milliseconds: float


class Searched(_Frozen):
    """The outcome of a search.

    tried: all points.
    chosen: the one that is built.
    bound: as the user wrote it.
    measured: engine, batch size and machine of the latency.
    reference: accuracy of the recipe's own network in FP32 on the same validation images, from
        which drops count.
    """

    tried: tuple[Tried, ...]
    chosen: Point
    bound: str
    measured: str
    reference: float | None = None

    def front(self) -> list[Tried]:
        """The points that no other beats in both, the fastest first."""
        front: list[Tried] = []
        for trial in sorted(self.tried, key=lambda one: (one.milliseconds, one.drop)):
            if not front or trial.drop < front[-1].drop:
                front.append(trial)
        return front
