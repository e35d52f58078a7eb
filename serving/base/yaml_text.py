"""YAML that people write: no key twice, of which one would be lost without a word, and no few lines
that become gigabytes."""

from collections.abc import Hashable
from typing import Any

import yaml

# Mappings that one merge (`<<`) may name, and keys and values of all mappings with merges. Each
# merge copies all of another mapping, so that thirty lines could make a thousand million.
_MOST_MERGED = 16
_MOST_PAIRS = 100_000
_MERGE = "tag:yaml.org,2002:merge"

# All that `load_yaml` raises.
BAD_YAML = (yaml.YAMLError, ValueError, RecursionError)


def load_yaml(text: str) -> Any:
    """The plain values of a document: safe types alone. Raises one of BAD_YAML: beside its own
    errors, YAML passes on those of the values that it makes."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._pairs = 0

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses a key that is there already; one of a merge gives way to it, as YAML has it."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if (key.tag, key.value) in seen:
                raise _error(node, f"found the key {key.value[:100]!r} twice", key)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Bounds what merges copy."""
        merges = [(key, value) for key, value in node.value if key.tag == _MERGE]
        for key, value in merges:
            if isinstance(value, yaml.SequenceNode) and len(value.value) > _MOST_MERGED:
                raise _error(node, f"expected a merge of {_MOST_MERGED} mappings at most", key)
        super().flatten_mapping(node)
        if merges:
            self._pairs += len(node.value)
            if self._pairs > _MOST_PAIRS:
                raise _error(node, f"expected {_MOST_PAIRS} merged keys at most", merges[0][0])


def _error(node: yaml.Node, text: str, place: yaml.Node) -> yaml.YAMLError:
    while_ = "while constructing a mapping"
    return yaml.constructor.ConstructorError(while_, node.start_mark, text, place.start_mark)
