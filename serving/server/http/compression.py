"""Which compression of an answer a caller accepts (RFC 9110, 12.5.3)."""

from collections.abc import Sequence

from aiohttp.web import ContentCoding

# The better one first, for callers that accept both alike.
_CODINGS = {"deflate": ContentCoding.deflate, "gzip": ContentCoding.gzip}


def accepted_coding(headers: Sequence[str]) -> ContentCoding | None:
    """The coding that the Accept-Encoding headers of a request like best; None where that is the
    answer as it is. What "*" stands for is only taken where the answer as it is is refused."""
    weights: dict[str, float] = {}
    for item in ",".join(headers).lower().split(","):
        name, _, parameters = item.partition(";")
        weights[name.strip()] = _weight(parameters)
    others = weights.get("*", 0.0)
    name = max(_CODINGS, key=lambda coding: weights.get(coding, 0.0))
    if weights.get(name, 0.0) > 0.0:
        return _CODINGS[name] if weights[name] >= weights.get("identity", 0.0) else None
    refused = weights.get("identity", others if "*" in weights else 1.0) == 0.0
    spare = next((c for c in _CODINGS if weights.get(c, others) > 0.0), None)
    return _CODINGS[spare] if refused and spare is not None else None


def _weight(parameters: str) -> float:
    """The q of a coding: 1 where none is given, 0 where it cannot be read."""
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
