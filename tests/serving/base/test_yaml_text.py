"""YAML that people write: what is refused beside what is no YAML."""

import pytest
import yaml

from serving.base.problems import shown
from serving.base.yaml_text import BAD_YAML, load_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2", {"a": 1, "b": 2}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}", {"a": {"x": 1}, "b": {"x": 1}}),
        ("1: a\n'1': b", {1: "a", "1": "b"}),
        ("? [a, b]\n: 1", None),
        ("", None),
    ],
)
def test_other_documents_are_as_ever(text: str, expected: object) -> None:
    if text.startswith("?"):
        with pytest.raises(yaml.YAMLError, match="unhashable"):
            load_yaml(text)
    else:
        assert load_yaml(text) == expected


@pytest.mark.parametrize("text", ["a: 1\na: 2", "x: {a: 1, b: 2, 'a': 3}", "- {a: 1, a: 1}"])
def test_key_is_there_once(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="found the key 'a' twice"):
        load_yaml(text)


def test_merges_cannot_grow_without_end() -> None:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    with pytest.raises(yaml.YAMLError, match="merged keys at most"):
        load_yaml("\n".join(lines))
    with pytest.raises(yaml.YAMLError, match="a merge of 16 mappings at most"):
        load_yaml("a: &a {k: 1}\nb: {<<: [" + "*a, " * 17 + "]}")


def test_values_of_any_size_are_shown_briefly() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [" + f"*a{n - 1}, " * 9 + "]" for n in range(1, 30)]
    assert len(shown(load_yaml("\n".join(lines)))) <= 60
    assert shown(load_yaml("a: 0x" + "f" * 5000)["a"]) == "a int that is too long"
    assert shown("x" * 1000) == "'" + "x" * 56 + "..."
    assert shown([1, [2, {"a": "b"}]]) == "[1, [2, {'a': 'b'}]]"


def test_all_that_it_raises_is_named() -> None:
    for text in ("[" * 100_000, "a: 2026-99-99", "9" * 5000, "{a: b: c}", "!!python/name:os {}"):
        with pytest.raises(BAD_YAML):
            load_yaml(text)
