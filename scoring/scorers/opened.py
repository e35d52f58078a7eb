"""Opens what answers a question."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scoring.scorers.scorer import Question, Scorer


@asynccontextmanager
async def open_scorer(question: Question) -> AsyncIterator[Scorer]:
    """The model out of its repositories, or on its servers. Raises ScoringError."""
    # Imported here: servers need no engine, and a model here no gRPC.
    if question.servers:
        from scoring.scorers.servers import open_servers

        async with open_servers(question) as servers:
            yield servers
    else:
        from scoring.scorers.local import open_local

        async with open_local(question) as local:
            yield local
