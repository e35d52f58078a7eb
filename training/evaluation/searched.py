"""The outcome of a search, for its report."""

import hashlib
import re

from pydantic import BaseModel, ConfigDict

# Characters of a network's name and options that are in no name of a folder, and the most that are
# taken of the others.
_NO_NAME, _MOST = r"[^A-Za-z0-9_.=+-]+", 80


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Point(_Frozen):
    """A network that a search tries.

    network: its name, with its options.
    size: height and width of its images, pixels.
    ratio: share of its channels that go.
    tilt: above 0 later layers lose more of them, below 0 earlier ones.
    variant: of the exported file.
    float_share: share of the layers of an INT8 variant that stay in FP32 in any case.
    """

    network: str
    size: tuple[int, int]
    ratio: float
    tilt: float = 0.0
    variant: str
    float_share: float = 0.0

    @property
    def trained(self) -> str:
        """The name of its training, which all ratios and variants share: the name of one folder,
        and of no other network's."""
        height, width = self.size
        name = re.sub(_NO_NAME, "_", self.network)[:_MOST]
        if name != self.network:
            name += f"-{hashlib.sha256(self.network.encode()).hexdigest()[:8]}"
        return f"{name}-{height}x{width}"

    @property
    def pruned(self) -> str:
        """How it was pruned, for people."""
        tilt = f" (tilt {self.tilt:+g})" if self.tilt else ""
        return f"{100 * self.ratio:.0f} %{tilt}"

    @property
    def precision(self) -> str:
        """Its variant, for people."""
        mixed = f", {100 * self.float_share:.0f} % of the layers in FP32"
        return self.variant + (mixed if self.float_share else "")

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.network} at {height}x{width}, {self.pruned} pruned, {self.precision}"


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

    tried: all points that were measured.
    chosen: the one that is built.
    bound: as the user wrote it.
    measured: engine, batch size and machine of the latency.
    reference: accuracy of the recipe's own network in FP32 on the same validation images, from
        which drops count.
    too_slow: points that were passed over: by their latency they could not win.
    stopped: points whose training was stopped: by its epochs they could not win.
    refused: points that cannot be exported, or that the engine does not run.
    refusal: why not the first of them.
    """

    tried: tuple[Tried, ...]
    chosen: Point
    bound: str
    measured: str
    reference: float | None = None
    too_slow: int = 0
    stopped: int = 0
    refused: int = 0
    refusal: str = ""

    def front(self) -> list[Tried]:
        """The points that no other beats in both, the fastest first."""
        front: list[Tried] = []
        for trial in sorted(self.tried, key=lambda one: (one.milliseconds, one.drop)):
            if not front or trial.drop < front[-1].drop:
                front.append(trial)
        return front
