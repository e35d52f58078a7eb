"""The variables of OpenTelemetry. The SDK takes its default in the place of a value that it cannot
read; here that is an error, which names the variable.

Texts of errors hold no header and no query of a URL: both may carry a key.
"""

import logging
import math
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn
from urllib.parse import urlsplit

from opentelemetry.sdk import environment_variables as names
from opentelemetry.util.re import parse_env_headers

from serving.base.errors import quoted
from serving.server.config import StartError

logger = logging.getLogger(__name__)

Signal = Literal["TRACES", "METRICS"]

# The most milliseconds of an interval.
DAY_MS = 86_400_000
_PROTOCOL = "http/protobuf"
# Seconds of an export. Longer ones are milliseconds, as other languages' SDKs have them.
_MOST_SECONDS = 600.0
_SAMPLERS = (
    "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
    "parentbased_traceidratio",
)  # fmt: skip
_PROPAGATORS = "OTEL_PROPAGATORS"
# The values that are offered of variables that have few, by who reads them.
_CHOICES: dict[Signal, dict[str, tuple[str, ...]]] = {
    "TRACES": {names.OTEL_TRACES_SAMPLER: _SAMPLERS},
    "METRICS": {
        names.OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: ("cumulative",),
        names.OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION: (
            "explicit_bucket_histogram",
        ),
        names.OTEL_METRICS_EXEMPLAR_FILTER: ("trace_based",),
    },
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def asked() -> list[Signal]:
    """The signals that are sent, whose variables are in order. Raises StartError."""
    for name, text in os.environ.items():
        if name.startswith("OTEL_") and not _is_text(text):
            raise StartError(f"{name}: expected text in UTF-8")
    if _chosen(names.OTEL_SDK_DISABLED, ("false", "true")) == "true":
        return []
    found = [signal for signal in _CHOICES if _is_asked(signal)]
    for signal in found:
        _check(signal)
    if found:
        _check_resource()
    if "TRACES" in found:
        _check_sampler()
        _check_propagators()
    return found


def number(variable: str, default: int, most: int, unit: str = "") -> int:
    """A whole number of 1 to `most`. Raises StartError."""
    text = os.environ.get(variable) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= most):
        _refuse(variable, f"{unit}{' of ' if unit else ''}1 to {most}", text)
    return int(text)


def _refuse(variable: str, expected: str, text: str) -> NoReturn:
    raise StartError(f"{variable}: expected {expected}, got {quoted(text)}")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _chosen(variable: str, choices: tuple[str, ...]) -> str:
    """One of some values; empty where the variable is not set."""
    text = os.environ.get(variable, "")
    if text and text.lower() not in choices:
        _refuse(variable, " or ".join(choices), text)
    return text.lower()


def _is_asked(signal: Signal) -> bool:
    if _chosen(f"OTEL_{signal}_EXPORTER", ("otlp", "none")) == "none":
        return False
    _chosen(_of(signal, "PROTOCOL")[0], (_PROTOCOL,))
    return True


def _of(signal: Signal, what: str) -> tuple[str, str]:
    """The variable that says something about the exports of a signal, and its value: its own, or
    that of both signals."""
    own, shared = f"OTEL_EXPORTER_OTLP_{signal}_{what}", f"OTEL_EXPORTER_OTLP_{what}"
    variable = own if os.environ.get(own) else shared
    return variable, os.environ.get(variable, "")


def _check(signal: Signal) -> None:
    for variable, choices in _CHOICES[signal].items():
        _chosen(variable, choices)
    _chosen(_of(signal, "COMPRESSION")[0], ("none", "gzip", "deflate"))
    _check_endpoint(*_of(signal, "ENDPOINT"))
    _check_timeout(*_of(signal, "TIMEOUT"))
    _check_headers(*_of(signal, "HEADERS"))
    _check_files(signal)


def _check_endpoint(variable: str, text: str) -> None:
    if not text:
        return
    try:
        url = urlsplit(text)
        # Whoever asks for a port that is none gets a ValueError.
        whole = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        whole = False
    shown = text.partition("?")[0].rpartition("@")[2]
    if not whole or not text.isprintable() or " " in text:
        _refuse(variable, "an http:// or https:// URL", shown)
    if variable == names.OTEL_EXPORTER_OTLP_ENDPOINT and ("?" in text or "#" in text):
        _refuse(variable, "a URL without a query, since a path follows it", shown)


def _check_timeout(variable: str, text: str) -> None:
    if text and not 0.0 < _float(text) <= _MOST_SECONDS:
        _refuse(variable, f"seconds above 0, {_MOST_SECONDS:.0f} at most", text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_headers(variable: str, text: str) -> None:
    for place, part in enumerate(text.split(","), 1):
        if not part.strip():
            continue
        found = [*parse_env_headers(part.strip(), liberal=True).items()]
        if len(found) != 1 or not _is_header(*found[0]):
            raise StartError(
                f"{variable}: expected NAME=VALUE in printable ASCII, with commas between several; "
                f"number {place} is none"
            )


def _is_header(name: str, value: str) -> bool:
    return bool(_HEADER_NAME.fullmatch(name)) and value.isascii() and value.isprintable()


def _check_files(signal: Signal) -> None:
    """The certificates, which the SDK would read with the first export."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    variable, authorities = _of(signal, "CERTIFICATE")
    with _reading(variable, authorities):
        if authorities and Path(authorities).is_dir():
            context.load_verify_locations(capath=authorities)
        elif authorities:
            context.load_verify_locations(authorities)
    key_variable, key = _of(signal, "CLIENT_KEY")
    variable, certificate = _of(signal, "CLIENT_CERTIFICATE")
    if key and not certificate:
        raise StartError(f"{key_variable}: expected a certificate in {variable} beside the key")
    with _reading(variable, certificate):
        if certificate:
            # Without a passphrase, OpenSSL would ask the terminal for it.
            context.load_cert_chain(certificate, key or None, lambda: "")


@contextmanager
def _reading(variable: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise StartError(f"{variable}: {quoted(path)} is not taken: {reason}") from error


def _check_resource() -> None:
    for part in os.environ.get(names.OTEL_RESOURCE_ATTRIBUTES, "").split(","):
        key, equals, _ = part.partition("=")
        if part.strip() and not (key.strip() and equals):
            _refuse(names.OTEL_RESOURCE_ATTRIBUTES, "KEY=VALUE, with commas between several", part)


def _check_sampler() -> None:
    sampler = os.environ.get(names.OTEL_TRACES_SAMPLER) or "parentbased_always_on"
    ratio = os.environ.get(names.OTEL_TRACES_SAMPLER_ARG, "")
    if not ratio:
        return
    if not sampler.lower().endswith("traceidratio"):
        _warn(names.OTEL_TRACES_SAMPLER_ARG, f"{names.OTEL_TRACES_SAMPLER}={sampler} has no ratio")
    elif not 0.0 <= _float(ratio) <= 1.0:
        _refuse(names.OTEL_TRACES_SAMPLER_ARG, "0 to 1", ratio)


def _check_propagators() -> None:
    text = os.environ.get(_PROPAGATORS, "")
    listed = {part.strip() for part in text.lower().split(",")} - {""}
    if listed and "tracecontext" not in listed:
        _refuse(_PROPAGATORS, "tracecontext", text)
    if unread := listed - {"tracecontext", "baggage"}:
        _warn(
            _PROPAGATORS,
            f"callers' traces are read by tracecontext, not {', '.join(sorted(unread))}",
        )


def _warn(variable: str, reason: str) -> None:
    logger.warning("setting ignored", extra={"variable": variable, "reason": reason})
