"""Compares two scans of the repository; loads nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.repository.layout import ModelFolder


@dataclass(frozen=True)
class Changes:
    """Names of the models that came, went, or whose config or versions are not what they were."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def compare(before: Mapping[str, ModelFolder], after: Mapping[str, ModelFolder]) -> Changes:
    """What happened between two scans."""
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(n for n in after if n in before and after[n] != before[n]),
    )
