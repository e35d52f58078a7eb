"""What answers the images of a job, and what it takes to open it anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scoring.errors import ImageFault
from scoring.facts import Identity
from scoring.rows import Answer
from serving.client import ClientTls


@dataclass(frozen=True)
class Question:
    """Which model is asked, where, and for what. It can be sent to another machine.

    model: its name.
    repositories: folders and URLs out of which it is loaded; or
    servers: host:port of each server that has it.
    signers: keys of which one must have signed it; of repositories.
    engine, variant: a name, or "auto".
    threads: CPU threads of the engine; 0 for every core.
    top_k: labels an image.
    masks: whether PNGs of masks are wanted.
    tls, headers: of calls to servers.
    """

    model: str
    repositories: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    signers: Path | None = None
    engine: str = "auto"
    variant: str = "auto"
    threads: int = 0
    top_k: int = 5
    masks: bool = False
    tls: ClientTls | None = None
    headers: Mapping[str, str] | None = None


class Scorer(Protocol):
    """Answers images.

    identity: the model that answers.
    rows: images that are best given at a time.
    seats: such groups that are best under way at a time.
    most_bytes: bytes of a group; one image alone may have more.
    """

    identity: Identity
    rows: int
    seats: int
    most_bytes: int

    async def score(self, images: Sequence[bytes]) -> Sequence[Answer | ImageFault]:
        """The answer to each image file, or why it has none. Raises ScoringError where it is not
        the image's fault, and no other try would help."""
